"""Leaving pairs unanswered: the tests behind the threshold hold their level, and the threshold its promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from poise.calibration import Abstention, Calibration
from poise.calibration.conformal import (
    THRESHOLDS,
    at_most,
    betting_p_value,
    disagreement,
    fit_abstention,
    selective_losses,
)
from poise.errors import ConfigError


def drawn(n: int, seed: int, per_prompt: int = 1):
    """(p, y, prompts): votes come true as p says; the difficulty is that of the prompt."""
    draw = np.random.default_rng(seed)
    p = norm.cdf(np.repeat(draw.normal(0, 1.5, n), per_prompt) + 0.1 * draw.normal(size=n * per_prompt))
    return p, (draw.random(len(p)) < p).astype(float), np.repeat(np.arange(n), per_prompt)


@pytest.mark.parametrize("per_prompt", [1, 4])
def test_the_error_rate_is_kept_as_often_as_promised(per_prompt):
    """Each of 50 thresholds against 40,000 fresh pairs: at most delta of them may fail, up to chance."""
    fresh_p, fresh_y, _ = drawn(40_000, 10_000)
    wrong = disagreement(fresh_p, fresh_y)
    failed, found = 0, []
    for seed in range(50):
        threshold = fit_abstention(*drawn(500, seed, per_prompt), error=0.1, delta=0.1).threshold
        if threshold is not None:
            found.append(threshold)
            failed += wrong[np.maximum(fresh_p, 1 - fresh_p) >= threshold].mean() > 0.1
    assert len(found) > 35, "it answers something"
    assert failed <= binom.ppf(0.999, 50, 0.1)


def test_more_data_answers_more():
    answered = [np.mean([fit_abstention(*drawn(n, s), error=0.1).answered for s in range(5)]) for n in (100, 400, 3000)]
    assert answered[0] < answered[1] < answered[2]


@settings(deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 0.4), st.integers(1, 5))
def test_a_prompts_loss_says_whether_the_error_rate_is_kept(seed, error, per_prompt):
    draw = np.random.default_rng(seed)
    groups = np.repeat(np.arange(30), per_prompt)
    errs, answered = (draw.random(len(groups)) < 0.2).astype(float), draw.random(len(groups)) < 0.6
    losses = selective_losses(errs, answered, groups, error)
    assert ((losses >= 0) & (losses <= 1)).all()
    expected = error + (errs[answered] - error).sum() / per_prompt / 30
    assert losses.mean() == pytest.approx(expected)


@pytest.mark.parametrize("error", [0.05, 0.3])
def test_bets_lose_where_the_error_is_as_feared(error):
    draw = np.random.default_rng(0)
    rejected = np.mean(
        [betting_p_value((draw.random(300) < error).astype(float), error, 0.1) <= 0.1 for _ in range(1500)]
    )
    assert rejected <= binom.ppf(0.999, 1500, 0.1) / 1500


def test_bets_win_where_the_error_is_far_lower():
    draw = np.random.default_rng(0)
    won = [betting_p_value((draw.random(500) < 0.05).astype(float), 0.15, 0.05) <= 0.05 for _ in range(100)]
    assert np.mean(won) > 0.95


def test_single_pairs_are_tested_by_the_binomial_distribution():
    """Ten thousand sure pairs with a known number of errors: the lowest threshold is where the exact test still rejects."""
    errors = int(binom.ppf(0.02, 10_000, 0.1))  # P(X <= errors) is just above .02 = .1/5
    for wrong, proven in ((errors - 1, True), (errors, False)):
        y = np.ones(10_000)
        y[:wrong] = 0
        found = fit_abstention(np.full(10_000, 0.99), y, np.arange(10_000), 0.1, 0.1)
        assert (found.threshold is not None) is proven


def test_no_prompt_speaks_more_than_its_share():
    groups = np.repeat([0, 1, 2], [50, 3, 1])
    kept = at_most(groups, 16)
    assert np.bincount(groups[kept]).tolist() == [16, 3, 1]


def test_what_is_answered():
    one = Abstention(error=0.1, delta=0.1, threshold=0.8, answered=0.5)
    p = torch.tensor([0.9, 0.2, 0.19, 0.5, 0.8])
    assert one.answers(p).tolist() == [True, True, True, False, True]
    assert Calibration(abstention=one).answers(p).tolist() == one.answers(p).tolist()
    none = one.model_copy(update={"threshold": None})
    assert not none.answers(p).any()
    with pytest.raises(ConfigError, match="no threshold; make one"):
        Calibration().answers(p)
    with pytest.raises(ConfigError, match="no interval; make one"):
        Calibration().interval("overall", p)


def test_a_coin_is_never_answered():
    draw = np.random.default_rng(1)
    y = (draw.random(3000) < 0.5).astype(float)
    found = fit_abstention(draw.random(3000), y, np.arange(3000), 0.1)
    assert found.threshold is None
    assert found.answered == 0
    assert min(THRESHOLDS) == 0.5
