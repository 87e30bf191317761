"""Bootstrap, result record and ``evaluate_pairs``."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest

from poise.errors import ConfigError, DataError
from poise.evaluation import metrics
from poise.evaluation.bootstrap import Interval, PromptBootstrap
from poise.evaluation.pairwise import JudgedPairs, evaluate_pairs, pair_metrics
from poise.evaluation.result import EvaluationResult


def predictions(n: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Calibrated predictions, chosen first; two pairs per prompt."""
    generator = np.random.default_rng(seed)
    confidence = 1 / (1 + np.exp(-1.5 * np.abs(generator.normal(size=n))))
    p = np.where(generator.random(n) < confidence, confidence, 1 - confidence)
    return p, np.ones(n), [f"prompt {row // 2}" for row in range(n)]


def evaluate(**changes) -> EvaluationResult:
    p, y, prompts = predictions()
    lengths = np.arange(600) % 7, np.arange(600) % 5
    options = {"resamples": 100, "source": "test", **changes}
    pairs = JudgedPairs(p, changes.pop("y", y), None, prompts, lengths)
    return evaluate_pairs(pairs, **{k: options[k] for k in options if k != "y"})


def test_resamples_draw_whole_prompts() -> None:
    bootstrap = PromptBootstrap(["a", "b", "a", "c", "b"], resamples=50)
    weights = np.concatenate(list(bootstrap.weights()))
    assert weights.shape == (50, 5)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_array_equal(weights[:, 1], weights[:, 4])
    assert np.all(weights[:, 0] + weights[:, 1] + weights[:, 3] == 3), "as many prompts as there are"


def test_the_seed_decides() -> None:
    p, y, prompts = predictions()
    metric = {"nll": partial(metrics.nll, p, y)}
    first, same, other = (PromptBootstrap(prompts, resamples=80, seed=s).intervals(metric)["nll"] for s in (1, 1, 2))
    assert first == same != other
    assert first.low < first.value < first.high


def test_interval_covers_the_truth_and_clusters_widen_it() -> None:
    hits, generator = 0, np.random.default_rng(0)
    for seed in range(200):
        prompt_effect = generator.random(60) < 0.7
        y = np.repeat(prompt_effect, 4).astype(float)
        accuracy = {"accuracy": partial(metrics.accuracy, np.full(240, 0.8), y)}
        clustered = PromptBootstrap(np.repeat(np.arange(60), 4), resamples=200, seed=seed).intervals(accuracy)[
            "accuracy"
        ]
        hits += clustered.low <= 0.7 <= clustered.high
    rows = PromptBootstrap(range(240), resamples=200).intervals(accuracy)["accuracy"]
    assert 0.90 <= hits / 200 <= 0.98
    assert 1.6 < (clustered.high - clustered.low) / (rows.high - rows.low) < 2.4, "4 equal rows per prompt: √4 wider"


def test_centring_mends_the_coverage_of_calibration_errors() -> None:
    def draw(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng(seed)
        logit = 1.5 * generator.normal(size=n)
        return 1 / (1 + np.exp(-1.3 * logit)), (generator.random(n) < 1 / (1 + np.exp(-logit))).astype(float)

    truth = float(metrics.expected_calibration_error(*draw(500_000, 1)))
    hits = {"plain": 0, "centred": 0}
    for seed in range(60):
        ece = partial(metrics.expected_calibration_error, *draw(1000, seed + 2))
        bootstrap = PromptBootstrap(range(1000), resamples=100, seed=seed)
        for name, interval in bootstrap.intervals({"plain": ece, "centred": ece}, centred=["centred"]).items():
            hits[name] += interval.low <= truth <= interval.high
            assert name == "plain" or 0.0 <= interval.low <= interval.value <= interval.high
    assert hits["plain"] / 60 < 0.5 < 0.6 < hits["centred"] / 60


def test_paired_difference_is_sharper_than_two_intervals() -> None:
    p, y, prompts = predictions()
    worse = np.clip(p - 0.02, 0, 1)
    one, two = pair_metrics(p, y), pair_metrics(worse, y)
    bootstrap = PromptBootstrap(prompts, resamples=200)
    difference = bootstrap.joint_intervals(lambda w: {"nll": one["nll"](weights=w) - two["nll"](weights=w)})
    assert difference["nll"].high < 0.0
    alone = evaluate(resamples=200).metrics["nll"]
    assert difference["nll"].high - difference["nll"].low < 0.3 * (alone.high - alone.low)


def test_evaluate_pairs_reports_everything() -> None:
    result = evaluate(rows_dropped=3, truncation={"prompt": 2}, model={"method": "bt", "checkpoint": None})
    assert list(result.metrics)[:5] == ["accuracy", "nll", "brier", "ece", "mce"]
    assert "disagreement_auroc" not in result.metrics, "no votes, no disagreement"
    assert result.metrics["accuracy"].value == pytest.approx(metrics.accuracy(*predictions()[:2]))
    assert result.data.model_dump() == {
        "source": "test",
        "rows": 600,
        "prompts": 300,
        "rows_dropped": 3,
        "label_kind": "hard",
        "undirected": 0,
    }
    first, second = np.arange(600) % 7, np.arange(600) % 5
    assert result.baselines["longer_wins"].value == pytest.approx(np.mean((first > second) + (first == second) / 2))
    assert result.baselines["constant"].value == pytest.approx(np.log(2))
    floor = result.baselines["calibrated_ece"]
    assert floor.low < result.metrics["ece"].value < floor.high, "the model is calibrated"
    assert sum(each.count for each in result.reliability) == sum(result.histogram) == 600
    assert result.label_ceiling is None


def test_votes_add_their_measures() -> None:
    votes = np.tile([1.0, 0.8, 0.5, 0.6], 150)
    result = evaluate(y=votes)
    assert result.data.label_kind == "soft"
    assert result.data.undirected == 150
    assert result.label_ceiling == pytest.approx((1 + 0.8 + 0.5 + 0.6) / 4)
    assert {"soft_accuracy", "disagreement_auroc"} <= set(result.metrics)
    assert "calibrated_ece" not in result.baselines


def test_lengths_may_be_absent_and_must_fit() -> None:
    p, y, prompts = predictions()
    bare = evaluate_pairs(JudgedPairs(p, y, None, prompts), resamples=5, source="t")
    assert "longer_wins" not in bare.baselines
    assert "length_gap" not in bare.metrics
    with pytest.raises(DataError, match="prompts has 599 rows but p has 600"):
        evaluate_pairs(JudgedPairs(p, y, None, prompts[1:]), resamples=5, source="t")
    with pytest.raises(DataError, match="lengths has 3 rows"):
        evaluate_pairs(JudgedPairs(p, y, None, prompts, ([1, 2, 3], np.ones(600))), resamples=5, source="t")
    with pytest.raises(ConfigError, match="resamples=0"):
        evaluate_pairs(JudgedPairs(p, y, None, prompts), resamples=0, source="t")


def test_the_abstention_curve_begins_at_the_accuracy_and_ends_with_the_surest_pairs() -> None:
    result = evaluate()
    curve = {point.x: point.y for point in result.abstention}
    assert curve[0.0] == result.metrics["accuracy"]
    assert curve[0.5] == result.metrics["accuracy_at_50"]
    p, y, _ = predictions()
    surest = np.argsort(-np.abs(p - 0.5))[: round(0.05 * len(p))]
    assert curve[0.95].value == pytest.approx(np.mean((p > 0.5)[surest] == (y > 0.5)[surest]), abs=1e-9)
    assert curve[0.95].low <= curve[0.95].value <= curve[0.95].high


def test_the_length_gap_is_the_accuracy_where_length_helps_less_where_it_hurts() -> None:
    p = predictions()[0]
    longer = np.arange(600) % 7 - np.arange(600) % 5
    right = (p > 0.5).astype(float)
    expected = right[longer > 0].mean() - right[longer < 0].mean()
    assert evaluate().metrics["length_gap"].value == pytest.approx(expected, abs=1e-9)


def test_undefined_metrics_are_left_out() -> None:
    result = evaluate_pairs(JudgedPairs([0.9, 0.8], [1, 1], None, "ab"), resamples=5, source="t")
    assert "confidence_auroc" not in result.metrics
    assert "NaN" not in result.to_json()


def test_json_round_trip(tmp_path) -> None:
    result = evaluate()
    result.save(tmp_path / "result.json")
    assert EvaluationResult.load(tmp_path / "result.json") == result


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:50], "not JSON"),
        (lambda text: "[]", "no field 'schema_version'"),
        (
            lambda text: text.replace('"schema_version": 1', '"schema_version": 2'),
            "schema_version is 2, this poise reads 1",
        ),
        (lambda text: text.replace('"tie_rate": 0.0', '"tie_rate": NaN'), "NaN is not allowed"),
        (lambda text: text.replace('"tie_rate"', '"tierate"'), "field 'tie_rate'"),
        (lambda text: text.replace('"rows": 600', '"rows": -1'), "field 'data.rows'"),
    ],
)
def test_broken_files_are_refused_by_name(tmp_path, damage, message) -> None:
    path = tmp_path / "result.json"
    path.write_text(damage(evaluate().to_json()))
    with pytest.raises(DataError, match=message) as caught:
        EvaluationResult.load(path)
    assert str(path) in str(caught.value)


def test_missing_file_and_nan(tmp_path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        EvaluationResult.load(tmp_path / "absent.json")
    broken = evaluate().model_copy(update={"metrics": {"nll": Interval(float("nan"), 0.0, 1.0)}})
    with pytest.raises(DataError, match="NaN or infinity"):
        broken.to_json()
    assert json.loads(evaluate().to_json())["schema_version"] == 1
