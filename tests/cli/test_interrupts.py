"""Ctrl-C in every long command: exit code 130, one line that says how to go on, and going on that way works."""

from __future__ import annotations

import pyarrow.parquet
import pytest
from rich.console import Console

from poise import scoring
from poise.model import RewardModel
from poise.training import monitor
from poise.training.monitor import Terminal
from tests.cli.place import pairs, poise

KEPT = "the features computed so far are in the cache"


@pytest.fixture
def once_interrupted(monkeypatch):
    """The first reading of texts is interrupted, later ones are not."""
    original, calls = RewardModel.features, []

    def features(self, *arguments, **options):
        calls.append(self)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return original(self, *arguments, **options)

    monkeypatch.setattr(RewardModel, "features", features)
    return calls


def lines(place) -> dict[str, tuple[list[object], str]]:
    data = place.data(*pairs(12, start=100), name="held.jsonl")
    many = place.data(*pairs(60, start=200), name="many.jsonl")
    return {
        "evaluate": ([place.run, data, "--out", "found"], "the same command goes on with what is missing"),
        "calibrate": ([place.copied_run(), many, "--method", "temperature"], KEPT),
        "monitor": ([place.run, data], KEPT),
    }


@pytest.mark.parametrize("name", ["evaluate", "calibrate", "monitor"])
def test_an_interrupted_command_says_how_to_go_on_and_goes_on(name, place, once_interrupted):
    arguments, says = lines(place)[name]
    outcome = poise(name, *arguments)
    assert outcome.code == 130
    assert outcome.err.splitlines()[-1].startswith("interrupted; ")
    assert says in outcome.err
    assert "Traceback" not in outcome.err
    assert not outcome.out
    again = poise(name, *arguments)
    assert again.code in (0, 1), again
    assert len(once_interrupted) > 1


@pytest.mark.parametrize(
    ("seam", "words", "says"),
    [
        ("poise.cli.curate.curate", ["curate", "RUN", "DATA", "--out", "c.jsonl"], KEPT),
        ("poise.cli.select.pool_of", ["select", "RUN", "DATA", "--budget", 2, "--out", "l.jsonl"], KEPT),
        ("poise.cli.score.score_file", ["score", "RUN", "DATA", "--out", "s.parquet"], "what is missing"),
        ("poise.cli.best_of_n.select_from_file", ["best-of-n", "RUN", "DATA", "--out", "b.jsonl"], "what is missing"),
        ("poise.cli.export.export", ["export", "RUN", "--out", "exported", "--form", "poise"], "starts anew"),
        ("poise.cli.evaluate.score_sets", ["evaluate", "RUN", "DATA"], "with --out FOLDER the scores are kept"),
        ("poise.cli.evaluate.measure", ["evaluate", "RUN", "DATA", "--out", "e"], "poise evaluate --from e"),
        ("poise.run.train", ["demo", "--out", "demo", "--pairs", 20], "remove demo and start again"),
        ("poise.cli.compare.compare", ["compare", "a", "b"], "interrupted"),
    ],
)
def test_every_long_command_says_what_to_do(seam, words, says, place, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(seam, stop)
    if words[0] == "compare":
        monkeypatch.setattr("poise.cli.compare.read", lambda path: path)
    data = place.data(*pairs(12, start=100))
    outcome = poise(*({"RUN": place.run, "DATA": data}.get(word, word) for word in words))
    assert outcome.code == 130, outcome
    assert outcome.err.splitlines()[-1].startswith("interrupted")
    assert says in outcome.err
    assert not outcome.out


def test_scoring_goes_on_with_the_blocks_that_are_missing(place, monkeypatch):
    monkeypatch.setattr("poise.scoring.BLOCK", 4)
    data = place.data(*pairs(9, start=100))
    original, calls = scoring._table, []

    def table(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(scoring, "_table", table)
    assert poise("score", place.run, data, "--out", "s.parquet").code == 130
    assert not (place.folder / "s.parquet").exists()
    assert poise("score", place.run, data, "--out", "s.parquet").code == 0
    assert len(calls) == 3 + 3  # five blocks, of which two were there
    assert pyarrow.parquet.read_table(place.folder / "s.parquet").num_rows == 18


def test_a_log_file_hears_of_progress_once_a_minute(monkeypatch, tmp_path):
    clock = [0.0]
    monkeypatch.setattr(monitor.time, "monotonic", lambda: clock[0])
    with (tmp_path / "log").open("w") as file:
        terminal = Terminal(Console(file=file))
        terminal.begin("stage train", 1000)
        for done, seconds in ((100, 10), (200, 50), (400, 70), (450, 80), (700, 140)):
            clock[0] = float(seconds)
            terminal.advance(done)
        terminal.close()
    assert (tmp_path / "log").read_text().splitlines() == [
        "stage train: 400 of 1,000, about 2 min left",
        "stage train: 700 of 1,000, about 1 min left",
    ]
