"""Laws of mapped win probabilities: symmetric, strictly increasing, no decision changed, whatever the family."""

from __future__ import annotations

import json
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.calibration import PairCalibration
from poise.distributions import Gaussian, Link, Point, WinMap, restore, win_matrix
from poise.errors import ConfigError
from tests.distributions.families import FAMILIES, build, seeds

levels = st.lists(st.floats(0.501, 0.999), min_size=2, max_size=6, unique=True).map(sorted)


@st.composite
def win_maps(draw) -> WinMap:
    temperature = draw(st.floats(0.05, 20.0))
    lapse = draw(st.just(0.0) | st.floats(1e-6, 0.9))
    knots = ()
    if draw(st.booleans()):
        ys = draw(levels)
        xs = sorted(draw(st.lists(st.floats(0.501, 0.999), min_size=len(ys) - 1, max_size=len(ys) - 1, unique=True)))
        knots = tuple(zip([*xs, 1.0], ys, strict=True))
    return WinMap(temperature, lapse, knots)


# on a binary grid, where 1 − p is exact
probabilities = st.lists(st.integers(0, 2**30).map(lambda i: i / 2**30), min_size=2, max_size=20, unique=True).map(
    sorted
)


@settings(deadline=None)
@given(win_maps(), probabilities)
def test_a_map_is_symmetric_and_keeps_every_order_and_decision(win_map, values):
    p = torch.tensor(values, dtype=torch.float64)
    mapped, back = win_map.prob(p, 1 - p), win_map.prob(1 - p, p)
    torch.testing.assert_close(mapped + back, torch.ones_like(p), atol=1e-12, rtol=0)
    assert (mapped.diff() >= 0).all()
    assert torch.equal(torch.sign(mapped - 0.5), torch.sign(p - 0.5)), "½ stays ½, and nothing else becomes it"
    assert ((mapped >= 0) & (mapped <= 1)).all()


@settings(deadline=None)
@given(
    st.floats(0.3, 10.0),
    st.floats(0.0, 0.5),
    st.lists(st.integers(51, 99), min_size=1, max_size=6, unique=True).map(sorted),
    st.integers(0, 10**6),
)
def test_a_map_increases_strictly(temperature, lapse, percent, seed):
    xs = sorted(random.Random(seed).sample(range(51, 100), len(percent) - 1))
    knots = tuple(zip([*(x / 100 for x in xs), 1.0], (y / 100 for y in percent), strict=True))
    for win_map in (WinMap(temperature, lapse), WinMap(temperature, lapse, knots)):
        p = torch.linspace(0.0, 1.0, 201, dtype=torch.float64)
        mapped = win_map.prob(p, 1 - p)
        assert (mapped.diff() > 0).all()


@settings(deadline=None)
@given(win_maps(), st.floats(-600.0, 600.0))
def test_both_sides_are_accurate_in_the_far_tail(win_map, margin):
    sides = torch.tensor([margin, -margin], dtype=torch.float64)
    log_p = torch.nn.functional.logsigmoid(sides)
    found = win_map.log_prob(log_p, log_p.flip(0))
    torch.testing.assert_close(found.exp().sum(), torch.tensor(1.0, dtype=torch.float64), atol=1e-12, rtol=0)
    p = torch.sigmoid(sides)
    torch.testing.assert_close(win_map.prob(p, p.flip(0)), found.exp(), atol=1e-12, rtol=1e-8)
    if win_map == WinMap(win_map.temperature):
        torch.testing.assert_close(found, torch.nn.functional.logsigmoid(sides / win_map.temperature))


def test_the_three_steps_by_hand():
    p = torch.tensor([0.8, 0.2, 0.5], dtype=torch.float64)
    torch.testing.assert_close(WinMap(2.0).prob(p, 1 - p), torch.tensor([2 / 3, 1 / 3, 0.5], dtype=torch.float64))
    torch.testing.assert_close(WinMap(lapse=0.1).prob(p, 1 - p), torch.tensor([0.77, 0.23, 0.5], dtype=torch.float64))
    knots = WinMap(knots=((0.6, 0.7), (1.0, 0.9)))
    torch.testing.assert_close(knots.prob(p, 1 - p), torch.tensor([0.8, 0.2, 0.5], dtype=torch.float64))
    inner = torch.tensor([0.55, 0.9, 1.0], dtype=torch.float64)
    torch.testing.assert_close(knots.prob(inner, 1 - inner), torch.tensor([0.6, 0.85, 0.9], dtype=torch.float64))


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=20, deadline=None)
@given(seed=seeds, win_map=win_maps(), rounded=st.booleans())
def test_comparisons_under_a_mapped_link_are_probabilities(family, seed, win_map, rounded):
    a, b = build(family, seed, rounded=rounded), build(family, seed + 1, rounded=rounded)
    mapped = [d.with_link(Link("step", win_map=win_map)) for d in (a, b)]
    p, back = mapped[0].prob_greater(mapped[1]), mapped[1].prob_greater(mapped[0])
    torch.testing.assert_close(p + back, torch.ones_like(p), atol=1e-9, rtol=0)
    raw = a.prob_greater(b)
    decided = (raw - 0.5).abs() > 1e-12  # two sums of atoms may differ in the last bit
    assert torch.equal(torch.sign(p - 0.5)[decided], torch.sign(raw - 0.5)[decided])
    tie = mapped[0].prob_tie(mapped[1])
    assert ((tie >= 0) & (tie / 2 <= torch.minimum(p, back) + 1e-9)).all(), "wins, losses and ties add up to 1"
    torch.testing.assert_close(mapped[0].log_prob_greater(mapped[1]).exp(), p, atol=1e-6, rtol=1e-5)


def test_a_mapped_link_comes_back_from_json_and_a_plain_one_says_nothing_new():
    link = Link("logistic", 2.0, win_map=WinMap(1.5, 0.01, ((0.7, 0.65), (1.0, 0.9))))
    point = Point(torch.tensor([0.3, 2.0]), link=link)
    options = json.loads(json.dumps(point.options()))
    again = restore("point", point.parameters(), options)
    assert again.link == link
    assert torch.equal(win_matrix(again), win_matrix(point))
    assert "win_map" not in Point(torch.tensor([1.0])).options()["link"]


def test_a_mapped_reward_against_a_bare_one_is_compared_bare():
    mapped = Gaussian(torch.tensor([1.0]), torch.tensor([1.0]), Link("step", win_map=WinMap(3.0)))
    bare = Gaussian(torch.tensor([0.0]), torch.tensor([1.0]))
    assert mapped.prob_greater(bare) == mapped.with_link(Link("step")).prob_greater(bare)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"temperature": 0.0}, "must be positive"),
        ({"lapse": 1.0}, r"lie in \[0, 1\)"),
        ({"knots": ((0.6, 0.7),)}, "confidence of 1"),
        ({"knots": ((0.6, 0.7), (1.0, 0.7))}, "must rise"),
        ({"knots": ((0.5, 0.7), (1.0, 0.8))}, "must rise"),
    ],
)
def test_a_map_that_could_change_a_decision_is_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        WinMap(**options)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=20, deadline=None)
@given(seed=seeds, temperature=st.floats(0.1, 30.0))
def test_no_family_loses_a_decision_to_a_calibration(family, seed, temperature):
    a, b = build(family, seed), build(family, seed + 1)
    calibration = PairCalibration(
        method="isotonic", temperature=temperature, lapse=0.02, knots=((0.7, 0.6), (1.0, 0.95))
    )
    raw, p = a.prob_greater(b), calibration.apply(a).prob_greater(calibration.apply(b))
    decided = (raw - 0.5).abs() > 1e-12
    assert torch.equal(torch.sign(p - 0.5)[decided], torch.sign(raw - 0.5)[decided])
    assert torch.equal(calibration.apply(a).mean, a.mean)


def test_a_gaussian_stays_coherent():
    """Its std says what its win probability says: no map is left over."""
    a, b = Gaussian(torch.tensor([1.0, 0.5]), torch.tensor([0.2, 0.4])), Gaussian(torch.zeros(2), torch.ones(2))
    softened = [PairCalibration(method="temperature", temperature=4.0).apply(d) for d in (a, b)]
    torch.testing.assert_close(softened[0].std, 4 * a.std)
    assert softened[0].link == a.link
    draws = [d.sample(200_000, torch.Generator().manual_seed(i)) for i, d in enumerate(softened)]
    won = (draws[0] > draws[1]).double().mean(0)
    torch.testing.assert_close(won.float(), softened[0].prob_greater(softened[1]), atol=5e-3, rtol=0)


@pytest.mark.parametrize("kind", ["logistic", "probit", "davidson"])
def test_a_point_is_softened_by_its_link(kind):
    ties = {"tie_weight": 0.5} if kind == "davidson" else {"tie_threshold": 0.3}
    a, b = (Point(torch.tensor([v], dtype=torch.float64), Link(kind, 0.5, **ties)) for v in (1.2, 0.3))
    soft = [PairCalibration(method="temperature", temperature=3.0).apply(d) for d in (a, b)]
    thirds = [Point(d.value / 3, Link(kind, 0.5, **ties)) for d in (a, b)]
    torch.testing.assert_close(soft[0].prob_greater(soft[1]), thirds[0].prob_greater(thirds[1]))
    if kind != "davidson":
        torch.testing.assert_close(soft[0].prob_tie(soft[1]), thirds[0].prob_tie(thirds[1]))
