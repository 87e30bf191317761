"""Both studies of policies run from start to page at a tiny size, and their figures hang together."""

from __future__ import annotations

import json

import numpy as np
import pytest
from experiments.tiny_policy import judge
from experiments.tiny_rewards import Laboratory, agreement

from experiments import overoptimization, people, risk_aware_policy


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
    assert len({json.dumps(run[f"qrm, {name}"]["course"]) for name in ("mean", *risk_aware_policy.CAREFUL)}) == 3
    for policy in ("qrm, mean", "truth, entropic"):
        for figures in (*run[policy]["course"], *run[policy]["best_of_n"]):
            tail = [figures[key] for key in risk_aware_policy.TAIL]
            assert tail == sorted(tail)
    assert run["truth, mean"]["best_of_n"][-1]["mean"] > 1
    at_equal_mean = risk_aware_policy.ALONG["equal mean of best-of-n"]
    means = [at_equal_mean(run, "truth", name)["mean"] for name in ("mean", *risk_aware_policy.CAREFUL)]
    assert means == pytest.approx([means[0]] * 3)
    page = risk_aware_policy.page([run, run], "the command", tmp_path / "risk")
    assert "At equal divergence: the QRM reward" in page


def test_policies_are_read_where_they_are_equally_far():
    """Straight lines between checkpoints, at the first crossing; the least far of the policies decides where."""

    def course(*points):
        return [{"distance": d, "mean": m} for d, m in points]

    run = {"reference": {"distance": 0.0, "mean": 0.0}}
    run |= {
        f"qrm, {name}": {"course": points}
        for name, points in {
            "mean": course((1.0, 1.0), (2.0, 3.0), (3.0, 1.0)),
            "entropic": course((0.5, 1.0), (1.5, 2.0)),
            "exponential": course((4.0, 8.0)),
        }.items()
    }
    read = risk_aware_policy.ALONG["equal divergence"]
    figures = [read(run, "qrm", name) for name in ("mean", *risk_aware_policy.CAREFUL)]
    assert [f["distance"] for f in figures] == [1.5] * 3
    assert [f["mean"] for f in figures] == [2.0, 2.0, 3.0]
    assert risk_aware_policy.ALONG["equal mean"](run, "qrm", "mean")["distance"] == 1.5


def test_divided_people_differ_where_their_average_does_not_mind():
    shares, weights = (np.array([getattr(group, key) for group in people.DIVIDED]) for key in ("share", "weights"))
    assert shares.sum() == pytest.approx(1.0)
    assert np.abs(shares @ weights)[3:] == pytest.approx(0.0, abs=0.05)
    assert np.ptp(weights, axis=0)[:3].max() == 0
    assert np.ptp(weights, axis=0)[3:].min() > 6


def test_people_agree_about_what_everyone_finds_good(laboratory):
    """A clear preference of all groups wins the votes and the overall ratings; the scale lies around what they read."""
    policy = laboratory.policy()
    known = judge(policy, policy, laboratory.topics * 8, seed=3)
    rows = people.ratings(policy, known.topics, known.texts, 50, 0, laboratory.groups)
    worth = dict(zip(known.texts, known.gold, strict=True))
    rated = [np.mean(row["ratings"]["overall"]) for row in rows]
    assert agreement(rated, [worth[row["response"]] for row in rows]) > 0.9
    ends = np.concatenate([row["ratings"]["overall"] for row in rows])
    assert np.mean(ends == 1) == pytest.approx(np.mean(ends == 5), abs=0.2)
    votes = people.pairs(policy, known.topics, known.texts, 50, 0, laboratory.groups)
    apart = [worth[row["chosen"]] - worth[row["rejected"]] for row in votes]
    clear = [gap > 0 for gap in apart if abs(gap) > 1.5]
    assert len(clear) > 10
    assert np.mean(clear) > 0.95
    assert all(row["votes"]["chosen"] >= row["votes"]["rejected"] for row in votes)
