"""PPE: battles without ties, conflict pairs, best-of-k and AUROC."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from poise.errors import DataError
from poise.evaluation.benchmarks import benchmark
from poise.evaluation.benchmarks.ppe_correctness import best_of_each
from poise.evaluation.best_of_n import best_of_n
from tests.evaluation.benchmarks.samples import figures, loaded, ppe_correctness_row, ppe_preference_row

PREFERENCE, CORRECTNESS = benchmark("ppe_preference"), benchmark("ppe_correctness")
MATH = "PPE-MATH-Best-of-K/data/train-00000-of-00001.jsonl"


def test_battles_without_ties(tmp_path: Path) -> None:
    winners = ["model_a", "model_b", "model_b", "tie", "tie (bothbad)", "model_a"]
    items = loaded("ppe_preference", tmp_path, [ppe_preference_row(w, i) for i, w in enumerate(winners)], "test.jsonl")
    found = figures(PREFERENCE, items, [(1, 0), (1, 0), (0, 1), (1, 0), (1, 0), (2, 2)])
    assert found == {"accuracy": 0.5}, "won, lost, won; two ties left out; equal scores are wrong"


def test_kinds_of_prompts(tmp_path: Path) -> None:
    rows = [
        ppe_preference_row("model_a", 0, language="Russian", is_code=True),
        ppe_preference_row("model_a", 1, language="Russian", is_code=False),
        ppe_preference_row("tie", 2, language="English", math_prompt=True),
    ]
    items = loaded("ppe_preference", tmp_path, rows, "test.jsonl")
    found = figures(PREFERENCE, items, [(1, 0), (0, 1), (1, 0)])
    assert found == {"accuracy": 0.5, "is_code": 1.0, "Russian": 0.5}, "nothing of kinds with ties alone"


def test_an_unknown_winner_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'winner' is 'both'"):
        loaded("ppe_preference", tmp_path, [ppe_preference_row("both")], "test.jsonl")


def test_conflict_pairs(tmp_path: Path) -> None:
    row = ppe_correctness_row([True, False, False, True], [[0, 1], [1, 0], [0, 1], [3, 2], [1, 2]])
    items = loaded("ppe_correctness", tmp_path, [row], MATH)
    assert items[0].better == ((0, 1), (0, 1), (0, 1), (3, 2)), "labels decide; equal ones are skipped, repeats stay"
    found = figures(CORRECTNESS, items, [(2, 1, 3, 3)])
    assert next(iter(found.items())) == ("partial (MATH)", pytest.approx(3 / 4)), "3 against 3 is lost"


def test_pairs_are_pooled_within_a_set(tmp_path: Path) -> None:
    rows = [ppe_correctness_row([True, False], [[0, 1]] * 3, 0), ppe_correctness_row([True, False], [[0, 1]], 1)]
    found = figures(CORRECTNESS, loaded("ppe_correctness", tmp_path, rows, MATH), [(1, 0), (0, 1)])
    assert found["MATH"] == pytest.approx(3 / 4)


def test_best_of_k(tmp_path: Path) -> None:
    row = ppe_correctness_row([True, False, False], [[0, 1]])
    found = figures(CORRECTNESS, loaded("ppe_correctness", tmp_path, [row], MATH), [(2, 1, 3)])
    # k = 1: 1/3; k = 2: only {0, 1} of three draws chooses the right one, 1/3; k = 3: 0. By the labels: 1/3, 2/3, 1.
    assert found["MATH, maximum"] == pytest.approx(1 / 3)
    assert found["MATH, end"] == 0
    assert found["MATH, distance"] == pytest.approx((0 + 1 / 3 + 1) / 3)


def test_auroc_is_over_all_answers_of_a_set(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels, scores = generator.random((20, 6)) < 0.4, generator.integers(0, 9, (20, 6)).astype(float)
    rows = [ppe_correctness_row(one.tolist(), [[0, 1]], i) for i, one in enumerate(labels)]
    items = loaded("ppe_correctness", tmp_path, rows, MATH)
    weights = generator.integers(0, 4, (3, 20)).astype(float)
    found = CORRECTNESS.score(items, list(scores), weights)["MATH, AUROC"]
    for drawn, value in zip(weights, found, strict=True):
        assert value == pytest.approx(
            roc_auc_score(labels.ravel(), scores.ravel(), sample_weight=np.repeat(drawn, 6)), abs=1e-12
        )


@pytest.mark.parametrize(("unscored", "auroc"), [(1, 1.0), (3, 0.5)])
def test_an_answer_without_a_score_is_the_worst_one(tmp_path: Path, unscored: int, auroc: float) -> None:
    """Of answers 0 and 3 (right) above 1 and 2, a wrong one without score loses nothing, a right one loses to both wrong ones."""
    row = ppe_correctness_row([True, False, False, True], [[0, 1]])
    scores = [3.0, 1.0, 0.0, 4.0]
    scores[unscored] = float("nan")
    found = figures(CORRECTNESS, loaded("ppe_correctness", tmp_path, [row], MATH), [scores])
    assert found["MATH, AUROC"] == pytest.approx(roc_auc_score([1, 0, 0, 1], np.nan_to_num(scores, nan=-1.0)))
    assert found["MATH, AUROC"] == pytest.approx(auroc)


def test_every_prompt_of_a_set_has_as_many_answers(tmp_path: Path) -> None:
    rows = [ppe_correctness_row([True, False], [[0, 1]]), ppe_correctness_row([True, False, False], [[0, 1]], 1)]
    with pytest.raises(DataError, match=r"MATH: prompts have \[2, 3\] answers"):
        loaded("ppe_correctness", tmp_path, rows, MATH)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=2, max_size=9))
def test_all_curves_at_once_are_the_exact_curve(answers: list[tuple[int, bool]]) -> None:
    proxy, gold = np.array(answers, dtype=float).T
    expected = best_of_n(proxy, gold, range(1, len(answers) + 1))
    np.testing.assert_allclose(best_of_each(proxy[None], gold[None])[0], expected, atol=1e-12)


@pytest.mark.parametrize(
    ("row", "file", "message"),
    [
        (ppe_correctness_row([True, False], [[0, 2]]), MATH, "two numbers from 0 to 1"),
        (ppe_correctness_row([True, 7], [[0, 1]]), MATH, "'scores' is 7"),
        (ppe_correctness_row([True, False], [[0, 1]]), "rows.jsonl", "no part of the name says which set"),
    ],
)
def test_rows_that_cannot_be_scored(tmp_path: Path, row: dict[str, object], file: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        loaded("ppe_correctness", tmp_path, [row], file)
