"""What help says: headings, an order, examples that run as written, at a start that loads nothing heavy; and completion."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from transformers import BertConfig, BertModel

from poise import aliases
from poise.cli.declared.app import HEADINGS
from poise.cli.main import app
from tests.cli.place import poise
from tests.conftest import tiny_tokenizer

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "numpy", "scipy", "pyarrow", "rich", "yaml", "huggingface_hub")
"""Not pydantic, which typer itself imports to parse a command."""
ELSEWHERE = ("serve", "demo")
"""A command that does not end, which tests/serving starts, and one of minutes, which tests/release runs."""
ORDER = ["data", "train", "evaluate", "compare", "score", "calibrate", "monitor", "best-of-n", "export", "verify"]
"""In which a stranger would run them: what one example writes, a later one reads."""


def commands() -> dict[tuple[str, ...], typer.core.TyperCommand]:
    group = typer.main.get_command(app)
    data = group.commands["data"]
    own = {(name,): command for name, command in group.commands.items() if name != "data"}
    return own | {("data", name): command for name, command in data.commands.items()}


def examples(words: tuple[str, ...]) -> list[str]:
    """The command lines under Examples, as help prints them."""
    return re.findall(r"(?m)^ +(poise .+)$", poise(*words, "--help").out.partition("Examples:")[2])


def test_commands_stand_under_headings_train_first():
    out = poise("--help").out
    said = [line[:-1] for line in out.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert said == ["Options", *HEADINGS]
    places = [out.index(f"\n  {name} ") for name in ("train", "evaluate", "calibrate", "best-of-n", "curate", "env")]
    assert places == sorted(places)
    assert "..." not in out.partition("Train:")[2].replace("...ForSequenceClassification", "")


def test_every_command_has_examples_that_begin_with_it():
    for words in commands():
        found = examples(words)
        assert 1 <= len(found) <= 3, words
        assert all(line.startswith(" ".join(("poise", *words))) for line in found), words


def test_help_imports_nothing_heavy():
    for arguments in ("['--help']", "['train', '--help']", "['--version']"):
        code = (
            f"import sys; sys.argv = ['poise', *{arguments}]\n"
            "from poise.cli.main import main\n"
            "try: main()\n"
            f"except SystemExit: print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
        assert done.stderr.strip() == "[]", arguments


@pytest.mark.parametrize(("shell", "words"), [("bash", "poise tr"), ("zsh", "poise tr"), ("fish", "poise tr")])
def test_shells_complete_commands(shell, words):
    environment = {
        **os.environ,
        "_POISE_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": words,
        "COMP_CWORD": "1",
        "_TYPER_COMPLETE_ARGS": words,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    script = Path(sys.executable).parent / "poise"
    done = subprocess.run([script], capture_output=True, text=True, timeout=300, env=environment)
    assert "train" in done.stdout, done
    assert "evaluate" not in done.stdout


@pytest.fixture(scope="module")
def long_backbone(tmp_path_factory) -> Path:
    """A tiny encoder for texts of the simulated world's length."""
    folder = tmp_path_factory.mktemp("models") / "tiny-long"
    tokenizer = tiny_tokenizer(encoder=True)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=2048, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """A folder as the first lines of the README leave it, with small data."""
    folder = tmp_path_factory.mktemp("stranger")
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    before = Path.cwd()
    os.chdir(folder)
    made = poise("data", "simulate", "--out", "world", "--train-pairs", 200, "--eval-pairs", 100)
    assert made.code == 0, made.err
    rows = [
        {"prompt": f"p{i}", "response": f"r{i} {model}", "model": model, "gold": i + len(model)}
        for i in range(40)
        for model in ("gpt-4", "llama-3", "mine", "yours-too", "a", "bb", "ccc")
    ]
    Path("responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    yield folder
    os.chdir(before)


@pytest.mark.heavy
def test_the_examples_run_as_written(stranger, long_backbone, monkeypatch):
    """All of them, in one folder, with a tiny backbone under the name of the usual one."""
    monkeypatch.setattr(aliases, "resolve", lambda name: str(long_backbone) if name == "minilm" else name)
    order = {name: number for number, name in enumerate(ORDER)}
    words = sorted(commands(), key=lambda words: order.get(words[0], len(order)))
    ran = 0
    for line in [line for name in words if name[0] not in ELSEWHERE for line in examples(name)]:
        if line == "poise data simulate --out world":  # the fixture did, smaller
            continue
        if line.startswith("poise compare"):
            poise("evaluate", "runs/drpo", "world/mutual_disjoint.jsonl", "--out", "evaluations/drpo")
        outcome = poise(*shlex.split(line)[1:])
        assert outcome.code == 0, (line, outcome)
        ran += 1
    assert ran >= 20
