"""Rankings of models from battles: by hand, against scipy, and by what must hold of every ranking."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from poise.evaluation.benchmarks import benchmark
from poise.evaluation.metrics.ranking import Battles, model_ranking
from tests.evaluation.benchmarks.samples import figures, loaded, ppe_preference_row

PAIRS = np.array([(a, b) for a in range(3) for b in range(a + 1, 3)] * 4)


def ranked(scorer: list[float], people: list[float]) -> dict[str, float]:
    battles = Battles(PAIRS[:, 0], PAIRS[:, 1], 3)
    return {name: float(value) for name, value in model_ranking(battles, scorer, people).items()}


def test_worked_by_hand() -> None:
    """Three models, each pair meets four times. People: A beats B 4:0, A beats C 4:0, B beats C 3:1."""
    people = [1, 1, 1] * 3 + [1, 1, 0]
    # scorer: A–B 2:2, A–C 4:0, B–C 1:3
    scorer = [1, 1, 0] * 2 + [0, 1, 0] + [0, 1, 1]
    found = ranked(scorer, people)
    # scores by people: A 8/8, B 3/8, C 1/8; by the scorer: A 6/8, B 3/8, C 3/8
    assert found["kendall"] == pytest.approx(2 / np.sqrt(2 * 3))
    assert found["spearman"] == pytest.approx(scipy.stats.spearmanr([6, 3, 3], [8, 3, 1]).statistic)
    # errors √(p(1−p)/7): scorer A .1637, B and C .1830; people A 0, B .1830, C .1250
    # apart by the scorer: none (.375 < 1.96·.3467); by people A–B (.625 > .3587), A–C (.875 > .245), B–C not (.25 < .6037)
    assert found["separability"] == 0
    assert found["agreement"] == 0
    beats = scipy.stats.norm.cdf(0.375 / np.hypot(0.163663, 0.182981))
    assert found["brier"] == pytest.approx((2 * (beats - 1) ** 2 + (0.5 - 1) ** 2) / 3, abs=1e-5)
    assert np.isnan(found["row_pearson"]), "two opponents each: a correlation of two points says nothing"


def test_people_agree_with_themselves_and_disagree_with_their_opposite() -> None:
    people = np.array([1, 1, 1] * 4, dtype=float)
    same, opposite = ranked(people.tolist(), people.tolist()), ranked((1 - people).tolist(), people.tolist())
    assert same["kendall"] == same["spearman"] == same["agreement"] == same["separability"] == 1
    # B wins half of its battles, √(.25/7) either way: A and C are √7 errors from it, and A from C infinitely many
    sure = scipy.stats.norm.cdf(7**0.5)
    assert same["brier"] == pytest.approx(2 * (1 - sure) ** 2 / 3)
    assert opposite["kendall"] == opposite["spearman"] == opposite["agreement"] == -1
    assert opposite["brier"] == pytest.approx((1 + 2 * sure**2) / 3)


def test_many_models_against_scipy_and_weights_are_repeated_battles() -> None:
    draw = np.random.default_rng(0)
    strength, n, models = draw.normal(size=8), 3000, 8
    first = draw.integers(0, models, n)
    second = (first + draw.integers(1, models, n)) % models
    chance = 1 / (1 + np.exp(strength[second] - strength[first]))
    people = (draw.random(n) < chance).astype(float)
    scorer = np.where(draw.random(n) < 0.7, people, 1 - people)
    battles = Battles(first, second, models)
    found = model_ranking(battles, scorer, people)
    sides = [
        np.array([np.r_[given[first == m], 1 - given[second == m]].mean() for m in range(models)])
        for given in (scorer, people)
    ]
    assert found["kendall"] == pytest.approx(scipy.stats.kendalltau(*sides).statistic)
    assert found["spearman"] == pytest.approx(scipy.stats.spearmanr(*sides).statistic)
    rows = []
    for m in range(models):
        met = [
            [
                np.r_[given[(first == m) & (second == o)], 1 - given[(second == m) & (first == o)]].mean()
                for o in range(8)
                if o != m
            ]
            for given in (scorer, people)
        ]
        rows.append(scipy.stats.pearsonr(*met).statistic)
    assert found["row_pearson"] == pytest.approx(np.mean(rows))
    assert 0 < found["agreement"] <= found["separability"] <= 1
    weights = draw.integers(0, 3, n).astype(float)
    again = np.repeat(np.arange(n), weights.astype(int))
    expected = model_ranking(Battles(first[again], second[again], models), scorer[again], people[again])
    weighted = model_ranking(battles, scorer, people, weights=np.stack([weights, np.ones(n)])[None])
    for name, value in expected.items():
        np.testing.assert_allclose(weighted[name], [[value, found[name]]], atol=1e-9, err_msg=name)


def test_battles_of_named_models_are_ranked_and_unnamed_ones_are_not(tmp_path) -> None:
    rows = [
        ppe_preference_row("model_a", 3 * i + j, model_a=a, model_b=b)
        for i in range(3)
        for j, (a, b) in enumerate([("x", "y"), ("x", "z"), ("y", "z")])
    ]
    rules = benchmark("ppe_preference")
    items = loaded("ppe_preference", tmp_path, rows, "test.jsonl")
    found = figures(rules, items, [(1, 0)] * 9)
    assert found["models, kendall"] == found["models, agreement"] == 1
    assert next(iter(found)) == "accuracy", "the headline stays first"
    bare = loaded("ppe_preference", tmp_path, [ppe_preference_row("model_a")], "test.jsonl")
    assert figures(rules, bare, [(1, 0)]) == {"accuracy": 1.0}
