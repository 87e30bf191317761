"""Distributions that are weighted atoms, in sorted order: everything in K log K instead of K²."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from poise.distributions.numerics import broadcast_batch, safe_log


class Atoms(NamedTuple):
    """``values`` [..., K] ascending, their ``weights`` [..., K], and ``cumulative`` [..., K+1] from exactly 0 to exactly 1."""

    weights: Tensor
    values: Tensor
    cumulative: Tensor

    def cdf(self, points: Tensor, left: bool) -> Tensor:
        """P(X <= points), or P(X < points) with ``left``; points [..., N]."""
        values, points, cumulative = broadcast_batch(self.values.detach(), points.detach(), self.cumulative)
        ranks = torch.searchsorted(values.contiguous(), points.contiguous(), right=not left)
        return cumulative.gather(-1, ranks)

    def quantiles(self, levels: Tensor) -> Tensor:
        """inf{x : P(X <= x) >= level} [..., L]; a level within rounding of a cumulative weight counts as reached."""
        tolerance = 8 * torch.finfo(levels.dtype).eps
        values, reached, wanted = broadcast_batch(self.values, self.cumulative[..., 1:].detach(), levels - tolerance)
        ranks = torch.searchsorted(reached.contiguous(), wanted.contiguous())
        return values.gather(-1, ranks.clamp(max=values.shape[-1] - 1))

    def entropy(self) -> Tensor:
        """Shannon entropy in nats; equal values are one atom."""
        mass = self.cdf(self.values, left=False) - self.cdf(self.values, left=True)
        return -(self.weights * safe_log(mass)).sum(-1)

    def crps(self, value: Tensor) -> Tensor:
        """2 Σ ω pinball at the mid-levels: a sum of nonnegative terms, without cancellation."""
        middle = self.cumulative[..., :-1] + self.weights / 2
        return 2 * (self.weights * pinball(value.unsqueeze(-1) - self.values, middle)).sum(-1)

    def mean_difference(self) -> Tensor:
        """E|X − X'| = 2 ∫ F(1 − F)."""
        inner = self.cumulative[..., 1:-1]
        return 2 * (inner * (1 - inner) * self.values.diff(dim=-1)).sum(-1)


def sorted_atoms(weights: Tensor, values: Tensor) -> Atoms:
    """Sort atoms by value; ``weights`` [..., K] sum to 1."""
    values, order = values.sort(dim=-1)
    return atoms_in_order(weights.expand(values.shape).gather(-1, order), values)


def atoms_in_order(weights: Tensor, values: Tensor) -> Atoms:
    """Atoms whose ``values`` already ascend."""
    inner = weights.cumsum(-1)[..., :-1].clamp(max=1.0)
    return Atoms(weights, values, pad(pad(inner, (1, 0)), (0, 1), value=1.0))


def area_between(first: Atoms, second: Atoms, power: int) -> Tensor:
    """∫|F − G|^power dx."""
    knots, _ = torch.cat(broadcast_batch(first.values, second.values), -1).sort(dim=-1)
    gap = first.cdf(knots, left=False) - second.cdf(knots, left=False)
    return (gap[..., :-1].abs() ** power * knots.diff(dim=-1)).sum(-1)


def pinball(residual: Tensor, level: Tensor | float) -> Tensor:
    """τ·u₊ + (1−τ)·(−u)₊ with residual u = observation − quantile."""
    return torch.maximum(level * residual, (level - 1) * residual)
