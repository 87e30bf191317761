"""What is just allowed and what is just refused, and defaults as promised."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from poise.distributions import (
    Categorical,
    Gaussian,
    Link,
    Mixture,
    Point,
    Quantiles,
    RewardDistribution,
    Samples,
    WinMap,
    barycentre,
)
from poise.distributions.disagreement import bimodal, disagreement
from poise.errors import ConfigError, UnsupportedOperation
from tests.distributions.families import build

HALVES = torch.tensor([0.5, 0.5])
TWO = [Point(torch.zeros(1)), Point(torch.ones(1))]

ALLOWED: list[Callable[[], object]] = [
    lambda: Link("davidson", tie_weight=0.0),
    lambda: Link("step", tie_threshold=0.0),
    lambda: Link("logistic", 1e-9, 1e9),
    lambda: WinMap(lapse=0.0),
    lambda: WinMap(knots=((1.0, 1.0),)),
    lambda: Gaussian(0.0, 0.0),
    lambda: Categorical(torch.tensor([2.0]), torch.zeros(1)),
    lambda: Quantiles(torch.zeros(1), torch.tensor([0.5])),
    lambda: Samples(torch.zeros(1)),
    lambda: Mixture(torch.zeros(1), torch.zeros(1), torch.zeros(1), members=1),
    lambda: Mixture(torch.zeros(4), torch.zeros(4), torch.zeros(4), members=2),
    lambda: Mixture.from_members(TWO, HALVES + 4e-5),
    lambda: Mixture.from_members(TWO, torch.tensor([1.0, 0.0])),
    lambda: barycentre(TWO, torch.tensor([0.0, 3.0])),
    lambda: Mixture.from_samples(torch.zeros(2), torch.tensor([0.0, 2.0])),
    lambda: Gaussian(0.0, 1.0).quantile(1e-12),
    lambda: Gaussian(0.0, 1.0).quantile(torch.tensor([0.5])),
]
REFUSED: list[tuple[str, Callable[[], object]]] = [
    ("positive and finite", lambda: Link(temperature=math.inf)),
    ("positive and finite", lambda: Link(temperature=-1.0)),
    ("finite and >= 0", lambda: Link("logistic", tie_threshold=math.inf)),
    ("finite and >= 0", lambda: Link("davidson", tie_weight=math.inf)),
    ("finite and >= 0", lambda: Link("davidson", tie_weight=-0.1)),
    ("positive and finite", lambda: WinMap(temperature=math.inf)),
    ("positive and finite", lambda: WinMap(temperature=-1.0)),
    (r"in \[0, 1\)", lambda: WinMap(lapse=-0.1)),
    ("rise", lambda: WinMap(knots=((1.0, 1.1),))),
    ("rise", lambda: WinMap(knots=((0.7, 0.5), (1.0, 0.8)))),
    ("rise", lambda: WinMap(knots=((0.8, 0.6), (0.7, 0.7), (1.0, 0.8)))),
    ("between 0 and 1", lambda: Quantiles(torch.zeros(2), torch.tensor([0.5, 1.0]))),
    (r"levels \[K\]", lambda: Quantiles(torch.tensor(0.0), torch.tensor([0.5]))),
    (r"levels \[K\]", lambda: Quantiles(torch.zeros(0), torch.zeros(0))),
    (r"levels \[K\]", lambda: Quantiles(torch.zeros(2, 1), torch.tensor([[0.5]]))),
    (r"levels \[K\]", lambda: Quantiles(torch.zeros(2, 3), torch.tensor([0.3, 0.5]))),
    (r"support \[K\]", lambda: Categorical(torch.zeros(0), torch.zeros(0))),
    (r"support \[K\]", lambda: Categorical(torch.tensor([[1.0]]), torch.zeros(1, 1))),
    (r"support \[K\]", lambda: Categorical(torch.tensor([1.0]), torch.tensor(0.0))),
    ("values must be finite", lambda: Quantiles(torch.tensor([0.0, math.nan]), torch.tensor([0.3, 0.5]))),
    ("logits must be finite", lambda: Categorical(torch.arange(2.0), torch.tensor([0.0, math.inf]))),
    ("draws must be finite", lambda: Samples(torch.tensor([math.nan]))),
    ("component axis", lambda: Mixture(torch.tensor(0.0), torch.tensor(0.0), torch.tensor(1.0))),
    ("component axis", lambda: Mixture(torch.zeros(2, 0), torch.zeros(2, 0), torch.zeros(2, 0))),
    ("into 0 members", lambda: Mixture(torch.zeros(2), torch.zeros(2), torch.zeros(2), members=0)),
    ("into -1 members", lambda: Mixture(torch.zeros(2), torch.zeros(2), torch.zeros(2), members=-1)),
    ("draws", lambda: Samples(torch.tensor(0.0))),
    ("sum to 1", lambda: Mixture.from_members(TWO, HALVES + 6e-5)),
    ("sum to 1", lambda: Mixture.from_members(TWO, HALVES - 6e-5)),
    ("one weight per", lambda: Mixture.from_members(TWO, torch.tensor(1.0))),
    ("one weight per", lambda: Mixture.from_members(TWO, torch.tensor([0.5, 0.25, 0.25]))),
    ("weights must be >= 0", lambda: Mixture.from_members(TWO, torch.tensor([1.5, -0.5]))),
    ("weights must be >= 0", lambda: Mixture.from_samples(torch.zeros(2), torch.tensor([-1.0, 2.0]))),
    ("one weight per", lambda: barycentre(TWO, torch.tensor(1.0))),
    ("at least one", lambda: barycentre([])),
    ("coupling", lambda: Samples(torch.zeros(2), coupling="pair")),  # type: ignore[arg-type]
    ("strictly between 0 and 1", lambda: Gaussian(0.0, 1.0).quantile(0.0)),
    ("strictly between 0 and 1", lambda: Gaussian(0.0, 1.0).quantile(torch.tensor([0.5, 1.0]))),
    ("strictly between 0 and 1", lambda: Gaussian(0.0, 1.0).quantile(torch.tensor([[0.5]]))),
    ("strictly between 0 and 1", lambda: Gaussian(0.0, 1.0).quantile(math.nan)),
    ("one nonzero scale", lambda: build("categorical", 1).affine(0.0)),
    ("one nonzero scale", lambda: build("categorical", 1).affine(1.0, torch.ones(3))),
]


@pytest.mark.parametrize("number", range(len(ALLOWED)))
def test_just_allowed(number: int) -> None:
    assert ALLOWED[number]() is not None


@pytest.mark.parametrize(("message", "make"), REFUSED)
def test_just_refused(message: str, make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("family", ["gaussian", "categorical", "quantiles", "mixture", "samples"])
def test_a_bare_reward_is_compared_by_a_step_and_independently(family: str) -> None:
    d = build(family, 1)
    assert d.link == Link("step")
    assert d.coupling == "independent"
    assert Point(0.0).link == Link("logistic", temperature=1.0)


def test_unchecked_rewards_may_hold_anything_of_the_right_shape() -> None:
    nan = torch.tensor([math.nan, 0.0])
    unsorted = torch.tensor([0.6, 0.4])
    assert Point(nan, validate=False).mean.isnan().any()
    assert Samples(nan, validate=False).mean.isnan()
    assert Quantiles(nan, unsorted, validate=False).levels.tolist() == unsorted.tolist()
    assert Categorical(unsorted, nan, validate=False).support.tolist() == unsorted.tolist()
    assert Mixture(nan, nan, -torch.ones(2), validate=False).stds.tolist() == [-1.0, -1.0]


def test_kl_bound_component_by_component() -> None:
    """Equal weights ½: the mean of both Gaussian divergences; for one component it is the divergence itself."""
    a = Mixture(torch.zeros(2), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]))
    b = Mixture(torch.tensor([1.0, 3.0]).log(), torch.tensor([0.5, 1.0]), torch.tensor([2.0, 2.0]))
    expected = 0.5 * (math.log(0.5 / 0.25) + math.log(2) + 1.25 / 8 - 0.5) + 0.5 * math.log(0.5 / 0.75)
    assert a.kl_upper_bound(b).item() == pytest.approx(expected)
    with pytest.raises(UnsupportedOperation, match="another number of components"):
        a.kl_upper_bound(build("mixture", 1))


def test_modes_of_disagreement() -> None:
    """Two modes two levels apart with a deep valley; a plateau is one mode, a shallow valley none, one neighbour none."""
    rows = {
        (0.4, 0.1, 0.5): True,
        (0.5, 0.1, 0.4): True,
        (0.4, 0.2, 0.4): False,
        (0.4, 0.19, 0.41): True,
        (0.5, 0.5, 0.0): False,
        (0.3, 0.4, 0.3): False,
        (0.45, 0.05, 0.02, 0.03, 0.45): True,
        (0.05, 0.4, 0.05, 0.45, 0.05): True,
        (0.35, 0.35, 0.0, 0.3): True,
    }
    for row, expected in rows.items():
        assert bimodal(torch.tensor(row)).item() is expected, row
    table = torch.tensor([[0.4, 0.1, 0.5], [0.3, 0.4, 0.3]])
    assert bimodal(torch.stack([table, table.flip(0)])).tolist() == [[True, False], [False, True]]


def test_bimodality_of_known_shapes() -> None:
    """1/3 for a normal, 1 for two atoms, 0 without spread; a skewed three-atom case by hand."""
    assert disagreement(Gaussian(torch.tensor([3.0]), 2.0))["bimodality"].item() == pytest.approx(1 / 3)
    assert disagreement(Samples(torch.tensor([[-1.0, 7.0]])))["bimodality"].item() == pytest.approx(1.0)
    assert disagreement(Point(torch.tensor([2.0])))["bimodality"].item() == 0
    found = disagreement(Samples(torch.tensor([[0.0, 0.0, 0.0, 4.0]])))  # mean 1: m2 = 3, m3 = 6, m4 = 21
    assert found["bimodality"].item() == pytest.approx((36 / 27 + 1) / (21 / 9))
    assert found["variance"].item() == pytest.approx(3.0)
    assert found["entropy"].item() == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4))


def test_skewed_moments_of_a_mixture_by_hand() -> None:
    """N(−1, 1) and N(3, 4) with weights ¾, ¼: mean 0, m2 = 1.75 + 3, m3 = Σ ω(d³ + 3dσ²), m4 = Σ ω(d⁴ + 6d²σ² + 3σ⁴)."""
    d = Mixture(torch.tensor([3.0, 1.0]).log(), torch.tensor([-1.0, 3.0]), torch.tensor([1.0, 2.0]))
    assert d.mean.item() == pytest.approx(0.0, abs=1e-6)
    assert d.variance.item() == pytest.approx(0.75 * 2 + 0.25 * 13)
    assert d.third_central_moment.item() == pytest.approx(0.75 * -4 + 0.25 * (27 + 36))
    assert d.fourth_central_moment.item() == pytest.approx(0.75 * 10 + 0.25 * (81 + 216 + 48))


def test_concatenating_refuses_rows_of_another_shape() -> None:
    d = build("gaussian", 1)
    with pytest.raises(ConfigError, match=r"with mean \[3\] and \[1, 3\]"):
        RewardDistribution.concatenate([d, d[None]])
