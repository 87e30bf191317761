"""Calibrated ratings: closed forms of the conformal quantiles, coverage by construction, recovered shifts and scales."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from poise.calibration import RatingCalibration
from poise.calibration.conformal import conformal_quantile, fit_interval, rating_masses
from poise.calibration.evidence import RatingEvidence
from poise.calibration.fit_ratings import QUANTILES, crps_rows, fit_affine, fit_conformal, fit_ratings
from poise.calibration.ratings import affine, conformal_levels, conformalised
from poise.distributions import Categorical, Gaussian, Mixture, Point, Quantiles, Samples
from poise.errors import ConfigError, DataError


def rated(n: int, seed: int = 0, raters: int = 1, make=None) -> RatingEvidence:
    """Ratings from N(1 + 2μ, 3²) by a model that says N(μ, 1)."""
    draw = np.random.default_rng(seed)
    mean = draw.normal(0, 2, n)
    given = (1 + 2 * mean)[:, None] + 3 * draw.normal(size=(n, raters))
    belief = (make or gaussian)(torch.from_numpy(mean))
    return RatingEvidence.of(belief, given.tolist(), range(n))


def gaussian(mean):
    return Gaussian(mean, torch.ones_like(mean))


# ── shift and scale


@pytest.mark.parametrize(
    "make",
    [
        gaussian,
        lambda m: Mixture(torch.zeros(2).double(), m[:, None].expand(-1, 2), torch.ones(2).double()),
        lambda m: Quantiles(m[:, None] + torch.special.ndtri(conformal_levels(39)), conformal_levels(39), "equal"),
    ],
)
def test_shift_slope_and_spread_are_found_again(make):
    found = fit_affine(rated(3000, make=make))
    assert (found.shift, found.slope) == (pytest.approx(1, abs=0.2), pytest.approx(2, abs=0.06))
    assert found.spread == pytest.approx(3, rel=0.08)


def test_an_affine_belief_has_the_moments_it_says():
    for belief in (
        Gaussian(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 2.0])),
        Samples(torch.tensor([[0.0, 1.0, 5.0], [2.0, 2.0, 3.0]])),
        Point(torch.tensor([1.0, 4.0])),
    ):
        moved = affine(belief, 0.7, 1.5, 0.4)
        torch.testing.assert_close(moved.mean, 0.7 + 1.5 * belief.mean)
        torch.testing.assert_close(moved.std, 0.4 * belief.std)


def test_levels_are_tilted_and_tempered_and_stay_where_they_are():
    support = torch.arange(1.0, 6.0, dtype=torch.float64)
    belief = Categorical(support, torch.tensor([[0.0, 1.0, 2.0, 1.0, 0.0]], dtype=torch.float64))
    moved = affine(belief, 0.0, 0.3, 2.0)
    assert torch.equal(moved.support, support)
    torch.testing.assert_close(moved.probs, (belief.log_probs / 2 + 0.3 * support).softmax(-1))
    draw = np.random.default_rng(0)
    logits = torch.from_numpy(draw.normal(size=(2000, 5)))
    truth = Categorical(support, logits / 1.8 + 0.4 * support)
    given = truth.sample(1, torch.Generator().manual_seed(0))[0]
    found = fit_affine(RatingEvidence.of(Categorical(support, logits), given[:, None].tolist(), range(2000)))
    assert (found.spread, found.slope) == (pytest.approx(1.8, rel=0.15), pytest.approx(0.4, abs=0.05))


# ── conformal


@settings(deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=1, max_size=60), st.floats(0.01, 0.99))
def test_equal_masses_give_the_textbook_order_statistic(scores, level):
    n = len(scores)
    rank = math.ceil((n + 1) * level - 1e-9)
    expected = sorted(scores)[rank - 1] if rank <= n else math.inf
    assert conformal_quantile(np.array(scores, float), np.full(n, 1 / (n + 1)), level) == expected


def test_a_conformal_interval_worked_by_hand():
    """Nine prompts, N(0, 1) everywhere: the margin is the ⌈10 · 0.8⌉ = 8th smallest max(low − x, x − high)."""
    values = [0.1, -0.4, 1.6, 2.0, -2.5, 0.3, 3.0, 0.0, -1.5]
    evidence = RatingEvidence.of(gaussian(torch.zeros(9).double()), [[v] for v in values], range(9))
    interval = fit_interval(RatingCalibration(method="none"), evidence, 0.8)
    edge = 1.2815515655446004
    assert interval.margin == pytest.approx(sorted(abs(v) - edge for v in values)[7])
    low, high = interval.of(evidence.belief)
    assert high[0] == pytest.approx(2.5)
    assert low[0] == pytest.approx(-2.5)


def test_ratings_of_a_prompt_share_its_mass():
    evidence = RatingEvidence.of(gaussian(torch.zeros(3).double()), [[0.0], [1.0, 2.0], [3.0]], ["a", "a", "b"])
    np.testing.assert_allclose(rating_masses(evidence), [1 / 6, 1 / 12, 1 / 12, 1 / 3])


def test_coverage_is_as_requested_for_beliefs_that_know_nothing():
    """Over 400 draws of 49 calibration prompts the coverage of new ratings is Beta(45, 5), whatever the belief."""
    wanted, n, reached = 0.9, 49, []
    for seed in range(400):
        draw = np.random.default_rng(seed)
        wrong = Gaussian(torch.from_numpy(draw.normal(5, 1, n)), torch.full((n,), 0.01, dtype=torch.float64))
        values = wrong.mean.numpy() + draw.exponential(2.0, n)
        known = RatingEvidence.of(wrong, values[:, None].tolist(), range(n))
        margin = fit_interval(RatingCalibration(method="none"), known, wanted).margin
        # |x − μ| <= margin + 1.645·0.01 with x − μ exponential
        reached.append(1 - math.exp(-(margin + 0.01 * 1.6448536269514722) / 2))
    assert np.mean(reached) == pytest.approx(beta(45, 5).mean(), abs=4 * beta(45, 5).std() / 20)
    assert np.mean(reached) >= wanted - 4 * beta(45, 5).std() / 20


def test_conformal_quantiles_cover_at_every_level():
    known, fresh = rated(800, raters=3), rated(8000, seed=1)
    belief = fit_conformal(known).apply(fresh.belief)
    for k, level in enumerate(conformal_levels(QUANTILES).tolist()):
        below = (fresh.value <= belief.values[:, k]).double().mean().item()
        assert below == pytest.approx(level, abs=0.05)
    assert isinstance(belief, Quantiles)


def test_quantiles_at_the_levels_are_read_back_exactly():
    offsets = torch.linspace(-1, 1, QUANTILES, dtype=torch.float64)
    moved = conformalised(gaussian(torch.tensor([2.0], dtype=torch.float64)), offsets)
    levels = conformal_levels(QUANTILES)
    torch.testing.assert_close(moved.quantile(levels)[0], 2.0 + torch.special.ndtri(levels) + offsets)


# ── choice


def test_the_choice_is_the_best_crps_and_helps_on_new_prompts():
    found = fit_ratings(rated(400))
    fresh = rated(4000, seed=5)
    assert found.method == "affine"
    assert found.scores["affine"] == min(found.scores.values())
    assert crps_rows(found.fitted, fresh).mean() < 0.8 * crps_rows(RatingCalibration(method="none"), fresh).mean()


def test_points_get_a_spread_by_conformal_quantiles():
    found = fit_ratings(rated(300, make=Point))
    assert found.method == "conformal"
    assert found.fitted.apply(Point(torch.tensor([0.0], dtype=torch.float64))).std > 1


def test_few_prompts_offer_what_they_are_enough_for():
    few = rated(20)
    assert set(fit_ratings(few).scores) == {"none", "affine"}
    with pytest.raises(DataError, match=r"at least 29 prompts, got 20"):
        fit_ratings(few, "conformal")
    with pytest.raises(DataError, match=r"99% interval needs ratings of at least 99 prompts, got 20"):
        fit_interval(RatingCalibration(method="none"), few, 0.99)
    with pytest.raises(ConfigError, match="unknown calibration method 'affin'"):
        fit_ratings(few, "affin")
