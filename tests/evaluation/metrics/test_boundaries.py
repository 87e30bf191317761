"""What is just allowed and just refused, what is undefined, and what holds unless somebody says otherwise."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats

from poise.errors import ConfigError, DataError
from poise.evaluation import metrics
from poise.evaluation.metrics import Bounds
from poise.evaluation.metrics.correlation import partial_spearman, pearson, spearman
from poise.evaluation.metrics.ranking import Battles, model_ranking
from poise.evaluation.metrics.ratings import kolmogorov_distance, pit_shares, randomised_pit
from poise.evaluation.metrics.rows import EqualValues, scatter_sum
from poise.evaluation.metrics.smooth import smooth_ece_of_draws
from poise.evaluation.metrics.within_prompt import kendall, reward_variance


def bounds(*rows: tuple[float, float, float]) -> Bounds:
    return Bounds(*np.array(rows, dtype=float).T)


REFUSED: list[tuple[str, type[Exception], Callable[[], object]]] = [
    ("coverage=0", ConfigError, lambda: metrics.accuracy_at_coverage([0.7], [1], coverage=0.0)),
    ("coverage=1.1", ConfigError, lambda: metrics.abstention_curve([0.7], [1], budgets=[0.0, -0.1])),
    ("at least 1 bin", ConfigError, lambda: metrics.expected_calibration_error([0.7], [1], bins=0)),
    ("tie policy", ConfigError, lambda: metrics.choice_accuracy([[1, 0]], [[1, 0]], tie_policy="half")),  # type: ignore[arg-type]
    ("bounds need one low", DataError, lambda: bounds((1, 0, 0))),
    ("bounds need one low", DataError, lambda: Bounds(np.zeros(2), np.zeros(1), np.zeros(2))),
    ("bounds need one low", DataError, lambda: Bounds(np.zeros(2), np.zeros(2), np.zeros(1))),
    ("0 or 1 per pair", DataError, lambda: metrics.mcnemar([1, 0], [1])),
    ("0 or 1 per pair", DataError, lambda: metrics.mcnemar([1, 0.5], [1, 0])),
    ("0 or 1 per pair", DataError, lambda: metrics.mcnemar([1, 0], [1, 0.5])),
    (r"shape \[1, 2\]", DataError, lambda: metrics.brier([[0.1, 0.2]], [1, 1])),
    (r"row 0 is -0.1 \(2 such rows\)", DataError, lambda: metrics.brier([-0.1, 0.2, 1.5], [1, 1, 1])),
    ("last axis", DataError, lambda: metrics.brier([0.1], [1], weights=1.0)),
    ("finite and not negative", DataError, lambda: metrics.brier([0.1], [1], weights=[math.inf])),
    ("tie has 1 rows but p has 2", DataError, lambda: metrics.tie_rate([0.1, 0.5], [1.0])),
    ("difference has shape", DataError, lambda: metrics.accuracy_gap([0.1, 0.5], [1, 1], [1.0])),
    ("columns of one length", DataError, lambda: pearson([1.0, 2.0], [1.0])),
    ("columns of one length", DataError, lambda: pearson([], [])),
    ("columns of one length", DataError, lambda: spearman([[1.0, 2.0]], [[1.0, 2.0]])),
    ("columns of one length", DataError, lambda: partial_spearman([1.0, 2.0], [1.0, 2.0], [1.0])),
    ("row 1 is inf", DataError, lambda: pearson([1.0, 2.0], [1.0, math.inf])),
    ("one value per response", DataError, lambda: kendall([1.0, 2.0], [1.0])),
    ("one value per response", DataError, lambda: kendall([[1.0, 2.0]], [[1.0, 2.0]])),
    ("left <= right", DataError, lambda: pit_shares([0.5], [0.4])),
    ("left <= right", DataError, lambda: pit_shares([0.5], [0.6, 0.7])),
    ("pit must lie", DataError, lambda: kolmogorov_distance([1.1])),
    ("give one row per text", DataError, lambda: metrics.norm_dispersion([1.0, 2.0])),
]


@pytest.mark.parametrize(("message", "error", "measure"), REFUSED)
def test_just_refused(message: str, error: type[Exception], measure: Callable[[], object]) -> None:
    with pytest.raises(error, match=message):
        measure()


def test_just_allowed() -> None:
    """The ends of every range: a budget of 0, one bin, an interval of width 0, a certain PIT, weights of 0."""
    assert metrics.abstention_curve([0.7], [1], budgets=[0.0]).tolist() == [1.0]
    assert metrics.expected_calibration_error([0.7, 0.9], [1, 0], bins=1) == pytest.approx(0.3)
    assert bounds((1, 1, 1)).low.tolist() == [1]
    assert pit_shares([0.5], [0.5], bins=2).sum() == 1
    assert metrics.brier([0.0, 1.0], [1, 1], weights=[0.0, 2.0]) == 0
    assert pearson([1.0, 2.0], [4.0, 3.0]) == -1


def test_what_is_undefined_is_nan() -> None:
    two, rates = bounds((0, 1, 2), (0, 1, 2)), metrics.interval_rates
    assert np.isnan(rates(two, two, [0.5, 0.5]).ranking_score())
    assert np.isnan(kendall([1.0, 2.0], [3.0, 3.0]))
    assert kendall([1.0, 1.0], [3.0, 4.0]) == 0
    assert np.isnan(kendall([1.0, 1.0], [3.0, 4.0], official=True))
    assert np.isnan(reward_variance([1.0, 2.0, 4.0], ["a", "b", "b"])[0])
    assert np.isnan(partial_spearman([1.0, 2.0, 3.0], [3.0, 1.0, 2.0], [1.0, 2.0, 3.0])), "given explains one side"
    assert np.isnan(metrics.auroc([1.0, 2.0], [1, 1]))
    assert np.isnan(metrics.choice_accuracy([[1, 0]], [[1, 0]], weights=[0.0]))
    for measure in (metrics.expected_calibration_error, metrics.maximum_calibration_error):
        resamples = measure([0.7, 0.6], [1.0, 1.0], weights=[[0.0, 0.0], [1.0, 0.0]])
        np.testing.assert_allclose(resamples, [np.nan, 0.3])


def test_a_confident_error_costs_no_more_than_the_smallest_probability() -> None:
    """−ln 1e-12 = 27.63 nat for either side."""
    assert metrics.nll([0.0], [1]) == pytest.approx(12 * math.log(10))
    assert metrics.nll([1.0], [0]) == pytest.approx(12 * math.log(10), rel=1e-5)
    assert metrics.nll([0.5, 0.5], [1, 0.3]) == pytest.approx(math.log(2))
    assert metrics.nll([0.0, 1.0], [0, 1]) == pytest.approx(0, abs=1e-11)


def test_defaults() -> None:
    """15 bins of equal mass read from both sides, 20 of a histogram, damping .1, seed 0, ties half."""
    draw = np.random.default_rng(0)
    p, y = draw.random(200), draw.integers(0, 2, 200)
    for measure in (metrics.expected_calibration_error, metrics.maximum_calibration_error):
        assert measure(p, y) == measure(p, y, bins=15, binning="equal_mass", symmetric=True)
        assert measure(p, y) != measure(p, y, bins=16, symmetric=False)
    assert metrics.expected_calibration_error(p, y) != metrics.expected_calibration_error(p, y, bins=16)
    assert len(metrics.reliability_curve(p, y).p) == 15
    assert metrics.reliability_curve(p, y).p.min() >= 0.5
    parts = [metrics.brier_parts(p, y, bins=bins).reliability for bins in (14, 15, 16)]
    assert metrics.brier_parts(p, y).reliability == parts[1]
    assert len(set(map(float, parts))) == 3
    assert len(metrics.confidence_histogram(p)) == 20
    assert (
        metrics.smooth_ece(p, y)
        == metrics.smooth_ece(p, y, symmetric=True)
        != metrics.smooth_ece(p, y, symmetric=False)
    )
    assert randomised_pit([0.0], [1.0]) == randomised_pit([0.0], [1.0], seed=0) != randomised_pit([0.0], [1.0], seed=1)
    assert pit_shares([0.0], [1.0]).shape == (1, 50)
    assert metrics.accuracy([0.5], [1]) == metrics.accuracy([0.5], [1], tie_policy="half") == 0.5
    score, size, right = draw.random(400), draw.random(400), draw.integers(0, 2, 400)
    tenths = metrics.residual_auroc(score, right, size, bins=10)
    assert metrics.residual_auroc(score, right, size) == tenths
    assert tenths not in (
        metrics.residual_auroc(score, right, size, bins=9),
        metrics.residual_auroc(score, right, size, bins=11),
    )


def test_ranking_score_by_hand() -> None:
    """Four pairs: right and sure, right, wrong and sure, equal. TR = 2.5/4, FR = 1.5/4, CT = CF = ¼."""
    first = bounds((2, 3, 4), (0, 2, 4), (-4, -3, -2), (0, 1, 2))
    second = bounds((0, 0.5, 1), (0, 1, 4), (0, 0, 0), (0, 1, 2))
    rates = metrics.interval_rates(first, second, [1, 1, 1, 1])
    assert (rates.right, rates.wrong, rates.confident_right, rates.confident_wrong) == (0.625, 0.375, 0.25, 0.25)
    assert rates.ranking_score() == pytest.approx(0.25 / (0.9 * 0.625 + 0.1) - 0.25 / (0.9 * 0.375 + 0.1))
    assert rates.ranking_score(1.0) == 0
    assert rates.ranking_score(0.0) == pytest.approx(0.25 / 0.625 - 0.25 / 0.375)
    always = metrics.interval_rates(first, second, [1, 1, 0, 1], weights=[1, 1, 1, 0])
    assert always.ranking_score(0.0) == pytest.approx(2 / 3), "no wrong pairs: that term is 0"
    touching = metrics.interval_rates(bounds((1, 2, 3)), bounds((0, 0.5, 1)), [1])
    assert touching.confident_right == 0, "intervals that touch overlap"


def test_reliability_by_hand() -> None:
    """Two bins of width ¼ over [½, 1]: .6 (right, wrong) and .8, .9 (right, right); Wilson intervals, clipped to [0, 1]."""
    curve = metrics.reliability_curve([0.6, 0.4, 0.8, 0.9], [1, 1, 1, 1], bins=2, binning="equal_width")
    np.testing.assert_allclose([curve.p, curve.y, curve.count], [[0.6, 0.85], [0.5, 1.0], [2, 2]])
    z2 = 1.959963984540054**2
    np.testing.assert_allclose(
        curve.low, [(0.25 + z2 / 4 - (z2 * (0.125 + z2 / 16)) ** 0.5 + 0.25) / (1 + z2 / 2), 2 / (2 + z2)]
    )
    np.testing.assert_allclose(curve.high, [1 - curve.low[0], 1.0])
    gap = metrics.maximum_calibration_error([0.6, 0.4, 0.8, 0.9], [1, 1, 1, 1], bins=2, binning="equal_width")
    assert gap == pytest.approx(0.15)
    assert metrics.expected_calibration_error([0.5, 1.0], [1, 1], bins=2, binning="equal_width") == pytest.approx(0.0)
    plain = metrics.reliability_curve([0.0, 0.2, 1.0], [0, 0, 1], bins=4, binning="equal_width", symmetric=False)
    np.testing.assert_allclose([plain.p, plain.count], [[0.1, 1.0], [2, 1]])


def test_a_ranking_needs_three_models() -> None:
    battles = Battles(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0]), 2)
    assert model_ranking(battles, [1, 0, 1, 0], [1, 1, 0, 0]) == {}
    alone = Battles(np.array([0, 0, 1, 0]), np.array([1, 1, 0, 2]), 3)
    assert np.isnan(model_ranking(alone, [1, 0, 1, 0], [1, 1, 0, 0])["kendall"]), "model 2 has one battle"


def test_win_rates_with_ties_are_means_with_their_standard_errors() -> None:
    """Model 0 scores 1, ½, 0, ½ and model 1 the rest, with one battle against model 2."""
    battles = Battles(np.array([0, 0, 1, 1, 2]), np.array([1, 1, 0, 0, 1]), 3)
    rate, error = battles.win_rates([1, 0.5, 1, 0.5, 0.5], np.ones(5))
    scores = np.array([1, 0.5, 0, 0.5]), np.array([0, 0.5, 1, 0.5, 0.5])
    np.testing.assert_allclose(rate, [*(row.mean() for row in scores), 0.5])
    np.testing.assert_allclose(error, [*(scipy.stats.sem(row) for row in scores), np.nan])
    cells = battles.matrix([1, 0.5, 1, 0.5, 0.5], np.ones(5))
    np.testing.assert_allclose(cells, [[np.nan, 0.5, np.nan], [0.5, np.nan, 0.5], [np.nan, 0.5, np.nan]])


def test_three_opponents_are_enough_for_a_row() -> None:
    """Four models, each pair once: every row of wins is compared over three opponents."""
    first, second = np.triu_indices(4, 1)
    people, scorer = np.array([1, 1, 0, 1, 0, 1.0]), np.array([1, 0, 1, 1, 0, 0.5])
    found = model_ranking(Battles(first, second, 4), scorer, people)
    rows = []
    for model in range(4):
        mine = [np.r_[given[first == model], 1 - given[second == model]] for given in (scorer, people)]
        if all(np.ptp(row) for row in mine):
            rows.append(scipy.stats.pearsonr(*mine).statistic)
    assert len(rows) > 1
    assert found["row_pearson"] == pytest.approx(np.mean(rows))


def test_groups_and_cells() -> None:
    groups = EqualValues.of(np.array([2.0, 1.0, 2.0, 3.0]))
    rows = np.arange(8.0).reshape(2, 1, 4)
    assert groups.values.tolist() == [1, 2, 3]
    assert groups.sum(rows).tolist() == [[[1, 2, 3]], [[5, 10, 7]]]
    assert groups.spread(groups.sum(rows)).tolist() == [[[2, 1, 2, 3]], [[10, 5, 10, 7]]]
    cells = scatter_sum(rows, np.array([0, 2, 2, 0]), 4)
    assert cells.tolist() == [[[3, 0, 3, 0]], [[11, 0, 11, 0]]]


def test_smooth_errors_of_many_labels_at_once() -> None:
    """One row of labels is the measure itself, and more rows than one block of the solver do not see each other."""
    draw = np.random.default_rng(3)
    p = draw.random(30)
    labels = draw.integers(0, 2, (130, 30))
    labels[7] = labels[100]
    found = smooth_ece_of_draws(p, labels)
    assert found.shape == (130,)
    assert found[7] == pytest.approx(found[100], abs=1e-12)
    for row in (0, 64, 129):
        assert found[row] == pytest.approx(float(metrics.smooth_ece(p, labels[row])), abs=1e-9)
