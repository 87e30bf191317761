"""The Laplace approximation of Bradley–Terry on frozen features: what labelled pairs leave open about a linear reward.

Its weights have the posterior N(v, Hess⁻¹) with v their maximum a posteriori and Hess = c·I + Σ w p(1−p) Δh Δhᵀ there. The
scale of the prior comes from the evidence (MacKay 1992), so that nothing has to be tuned before there are labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import softplus

from poise.distributions import Link
from poise.errors import ConfigError

NEWTON_STEPS, EVIDENCE_STEPS = 100, 50
TOLERANCE = 1e-9


@dataclass(frozen=True)
class PairData:
    """What the posterior is conditioned on: ``difference`` [P, H] = h_first − h_second, ``label`` and ``weight`` [P]."""

    difference: Tensor
    label: Tensor
    weight: Tensor

    @classmethod
    def equal(cls, difference: Tensor, label: Tensor) -> PairData:
        """Every pair counts as one vote."""
        return cls(difference, label, torch.ones_like(label))

    def in_their_span(self) -> tuple[PairData, Tensor | None]:
        """The same pairs by P coordinates, with the basis [H, P] of these, where P < H: outside of it the prior stays."""
        if len(self.label) >= self.difference.shape[1]:
            return self, None
        basis, coordinates = torch.linalg.qr(self.difference.T)
        return PairData(coordinates.T, self.label, self.weight), basis

    def hessian(self, weights: Tensor, precision: float, *, unweighted: bool = False) -> Tensor:
        """c·I + Σ w p(1−p) ΔhΔhᵀ [H, H] at the ``weights`` [H] of the head; ``unweighted`` without p(1−p)."""
        p = torch.sigmoid(self.difference @ weights)
        curvature = self.weight if unweighted else self.weight * p * (1 - p)
        hessian = self.difference.T @ (self.difference * curvature[:, None])
        hessian.diagonal().add_(precision)
        return hessian

    def objective(self, weights: Tensor, precision: float) -> Tensor:
        """Σ w·nll + ½c‖v‖²."""
        margin = self.difference @ weights
        nll = self.label * softplus(-margin) + (1 - self.label) * softplus(margin)
        return (self.weight * nll).sum() + 0.5 * precision * weights.square().sum()

    def gradient(self, weights: Tensor, precision: float) -> Tensor:
        """Of the objective, [H]."""
        residual = self.weight * (torch.sigmoid(self.difference @ weights) - self.label)
        return self.difference.T @ residual + precision * weights


@dataclass(frozen=True)
class Posterior:
    """N(mean, (L Lᵀ)⁻¹) over the weights [H] of the head, L = ``cholesky`` [H, H] of the Hessian; ``figures`` to log."""

    mean: Tensor
    cholesky: Tensor
    figures: dict[str, float]

    @property
    def precision(self) -> float:
        """Of the prior, on features of unit spread."""
        return self.figures["prior_precision"]

    @cached_property
    def covariance(self) -> Tensor:
        """Of the weights [H, H]."""
        return torch.cholesky_inverse(self.cholesky)

    def draws(self, count: int) -> Tensor:
        """[S, H], always the same and in opposite pairs: their mean is the posterior's, and so is that of any margin."""
        generator = torch.Generator().manual_seed(0)
        half = torch.randn(count // 2, len(self.mean), generator=generator, dtype=self.mean.dtype).to(self.mean.device)
        noise = torch.cat([half, -half])
        deviations: Tensor = torch.linalg.solve_triangular(self.cholesky.T, noise.T, upper=True).T
        return self.mean + deviations

    def margin(self, difference: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, standard deviation) [P] of the reward differences of pairs with feature differences [P, H]."""
        spread = torch.linalg.solve_triangular(self.cholesky, difference.T, upper=False).norm(dim=0)
        return difference @ self.mean, spread

    def prob_first(self, difference: Tensor) -> Tensor:
        """P(first ≻ second) [P] of Δh [P, H] without draws: E Λ(N(Δh·v, Δhᵀ Hess⁻¹ Δh))."""
        return Link("logistic").prob(*self.margin(difference))


def fit_posterior(
    pairs: PairData, precision: float | None = None, *, start: float = 1.0, unweighted: bool = False
) -> Posterior:
    """The Laplace approximation with prior precision c; by default that of the largest evidence, sought from ``start``.

    Without any pairs there is no evidence and the posterior is the prior: N(0, I/start).
    """
    pairs = PairData(*(part.double() for part in (pairs.difference, pairs.label, pairs.weight)))
    narrow, basis = pairs.in_their_span()
    steps, better, mean = 0, precision or start, narrow.difference.new_zeros(narrow.difference.shape[1])
    for _ in range(EVIDENCE_STEPS if len(pairs.label) else 1):
        c = better
        mean, taken = newton(narrow, c, mean)
        steps += taken
        cholesky = torch.linalg.cholesky(narrow.hessian(mean, c))
        determined = len(mean) - c * torch.cholesky_inverse(cholesky).trace().item()
        better = min(max(determined / mean.square().sum().clamp(min=1e-12).item(), 1e-8), 1e8)
        if precision is not None or abs(math.log(better / c)) < 0.01:
            break
    if basis is not None:
        mean = basis @ mean
        cholesky = torch.linalg.cholesky(pairs.hessian(mean, c))
    log_det = 2 * cholesky.diagonal().log().sum().item()
    objective = pairs.objective(mean, c).item()
    if unweighted:
        cholesky = torch.linalg.cholesky(pairs.hessian(mean, c, unweighted=True))
    figures = {
        "newton_steps": float(steps),
        "gradient_norm": pairs.gradient(mean, c).norm().item(),
        "prior_precision": c,
        "determined_weights": determined,
        "log_determinant": log_det,
        "log_evidence": 0.5 * len(mean) * math.log(c) - 0.5 * log_det - objective,
    }
    return Posterior(mean, cholesky, figures)


def newton(pairs: PairData, precision: float, start: Tensor) -> tuple[Tensor, int]:
    """The maximum a posteriori [H] and the steps to it. ConfigError where it is too far off (separable pairs, tiny c)."""
    weights, enough = start, TOLERANCE * (1 + pairs.gradient(torch.zeros_like(start), precision).norm())
    for step in range(NEWTON_STEPS):
        gradient = pairs.gradient(weights, precision)
        if gradient.norm() <= enough:
            return weights, step
        cholesky = torch.linalg.cholesky(pairs.hessian(weights, precision))
        move = torch.cholesky_solve(gradient[:, None], cholesky).squeeze(1)
        # the last steps gain less than the objective can show
        before, slope, length = pairs.objective(weights, precision) * (1 + 1e-12), gradient @ move, 1.0
        while pairs.objective(weights - length * move, precision) > before - 1e-4 * length * slope:
            length /= 2
        weights = weights - length * move
    raise ConfigError(
        f"no posterior within {NEWTON_STEPS} Newton steps at prior precision {precision:.3g}; raise method.prior_precision"
    )
