"""What labelled pairs leave open about a linear reward: the Laplace posterior of Bradley–Terry on frozen features.

The scale of the weights comes from the evidence (MacKay 1992), so that nothing has to be tuned before there are labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NEWTON_STEPS, EVIDENCE_STEPS = 50, 30
TOLERANCE = 1e-7


@dataclass(frozen=True)
class Posterior:
    """N(mean [H], covariance [H, H]) of the weights; ``precision`` of the prior, on features of unit spread."""

    mean: Tensor
    covariance: Tensor
    precision: float

    def margin(self, difference: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, variance) [P] of the reward differences of pairs with feature differences [P, H]."""
        return difference @ self.mean, ((difference @ self.covariance) * difference).sum(1)

    def prob_first(self, difference: Tensor) -> Tensor:
        """P(first ≻ second) [P], within .01 (MacKay's probit approximation)."""
        mean, variance = self.margin(difference)
        return torch.sigmoid(mean / torch.sqrt(1 + torch.pi * variance / 8))


def fit(difference: Tensor, label: Tensor, precision: float | None = None, start: float = 1.0) -> Posterior:
    """From feature differences [P, H] and the shares ``label`` [P] that prefer the first; P may be 0.

    Without ``precision``, the prior's is that of the largest evidence, sought from ``start``, which it is without labels.
    """
    width, better = difference.shape[1], precision or start
    mean = difference.new_zeros(width)
    covariance = torch.eye(width, dtype=difference.dtype) / better
    if not len(difference):
        return Posterior(mean, covariance, better)
    for _ in range(EVIDENCE_STEPS):
        c = better
        mean, covariance = _newton(difference, label, c, mean)
        determined = width - c * float(covariance.trace())
        better = min(max(determined / max(float(mean.square().sum()), 1e-12), 1e-6), 1e6)
        if precision is not None or abs(better / c - 1) < 0.02:
            break
    return Posterior(mean, covariance, c)


def _newton(difference: Tensor, label: Tensor, precision: float, mean: Tensor) -> tuple[Tensor, Tensor]:
    """The maximum a posteriori and the inverse of the Hessian there; damped, as logistic regression needs it."""

    def loss(weights: Tensor) -> Tensor:
        margin = difference @ weights
        nll = torch.nn.functional.softplus(-margin) + (1 - label) * margin
        return nll.sum() + 0.5 * precision * weights.square().sum()

    covariance = torch.empty(0)
    for _ in range(NEWTON_STEPS):
        p = torch.sigmoid(difference @ mean)
        gradient = difference.T @ (p - label) + precision * mean
        hessian = difference.T @ (difference * (p * (1 - p))[:, None])
        hessian.diagonal().add_(precision)
        covariance = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
        step = covariance @ gradient
        decrement = gradient @ step
        if decrement < TOLERANCE:
            break
        length, before = 1.0, loss(mean)
        while length > 1e-6 and loss(mean - length * step) > before - 1e-4 * length * decrement:
            length /= 2
        mean = mean - length * step
    return mean, covariance
