"""Every utility of every family against numerical integration by scipy, and against numbers worked by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, special, stats

from poise.distributions import Categorical, Gaussian, Mixture, Quantiles, RewardDistribution, Samples, mid_levels
from poise.errors import ConfigError, UnsupportedOperation
from poise.utility import entropic, parse_utility
from tests.distributions.families import BATCH, FAMILIES, build


@dataclass(frozen=True)
class Integrated:
    """One row of a reward, as numbers: everything by quadrature over its densities and sums over its atoms."""

    atoms: tuple[tuple[float, float], ...]
    normals: tuple[tuple[float, float, float], ...]

    @classmethod
    def of(cls, reward: RewardDistribution, row: int) -> Integrated:
        parts = list(zip(*(part[row].tolist() for part in reward.components()), strict=True))
        return cls(tuple((w, m) for w, m, s in parts if s == 0), tuple((w, m, s) for w, m, s in parts if s > 0))

    def expectation(self, f: Callable[[float], float], below: float = math.inf, jumps: tuple[float, ...] = ()) -> float:
        """E f(r)·1[r < below]; ``jumps`` are where f is not continuous."""
        total = sum(w * f(m) for w, m in self.atoms if m < below)
        for w, m, s in self.normals:
            end = min(below, m + 14 * s)
            if end > m - 14 * s:
                cuts = [min(m, end), *(x for x in jumps if m - 14 * s < x < end)]
                value, _ = integrate.quad(
                    lambda x, m=m, s=s: f(x) * stats.norm.pdf(x, m, s), m - 14 * s, end, points=cuts, limit=200
                )
                total += w * value
        return total

    def cdf(self, x: float, left: bool = False) -> float:
        atoms = sum(w for w, m in self.atoms if (m < x if left else m <= x + 1e-12))
        return atoms + sum(w * float(special.ndtr((x - m) / s)) for w, m, s in self.normals)

    def quantile(self, level: float) -> float:
        jumps = [m for _, m in self.atoms if self.cdf(m, left=True) < level - 1e-12 <= self.cdf(m)]
        if jumps or not self.normals:
            return jumps[0]
        return optimize.brentq(lambda x: self.cdf(x) - level, -60.0, 60.0, xtol=1e-13)

    def cvar(self, share: float) -> float:
        q = self.quantile(share)
        return (self.expectation(lambda x: x, below=q) + (share - self.cdf(q, left=True)) * q) / share

    def mirrored(self) -> Integrated:
        return Integrated(tuple((w, -m) for w, m in self.atoms), tuple((w, -m, s) for w, m, s in self.normals))

    def std(self) -> float:
        mean = self.expectation(lambda x: x)
        return math.sqrt(self.expectation(lambda x: (x - mean) ** 2))


REFERENCES: dict[str, Callable[[Integrated], float]] = {
    "mean": lambda d: d.expectation(lambda x: x),
    "lcb:1.5": lambda d: d.expectation(lambda x: x) - 1.5 * d.std(),
    "ucb:0.5": lambda d: d.expectation(lambda x: x) + 0.5 * d.std(),
    "quantile:0.25": lambda d: d.quantile(0.25),
    "quantile:0.9": lambda d: d.quantile(0.9),
    "cvar:0.1": lambda d: d.cvar(0.1),
    "cvar:0.37": lambda d: d.cvar(0.37),
    "cvar:1": lambda d: d.expectation(lambda x: x),
    "cvar_upper:0.2": lambda d: -d.mirrored().cvar(0.2),
    "entropic:0.7": lambda d: -math.log(d.expectation(lambda x: math.exp(-0.7 * x))) / 0.7,
    "entropic:-0.4": lambda d: math.log(d.expectation(lambda x: math.exp(0.4 * x))) / 0.4,
    "entropic:0": lambda d: d.expectation(lambda x: x),
    "exponential:0.7": lambda d: -d.expectation(lambda x: math.exp(-0.7 * x)),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("spec", REFERENCES)
def test_equals_numerical_integration(family, spec):
    reward = build(family, seed=3)
    wanted = [REFERENCES[spec](Integrated.of(reward, row)) for row in range(BATCH)]
    np.testing.assert_allclose(parse_utility(spec)(reward).numpy(), wanted, rtol=1e-6, atol=1e-6)


def gaussian(mean=0.0, std=1.0) -> Gaussian:
    return Gaussian(torch.tensor([mean], dtype=torch.float64), torch.tensor([std], dtype=torch.float64))


def test_a_gaussian_by_hand():
    reward = gaussian(2.0, 3.0)
    z = stats.norm.ppf(0.1)
    assert parse_utility("entropic:0.5")(reward).item() == pytest.approx(2 - 0.5 * 9 / 2)
    assert parse_utility("cvar:0.1")(reward).item() == pytest.approx(2 - 3 * stats.norm.pdf(z) / 0.1)
    assert parse_utility("exponential:0.5")(reward).item() == pytest.approx(-math.exp(-0.5 * (2 - 0.5 * 9 / 2)))


def test_atoms_lose_tails():
    """19 atoms of N(0, 1): CE₁ −.357 and CVaR −1.645 at levels .05….95, −.450 and −1.94 at mid-levels; truth −.5, −2.063."""
    for levels, certainty, tail in (
        (torch.arange(1, 20, dtype=torch.float64) / 20, -0.357, -1.645),
        (mid_levels(19, torch.float64), -0.450, -1.94),
    ):
        values = torch.from_numpy(stats.norm.ppf(levels.numpy()))[None]
        reward = Quantiles(values, levels)
        assert parse_utility("entropic:1")(reward).item() == pytest.approx(certainty, abs=6e-4)
        assert parse_utility("cvar:0.05")(reward).item() == pytest.approx(tail, abs=5e-3)
    assert parse_utility("entropic:1")(gaussian()).item() == pytest.approx(-0.5)
    assert parse_utility("cvar:0.05")(gaussian()).item() == pytest.approx(-2.063, abs=5e-4)


def test_averaged_quantiles_hide_what_a_mixture_shows():
    """Two attributes with atoms {0, 1}, λ = 5: U = −.082 of the average ½, −.48 to −.50 of the mixture."""
    average = Samples(torch.tensor([[0.5]], dtype=torch.float64))
    pooled = Samples(torch.tensor([[0.0, 1.0]], dtype=torch.float64))
    assert parse_utility("exponential:5")(average).item() == pytest.approx(-0.082, abs=1e-3)
    assert parse_utility("exponential:5")(pooled).item() == pytest.approx(-0.503, abs=1e-3)


@pytest.mark.parametrize("aversion", [1e-6, 1e-3, 1.0, 50.0])
def test_float32_is_as_good_as_float64(aversion):
    """The plain form −log(Σω e^…)/λ has lost most digits at λ = 1e-6 and is infinite at λ = 50."""
    parts = ([0.2, 0.5, 0.3], [-1.0, 1.2, 2.0], [0.4, 0.0, 0.8])
    weights, means, stds = (torch.tensor([part], dtype=torch.float64) for part in parts)
    wide = Mixture(weights.log(), means, stds)
    narrow = wide.to(torch.float32)
    assert entropic(aversion, narrow).item() == pytest.approx(entropic(aversion, wide).item(), rel=1e-6)
    plain = -torch.logsumexp((weights.log() - aversion * means + 0.5 * (aversion * stds) ** 2).float().exp().log(), -1)
    assert aversion not in (1e-6, 50.0) or abs((plain / aversion - entropic(aversion, wide)).item()) > 1e-3


def test_atoms_far_from_the_mean_on_both_sides():
    """In float32 e^150 is infinite: −log(⅓(e^300 + e^150 + 1)) is −300 + log 3."""
    reward = Samples(torch.tensor([[-300.0, -150.0, 0.0]]))
    assert entropic(1.0, reward).item() == pytest.approx(-300 + math.log(3))


def test_no_caution_is_the_mean():
    reward = gaussian(2.0, 3.0)
    for spec in ("lcb:0", "ucb:0", "entropic:0", "cvar:1"):
        assert parse_utility(spec)(reward).item() == 2.0
    ensemble = Samples(torch.tensor([[1.0, 4.0]]), coupling="paired")
    assert parse_utility("lcb_epistemic:0")(ensemble).item() == 2.5


def test_the_exponential_utility_saturates_instead_of_overflowing():
    reward = Gaussian(torch.tensor([-1e6, 1e6]), torch.tensor([1.0, 1.0]))
    low, high = parse_utility("exponential:1")(reward).tolist()
    assert math.isfinite(low)
    assert low < -1e37
    assert high == 0


@pytest.mark.parametrize("spec", ["quantile:0.01", "quantile:0.99", "cvar:0.01", "cvar_upper:0.01"])
def test_a_tail_beyond_the_quantile_grid_is_refused(spec):
    levels = torch.arange(1, 20) / 20
    reward = Quantiles(torch.randn(4, 19), levels)
    with pytest.raises(ConfigError, match=f"{spec} lies outside .* 19 quantile levels go from 0.05 to 0.95"):
        parse_utility(spec)(reward)
    inside = spec.replace("0.01", "0.05").replace("0.99", "0.95")
    assert torch.isfinite(parse_utility(inside)(reward)).all()
    assert torch.isfinite(parse_utility(spec)(Mixture.of(reward))).all()


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("quantile", (0.1, 0.7), (0.09, 0.71)),
        ("cvar", (0.1, 0.9), (0.09, 0.05)),
        ("cvar_upper", (0.3, 0.9), (0.29, 0.1)),
    ],
)
def test_each_tail_has_its_own_end(name, inside, outside):
    """A grid that reaches further down than up."""
    reward = Quantiles(torch.randn(4, 3), torch.tensor([0.1, 0.5, 0.7]))
    for number in inside:
        assert torch.isfinite(parse_utility(f"{name}:{number}")(reward)).all()
    for number in outside:
        with pytest.raises(ConfigError, match="lies outside"):
            parse_utility(f"{name}:{number}")(reward)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("spec", ["lcb_epistemic:1", "ucb_epistemic:1", "wco", "uwo:1", "shrinkage"])
def test_what_only_an_ensemble_knows_is_refused_elsewhere(family, spec):
    with pytest.raises(UnsupportedOperation, match="does not say what the model does not know"):
        parse_utility(spec)(build(family, seed=0), torch.zeros(BATCH, dtype=torch.long))


def test_epistemic_bounds_leave_the_spread_within_members_alone():
    """Two members N(1, 9) and N(3, 16): the mean is 2, the members differ by ±1."""
    reward = Mixture(torch.zeros(2), torch.tensor([[1.0, 3.0]]), torch.tensor([[3.0, 4.0]]), coupling="paired")
    assert parse_utility("lcb_epistemic:1.5")(reward).item() == pytest.approx(0.5)
    assert parse_utility("ucb_epistemic:1.5")(reward).item() == pytest.approx(3.5)
    assert parse_utility("uwo:0.25")(reward).item() == pytest.approx(1.75)
    assert parse_utility("wco")(reward).item() == pytest.approx(1.0)
    assert reward.split().between.sqrt().item() == pytest.approx(1.0)


@pytest.mark.parametrize("spec", ["lcb_epistemic:1", "ucb_epistemic:1"])
def test_members_that_agree_have_a_gradient(spec):
    draws = torch.tensor([[1.0, 1.0, 1.0], [0.0, 1.0, 2.0]], requires_grad=True)
    parse_utility(spec)(Samples(draws, coupling="paired")).sum().backward()
    torch.testing.assert_close(draws.grad[0], torch.full((3,), 1 / 3))
    assert torch.isfinite(draws.grad).all()


def test_members_may_be_mixtures_themselves_and_draws_are_members():
    members = [Mixture(torch.randn(2, 3), torch.randn(2, 3), torch.rand(2, 3)) for _ in range(4)]
    reward = Mixture.from_members(members, coupling="paired")
    wanted = reward.mean - reward.split().between.sqrt()
    torch.testing.assert_close(parse_utility("lcb_epistemic:1")(reward), wanted)
    draws = Samples(torch.randn(2, 50), coupling="paired")
    torch.testing.assert_close(parse_utility("lcb_epistemic:1")(draws), draws.mean - draws.std)


def test_gradients_flow_through_tails():
    """d CVaR/dμ = 1 and d CVaR/dσ = −φ(z)/α; a level's share for a categorical."""
    mean = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    std = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    parse_utility("cvar:0.1")(Gaussian(mean, std)).sum().backward()
    assert mean.grad.item() == pytest.approx(1.0)
    assert std.grad.item() == pytest.approx(-stats.norm.pdf(stats.norm.ppf(0.1)) / 0.1)
    logits = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    support = torch.arange(5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: parse_utility("cvar:0.3")(Categorical(support, x)), (logits,))
    assert torch.autograd.gradcheck(lambda x: parse_utility("entropic:2")(Categorical(support, x)), (logits,))
