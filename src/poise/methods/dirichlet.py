"""Dirichlet distributions over weights: differentiable draws, fixed draws, and the KL to the flat one."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.special import gammaincinv
from torch import Tensor
from torch.quasirandom import SobolEngine

SMALL = 0.1


def sample_dirichlet(concentration: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draws on the simplex [..., A], float32, differentiable in the concentration (implicit reparameterisation).

    Small concentrations by Gamma(α) = Gamma(α + 1)·U^(1/α), in logs: their own draws underflow, all of a row's at once.
    """
    concentration = concentration.float()
    small = concentration < SMALL
    log_gamma = torch._standard_gamma(concentration + small, generator).clamp(min=1e-30).log()
    if small.any():
        uniform = torch.rand(concentration.shape, generator=generator, device=concentration.device).clamp(min=1e-30)
        log_gamma = log_gamma + torch.where(small, uniform.log() / concentration, 0.0)
    weight = log_gamma.softmax(-1).clamp(min=1e-6)
    return weight / weight.sum(-1, keepdim=True)


def even_points(count: int, dimensions: int, seed: int) -> Tensor:
    """[count, dimensions] numbers in (0, 1), spread more evenly than chance (scrambled Sobol), fixed by the seed."""
    points: Tensor = SobolEngine(dimensions, scramble=True, seed=seed).draw(count)  # type: ignore[no-untyped-call]
    return points.clamp(1e-6, 1 - 1e-6)


def base_uniforms(draws: int, size: int) -> Tensor:
    """[2, S, A] numbers in (0, 1) for ``dirichlet_at``: always the same ones."""
    return even_points(draws, 2 * size, seed=0).view(draws, 2, size).transpose(0, 1).contiguous()


def dirichlet_at(concentration: Tensor, uniforms: Tensor) -> Tensor:
    """The draws [..., S, A] of Dir(α), α [..., A], that belong to ``uniforms`` [2, S, A]; without gradient.

    A row's draws depend on its own α alone, and continuously. By inverse cdf of Gamma(α) = Gamma(α + 1)·U^(1/α), in logs,
    because Gamma(0.01) itself underflows.
    """
    alpha = concentration.detach().double().cpu().numpy()[..., None, :]
    first, second = uniforms.double().cpu().numpy()
    log_gamma = np.log(gammaincinv(alpha + 1, first)) + np.log(second) / alpha
    return torch.from_numpy(log_gamma).softmax(-1).to(concentration)


def dirichlet_kl(concentration: Tensor) -> Tensor:
    """KL(Dir(α) ‖ Dir(1)), [..., A] → [...]."""
    total = concentration.sum(-1)
    normaliser = torch.lgamma(total) - torch.lgamma(concentration).sum(-1) - math.lgamma(concentration.shape[-1])
    pull = (concentration - 1) * (torch.digamma(concentration) - torch.digamma(total)[..., None])
    return normaliser + pull.sum(-1)
