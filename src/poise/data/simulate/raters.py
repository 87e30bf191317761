"""Who judges: groups of people who want different things, in closed form.

The utility of a response for group g is u_g = Σ_a w_ga (level_a − ½): 0 is a response that is middling in everything.
A rater of group g prefers a to b with probability Λ((u_g(a) − u_g(b) − θ)/temp), b to a with Λ((u_g(b) − u_g(a) − θ)/temp)
and ties otherwise (Rao–Kupper; θ = 0 is Bradley–Terry). A rating is the cell between fixed cut-points into which the
utility (or the attribute's level) falls after Gaussian noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr, ndtri

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

OVERALL_CUTS = (-2.4, -0.8, 0.8, 2.4)
OVERALL_NOISE = 0.8
LEVEL_CUTS = (0.125, 0.375, 0.625, 0.875)
LEVEL_NOISE = 0.2


@dataclass(frozen=True)
class Group:
    """People who weigh the attributes alike (in the order of ``ATTRIBUTES``), and their share of all raters."""

    name: str
    share: float
    weights: tuple[float, float, float, float, float]


GROUPS = (
    Group("practical", 0.40, (3.0, 4.0, 1.5, 0.5, -1.5)),
    Group("cautious", 0.35, (2.0, 2.5, 4.5, 1.0, 1.0)),
    Group("sociable", 0.25, (2.0, 1.5, 1.0, 3.5, 2.5)),
)
# Some domains draw other people: their factor on the shares, before normalising.
DOMAIN_TILT = {
    "health": (1.0, 1.5, 1.0),
    "home_repair": (1.0, 1.3, 1.0),
    "fitness": (1.0, 1.3, 1.0),
    "travel": (1.0, 1.0, 1.4),
    "pets": (1.0, 1.0, 1.4),
    "programming": (1.5, 1.0, 1.0),
    "personal_finance": (1.3, 1.0, 1.0),
}


def group_shares(domain: str) -> Floats:
    """Share of each group among the raters of a domain: [groups], sums to 1."""
    shares = np.array([group.share for group in GROUPS]) * DOMAIN_TILT.get(domain, (1.0, 1.0, 1.0))
    normalised: Floats = shares / shares.sum()
    return normalised


def utilities(levels: Floats, groups: Sequence[Group] = GROUPS) -> Floats:
    """[B, A] levels → [B, groups] utilities."""
    values: Floats = (levels - 0.5) @ np.array([group.weights for group in groups]).T
    return values


def choice_probabilities(difference: Floats, temperature: float, threshold: float) -> tuple[Floats, Floats]:
    """P(a ≻ b) and P(b ≻ a) from the utility difference u(a) − u(b); what is missing to 1 is P(tie)."""
    return expit((difference - threshold) / temperature), expit((-difference - threshold) / temperature)


def rating_distribution(latent: Floats, cuts: tuple[float, ...], noise: float) -> Floats:
    """Probability of each rating 1 … 5: [..., 5]."""
    below = ndtr((np.asarray(cuts) - latent[..., None]) / noise)
    edges = np.concatenate([np.zeros_like(latent)[..., None], below, np.ones_like(latent)[..., None]], axis=-1)
    return np.diff(edges, axis=-1)


def draw_groups(shares: Floats, uniform: Floats) -> Indices:
    """Group of each rater: shares [B, groups] and uniform draws [B, R] → indices [B, R]."""
    upper = np.cumsum(shares, axis=-1)[:, None, :-1]
    drawn: Indices = (uniform[..., None] >= upper).sum(axis=-1)
    return drawn


def normal(uniform: Floats) -> Floats:
    """Standard normal draws from uniform ones, one from one: a rater more or less moves no other draw."""
    values: Floats = ndtri(np.clip(uniform, 1e-12, 1.0 - 1e-12))
    return values


def draw_ratings(latent: Floats, standard: Floats, cuts: tuple[float, ...], noise: float) -> Indices:
    """Ratings 1 … 5 from the latent values and standard normal draws."""
    return 1 + np.searchsorted(np.asarray(cuts), latent + noise * standard)
