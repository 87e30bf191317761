"""Signs in one predicted distribution that people disagree, as opposed to being unsure."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from poise.distributions.base import RewardDistribution
from poise.distributions.categorical import Categorical
from poise.distributions.numerics import has_spread

UNIFORM = 5 / 9
"""Bimodality coefficient of a uniform distribution, and the customary limit of one peak."""


def disagreement(belief: RewardDistribution) -> dict[str, Tensor]:
    """``entropy``, ``variance`` and ``bimodality`` of each belief [B], for families that have an entropy."""
    return {
        "entropy": belief.entropy(),
        "variance": belief.variance,
        "bimodality": bimodality_coefficient(belief),
    }


def bimodality_coefficient(belief: RewardDistribution) -> Tensor:
    """(skew² + 1)/kurtosis [B], in (0, 1]: 1/3 for a normal, 5/9 for a uniform, 1 for two atoms; 0 without spread.

    A spread that rounding of the means could have made, 8 ulps of the largest, is none.
    """
    weights, means, stds = belief.components()
    distance = means - belief.mean[..., None]
    distance = distance - (weights * distance).sum(-1, keepdim=True)  # a rounded mean would shift every moment
    counts = weights > 0
    scale = torch.where(counts, torch.maximum(distance.abs(), stds), 0.0).amax(-1, keepdim=True)
    rounding = 8 * torch.finfo(means.dtype).eps * torch.where(counts, means.abs(), 0.0).amax(-1, keepdim=True)
    spread = has_spread(scale) & (scale > rounding)
    scale = torch.where(spread, scale, 1.0)
    distance, variances = torch.where(counts, distance / scale, 0.0), torch.where(counts, stds / scale, 0.0).square()
    second = (weights * (variances + distance.square())).sum(-1)
    third = (weights * (distance.pow(3) + 3 * distance * variances)).sum(-1)
    fourth = (weights * (distance.pow(4) + 6 * distance.square() * variances + 3 * variances.square())).sum(-1)
    spread = spread.squeeze(-1)
    second, fourth = torch.where(spread, second, 1.0), torch.where(spread, fourth, 1.0)
    return torch.where(spread, (third * (third / second) + second.square()) / fourth, 0.0)


def two_peaked(belief: RewardDistribution) -> Tensor:
    """Whether each belief [B] has two peaks: two modes of levels (``bimodal``), else a bimodality above that of a uniform."""
    if isinstance(belief, Categorical):
        return bimodal(belief.probs)
    return bimodality_coefficient(belief) > UNIFORM


def bimodal(probabilities: Tensor) -> Tensor:
    """Whether each [..., K] has two modes at least 2 levels apart with a valley below half of the smaller one: [...]."""
    padded = nn.functional.pad(probabilities, (1, 1), value=-1.0)
    mode = (padded[..., 1:-1] > padded[..., :-2]) & (padded[..., 1:-1] >= padded[..., 2:])
    levels = probabilities.shape[-1]
    found = torch.zeros(probabilities.shape[:-1], dtype=torch.bool, device=probabilities.device)
    for low in range(levels):
        for high in range(low + 2, levels):
            smaller = torch.minimum(probabilities[..., low], probabilities[..., high])
            valley = probabilities[..., low + 1 : high].amin(-1)
            found |= mode[..., low] & mode[..., high] & (valley < 0.5 * smaller)
    return found
