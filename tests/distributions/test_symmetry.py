"""No decision is rounding's: the two sides of a comparison sum to 1 and equal beliefs have ½, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.distributions import (
    Categorical,
    Gaussian,
    Link,
    Mixture,
    Quantiles,
    RewardDistribution,
    Samples,
    WinMap,
    win_matrix,
)
from poise.evaluation import metrics
from poise.features import Features
from poise.methods.bandit import Bandit, BanditConfig
from poise.methods.likelihood import Likelihood, LikelihoodConfig
from poise.methods.ordinal import Ordinal, OrdinalConfig
from tests.distributions.families import FAMILIES, PAIRS, build, seeds

law = settings(deadline=None, max_examples=12, derandomize=True)
LINKS = [None, Link("probit", 0.8), Link("logistic", tie_threshold=0.5), Link("step", tie_threshold=0.5)]
LINKS += [Link("logistic", win_map=WinMap(1.7, 0.02, ((0.7, 0.6), (1.0, 0.9))))]
every_link = pytest.mark.parametrize("link", LINKS, ids=str)


def wide(count: int, dtype: torch.dtype) -> dict[str, RewardDistribution]:
    """Families with many components, whose sums round."""
    generator = torch.Generator().manual_seed(count)

    def normal(size: int) -> torch.Tensor:
        return torch.randn(count, size, generator=generator, dtype=dtype)

    return {
        "categorical": Categorical(torch.arange(1.0, 10.0).to(dtype), normal(9)),
        "quantiles": Quantiles(normal(19), (torch.arange(19, dtype=dtype) + 1) / 20),
        "cells": Quantiles(normal(7), torch.rand(7, generator=generator, dtype=dtype).sort().values, "cells"),
        "mixture": Mixture(normal(5), normal(5), normal(5).abs()),
        "paired": Mixture(normal(6)[0], normal(6), normal(6).abs(), members=3, coupling="paired"),
        "samples": Samples(normal(33)),
    }


WIDE = [(name, dtype) for dtype in (torch.float32, torch.float64) for name in wide(1, dtype)]


@pytest.mark.parametrize(("family", "other"), PAIRS)
@law
@given(seeds, st.booleans(), st.sampled_from(LINKS))
def test_the_two_sides_sum_to_exactly_one(family: str, other: str, seed: int, rounded: bool, link: Link | None) -> None:
    a, b = build(family, seed, rounded=rounded), build(other, seed + 1, rounded=rounded)
    assert (a.prob_greater(b, link=link) + b.prob_greater(a, link=link) == 1).all()
    assert (a.prob_greater(a, link=link) == 0.5).all()


@every_link
@pytest.mark.parametrize(("name", "dtype"), WIDE, ids=str)
@pytest.mark.parametrize("count", [5, 16])
def test_equal_beliefs_tie_wherever_they_stand(name: str, dtype: torch.dtype, link: Link | None, count: int) -> None:
    d = wide(count, dtype)[name]
    assert (d.prob_greater(d, link=link) == 0.5).all()
    twice = RewardDistribution.concatenate([d, d])
    matrix = win_matrix(twice, link=link)
    assert (matrix + matrix.mT == 1).all()
    assert (matrix.diagonal(offset=count) == 0.5).all()
    assert torch.allclose(matrix[:count, count:], d[:, None].prob_greater(d[None], link=link), atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_smaller_side_keeps_its_digits(family: str) -> None:
    """Far apart P(loser) is that of its logarithm, relative to itself: not what 1 − P(winner) leaves, which is 0 here."""
    a, link = build(family, 1), Link("probit", temperature=4.0)
    loser = a.affine(1.0, -60.0)
    assert (a.prob_greater(loser, link=link) == 1).all()
    found = loser.prob_greater(a, link=link)
    torch.testing.assert_close(found, loser.log_prob_greater(a, link=link).exp(), rtol=1e-9, atol=0)
    assert (found > 0).all()


@pytest.mark.parametrize(("name", "dtype"), WIDE, ids=str)
def test_the_gradient_is_that_of_the_probability(name: str, dtype: torch.dtype) -> None:
    """Moving a belief up by ε changes P against itself by ε times a slope that is not zero, and of one sign."""
    d = wide(4, dtype)[name]
    shift = torch.zeros(4, dtype=dtype, requires_grad=True)
    moved = Mixture.of(d).affine(1.0, shift)
    p = moved.prob_greater(Mixture.of(d), link=Link("logistic"))
    (slope,) = torch.autograd.grad(p.sum(), shift)
    log_p = moved.log_prob_greater(Mixture.of(d), link=Link("logistic"))
    (expected,) = torch.autograd.grad(log_p.sum(), shift)
    torch.testing.assert_close(slope, expected / 2, rtol=1e-4, atol=1e-6)
    assert (slope > 0.05).all()


HEADS = [Ordinal(OrdinalConfig(levels=k), 4) for k in (6, 7, 8, 9)]
HEADS += [Bandit(BanditConfig(head="categorical"), 4), Likelihood(LikelihoodConfig(head="categorical"), 4)]


@pytest.mark.parametrize("head", HEADS, ids=lambda head: type(head).__name__)
def test_a_head_that_knows_nothing_is_undecided(head: torch.nn.Module) -> None:
    """A new head says the same of every response: half right, every pair a tie, and no calibration error to be had."""
    with torch.no_grad():
        reward = head(Features(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)))).reward.to(torch.float64)
    p, y = reward[:4].prob_greater(reward[4:]).numpy(), np.ones(4)
    assert metrics.tie_rate(p) == 1
    assert metrics.accuracy(p, y) == 0.5
    assert metrics.expected_calibration_error(p, y) == 0


def test_a_gaussian_wins_by_the_normal_cdf_of_its_distance() -> None:
    """Still the closed form Φ((μ_a − μ_b)/√(σ_a² + σ_b²)): 3/5 standard deviations."""
    a, b = Gaussian(torch.tensor([1.0], dtype=torch.float64), 1.2), Gaussian(torch.tensor([-0.2]), 1.6)
    assert a.prob_greater(b).item() == pytest.approx(0.7257468822499265, abs=1e-7)
