"""Pure loss functions that two or more methods use. Everything is float32 and safe far from the optimum."""

from __future__ import annotations

import torch
from torch import Tensor


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Σ wᵢ ℓᵢ / Σ wᵢ over [P]; 0 where every weight is 0."""
    total = weight.sum()
    return (values * weight).sum() / torch.where(
        total > 0, total, 1.0
    )  # not the least number: 1/it overflows backwards


def both_ways(first_won: Tensor, second_won: Tensor, label: Tensor) -> Tensor:
    """The loss of a soft label y: y · (loss if the first won) + (1 − y) · (loss if the second won), [P]."""
    return label * first_won + (1 - label) * second_won
