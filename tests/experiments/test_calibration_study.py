"""What the studies of calibration and of active selection measure with, against worked numbers and known truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from experiments.label_budget import BUDGET, ROUND, bootstrap, labels_needed, share, variances
from experiments.vote_shares import floors, gap, gap_of_halves

from poise.data.records import Preference, Votes
from poise.evaluation import metrics
from poise.laplace import PairData, fit_posterior


def voted(chosen: int, rejected: int, tie: int = 0) -> Preference:
    return Preference(prompt="p", chosen="a", rejected="b", votes=Votes(chosen=chosen, rejected=rejected, tie=tie))


def world(prompts: int = 200, each: int = 5):
    """P(win), shares of five votes that come from it, prompt numbers."""
    draw = np.random.default_rng(0)
    p = draw.uniform(0.05, 0.95, prompts * each)
    return p, draw.binomial(5, p) / 5, np.repeat(np.arange(prompts), each)


def test_the_distance_from_shares_is_the_calibration_error():
    p, votes, _ = world()
    assert gap(p, votes) == pytest.approx(metrics.expected_calibration_error(p, votes), abs=0.004)


def test_a_p_win_that_is_right_is_within_the_floor_and_a_sure_one_is_not():
    p, votes, groups = world()
    sure = np.where(p > 0.5, 0.99, 0.01) + 1e-4 * p
    assert gap(p, votes) < np.quantile(floors(p, votes, groups), 0.95)
    assert gap(sure, votes) > 5 * np.quantile(floors(sure, votes, groups), 0.95)


def test_pairs_that_agree_within_a_prompt_raise_the_floor():
    p, votes, groups = world()
    together = votes[groups * 5]  # all pairs of a prompt have the residual of its first
    p = p[groups * 5]
    assert np.mean(floors(p, together, groups)) > 1.5 * np.mean(floors(p, together, np.arange(len(p))))


def test_halves_of_the_voters_differ_where_they_disagree():
    p = np.linspace(0.5, 0.9, 300)
    draw = np.random.default_rng(0)
    assert gap_of_halves(p, [voted(4, 0)] * 300, draw) == 0
    assert gap_of_halves(p, [voted(0, 0, 5)] * 300, draw) == 0
    # a half of two votes of 1:1 has one of each or two alike: the halves of 1 differ by 1, with random signs in bins of 20
    expected = np.mean(np.abs(np.random.default_rng(1).choice([-1.0, 1.0], (20_000, 20)).sum(1))) / 20
    found = np.mean([gap_of_halves(p, [voted(1, 1)] * 300, draw) for _ in range(200)])
    assert found == pytest.approx(expected, rel=0.05)


def test_labels_needed_is_the_first_crossing():
    assert labels_needed([0.6, 0.7], 0.65) == pytest.approx(1.5 * ROUND)
    assert labels_needed([0.6, 0.7], 0.55) == pytest.approx(0.5 * ROUND)
    assert labels_needed([0.6, 0.7], 0.75) == BUDGET


def test_a_curve_is_made_monotone_before_it_is_read():
    rising = np.linspace(0.55, 0.64, BUDGET // ROUND)
    assert share(rising, rising) == pytest.approx(1)
    dented = rising.copy()
    dented[[3, 4]] = dented[[4, 3]]
    assert share(dented, rising) == pytest.approx(1)
    assert share(rising + 0.02, rising) == pytest.approx(0.8)


def test_resampled_curves_are_around_the_mean_and_spread_by_seed():
    draw = np.random.default_rng(0)
    pairs = np.full(400, 6.0)
    right = draw.binomial(6, 0.7, (20, 3, 400)) + 0.0
    right[:10] -= 0.5
    found = bootstrap(right, pairs)
    assert found.mean(0) == pytest.approx(right.sum(2).mean(0) / pairs.sum(), abs=0.002)
    assert found.std(0) == pytest.approx(np.full(3, 0.25 / 6 / 20**0.5), rel=0.2)


def test_variance_falls_from_the_prior_to_the_inverse_hessian():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(BUDGET + 50, 3, generator=draw, dtype=torch.float64)
    known = fit_posterior(PairData.equal(x, (x[:, 0] > 0).double()), precision=2.0)
    found = variances(x, range(len(x)), known)
    assert found[0] == pytest.approx(float(x.square().sum(1).mean()) / 2.0)
    assert (np.diff(found) < 0).all()
    p = torch.sigmoid(x[:BUDGET] @ known.mean)
    covariance = torch.linalg.inv(2 * torch.eye(3) + (x[:BUDGET].T * (p * (1 - p))) @ x[:BUDGET])
    assert found[-1] == pytest.approx(float(((x @ covariance) * x).sum(1).mean()))
