"""``poise calibrate`` on what cannot be meant: one message, exit code 2, nothing left behind."""

from __future__ import annotations

import pytest

from tests.cli.place import Case, jsonl, pairs, trained_pairs
from tests.cli.test_bad_input import no_loading, refused


def calibrating(*options: object, rows=None):
    return lambda place: ["calibrate", place.run, place.data(*(rows or pairs(40, start=100))), *options]


def of_ratings(place):
    row = {"prompt": "Hi", "response": "Ho", "ratings": {"overall": [1, 2]}}
    path = place.write("ratings.jsonl", jsonl(*({**row, "prompt": f"Hi {i}"} for i in range(9))))
    return ["calibrate", place.run, f"ratings:{path}"]


CASES = [
    Case("nothing to calibrate on", lambda p: ["calibrate", p.run], ("nothing to calibrate on", "or --remove")),
    Case("no run", lambda p: ["calibrate", "gone", p.data()], ("gone: not a poise checkpoint", "trained run")),
    Case("missing file", lambda p: ["calibrate", p.run, "gone.jsonl"], ("gone.jsonl: no such file", "check the path")),
    Case(
        "unknown method",
        calibrating("--method", "temprature"),
        ("unknown calibration method", "did you mean 'temperature'"),
    ),
    Case("unknown labels", calibrating("--labels", "sft"), ("unknown labels 'sft'", "choose from")),
    Case("unknown bad-rows", calibrating("--bad-rows", "skip"), ("unknown bad-rows 'skip'", "choose from")),
    Case("impossible error", calibrating("--abstain-error", 1.5), ("abstain-error is 1.5", "between 0 and 1")),
    Case("impossible interval", calibrating("--interval", 0), ("interval is 0", "between 0 and 1")),
    Case("interval without ratings", calibrating("--interval", 0.9), ("interval", "give ratings:FILE"), loads=True),
    Case(
        "too few prompts",
        calibrating(rows=pairs(3, start=100)),
        ("at least 5 different prompts", "give more data"),
        loads=True,
    ),
    Case("a model without ratings", of_ratings, ("predicts no ratings", "give preference pairs"), loads=True),
    Case("responses", lambda p: ["calibrate", p.run, "responses:x"], ("responses:x", "pairs:FILE or ratings:FILE")),
    Case(
        "prompts of training",
        lambda p: ["calibrate", p.run, p.data(*trained_pairs(p.run))],
        ("every prompt was trained on", "--include-train-prompts"),
    ),
    Case("out that exists", calibrating("--out", "."), ("exists already", "choose a new or empty folder")),
    Case("a method for ratings", calibrating("--method", "conformal"), ("conformal", "auto, none, temp"), loads=True),
    Case("remove with data", calibrating("--remove"), ("--remove takes", "; leave out", "/data.jsonl\n")),
    *(
        Case(
            f"remove with {option}",
            lambda p, given=(option, *given): ["calibrate", p.run, "--remove", *given],
            ("--remove takes the calibration away", f"leave out {option}"),
        )
        for option, *given in (
            ("--on", "other.jsonl"),
            ("--method", "isotonic"),
            ("--abstain-error", 0.1),
            ("--interval", 0.9),
            ("--labels", "hard"),
            ("--include-train-prompts",),
            ("--bad-rows", "drop"),
            ("--device", "cpu"),
        )
    ),
    Case("remove of nothing", lambda p: ["calibrate", p.run, "--remove"], ("is not calibrated", "nothing to remove")),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input(case, place, monkeypatch):
    if not case.loads:
        no_loading(monkeypatch)
    refused(place, case.make(place), case.says, loads=case.loads)
