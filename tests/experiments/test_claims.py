"""Verdicts follow from figures alone, every study runs, and a run that was stopped goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from experiments.claims.bed import Judged
from experiments.claims.claim import FAILS, HOLDS, UNTESTABLE, Check, Claim, Reason, Setting, interval, shown
from experiments.claims.drpo_belief import cool, half_of, isotonic
from experiments.claims.families import FAMILIES, KNOWN
from experiments.claims.page import because, page, undecided
from experiments.claims.run import kept, measure, row

ROOT = Path(__file__).parents[2]
VALUES = [0.8, 1.0, 1.1, 0.9, 1.2]
UP, DOWN = Check("x", "above", 0.0), Check("x", "below", 0.0)


def claim(*checks, **options):
    return Claim("D1", "It does.", "holds", lambda setting: {"x": 1.0}, checks, **options)


def test_the_interval_is_students():
    low, high = scipy.stats.ttest_1samp(VALUES, 0).confidence_interval(0.95)
    mean, half = interval(VALUES)
    assert (mean - half, mean + half) == pytest.approx((low, high))


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
    check = Check("x", side, limit)
    assert (check.met(VALUES), check.open(VALUES)) == (met, open_)


def test_an_identity_must_hold_for_every_value():
    identity = Check("x", "below", 1e-6, every=True)
    assert identity.met([1e-9, 1e-8])
    assert not identity.met([1e-9, 1e-8, 2e-6])
    assert not identity.open([1e-9, 2e-6])


def test_verdicts():
    figures = {"x": VALUES}
    assert claim(UP, UP).verdict(figures) == HOLDS
    assert claim(UP, DOWN).verdict(figures) == FAILS
    assert claim(UP, UP, refutes=True).verdict(figures) == FAILS
    assert claim(UP, DOWN, refutes=True).verdict(figures) == HOLDS
    assert claim(UP, Check("x", "above", 0.9), refutes=True).verdict(figures) == FAILS  # open: nothing is shown
    assert claim(UP, untestable="Nothing here tells.").verdict(figures) == UNTESTABLE


def test_a_reason_that_the_figures_do_not_bear_out_is_told_as_such():
    told = because(claim(UP, reasons=[Reason("So it is.", UP), Reason("Or so.", DOWN)]), {"x": VALUES})
    assert told[0].startswith("- So it is. (x: 1.00 ± 0.20")
    assert told[1].startswith("- *Expected, but not borne out:* Or so.")


def test_the_seeds_to_decide_are_those_whose_interval_would_leave_the_limit_out():
    check = Check("x", "above", 0.9)
    many = int(check.seeds_to_decide(VALUES))

    def half(count):
        return scipy.stats.t.ppf(0.975, count - 1) * np.std(VALUES, ddof=1) / count**0.5

    assert half(many) < 0.1 <= half(many - 1)
    assert check.seeds_to_decide([0.8, 1.0]) == float("inf")


def test_only_a_claim_that_no_figure_speaks_against_is_undecided():
    figures, near = {"x": VALUES}, Check("x", "above", 0.9)
    assert "1 of its figures is open" in undecided(claim(UP, near), figures, FAILS)[0]
    assert undecided(claim(DOWN, near), figures, FAILS) == []
    assert undecided(claim(UP), figures, HOLDS) == []
    assert undecided(claim(near, refutes=True), figures, FAILS) == []


@pytest.mark.parametrize(
    ("values", "text"),
    [([1.0], "1"), ([2.0, 2.0], "2 on every seed"), ([1e-9, 3e-9], "2.00e-09 ± 1.3e-08"), ([10.0, 30.0], "20 ± 127")],
)
def test_figures_have_as_many_digits_as_their_interval(values, text):
    assert shown(values) == text


def test_every_claim_has_one_name_and_its_family():
    names = [one.id for family in FAMILIES.values() for one in family.claims]
    assert len(set(names)) == len(names) == len(KNOWN) == 38


def test_a_temperature_and_isotonic_regression_recover_known_distortions():
    draw = np.random.default_rng(0)
    z = torch.from_numpy(draw.normal(size=20_000))
    won = torch.from_numpy(draw.random(20_000)) < torch.special.ndtr(z)
    right = torch.where(won, z, -z)  # the winner stands first
    said = Judged(torch.special.ndtr(4 * right), torch.ones(20_000), np.ones(20_000))
    assert half_of(said).ece > 0.15
    assert cool(said).ece < 0.02
    assert isotonic(said).ece < 10_000 ** (-1 / 3)  # the rate at which isotonic regression converges
    assert cool(said).accuracy == half_of(said).accuracy


@pytest.mark.heavy
@pytest.mark.parametrize("family", FAMILIES)
def test_every_study_measures_what_its_claim_is_judged_by(family, tmp_path):
    claims = FAMILIES[family].claims
    measure([one.id for one in claims], Setting(0, tmp_path, smoke=True))
    record = {one.id: row(one, tmp_path, 1) for one in claims}
    text = page(record)
    for one in claims:
        assert record[one.id]["verdict"] in (HOLDS, FAILS, UNTESTABLE)
        assert f"### {one.id}: {one.says}" in text
        for check in [*one.checks, *(reason.check for reason in one.reasons)]:
            assert np.isfinite(record[one.id]["figures"][check.figure]).all()
    assert "smoke test" in text


def run(tmp_path, *options):
    command = [sys.executable, "-m", "experiments", "--smoke", *options, "--out", str(tmp_path / "claims")]
    return subprocess.run(
        [*command, "--runs", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.heavy
def test_what_is_known_is_not_measured_again_and_the_rest_is_added(tmp_path):
    known = kept(tmp_path / "smoke", "O2", 0)
    measure(["O2"], Setting(0, tmp_path / "smoke", smoke=True))
    found = json.loads(known.read_text("utf8"))
    (name,) = found["figures"]
    known.write_text(json.dumps(found | {"figures": {name: 7.0}}), "utf8")
    assert run(tmp_path, "O2", "O3", "--seeds", "2", "--jobs", "1").returncode == 0
    record = json.loads((tmp_path / "claims.json").read_text("utf8"))
    assert list(record) == ["O2", "O3"]
    assert record["O2"]["seeds"] == [0, 1]
    assert record["O2"]["figures"][name][0] == 7.0
    assert record["O2"]["verdict"] == FAILS
    assert page(record) == (tmp_path / "claims.md").read_text("utf8")


def test_seeds_that_are_not_done_are_not_counted(tmp_path):
    one = replace(KNOWN["O2"])
    measure(["O2"], Setting(1, tmp_path, smoke=True))
    found = row(one, tmp_path, 5)
    assert found["seeds"] == [1]
    assert row(KNOWN["O3"], tmp_path, 5) is None


def test_an_unknown_name_is_refused(tmp_path):
    found = run(tmp_path, "D99")
    assert found.returncode == 1
    assert "D99" in found.stderr
    assert "drpo" in found.stderr
