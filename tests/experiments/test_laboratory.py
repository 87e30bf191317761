"""Both studies of policies run from start to page at a tiny size, and their figures hang together."""

from __future__ import annotations

import json

import pytest
from experiments.tiny_rewards import Laboratory

from experiments import overoptimization, risk_aware_policy


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    return Laboratory(tmp_path_factory.mktemp("laboratory"), smoke=True)


@pytest.mark.heavy
def test_over_optimisation_is_measured_from_the_start_of_the_course(laboratory, tmp_path):
    run = overoptimization.study(laboratory, seed=1)
    for name in overoptimization.PROXIES:
        course = run[name]["rloo"]
        assert course[0]["distance"] == pytest.approx(0.0, abs=1e-2)
        assert course[-1]["distance"] > 0.05
        assert run[name]["peak_gold"] >= run[name]["final_gold"]
        assert run[name]["best_of_n"]["proxy"] == sorted(run[name]["best_of_n"]["proxy"])
    assert run["bt"]["rloo"] != run["bt + bsr"]["rloo"]
    out = tmp_path / "over"
    page = overoptimization.page([run, json.loads(json.dumps(run))], "the command", out)
    assert "the command" in page
    assert "lost_after_peak" in page
    overoptimization.draw([run], out.with_suffix(".svg"))
    assert "<svg" in out.with_suffix(".svg").read_text()


@pytest.mark.heavy
def test_risk_aware_policies_are_compared_from_one_start(laboratory, tmp_path):
    run = risk_aware_policy.study(laboratory, seed=1)
    assert run["reference"]["mean"] == pytest.approx(0.0, abs=1e-9)
    assert run["qrm, mean"] != run["qrm, entropic"]
    for figures in (run["qrm, mean"], run["truth, entropic"]):
        tail = [figures[f"rater_q{100 * level:02.0f}"] for level in risk_aware_policy.LEVELS]
        assert tail == sorted(tail)
    assert "entropic − mean" in risk_aware_policy.page([run, run], "the command", tmp_path / "risk")
