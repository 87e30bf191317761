"""Fits to votes: against scipy, scikit-learn and known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import norm
from sklearn.isotonic import IsotonicRegression

from poise.calibration import PairCalibration
from poise.calibration.evidence import FEWEST_PROMPTS, PairEvidence, fold_numbers
from poise.calibration.fit_pairs import (
    fit_isotonic,
    fit_pairs,
    fit_temperature,
    level_sets,
    nll_rows,
    win_probabilities,
)
from poise.distributions import Categorical, Gaussian, Link, Mixture, Point, Samples
from poise.errors import ConfigError, DataError

TEMPERATURE = 4.0


def judged(n: int, seed: int = 0, make=None, raters: int = 1) -> PairEvidence:
    """Pairs whose votes come from Φ(z/4), by a model that says Φ(z)."""
    draw = np.random.default_rng(seed)
    z = draw.normal(0.0, 4.0, n)
    label = draw.binomial(raters, norm.cdf(z / TEMPERATURE)) / raters
    first, second = (make or gaussians)(torch.from_numpy(z))
    return PairEvidence.of(first, second, label.tolist(), [i // 2 for i in range(n)])


def gaussians(z):
    half = torch.full_like(z, 0.5**0.5)
    return Gaussian(z, half), Gaussian(torch.zeros_like(z), half)


def points(z):
    return Point(z, Link("logistic", 0.5)), Point(torch.zeros_like(z), Link("logistic", 0.5))


def levels(z):
    """Beliefs on three levels that are often sure."""
    support = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    first = torch.stack([-8 * z, torch.zeros_like(z), 8 * z], -1)
    return Categorical(support, first), Categorical(
        support, torch.stack([torch.full_like(z, -20), torch.zeros_like(z), torch.full_like(z, -20)], -1)
    )


def draws(z):
    """Three atoms each: half of the pairs do not overlap, so that P(win) is exactly 0 or 1."""
    atoms = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    return Samples(z.unsqueeze(-1) + atoms), Samples(torch.zeros_like(z).unsqueeze(-1) + 0.5 * atoms)


def held_out_loss(calibration: PairCalibration, seed: int, make=None) -> float:
    return float(nll_rows(calibration, judged(6000, seed, make)).mean())


# ── temperature


@pytest.mark.parametrize(("make", "cdf"), [(gaussians, norm.cdf), (points, lambda x: expit(2 * x))])
def test_the_temperature_is_scipys(make, cdf):
    evidence = judged(600, make=make, raters=3)
    y = (600 * evidence.label.numpy() + 1) / 602
    z = evidence.first.mean.numpy()

    def loss(log_t):
        t = np.exp(log_t[0])
        return -np.mean(y * np.log(cdf(z / t)) + (1 - y) * np.log(cdf(-z / t)))

    found = minimize(loss, [1.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12})
    assert fit_temperature(evidence).temperature == pytest.approx(math.exp(found.x[0]), rel=1e-4)


def test_the_temperature_is_found_again():
    assert fit_temperature(judged(20_000)).temperature == pytest.approx(TEMPERATURE, rel=0.04)


def test_one_belief_without_spread_does_not_decide_the_temperature():
    """It puts all probability on the answer that lost: as bad as reported, not infinitely bad."""
    evidence = judged(300)
    z, std = evidence.first.mean.clone(), torch.full((300,), math.sqrt(0.5), dtype=torch.float64)
    z[0], std[0] = -1.0, 0.0
    odd = PairEvidence.of(
        Gaussian(z, std), Gaussian(torch.zeros_like(z), std), [1.0, *evidence.label.tolist()[1:]], range(300)
    )
    rest = PairEvidence.of(
        Gaussian(z[1:], std[1:]), Gaussian(torch.zeros_like(z[1:]), std[1:]), evidence.label.tolist()[1:], range(299)
    )
    assert fit_temperature(odd).temperature < 2 * fit_temperature(rest).temperature


def test_pairs_that_are_all_right_do_not_ask_for_certainty():
    z = torch.linspace(0.5, 3.0, 60, dtype=torch.float64)
    evidence = PairEvidence.of(*gaussians(z), [1.0] * 60, range(60))
    for fit in (fit_temperature, fit_isotonic):
        p = win_probabilities(fit(evidence), evidence)
        assert (p < 1).all()
        assert fit(evidence).temperature > 0.05


@pytest.mark.parametrize("make", [levels, draws])
def test_atoms_that_are_sure_and_wrong_are_mended(make):
    evidence = judged(3000, make=make)
    raw = nll_rows(PairCalibration(method="none"), evidence).mean()
    fitted = fit_temperature(evidence)
    assert raw > 1.0
    assert nll_rows(fitted, evidence).mean() < 0.7
    assert 0 < fitted.lapse < 0.5


# ── isotonic


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 80), st.booleans())
def test_level_sets_are_those_of_scikit_learn(seed, n, rounded):
    draw = np.random.default_rng(seed)
    x, y, w = draw.random(n), draw.random(n), draw.integers(1, 4, n).astype(float)
    x = np.round(x, 1) if rounded else x
    known = IsotonicRegression(out_of_bounds="clip").fit(x, y, sample_weight=w)
    at, value, weight = level_sets(x, y, w)
    np.testing.assert_allclose(known.predict(at), value, atol=1e-9)
    assert weight.sum() == pytest.approx(w.sum())
    # every row has the value of the level set it lies in
    edges = np.searchsorted(value, known.predict(x) - 1e-9)
    np.testing.assert_allclose(value[edges], known.predict(x), atol=1e-9)


def test_the_symmetric_regression_is_the_folded_one_cut_at_half():
    """What is fitted on confidences is scikit-learn's fit of the pairs seen from both sides."""
    evidence = judged(400)
    p, y = win_probabilities(PairCalibration(method="none"), evidence), evidence.label.numpy()
    both = IsotonicRegression(out_of_bounds="clip").fit(np.concatenate([p, 1 - p]), np.concatenate([y, 1 - y]))
    confidence, agrees = np.maximum(p, 1 - p), np.where(p > 0.5, y, 1 - y)
    at, value, _ = level_sets(confidence, agrees, np.ones(len(p)))
    np.testing.assert_allclose(both.predict(at), np.maximum(value, 0.5), atol=1e-9)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.integers(20, 300))
def test_no_fit_changes_a_decision_or_breaks_a_tie(seed, n):
    draw = np.random.default_rng(seed)
    z = np.round(draw.normal(0, 2, n))  # with ties
    label = draw.random(n).round(1)
    evidence = PairEvidence.of(*gaussians(torch.from_numpy(z)), label.tolist(), range(n))
    for fit in (fit_temperature, fit_isotonic):
        p = win_probabilities(fit(evidence), evidence)
        np.testing.assert_array_equal(np.sign(p - 0.5), np.sign(z))


# ── choice


def test_what_is_calibrated_is_left_or_hardly_touched():
    draw = np.random.default_rng(3)
    z = draw.normal(0, 1.5, 4000)
    label = (draw.random(4000) < norm.cdf(z)).astype(float)
    found = fit_pairs(PairEvidence.of(*gaussians(torch.from_numpy(z)), label.tolist(), range(4000)))
    raw, p = (
        norm.cdf(z),
        win_probabilities(found.fitted, PairEvidence.of(*gaussians(torch.from_numpy(z)), [0.5] * 4000, range(4000))),
    )
    assert np.abs(p - raw).max() < 0.05


@pytest.mark.parametrize("make", [gaussians, points, draws])
def test_five_hundred_pairs_do_not_overfit(make):
    """On fresh pairs the choice from 500 loses at most 0.01 nat against the best of 6,000."""
    best = fit_temperature(judged(6000, 100, make))
    for seed in range(2):
        small = fit_pairs(judged(500, seed, make)).fitted
        assert held_out_loss(small, 200, make) < held_out_loss(best, 200, make) + 0.01
        assert held_out_loss(small, 200, make) < held_out_loss(PairCalibration(method="none"), 200, make) / 1.3


def test_cross_validation_never_sees_a_prompt_twice():
    evidence = judged(300)
    found = fit_pairs(evidence)
    for group in np.unique(evidence.groups):
        assert len(set(found.fold[evidence.groups == group])) == 1
    assert set(found.scores) == {"none", "temperature", "isotonic"}
    assert found.scores[found.method] == min(found.scores.values())
    by_hand = [nll_rows(found.held_out[k], evidence[np.flatnonzero(found.fold == k)]) for k in range(5)]
    assert np.concatenate(by_hand).mean() == pytest.approx(found.scores[found.method])


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=40, max_size=200))
def test_folds_hold_whole_prompts_and_are_all_used(groups):
    numbers = np.array(groups)
    if len(set(groups)) < FEWEST_PROMPTS:
        with pytest.raises(DataError, match="different prompts"):
            fold_numbers(numbers, 5)
        return
    fold = fold_numbers(numbers, 5)
    assert set(fold) == set(range(5))
    assert all(len(set(fold[numbers == g])) == 1 for g in set(groups))


def test_one_method_is_fitted_where_one_is_named():
    evidence = judged(200)
    assert fit_pairs(evidence, "isotonic").fitted.knots
    assert fit_pairs(evidence, "none").fitted == PairCalibration(method="none")
    with pytest.raises(ConfigError, match=r"unknown calibration method 'isotone'; did you mean 'isotonic'"):
        fit_pairs(evidence, "isotone")


def test_shares_of_votes_are_labels():
    """Three votes a pair as shares give the likelihood of the three votes."""
    evidence = judged(400, raters=3)
    fitted = PairCalibration(method="temperature", temperature=2.0)
    p, y = win_probabilities(fitted, evidence), evidence.label.numpy()
    np.testing.assert_allclose(nll_rows(fitted, evidence), -(y * np.log(p) + (1 - y) * np.log1p(-p)), rtol=1e-6)


def test_members_of_an_ensemble_are_mapped_after_they_are_averaged():
    means = torch.tensor([[1.0, -0.2]], dtype=torch.float64)
    spread = torch.full_like(means, 0.5)
    a, b = (Mixture(torch.zeros_like(means), sign * means, spread, coupling="paired") for sign in (1, -1))
    mapped = [PairCalibration(method="temperature", temperature=2.0).apply(d) for d in (a, b)]
    raw = a.prob_greater(b)
    torch.testing.assert_close(mapped[0].prob_greater(mapped[1]), torch.sigmoid(torch.logit(raw) / 2))
