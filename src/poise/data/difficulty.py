"""Which pairs a second stage should see: easy, boundary and hard by the confidence of the first (DRPO, Definition 2).

Under label noise the hard pairs are mostly mislabelled ones, so report the shares, and drop or flip them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from poise.errors import ConfigError

EASY, BOUNDARY, HARD = 0, 1, 2


@dataclass(frozen=True)
class Curated:
    """``kind`` [P] of each pair (EASY, BOUNDARY, HARD); ``keep`` [P] and the ``label`` [P] to train on.

    ``keep_easy`` is the probability with which easy pairs were kept.
    """

    kind: Tensor
    keep: Tensor
    label: Tensor
    keep_easy: float

    @property
    def shares(self) -> dict[str, float]:
        """The share of each kind among all pairs."""
        names = {"easy": EASY, "boundary": BOUNDARY, "hard": HARD}
        return {name: (self.kind == kind).double().mean().item() for name, kind in names.items()}


def confidence(probability: Tensor) -> Tensor:
    """C = |2P − 1| of P(first ≻ second); |1 − 2Φ(z)| for Gaussians.

    The implied probability of being right is (1 + C)/2, not C: held against accuracy, C itself looks badly calibrated.
    """
    return (2 * probability - 1).abs()


def kinds_of_pairs(probability: Tensor, label: Tensor, threshold: float = 0.2) -> Tensor:
    """EASY (confident and right), BOUNDARY (not confident, or a label of ½) or HARD (confident and wrong), [P]."""
    undecided = (confidence(probability) < threshold) | (probability == 0.5) | (label == 0.5)
    right = (probability > 0.5) == (label > 0.5)
    return torch.where(undecided, BOUNDARY, torch.where(right, EASY, HARD))


def curate(
    probability: Tensor,
    label: Tensor,
    generator: torch.Generator,
    *,
    threshold: float = 0.2,
    drop_hard: bool = False,
    flip_hard: bool = False,
) -> Curated:
    """Keep boundary and hard pairs, and as many easy ones in expectation; all of them where there are not enough.

    ``drop_hard`` leaves the hard ones out, ``flip_hard`` keeps them with the opposite label. ConfigError for both.
    """
    if drop_hard and flip_hard:
        raise ConfigError("drop_hard and flip_hard exclude each other; choose one")
    if not 0 <= threshold <= 1:
        raise ConfigError(f"threshold is {threshold}; a confidence lies in [0, 1]")
    kind = kinds_of_pairs(probability, label, threshold)
    wanted = (kind == BOUNDARY) if drop_hard else (kind != EASY)
    easy, others = int((kind == EASY).sum()), int(wanted.sum())
    # without others there is nothing to balance against
    keep_easy = min(1.0, others / easy) if easy and others else 1.0
    drawn = torch.rand(len(kind), generator=generator) < keep_easy
    flipped = torch.where(kind == HARD, 1 - label, label) if flip_hard else label
    return Curated(kind, wanted | ((kind == EASY) & drawn.to(kind.device)), flipped, keep_easy)
