"""Verdicts follow from figures alone, and every study runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import scipy.stats
from experiments.claims import FAMILIES, table
from experiments.claims.claim import FAILS, HOLDS, UNTESTABLE, Check, Finding

ROOT = Path(__file__).parents[2]
VALUES = [0.8, 1.0, 1.1, 0.9, 1.2]


def test_the_interval_is_students():
    low, high = scipy.stats.ttest_1samp(VALUES, 0).confidence_interval(0.95)
    check = Check("x", VALUES, "above", 0.0)
    assert (check.mean - check.half, check.mean + check.half) == pytest.approx((low, high))


@pytest.mark.parametrize(
    ("side", "limit", "met", "open_"),
    [
        ("above", 0.5, True, False),
        ("above", 0.9, False, True),
        ("above", 2.0, False, False),
        ("below", 2.0, True, False),
    ],
)
def test_a_figure_counts_with_its_whole_interval(side, limit, met, open_):
    check = Check("x", VALUES, side, limit)
    assert (check.met, check.open) == (met, open_)


def test_an_identity_must_hold_for_every_value():
    assert Check("x", [1e-9, 1e-8], "below", 1e-6, every=True).met
    assert not Check("x", [1e-9, 1e-8, 2e-6], "below", 1e-6, every=True).met


def test_verdicts():
    yes, no = Check("x", VALUES, "above", 0.0), Check("x", VALUES, "below", 0.0)
    assert Finding([yes, yes]).verdict == HOLDS
    assert Finding([yes, no]).verdict == FAILS
    assert Finding([yes, yes], refutes=True).verdict == FAILS
    assert Finding([yes, no], refutes=True).verdict == HOLDS
    assert Finding([], untestable=True).verdict == UNTESTABLE


def test_every_claim_has_one_name():
    names = [claim.id for family in FAMILIES.values() for claim in family]
    assert len(set(names)) == len(names) == 38


@pytest.mark.heavy
def test_every_study_runs(tmp_path):
    out = tmp_path / "claims"
    command = [sys.executable, "-m", "experiments", "--smoke", "--seeds", "1", "--jobs", "2", "--out", str(out)]
    subprocess.run([*command, "--runs", str(tmp_path / "runs")], cwd=ROOT, check=True, capture_output=True, timeout=600)
    record = json.loads(out.with_suffix(".json").read_text("utf8"))
    assert set(record) == {claim.id for family in FAMILIES.values() for claim in family}
    assert all(one["verdict"] in (HOLDS, FAILS, UNTESTABLE) and one["checks"] for one in record.values())
    assert table(record) in out.with_suffix(".md").read_text("utf8")


def test_an_unknown_name_is_refused():
    found = subprocess.run([sys.executable, "-m", "experiments", "D99"], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 1
    assert "D99" in found.stderr
    assert "drpo" in found.stderr
