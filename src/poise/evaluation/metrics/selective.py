"""Does the model know when it is wrong: errors among the pairs it is most certain of (Geifman & El-Yaniv 2017; Geifman et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import digamma, xlog1py

from poise.errors import ConfigError
from poise.evaluation.metrics.decision import accuracy, decision_credit, directed
from poise.evaluation.metrics.rows import EqualValues, FloatArray, PairRows, ratio


@dataclass(frozen=True)
class _Blocks:
    """Weight and errors per block of equal confidence, most certain first: each [..., U]."""

    weight: FloatArray
    errors: FloatArray


def _confidence_blocks(p: ArrayLike, y: ArrayLike, tie: ArrayLike | None, weights: ArrayLike | None) -> _Blocks:
    rows = PairRows.of(p, y, weights)
    weight = rows.weights * directed(rows.y)
    error = 1.0 - decision_credit(rows.p, rows.y, tie, "half")
    groups = EqualValues.of(-rows.fold().p)
    return _Blocks(groups.sum(weight), groups.sum(weight * error))


def aurc(p: ArrayLike, y: ArrayLike, tie: ArrayLike | None = None, *, weights: ArrayLike | None = None) -> FloatArray:
    """Area under the risk–coverage curve: the error rate among the k most certain pairs, averaged over k = 1…n.

    Rows of equal confidence are averaged over their orders. Within such a block, after b rows with E errors, the expected risk
    at row j is ē + (E − bē)/(b + j), whose sum over j is a difference of harmonic numbers.
    """
    blocks = _confidence_blocks(p, y, tie, weights)
    after = np.cumsum(blocks.weight, axis=-1)
    before = after - blocks.weight
    errors_before = np.cumsum(blocks.errors, axis=-1) - blocks.errors
    block_error = np.nan_to_num(ratio(blocks.errors, blocks.weight))
    harmonic = digamma(after + 1.0) - digamma(before + 1.0)
    risk = blocks.errors + (errors_before - before * block_error) * harmonic
    return ratio(risk.sum(axis=-1), after[..., -1])


def excess_aurc(
    p: ArrayLike, y: ArrayLike, tie: ArrayLike | None = None, *, weights: ArrayLike | None = None
) -> FloatArray:
    """AURC minus r + (1−r) ln(1−r), the area of the best order at error rate r: it does not reward accuracy as such."""
    error_rate = 1.0 - accuracy(p, y, tie, weights=weights)
    return np.asarray(aurc(p, y, tie, weights=weights) - (error_rate + xlog1py(1.0 - error_rate, -error_rate)))


def accuracy_at_coverage(
    p: ArrayLike,
    y: ArrayLike,
    tie: ArrayLike | None = None,
    *,
    coverage: float,
    weights: ArrayLike | None = None,
) -> FloatArray:
    """Accuracy among the most certain share ``coverage`` of pairs; a block of equal confidence enters in proportion."""
    return abstention_curve(p, y, tie, budgets=[1.0 - coverage], weights=weights)[..., 0]


def abstention_curve(
    p: ArrayLike,
    y: ArrayLike,
    tie: ArrayLike | None = None,
    *,
    budgets: Sequence[float],
    weights: ArrayLike | None = None,
) -> FloatArray:
    """Accuracy on the rest when the least certain share of pairs goes to a person, for each budget in [0, 1): [..., budgets]."""
    for budget in budgets:
        if not 0.0 <= budget < 1.0:
            raise ConfigError(f"coverage={1.0 - budget}; it is a share of the pairs in (0, 1]")
    blocks = _confidence_blocks(p, y, tie, weights)
    total = blocks.weight.sum(axis=-1)
    before = np.cumsum(blocks.weight, axis=-1) - blocks.weight
    risk = np.nan_to_num(ratio(blocks.errors, blocks.weight))
    curve = []
    for budget in budgets:
        wanted = (1.0 - budget) * total
        taken = np.clip(wanted[..., None] - before, 0.0, blocks.weight)
        curve.append(1.0 - ratio((taken * risk).sum(axis=-1), wanted))
    return np.stack(curve, axis=-1)
