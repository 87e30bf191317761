"""Every measure of pairs against scikit-learn, scipy or its definition written out, and weights against repeated rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, roc_auc_score

from poise.evaluation import metrics
from poise.evaluation.metrics.confident import Bounds
from poise.evaluation.metrics.correlation import partial_spearman, pearson, spearman
from poise.evaluation.metrics.ratings import kolmogorov_distance, pit_distance, pit_shares
from tests.evaluation.metrics.random_rows import SEED, Rows, property_test

CLOSE = {"rtol": 0.0, "atol": 1e-6, "equal_nan": True}


def _rates(r: Rows, name: str, weights=None):
    one, two = (Bounds(x - s, x, x + s) for x, s in zip((r.one, r.two), r.spread, strict=True))
    rates = metrics.interval_rates(one, two, r.y, weights=weights)
    return rates.ranking_score(0.2) if name == "ranking_score" else getattr(rates, name)


def _part(r: Rows, name: str, weights=None):
    return getattr(metrics.brier_parts(r.p, r.y, weights=weights), name)


def _of(measure: Callable, *columns: str, **options) -> Callable:
    return lambda r, weights=None: measure(*(getattr(r, name) for name in columns), weights=weights, **options)


MEASURES: dict[str, Callable] = {
    **{
        f"accuracy_{policy}": _of(metrics.accuracy, "p", "y", "tie", tie_policy=policy)
        for policy in ("half", "zero", "one")
    },
    **{f"accuracy_at_coverage_{c}": _of(metrics.accuracy_at_coverage, "p", "y", "tie", coverage=c) for c in (0.3, 1.0)},
    **{name: _of(getattr(metrics, name), "p", "y") for name in ("nll", "brier", "smooth_ece", "disagreement_auroc")},
    **{
        f"{name}_{binning}": _of(getattr(metrics, name), "p", "y", binning=binning, symmetric=symmetric, bins=7)
        for name in ("expected_calibration_error", "maximum_calibration_error")
        for binning, symmetric in (("equal_mass", True), ("equal_width", False))
    },
    **{
        name: _of(getattr(metrics, name), "p", "y", "tie")
        for name in ("aurc", "excess_aurc", "confidence_auroc", "soft_accuracy")
    },
    **{
        f"brier_{name}": partial(_part, name=name)
        for name in ("reliability", "resolution", "uncertainty", "within_bins")
    },
    **{
        name: partial(_rates, name=name)
        for name in ("right", "wrong", "confident_right", "confident_wrong", "ranking_score")
    },
    "auroc": _of(metrics.auroc, "one", "y"),
    "residual_auroc": _of(metrics.residual_auroc, "one", "y", "two", bins=3),
    "accuracy_gap": _of(metrics.accuracy_gap, "p", "y", "one", "tie"),
    "abstention_curve": _of(metrics.abstention_curve, "p", "y", budgets=(0.0, 0.25, 0.5)),
    "choice_accuracy": lambda r, weights=None: metrics.choice_accuracy(
        np.stack([r.one, r.two], 1), np.stack([r.y > 0.5, r.y <= 0.5], 1), weights=weights
    ),
    "tie_rate": lambda r, weights=None: metrics.tie_rate(r.p, r.tie, weights=weights),
    "label_ceiling": _of(metrics.label_ceiling, "y"),
    "pearson": _of(pearson, "one", "two"),
    "spearman": _of(spearman, "one", "two"),
    "partial_spearman": _of(partial_spearman, "one", "two", "three"),
    "kolmogorov_distance": _of(kolmogorov_distance, "left"),
    "pit_distance": lambda r, weights=None: pit_distance(pit_shares(r.left, r.right, bins=10), weights=weights),
}


@pytest.mark.parametrize("name", MEASURES)
@property_test
@given(seed=SEED)
def test_weights_are_repeated_rows_and_resamples_are_one_call(name: str, seed: int) -> None:
    rows = Rows(seed)
    if not rows.weights.any():
        return
    measure = MEASURES[name]
    whole, repeated = measure(rows), measure(rows.repeated())
    resamples = np.stack([rows.weights, np.ones(len(rows.p))])
    both = measure(rows, weights=resamples)
    np.testing.assert_allclose(both, [repeated, whole], **CLOSE)
    np.testing.assert_allclose(measure(rows, weights=resamples[None]), both[None], **CLOSE)


def test_no_measure_is_forgotten() -> None:
    """A new name in ``metrics`` needs a row in the table above, or a line here that says where else it is checked."""
    elsewhere = {
        "BrierParts", "Bounds", "IntervalRates", "Reliability", "TiePolicy",  # results and options
        "reliability_curve", "confidence_histogram",  # weights must be [n], or none: test_bins_agree_with_scikit_learn
        "mcnemar",  # no weights: test_mcnemar_is_the_binomial_test
        "brier_parts", "interval_rates",
        "norm_dispersion", "effective_rank",  # no weights: test_hidden
    }  # fmt: skip
    named = {name for name in metrics.__all__ if not any(key.startswith(name) for key in MEASURES)}
    assert named == elsewhere


@property_test
@given(seed=SEED)
def test_accuracy_and_ties(seed: int) -> None:
    r = Rows(seed)
    kept = r.y != 0.5
    credit = {"half": 0.5, "zero": 0.0, "one": 1.0}
    tied = (r.p == 0.5) | (r.tie == 1.0)
    assert metrics.tie_rate(r.p, r.tie) == pytest.approx(np.mean(tied))
    if not kept.any():
        return
    decided = kept & ~tied
    right = accuracy_score(r.y[decided] > 0.5, r.p[decided] > 0.5, normalize=False) if decided.any() else 0
    for policy, earned in credit.items():
        expected = (right + earned * (kept & tied).sum()) / kept.sum()
        found = metrics.accuracy(r.p, r.y, r.tie, tie_policy=policy)
        assert found == pytest.approx(expected, abs=1e-6)
    choices, labels = np.stack([r.p, 1 - r.p], 1), np.stack([r.y > 0.5, r.y < 0.5], 1)
    for policy, same in (("share", "half"), ("loss", "zero")):
        found = metrics.choice_accuracy(choices[kept], labels[kept], tie_policy=policy)
        assert found == pytest.approx(metrics.accuracy(r.p[kept], r.y[kept], tie_policy=same), abs=1e-6)


def test_choice_accuracy_worked() -> None:
    scores, right = [[3, 3, 1, 0], [2, 2, 2], [1, 0]], [[1, 0, 0, 0], [1, 1, 0], [1, 0]]
    assert metrics.choice_accuracy(scores, right) == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)
    assert metrics.choice_accuracy(scores, right, tie_policy="loss") == pytest.approx(1 / 3)


@property_test
@given(seed=SEED)
def test_scores_agree_with_scikit_learn(seed: int) -> None:
    r = Rows(seed)
    doubled, label = np.r_[r.p, r.p], np.r_[np.ones_like(r.p), np.zeros_like(r.p)]
    weight = np.r_[r.y, 1 - r.y] * np.r_[r.weights, r.weights] + 1e-300
    if r.weights.any():
        expected = log_loss(label, np.clip(doubled, 1e-12, 1 - 1e-12), sample_weight=weight, labels=[0, 1])
        assert metrics.nll(r.p, r.y, weights=r.weights) == pytest.approx(expected, rel=1e-6)  # 1 − 1e-12 is rounded
        # the Brier score of a share y is the one of single votes less y(1 − y)
        votes = brier_score_loss(label, doubled, sample_weight=weight, pos_label=1)
        inner = np.average(r.y * (1 - r.y), weights=r.weights)
        assert metrics.brier(r.p, r.y, weights=r.weights) == pytest.approx(votes - inner, abs=1e-6)
    positive = weight[: len(r.p)].sum() > 0.1 and weight[len(r.p) :].sum() > 0.1
    if positive:
        expected = roc_auc_score(label, np.r_[r.one, r.one], sample_weight=weight)
        assert metrics.auroc(r.one, r.y, weights=r.weights) == pytest.approx(expected, abs=1e-6)


@property_test
@given(seed=SEED)
def test_confidence_and_disagreement_agree_with_scikit_learn(seed: int) -> None:
    r = Rows(seed)
    confidence, split = np.round(np.maximum(r.p, 1 - r.p), 10), (r.y > 0) & (r.y < 1)
    if 0 < split.sum() < len(split):
        assert metrics.disagreement_auroc(r.p, r.y) == pytest.approx(roc_auc_score(split, -confidence), abs=1e-6)
    kept = (r.y != 0.5) & (r.p != 0.5)
    right = (r.p > 0.5) == (r.y > 0.5)
    if 0 < right[kept].sum() < kept.sum():
        found = metrics.confidence_auroc(r.p[kept], r.y[kept])
        assert found == pytest.approx(roc_auc_score(right[kept], confidence[kept]), abs=1e-6)


@property_test
@given(seed=SEED)
def test_residual_auroc_is_the_contests_inside_bins(seed: int) -> None:
    r = Rows(seed)
    size, bins, n = np.abs(r.two), 3, len(r.p)
    middle = (scipy.stats.rankdata(size) - 0.5) / n
    won = contests = 0.0
    for i in range(n):
        for j in range(n):
            if int(middle[i] * bins + 1e-12) == int(middle[j] * bins + 1e-12):
                weight = r.y[i] * (1 - r.y[j])
                contests += weight
                won += weight * ((r.one[i] > r.one[j]) + 0.5 * (r.one[i] == r.one[j]))
    if contests:
        found = metrics.residual_auroc(r.one, r.y, r.two, bins=bins)
        assert found == pytest.approx(won / contests, abs=1e-6)


@property_test
@given(seed=SEED)
def test_bins_agree_with_scikit_learn(seed: int) -> None:
    draw = np.random.default_rng(seed)
    p, y = draw.random(300), draw.choice([0.0, 1.0], 300)
    observed, stated = calibration_curve(y, p, n_bins=10)
    count = np.histogram(p, 10, (0, 1))[0]
    options = {"bins": 10, "binning": "equal_width", "symmetric": False}
    gaps = np.abs(observed - stated)
    assert metrics.expected_calibration_error(p, y, **options) == pytest.approx(gaps @ count[count > 0] / 300, abs=1e-6)
    assert metrics.maximum_calibration_error(p, y, **options) == pytest.approx(gaps.max(), abs=1e-6)
    curve = metrics.reliability_curve(p, y, **options)
    np.testing.assert_allclose(curve.p, stated, atol=1e-6)
    np.testing.assert_allclose(curve.y, observed, atol=1e-6)
    confidence = np.histogram(np.maximum(p, 1 - p), 20, (0.5, 1))[0]
    np.testing.assert_array_equal(metrics.confidence_histogram(p), confidence)


@property_test
@given(seed=SEED)
def test_brier_parts_of_both_orders(seed: int) -> None:
    """Murphy's decomposition of the doubled rows, one bin per value."""
    r = Rows(seed)
    p, y = np.r_[r.p, 1 - r.p], np.r_[r.y, 1 - r.y]
    p = np.round(p, 10)
    groups = [(p == value) for value in np.unique(p)]
    reliability = sum(g.sum() * (p[g].mean() - y[g].mean()) ** 2 for g in groups) / len(p)
    resolution = sum(g.sum() * (y[g].mean() - 0.5) ** 2 for g in groups) / len(p)
    parts = metrics.brier_parts(np.round(r.p, 10), r.y, bins=100_000)
    assert parts.uncertainty == pytest.approx(np.var(y), abs=1e-6)
    assert parts.reliability == pytest.approx(reliability, abs=1e-6)
    assert parts.resolution == pytest.approx(resolution, abs=1e-6)


@property_test
@given(seed=SEED)
def test_selective_measures_are_averages_over_random_orders_of_equal_rows(seed: int) -> None:
    """Expected error of the k most certain rows: whole blocks of equal confidence, and of the last block its mean."""
    r = Rows(seed)
    kept = r.y != 0.5
    if not kept.any():
        return
    confidence = np.round(np.abs(r.p - 0.5), 10)[kept]
    error = np.where(r.p == 0.5, 0.5, (r.p > 0.5) != (r.y > 0.5))[kept]
    order = np.argsort(-confidence, kind="stable")
    expected, n = np.zeros(len(order)), len(order)
    for k in range(1, n + 1):
        last = confidence[order[k - 1]]
        above, inside = confidence > last, confidence == last
        expected[k - 1] = (error[above].sum() + (k - above.sum()) * error[inside].mean()) / k
    p = np.where(r.p >= 0.5, 0.5 + np.round(r.p - 0.5, 10), 0.5 - np.round(0.5 - r.p, 10))
    assert metrics.aurc(p, r.y) == pytest.approx(expected.mean(), abs=1e-6)
    rate = error.mean()
    best = rate + (1 - rate) * np.log(1 - rate) if rate < 1 else 1.0
    assert metrics.excess_aurc(p, r.y) == pytest.approx(expected.mean() - best, abs=1e-6)
    curve = metrics.abstention_curve(p, r.y, budgets=[1 - k / n for k in range(1, n + 1)])
    np.testing.assert_allclose(curve, 1 - expected, atol=1e-6)


@property_test
@given(seed=SEED)
def test_votes(seed: int) -> None:
    r = Rows(seed)
    chosen = np.where(r.p > 0.5, r.y, np.where(r.p < 0.5, 1 - r.y, 0.5))
    assert metrics.soft_accuracy(r.p, r.y) == pytest.approx(chosen.mean(), abs=1e-6)
    assert metrics.label_ceiling(r.y) == pytest.approx(np.maximum(r.y, 1 - r.y).mean(), abs=1e-6)


@property_test
@given(seed=SEED)
def test_accuracy_gap_is_two_accuracies(seed: int) -> None:
    r = Rows(seed)
    winner_longer = ((r.y > 0.5) & (r.one > 0)) | ((r.y < 0.5) & (r.one < 0))
    winner_shorter = ((r.y > 0.5) & (r.one < 0)) | ((r.y < 0.5) & (r.one > 0))
    if winner_longer.any() and winner_shorter.any():
        parts = [metrics.accuracy(r.p[rows], r.y[rows]) for rows in (winner_longer, winner_shorter)]
        assert metrics.accuracy_gap(r.p, r.y, r.one) == pytest.approx(parts[0] - parts[1], abs=1e-6)


@property_test
@given(seed=SEED)
def test_interval_rates_are_counts(seed: int) -> None:
    r = Rows(seed)
    right = wrong = sure_right = sure_wrong = n = 0.0
    for a, b, s, t, y in zip(r.one, r.two, *r.spread, r.y, strict=True):
        if y != 0.5:
            (w, v), (lost, u) = ((a, s), (b, t)) if y > 0.5 else ((b, t), (a, s))
            n += 1
            right += 1.0 if w > lost else 0.5 if w == lost else 0.0
            wrong += 1.0 if w < lost else 0.5 if w == lost else 0.0
            sure_right += w - v > lost + u
            sure_wrong += lost - u > w + v
    if n:
        found = [_rates(r, name) for name in ("right", "wrong", "confident_right", "confident_wrong")]
        np.testing.assert_allclose(found, np.array([right, wrong, sure_right, sure_wrong]) / n, atol=1e-6)
        score = sure_right / n / (0.8 * right / n + 0.2) - sure_wrong / n / (0.8 * wrong / n + 0.2)
        assert _rates(r, "ranking_score") == pytest.approx(score, abs=1e-6)


@property_test
@given(seed=SEED)
def test_mcnemar_is_the_binomial_test(seed: int) -> None:
    draw = np.random.default_rng(seed)
    one, two = draw.choice([0.0, 1.0], (2, int(draw.integers(1, 60))), p=[0.3, 0.7])
    alone = int((one > two).sum()), int((one < two).sum())
    expected = scipy.stats.binomtest(alone[0], sum(alone)).pvalue if sum(alone) else 1.0
    assert metrics.mcnemar(one, two) == pytest.approx(expected, abs=1e-6)
