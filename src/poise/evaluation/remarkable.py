"""Which pairs to read: those the model is most certain and wrong about, and those it is least certain of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from poise.evaluation.metrics.rows import FloatArray

RIGHT, WRONG, UNCERTAIN = "Most certain, and right", "Most certain, and wrong", "Most uncertain"


def remarkable(
    p: FloatArray, label: FloatArray, each: int = 2, *, titles: Sequence[str] = (RIGHT, WRONG, UNCERTAIN)
) -> list[tuple[str, int]]:
    """(title, row) of the pairs to look at, ``each`` per title; ``p`` and ``label`` [P] are of the first response."""
    confidence = np.abs(p - 0.5)
    right = (p - 0.5) * (label - 0.5)
    order = np.argsort(-confidence, kind="stable")
    groups = {
        RIGHT: [i for i in order if right[i] > 0],
        WRONG: [i for i in order if right[i] < 0],
        UNCERTAIN: list(order[::-1]),
    }
    return [(title, int(i)) for title in titles for i in groups[title][:each]]
