"""Every pairwise measure against an independent implementation."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, roc_auc_score

from poise.errors import ConfigError, DataError
from poise.evaluation import metrics

property_test = settings(derandomize=True, deadline=None, max_examples=60)
# a coarse grid of probabilities, so that ties occur
PROBABILITY = st.sampled_from([0.0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0])
LABEL = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
MEASURES = {
    "accuracy": metrics.accuracy,
    "soft_accuracy": metrics.soft_accuracy,
    "nll": metrics.nll,
    "brier": metrics.brier,
    "ece": metrics.expected_calibration_error,
    "ece_equal_width": lambda p, y, **kw: metrics.expected_calibration_error(p, y, binning="equal_width", **kw),
    "ece_plain": lambda p, y, **kw: metrics.expected_calibration_error(p, y, symmetric=False, **kw),
    "mce": metrics.maximum_calibration_error,
    "smooth_ece": metrics.smooth_ece,
    "smooth_ece_plain": lambda p, y, **kw: metrics.smooth_ece(p, y, symmetric=False, **kw),
    "aurc": metrics.aurc,
    "excess_aurc": metrics.excess_aurc,
    "accuracy_at_coverage": lambda p, y, **kw: metrics.accuracy_at_coverage(p, y, coverage=0.6, **kw),
    "confidence_auroc": metrics.confidence_auroc,
    "disagreement_auroc": metrics.disagreement_auroc,
    "brier_reliability": lambda p, y, **kw: metrics.brier_parts(p, y, **kw).reliability,
    "brier_within_bins": lambda p, y, **kw: metrics.brier_parts(p, y, **kw).within_bins,
    "label_ceiling": lambda p, y, **kw: metrics.label_ceiling(y, **kw),
    "tie_rate": lambda p, y, **kw: metrics.tie_rate(p, **kw),
}
PLAIN = {"ece_plain", "smooth_ece_plain"}
every_measure = pytest.mark.parametrize("name", sorted(MEASURES))


@st.composite
def pairs(draw: st.DrawFn, labels: st.SearchStrategy[float] = LABEL, most: int = 30) -> tuple[np.ndarray, np.ndarray]:
    rows = draw(st.lists(st.tuples(PROBABILITY, labels), min_size=1, max_size=most))
    return np.array([row[0] for row in rows]), np.array([row[1] for row in rows])


def sample(n: int, seed: int = 0, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Randomly ordered pairs whose true logit is the predicted one divided by ``sharpness``."""
    generator = np.random.default_rng(seed)
    logit = 1.5 * generator.normal(size=n)
    y = (generator.random(n) < 1 / (1 + np.exp(-logit))).astype(float)
    return 1 / (1 + np.exp(-logit * sharpness)), y


@every_measure
@property_test
@given(rows=pairs(), counts=st.lists(st.integers(0, 3), min_size=30, max_size=30))
def test_integer_weights_equal_repeated_rows(name, rows, counts) -> None:
    p, y = rows
    weights = np.array(counts[: len(p)], dtype=float)
    if not weights.sum():
        return
    repeated = np.repeat(np.arange(len(p)), weights.astype(int))
    expected = MEASURES[name](p[repeated], y[repeated])
    np.testing.assert_allclose(MEASURES[name](p, y, weights=weights), expected, atol=1e-10)
    both = MEASURES[name](p, y, weights=np.stack([weights, np.ones(len(p))]))
    np.testing.assert_allclose(both, [expected, MEASURES[name](p, y)], atol=1e-10)


@every_measure
@property_test
@given(rows=pairs(), order=st.randoms(use_true_random=False))
def test_row_order_does_not_matter(name, rows, order) -> None:
    p, y = rows
    shuffled = list(range(len(p)))
    order.shuffle(shuffled)
    np.testing.assert_allclose(MEASURES[name](p[shuffled], y[shuffled]), MEASURES[name](p, y), atol=1e-10)


@pytest.mark.parametrize("name", sorted(set(MEASURES) - PLAIN))
@property_test
@given(rows=pairs(), swapped=st.lists(st.booleans(), min_size=30, max_size=30))
def test_which_response_stands_first_does_not_matter(name, rows, swapped) -> None:
    p, y = rows
    swap = np.array(swapped[: len(p)])
    result = MEASURES[name](np.where(swap, 1 - p, p), np.where(swap, 1 - y, y))
    np.testing.assert_allclose(result, MEASURES[name](p, y), atol=1e-10)


def test_chosen_first_trap() -> None:
    p, y = sample(4000)
    chosen_first = np.where(y == 1, p, 1 - p), np.ones(len(p))
    for measure in (metrics.expected_calibration_error, metrics.smooth_ece):
        assert measure(*chosen_first) == pytest.approx(measure(p, y), abs=1e-12)
        assert measure(*chosen_first) < 0.03
        assert measure(*chosen_first, symmetric=False) > 0.2, "the trap: a calibrated model looks miscalibrated"
    assert metrics.confidence_auroc(*chosen_first) == pytest.approx(metrics.confidence_auroc(p, y))
    assert metrics.brier_parts(*chosen_first).uncertainty == 0.25


@property_test
@given(rows=pairs(labels=st.sampled_from([0.0, 1.0])))
def test_scores_agree_with_scikit_learn(rows) -> None:
    p, y = rows
    clipped = np.clip(p, 1e-12, 1 - 1e-12)
    assert metrics.nll(p, y) == pytest.approx(log_loss(y, clipped, labels=[0, 1]), rel=1e-6)
    assert metrics.brier(p, y) == pytest.approx(brier_score_loss(y, p, pos_label=1), abs=1e-12)
    decided = p != 0.5
    if decided.any():
        expected = accuracy_score(y[decided], p[decided] > 0.5)
        assert metrics.accuracy(p[decided], y[decided]) == pytest.approx(expected)
    if len(set(y)) == 2:
        assert metrics.auroc(p, y) == pytest.approx(roc_auc_score(y, p))
        weights = np.arange(1.0, len(p) + 1)
        assert metrics.auroc(p, y, weights=weights) == pytest.approx(roc_auc_score(y, p, sample_weight=weights))


def test_confidence_and_disagreement_auroc_agree_with_scikit_learn() -> None:
    p, y = sample(500)
    confidence, right = np.maximum(p, 1 - p), (p > 0.5) == (y > 0.5)
    assert metrics.confidence_auroc(p, y) == pytest.approx(roc_auc_score(right, confidence))
    votes = np.where(np.arange(500) % 3 == 0, 0.4, y)
    split = votes == 0.4
    assert metrics.disagreement_auroc(p, votes) == pytest.approx(roc_auc_score(split, -np.abs(p - 0.5)))
    assert metrics.disagreement_auroc(p, votes, score=split.astype(float)) == 1.0


def test_residual_auroc_ignores_what_the_margin_already_says() -> None:
    generator = np.random.default_rng(1)
    margin = generator.random(4000)
    positive = (generator.random(4000) < 1 - margin).astype(float)
    score = -margin + 1e-3 * generator.random(4000)
    assert metrics.auroc(score, positive) > 0.75
    assert metrics.residual_auroc(score, positive, margin, bins=50) == pytest.approx(0.5, abs=0.03)
    two_bins = [roc_auc_score([0, 1, 1], [1, 2, 0]), roc_auc_score([0, 0, 1], [5, 1, 3])]
    joint = metrics.residual_auroc([1, 2, 0, 5, 1, 3], [0, 1, 1, 0, 0, 1], [0, 1, 2, 7, 8, 9], bins=2)
    assert joint == pytest.approx(np.mean(two_bins))


@pytest.mark.parametrize(("policy", "expected"), [("half", 0.625), ("zero", 0.5), ("one", 0.75)])
def test_tie_policies(policy, expected) -> None:
    p, y = [0.9, 0.5, 0.2, 0.7, 0.6], [1, 1, 1, 1, 0.5]
    assert metrics.accuracy(p, y, tie_policy=policy) == expected
    assert metrics.accuracy([0.9, 0.5 + 1e-9, 0.2, 0.7, 0.6], y, [0, 1, 0.9, 0, 0], tie_policy=policy) == expected
    assert metrics.tie_rate(p) == 0.2


def test_soft_accuracy_stays_below_the_label_ceiling() -> None:
    y = np.array([0.8, 0.3, 0.5, 1.0])
    assert metrics.soft_accuracy(y, y) == metrics.label_ceiling(y) == pytest.approx((0.8 + 0.7 + 0.5 + 1.0) / 4)
    assert metrics.soft_accuracy([0.5, 0.9, 0.9, 0.1], y) == pytest.approx((0.5 + 0.3 + 0.5 + 0.0) / 4)
    assert metrics.accuracy([0.5, 0.9, 0.9, 0.1], y) == pytest.approx(0.5 / 3)


@property_test
@given(rows=pairs())
def test_brier_parts_add_up(rows) -> None:
    p, y = rows
    parts = metrics.brier_parts(p, y)
    whole = parts.reliability - parts.resolution + parts.uncertainty + parts.within_bins
    assert whole == pytest.approx(metrics.brier(p, y), abs=1e-12)
    fine = metrics.brier_parts(p, y, bins=10_000)
    assert fine.within_bins == pytest.approx(0.0, abs=1e-12), "one value of p per bin leaves nothing inside"


def brute_force_aurc(p: np.ndarray, y: np.ndarray) -> float:
    confidence, error = np.maximum(p, 1 - p), np.where(p == 0.5, 0.5, (p > 0.5) != (y > 0.5))
    areas = []
    for order in permutations(range(len(p))):
        ordered = confidence[list(order)]
        if np.all(ordered[:-1] >= ordered[1:]):
            areas.append(np.mean(np.cumsum(error[list(order)]) / np.arange(1, len(p) + 1)))
    return float(np.mean(areas))


@property_test
@given(rows=pairs(labels=st.sampled_from([0.0, 0.2, 1.0]), most=6))
def test_aurc_is_the_mean_over_orders_of_ties(rows) -> None:
    assert metrics.aurc(*rows) == pytest.approx(brute_force_aurc(*rows), abs=1e-12)


def test_excess_aurc_of_a_perfect_order_is_nearly_zero() -> None:
    n, wrong = 4000, 800
    confidence = np.linspace(0.99, 0.51, n)
    y = np.r_[np.ones(n - wrong), np.zeros(wrong)]
    assert metrics.excess_aurc(confidence, y) == pytest.approx(0.0, abs=1e-3)
    assert metrics.aurc(confidence, y) == pytest.approx(0.2 + 0.8 * np.log(0.8), abs=1e-3)
    assert metrics.excess_aurc(confidence, np.ones(n)) == pytest.approx(0.0, abs=1e-12)


def test_accuracy_at_coverage() -> None:
    p, y = [0.9, 0.8, 0.7, 0.7, 0.6], [1, 1, 1, 0, 0]
    cover = {share: float(metrics.accuracy_at_coverage(p, y, coverage=share)) for share in (0.4, 0.6, 0.8, 1.0)}
    assert cover == pytest.approx({0.4: 1.0, 0.6: 2.5 / 3, 0.8: 3 / 4, 1.0: 3 / 5})
    with pytest.raises(ConfigError, match="coverage="):
        metrics.accuracy_at_coverage(p, y, coverage=1.2)


def naive_ece(p: np.ndarray, y: np.ndarray, bins: int, equal_mass: bool) -> tuple[float, float]:
    """ECE and MCE of the doubled data with 2·bins bins on [0, 1]; n divisible by bins and no ties for equal mass."""
    p, y = np.r_[p, 1 - p], np.r_[y, 1 - y]
    order = np.argsort(p)
    if equal_mass:
        members = np.array_split(order, 2 * bins)
    else:
        index = np.minimum((p * 2 * bins).astype(int), 2 * bins - 1)
        members = [np.flatnonzero(index == each) for each in range(2 * bins)]
    gaps = [(len(rows), abs(y[rows].mean() - p[rows].mean())) for rows in members if len(rows)]
    return sum(count * gap for count, gap in gaps) / len(p), max(gap for _, gap in gaps)


@pytest.mark.parametrize("binning", ["equal_mass", "equal_width"])
@pytest.mark.parametrize("seed", range(5))
def test_folding_into_n_bins_equals_doubling_the_data_and_the_bins(binning, seed) -> None:
    p, y = sample(450, seed=seed, sharpness=1.7)
    ece, mce = naive_ece(p, y, 15, binning == "equal_mass")
    assert metrics.expected_calibration_error(p, y, binning=binning) == pytest.approx(ece, abs=1e-12)
    assert metrics.maximum_calibration_error(p, y, binning=binning) == pytest.approx(mce, abs=1e-12)


def test_equally_confident_rows_share_a_bin_whatever_their_last_digits() -> None:
    """1 − 16/23 and 7/23 differ in the last digit: the right rows must not be binned apart from the wrong ones."""
    draw = np.random.default_rng(0)
    p = draw.choice([16 / 23, 7 / 23, 14 / 23, 9 / 23, 2 / 3, 1 / 3], size=6000)
    y = draw.random(6000) < p
    assert metrics.expected_calibration_error(p, y) < 0.03


def test_reliability_curve_is_what_ece_sums() -> None:
    p, y = sample(1000, sharpness=2.0)
    curve = metrics.reliability_curve(p, y)
    ece = np.sum(curve.count * np.abs(curve.y - curve.p)) / 1000
    assert ece == pytest.approx(float(metrics.expected_calibration_error(p, y)))
    assert curve.count.sum() == 1000
    assert set(curve.count) <= {66, 67}
    assert np.all((curve.low <= curve.y) & (curve.y <= curve.high))
    from scipy.stats import binomtest

    wilson = binomtest(int(curve.y[3] * curve.count[3] + 0.5), int(curve.count[3])).proportion_ci(method="wilson")
    assert (curve.low[3], curve.high[3]) == pytest.approx((wilson.low, wilson.high))
    assert metrics.confidence_histogram(p).sum() == 1000


def naive_smooth_ece(p: np.ndarray, y: np.ndarray, points: int = 8000) -> float:
    """The definition: an explicit reflected kernel, numerical integration, and a root finder for the fixed point."""
    t = (np.arange(points) + 0.5) / points

    def excess(sigma: float) -> float:
        smoothed = np.zeros(points)
        for shift in range(-2, 3):
            for image in (2 * shift + p, 2 * shift - p):
                kernel = np.exp(-((t[:, None] - image) ** 2) / (2 * sigma**2)) / (sigma * np.sqrt(2 * np.pi))
                smoothed += kernel @ (p - y) / len(p)
        return float(np.mean(np.abs(smoothed))) - sigma

    return float(scipy.optimize.brentq(excess, 1e-3, 1.0, xtol=1e-9)) if excess(1e-3) > 0 else 0.0


@settings(derandomize=True, deadline=None, max_examples=10)
@given(rows=pairs(most=10), symmetric=st.booleans())
def test_smooth_ece_is_its_definition(rows, symmetric) -> None:
    p, y = rows
    doubled = (np.r_[p, 1 - p], np.r_[y, 1 - y]) if symmetric else (p, y)
    expected, found = naive_smooth_ece(*doubled), float(metrics.smooth_ece(p, y, symmetric=symmetric))
    assert found == pytest.approx(expected, abs=1e-6) or max(found, expected) < 2e-3


def test_smooth_ece_is_its_definition_on_a_larger_set() -> None:
    p, y = sample(120, sharpness=1.8)
    found = float(metrics.smooth_ece(p, y, symmetric=False))
    assert found == pytest.approx(naive_smooth_ece(p, y), abs=1e-6)


def test_smooth_ece_of_a_constant_shift() -> None:
    # one point: the kernel has mass 1, so the error is the shift at every bandwidth
    assert metrics.smooth_ece(np.full(50, 0.9), np.ones(50), symmetric=False) == pytest.approx(0.1, abs=1e-6)
    assert metrics.smooth_ece(np.ones(50), np.ones(50)) == pytest.approx(0.0, abs=1e-6)


def test_undefined_is_nan_and_silent() -> None:
    assert np.isnan(metrics.accuracy([0.9, 0.2], [0.5, 0.5]))
    assert np.isnan(metrics.confidence_auroc([0.9, 0.8], [1, 1]))
    assert np.all(
        np.isnan([MEASURES[name]([0.9], [1.0], weights=[0.0]) for name in ("nll", "ece", "smooth_ece", "aurc")])
    )


def test_bad_inputs_are_named() -> None:
    with pytest.raises(DataError, match="row 1 is 1"):
        metrics.nll([0.5, 1.2], [1, 1])
    with pytest.raises(DataError, match="row 0 is nan"):
        metrics.nll([0.5, 0.2], [np.nan, 1])
    with pytest.raises(DataError, match="y has 1 rows but p has 2"):
        metrics.brier([0.5, 0.2], [1])
    with pytest.raises(DataError, match="at least one pair"):
        metrics.brier([], [])
    with pytest.raises(DataError, match="last axis"):
        metrics.brier([0.5, 0.2], [1, 1], weights=[1.0])
    with pytest.raises(DataError, match="not negative"):
        metrics.brier([0.5, 0.2], [1, 1], weights=[1.0, -1.0])
    with pytest.raises(ConfigError, match="did you mean 'half'"):
        metrics.accuracy([0.5], [1], tie_policy="halve")
    with pytest.raises(ConfigError, match="equal_mass"):
        metrics.expected_calibration_error([0.5], [1], binning="mass")


def test_worked_by_hand() -> None:
    p, y = [0.9, 0.8, 0.3], [1, 0, 1]
    third = float(Fraction(1, 3))
    assert metrics.accuracy(p, y) == pytest.approx(third)
    assert metrics.brier(p, y) == pytest.approx((0.01 + 0.64 + 0.49) / 3)
    assert metrics.aurc(p, y) == pytest.approx((0 + 1 / 2 + 2 / 3) / 3)
    assert metrics.expected_calibration_error(p, y) == pytest.approx((0.1 + 0.8 + 0.7) / 3)
