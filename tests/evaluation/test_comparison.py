"""Paired tests: the bootstrap's p-value holds its level, agrees with McNemar's, and Holm's correction is its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.evaluation import metrics
from poise.evaluation.bootstrap import PromptBootstrap
from poise.evaluation.compare import holm


def p_value(one: np.ndarray, two: np.ndarray, seed: int = 0, groups=None) -> float:
    ones = np.ones(len(one))

    def difference(weights: np.ndarray) -> dict[str, np.ndarray]:
        accuracies = [metrics.accuracy(p, ones, weights=weights) for p in (one, two)]
        return {"accuracy": accuracies[0] - accuracies[1]}

    keys = range(len(one)) if groups is None else groups
    return PromptBootstrap(keys, resamples=400, seed=seed).tested(difference)["accuracy"][1]


def test_both_tests_hold_their_level_and_find_a_difference() -> None:
    draw = np.random.default_rng(0)
    rejected = np.zeros((2, 2))
    for seed in range(200):
        shared = draw.random(150)
        for row, better in enumerate((0.0, 0.2)):
            one = (0.5 * shared + 0.5 * draw.random(150) < 0.6 + better).astype(float)
            two = (0.5 * shared + 0.5 * draw.random(150) < 0.6).astype(float)
            rejected[row] += [p_value(one, two, seed) < 0.05, metrics.mcnemar(one, two) < 0.05]
    level, power = rejected / 200
    assert (level <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5).all(), "within sampling error of 5 %"
    assert (power > 0.8).all()


def test_mcnemar_is_too_sure_where_pairs_share_a_prompt() -> None:
    draw = np.random.default_rng(1)
    prompts = np.repeat(np.arange(40), 10)
    rejected = np.zeros(2)
    for seed in range(60):
        one, two = (np.repeat((draw.random(40) < 0.6).astype(float), 10) for _ in range(2))
        rejected += [p_value(one, two, seed, prompts.tolist()) < 0.05, metrics.mcnemar(one, two) < 0.05]
    assert rejected[0] / 60 < 0.15 < 0.35 < rejected[1] / 60


@settings(derandomize=True, deadline=None, max_examples=60)
@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=8), level=st.sampled_from([0.01, 0.05, 0.3]))
def test_holm_rejects_what_the_step_down_procedure_rejects(p: list[float], level: float) -> None:
    remaining, rejected = sorted(range(len(p)), key=lambda i: p[i]), set()
    while remaining and p[remaining[0]] * len(remaining) <= level:
        rejected.add(remaining.pop(0))
    assert {i for i, corrected in enumerate(holm(p)) if corrected <= level} == rejected


def test_holm_worked() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
