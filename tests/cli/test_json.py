"""Every command that prints a result prints one JSON object on request, and nothing else on standard output."""

from __future__ import annotations

import json

import pytest

from poise.cli.main import app
from tests.cli.place import pairs, poise

WITHOUT = {("serve",)}
"""A server's output is its log, which is JSON lines always."""
MINUTES = {("demo",), ("policy",)}
"""Run whole elsewhere, in tests/release and tests/policy."""


def lines(place) -> dict[tuple[str, ...], list[object]]:
    """A command line for each command, on a run of a tiny backbone."""
    data = place.data(*pairs(12, start=100), name="held.jsonl")
    rows = place.data(*({"prompt": f"p{i}", "response": f"r{i}"} for i in range(4)), name="rows.jsonl")
    run = place.copied_run()
    models = [
        {"prompt": f"p{i}", "response": f"{i} {m}", "model": m, "gold": i + len(m)}
        for i in range(30)
        for m in ("a", "bb", "ccc", "dddd", "e", "ff", "ggg", "hhhh")
    ]
    return {
        ("train",): [place.recipe(), "--out", "trained"],
        ("train", "dry"): [place.recipe(), "--dry-run"],
        ("evaluate",): [run, data, "--out", "found"],
        ("compare",): ["found", "again"],
        ("score",): [run, rows, "--out", "s.parquet"],
        ("calibrate",): [run, place.data(*pairs(60, start=200), name="many.jsonl"), "--method", "temperature"],
        ("calibrate", "away"): [run, "--remove"],
        ("monitor",): [run, data],
        ("monitor", "reference"): [run, data, "--make-reference"],
        ("best-of-n",): [run, rows, "--out", "best.jsonl"],
        ("export",): [run, "--out", "exported", "--form", "poise"],
        ("verify",): [run],
        ("env",): [],
        ("curate",): [run, data, "--out", "curated.jsonl"],
        ("select",): [run, place.data(*pairs(9, start=300), name="c.jsonl"), "--budget", 3, "--out", "label.jsonl"],
        ("data", "check"): [data],
        ("data", "splits"): [place.data(*models, name="m.jsonl"), "--new-models", "a,bb", "--out", "splits"],
        ("data", "simulate"): ["--out", "world", "--train-pairs", 20, "--eval-pairs", 5],
    }


def test_every_command_prints_one_json_object(place):
    asked = lines(place)
    import typer

    group = typer.main.get_command(app)
    known = {(name,) for name in group.commands} - {("data",)} | {("data", n) for n in group.commands["data"].commands}
    covered = {words if words[0] == "data" else words[:1] for words in asked}
    assert known == covered | WITHOUT | MINUTES
    for words, arguments in asked.items():
        named = words if words[0] == "data" else words[:1]
        if words == ("compare",):
            poise("evaluate", place.run, place.folder / "held.jsonl", "--out", "again")
        outcome = poise(*named, *arguments, "--json")
        assert outcome.code in ((0, 1) if words == ("monitor",) else (0,)), (words, outcome)
        assert isinstance(json.loads(outcome.out), dict), words
        assert "\r" not in outcome.out


@pytest.mark.parametrize("words", ["train", "evaluate", "policy", "demo", "calibrate"])
def test_the_option_has_one_name(words):
    assert "--json" in poise(words, "--help").out
