"""A run through the backbone is killed again and again, at any moment of it, and always ends with the same weights.

``POISE_KILLS=5`` draws five steps and five checkpoints instead of two.
The processes are real and run the command line; they are forked from one that has imported everything already.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from poise.cli.main import main
from tests.conftest import on_disk, tiny_decoder, written

IMPORTED_ONCE = ["poise.cli.train", "poise.run", "peft", "transformers.models.qwen3.modeling_qwen3", "tests.conftest"]
CLOCKS = ("unique_tokens_per_s",)
PAIRS, STEPS = 40, 10


def poise_train(arguments: list[str], said: str) -> None:
    """What a forked process does: ``poise train`` with its output in a file."""
    torch.set_num_threads(1)
    with Path(said).open("w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    sys.argv = ["poise", "train", *arguments]
    main()


class Runs:
    """Starts runs of one recipe, kills them, and continues them."""

    def __init__(self, place: Path) -> None:
        self.place, self.recipe, self.numbers = place, place / "recipe.yaml", count()
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(IMPORTED_ONCE)

    def start(self, *arguments: str):
        """The process, and where its output goes."""
        said = self.place / f"said-{next(self.numbers)}.txt"
        process = self.context.Process(target=poise_train, args=(list(arguments), str(said)))
        process.start()
        return process, said

    def whole(self, *arguments: str) -> None:
        """Run to the end."""
        process, said = self.start(*arguments)
        process.join(120)
        assert process.exitcode == 0, said.read_text()

    def killed(self, run: Path, now: Callable[[Path], bool], recipe: Path | None = None) -> None:
        """Start a run and kill it as soon as its folder looks as wanted."""
        process, said = self.start(str(recipe or self.recipe), "--out", str(run))
        while not now(run):
            assert process.is_alive(), said.read_text()
        process.kill()
        process.join()
        assert process.exitcode == -9


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    """A tiny decoder on disk, and DRPO in two stages that checkpoint at every other step."""
    place, backbone = tmp_path_factory.mktemp("kill"), tiny_decoder()
    on_disk(backbone, place / "decoder")
    rows = [{"prompt": f"How long, {i}?", "chosen": f"yes, {i}", "rejected": f"no {i} times no"} for i in range(PAIRS)]
    written(place / "pairs.jsonl", rows)
    stage = {"epochs": STEPS / 4, "batch_size": 4, "learning_rate": 1e-3, "share": 0.5}
    recipe = {
        "data": {"train": str(place / "pairs.jsonl"), "evaluate_fraction": 0.2},
        "backbone": {"name": str(place / "decoder"), "dtype": "float32", "device": "cpu"},
        "method": {"name": "drpo", "samples": 4},
        "stages": [
            stage | {"name": "zero"},
            stage | {"name": "refine", "method": {"reference": "previous_stage"}},
        ],
        "training": {"update": "full", "accumulation": 2, "arguments": {"save_steps": 2, "logging_steps": 1}},
    }
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    made = Runs(place)
    made.whole(str(made.recipe), "--out", str(place / "whole"))
    return made


def step(number: int) -> Callable[[Path], bool]:
    """When so many lines are in the log."""
    return lambda run: lines_of(run) >= number


def half_a_checkpoint(number: int) -> Callable[[Path], bool]:
    """When the so manieth checkpoint is being written."""
    begun: set[str] = set()

    def now(run: Path) -> bool:
        found = {str(path) for path in run.glob("stages/*/checkpoint-*")}
        begun.update(found)
        return len(begun) >= number and not all(Path(path, "complete").exists() for path in found)

    return now


def lines_of(run: Path) -> int:
    log = run / "metrics.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


DRAWN, KILLS = random.Random(20), int(os.environ.get("POISE_KILLS", "2"))
MOMENTS = [
    *(("step", n) for n in sorted(DRAWN.sample(range(1, 24), KILLS))),
    *(("checkpoint", n) for n in sorted(DRAWN.sample(range(1, 11), KILLS))),
]


@pytest.mark.heavy
@pytest.mark.parametrize(("what", "number"), MOMENTS)
def test_a_killed_run_ends_with_the_same_weights(runs, tmp_path, what, number):
    run = tmp_path / "run"
    runs.killed(run, step(number) if what == "step" else half_a_checkpoint(number))
    while what == "checkpoint" and all((path / "complete").exists() for path in run.glob("stages/*/checkpoint-*")):
        shutil.rmtree(run)  # on a busy machine the signal may come when the checkpoint is whole: once more
        runs.killed(run, half_a_checkpoint(number))
    runs.whole("--resume", str(run))
    ends_as_unbroken(run, runs.place / "whole")


@pytest.mark.heavy
@pytest.mark.parametrize(
    "appears", ["recipe.yaml", "stages/0-zero.*", "stages/1-refine.safetensors", ".checkpoint.*", "result.json"]
)
def test_so_does_one_killed_before_between_and_after_the_stages(runs, tmp_path, appears):
    run = tmp_path / "run"
    runs.killed(run, lambda run: any(run.glob(appears)))
    runs.whole("--resume", str(run))
    ends_as_unbroken(run, runs.place / "whole")


@pytest.mark.heavy
@pytest.mark.parametrize("epochs_left", [1, 0])
def test_patience_outlives_a_kill(runs, tmp_path, epochs_left):
    """One epoch before the run stops early, so that what it has seen of the others counts; and just when it does."""
    stage = {"epochs": 12, "batch_size": 8, "learning_rate": 0.01, "schedule": "constant"}
    stages = {"stages": [stage | {"select": "accuracy", "patience": 2}], "method": "bt"}
    recipe, run, whole = tmp_path / "recipe.yaml", tmp_path / "run", tmp_path / "whole"
    recipe.write_text(yaml.safe_dump(yaml.safe_load(runs.recipe.read_text()) | stages))
    runs.whole(str(recipe), "--out", str(whole))
    epochs = [line["step"] for line in log_of(whole) if "validation/nll" in line]
    assert 3 <= len(epochs) < 12
    mark = f"stages/0/checkpoint-{epochs[-1 - epochs_left]}/complete"
    runs.killed(run, lambda run: (run / mark).exists(), recipe)
    runs.whole("--resume", str(run))
    ends_as_unbroken(run, whole)


def ends_as_unbroken(run: Path, whole: Path) -> None:
    """The same weights to the bit, the same log and result, and nothing left over."""
    expected, found = (load_file(folder / "checkpoint" / "model.safetensors") for folder in (whole, run))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert log_of(run) == log_of(whole)
    assert (run / "result.json").read_text() == (whole / "result.json").read_text()
    assert sorted(path.name for path in run.iterdir()) == sorted(path.name for path in whole.iterdir())


def log_of(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in CLOCKS} for line in lines]
