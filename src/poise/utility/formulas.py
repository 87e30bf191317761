"""One number from one reward distribution: closed forms for every family, because every family is a mixture of Gaussians.

Shapes: a reward of batch shape [...] gives [...]; higher is better in all of them. Numbers stay in the dtype of the reward.
"""

from __future__ import annotations

import torch
from torch import Tensor

from poise.distributions import Quantiles, RewardDistribution
from poise.distributions.numerics import has_spread, normal_cdf, normal_density, safe_sqrt, z_score
from poise.errors import ConfigError, UnsupportedOperation

GRID_ROUNDING = 1e-6  # levels such as .05 are stored in float32


def mean(reward: RewardDistribution) -> Tensor:
    """E r, in reward units."""
    return reward.mean


def confidence_bound(k: float, reward: RewardDistribution) -> Tensor:
    """mean + k·std, all spread counted, in reward units; k < 0 is a lower bound."""
    return reward.mean + k * reward.std


def epistemic_bound(k: float, reward: RewardDistribution) -> Tensor:
    """mean + k·(standard deviation between the members), in reward units; k < 0 is a lower bound."""
    center, variance = _between(reward)
    return center + k * safe_sqrt(variance)


def variance_penalty(c: float, reward: RewardDistribution) -> Tensor:
    """mean − c·(population variance between the members): UWO, uncertainty-weighted optimisation (Coste et al. 2023)."""
    center, variance = _between(reward)
    return center - c * variance


def worst_member(reward: RewardDistribution) -> Tensor:
    """The least of the members' means, in reward units: WCO, worst-case optimisation (Coste et al. 2023).

    Members whose rewards have different offsets or scales are no fair worst case: the one with the lowest decides alone.
    """
    return member_means(reward)[1].amin(-1)


def quantile(level: float, reward: RewardDistribution) -> Tensor:
    """The quantile of that level, in reward units; refused beyond the levels that a quantile head has learned."""
    if isinstance(reward, Quantiles):
        _require_inside(reward, f"quantile:{level:g}", level, 1 - level)
    return reward.quantile(level)


def cvar(share: float, reward: RewardDistribution) -> Tensor:
    """Mean of the worst ``share`` of the outcomes, in reward units: Q(α) − E(Q(α) − r)₊/α (Rockafellar, Uryasev 2000).

    Gaussian μ − σφ(Φ⁻¹(α))/α; of atoms the last counts in part. Refused for a share below the lowest level of a quantile
    head; at that level itself the head's lowest value stands for the whole tail, which it overestimates.
    """
    if share == 1:
        return reward.mean
    if isinstance(reward, Quantiles):
        _require_inside(reward, f"cvar:{share:g}", share, 1.0)
    threshold = reward.quantile(share)
    weights, means, stds = reward.components()
    distance = threshold.unsqueeze(-1) - means
    u = z_score(distance, stds)
    below = torch.where(has_spread(stds), distance * normal_cdf(u) + stds * normal_density(u), distance.relu())
    return threshold - (weights * below).sum(-1) / share


def upper_cvar(share: float, reward: RewardDistribution) -> Tensor:
    """Mean of the best ``share`` of the outcomes, in reward units."""
    if isinstance(reward, Quantiles):
        _require_inside(reward, f"cvar_upper:{share:g}", 1.0, share)
    return -cvar(share, reward.affine(-1.0))


def entropic(aversion: float, reward: RewardDistribution) -> Tensor:
    """Certainty equivalent −(1/λ) log E e^{−λr} = mean − (λ/2)·variance + …, in reward units.

    λ → 0 is the mean, λ → ∞ the worst atom, λ < 0 seeks risk. Gaussian: μ − λσ²/2. λ = 1/β in KL-regularised RL.
    """
    center = reward.mean
    if aversion == 0:
        return center
    exponents, log_weights = _exponents(aversion, center, reward)
    # log1p keeps the small differences from the mean that a sum of numbers near 1 rounds away
    small = (exponents.abs() < 1).all(-1)
    safe = torch.where(small.unsqueeze(-1), exponents, 0.0)
    near = torch.log1p((log_weights.exp() * torch.expm1(safe)).sum(-1))
    return center - torch.where(small, near, (log_weights + exponents).logsumexp(-1)) / aversion


def exponential(aversion: float, reward: RewardDistribution) -> Tensor:
    """−E e^{−λr}, the utility of the QRM paper, a number below 0 without unit: orders as ``entropic`` does; saturates."""
    exponents, log_weights = _exponents(aversion, torch.zeros_like(reward.mean), reward)
    logs = (log_weights + exponents).logsumexp(-1)
    return -torch.exp(logs.clamp(max=torch.log(torch.tensor(torch.finfo(logs.dtype).max)).item() - 1))


def member_means(reward: RewardDistribution) -> tuple[Tensor, Tensor]:
    """Weights and means [..., M] of the members of one ensemble, or of posterior draws.

    ``UnsupportedOperation`` for a reward that has none: its spread is people's disagreement, and what the model does not
    know is not in it.
    """
    if reward.coupling != "paired":
        raise UnsupportedOperation(
            f"this {reward.family} reward does not say what the model does not know: it has no members that belong to one "
            "ensemble (coupling 'paired'); use an ensemble (poise.Ensemble, or method: ensemble), or lcb, cvar, entropic "
            "on the whole spread"
        )
    weights, members = reward._members()
    return weights, members.mean


def _between(reward: RewardDistribution) -> tuple[Tensor, Tensor]:
    """Mean and variance of the members' means."""
    weights, means = member_means(reward)
    center = (weights * means).sum(-1)
    return center, (weights * (means - center.unsqueeze(-1)).square()).sum(-1)


def _exponents(aversion: float, center: Tensor, reward: RewardDistribution) -> tuple[Tensor, Tensor]:
    """−λ(μ − center) + λ²σ²/2 and log ω, each [..., C]."""
    _, means, stds = reward.components()
    return -aversion * (means - center.unsqueeze(-1)) + 0.5 * (aversion * stds) ** 2, reward._log_weights()


def _require_inside(reward: Quantiles, spec: str, lower: float, upper: float) -> None:
    """Refuse a read-out of the tail beyond the outermost levels; ``lower`` and ``upper`` are the tails' shares."""
    low, high = reward.levels[0].item(), reward.levels[-1].item()
    if lower < low - GRID_ROUNDING or upper < 1 - high - GRID_ROUNDING:
        raise ConfigError(
            f"{spec} lies outside what this reward knows: its {len(reward.levels)} quantile levels go from {low:.3g} to "
            f"{high:.3g}; ask for a tail inside them, or train with more levels"
        )
