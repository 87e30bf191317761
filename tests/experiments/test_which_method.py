"""Advice follows from the figures, and every method runs in every situation."""

from __future__ import annotations

import numpy as np
import pytest
from experiments.which_method import SITUATIONS, advice, level, measured, page


def runs(accuracy, divergence, seconds):
    noise = np.array([-0.01, 0.0, 0.01])
    return [{"accuracy": accuracy + e, "divergence": divergence + e * e, "ece": 0.1, "seconds": seconds} for e in noise]


def test_level_are_those_whose_difference_may_be_nothing():
    found = {"a": runs(0.8, 0.1, 1), "b": runs(0.8, 0.1, 2), "c": runs(0.6, 0.3, 1)}
    found["b"][0]["accuracy"] += 0.005
    found["b"][1]["accuracy"] -= 0.006
    found["c"][2]["accuracy"] += 0.001
    best, others = level(found, "accuracy")
    assert best in ("a", "b")
    assert set(others) == {"a", "b"}


def test_advice_takes_the_cheaper_of_equals_and_says_what_is_missed():
    found = {"dear": runs(0.8, 0.1, 9), "cheap": runs(0.8, 0.1, 1), "poor": runs(0.6, 0.05, 1)}
    told = advice(found)
    assert told.startswith("**Take `cheap`** (1.0 s): level with the best in accuracy and ECE.")
    assert "In KL to the truth `poor` is better." in told
    assert "dearer: `dear`" in told


@pytest.mark.heavy
def test_every_situation_has_its_table(tmp_path):
    *_, record = measured(1, tmp_path, smoke=True)
    text = page(record)
    for situation in SITUATIONS:
        found = record[situation.name]
        assert set(situation.methods) <= set(found)
        assert f"## {situation.title}" in text
        assert all(0 <= one[0]["accuracy"] <= 1 and one[0]["divergence"] >= 0 for one in found.values())
        assert ("ratings" in found["bt"][0]) is False
    assert {"qrm", "qrm mixture"} <= set(record["attributes"])
