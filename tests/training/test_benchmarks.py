"""Benchmarks during training: they stand in the log, and what is trained does not notice them."""

from __future__ import annotations

import signal

import pytest
import torch
from safetensors.torch import load_file

from poise import run as runs
from poise.errors import ConfigError, DataError
from poise.report.training_curves import training_panels
from poise.training.benchmarks import undisturbed
from poise.training.monitor import MetricsLog, Silent
from poise.training.recipe import parse_recipe
from tests.conftest import on_disk, tiny_decoder, written

EXACT = ("accuracy", "nll", "ece")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny decoder, pairs to train on, pairs and a benchmark to be measured on."""
    place = tmp_path_factory.mktemp("benchmarks")
    made = tiny_decoder()
    on_disk(made, place / "decoder")
    for name, count in (("train", 40), ("other", 24)):
        rows = [{"prompt": f"{name} {i}?", "chosen": f"yes, {i}", "rejected": f"no {i} no"} for i in range(count)]
        written(place / f"{name}.jsonl", rows)
    bench = [
        {"id": i, "prompt": f"q {i}?", "chosen": f"yes {i}", "rejected": "no", "subset": "hep-cpp"} for i in range(6)
    ]
    written(place / "bench.jsonl", bench)
    return place


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """Runs that are measured, by what they update; no page is drawn, which would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "missing_packages", lambda: "none wanted here")
        place = tmp_path_factory.mktemp("whole")
        yield {update: runs.train(recipe(folder, update), place / update) for update in ("head", "full")}


def recipe(folder, update="full", *, measured=True, **more):
    training = {"update": update} | more
    if measured:
        training["benchmarks"] = [f"pairs:{folder}/other.jsonl", f"reward_bench={folder}/bench.jsonl"]
        training |= {"benchmark_every": 3} if update == "full" else {}
    if update == "full":
        training["arguments"] = {"save_steps": 2, "logging_steps": 1}
    dropout = {"method": {"name": "drpo", "samples": 4}}  # a loss that draws random numbers
    return parse_recipe(
        {
            "data": {"train": f"{folder}/train.jsonl", "evaluate_fraction": 0.2},
            "backbone": {"name": f"{folder}/decoder", "dtype": "float32", "device": "cpu"},
            "stages": [
                {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3, "name": name, "share": 0.5} for name in "ab"
            ],
            "training": training,
        }
        | dropout
    )


def weights(run):
    return {k: v for path in sorted((run / "checkpoint").glob("*.safetensors")) for k, v in load_file(path).items()}


def benchmark_lines(run) -> list[dict]:
    lines = MetricsLog(run / "metrics.jsonl").read()
    return [
        {k: v for k, v in line.items() if k in ("stage", "step") or k.startswith("benchmark/")}
        for line in lines
        if any(k.startswith("benchmark/") for k in line)
    ]


class Interrupts(Silent):
    """Ctrl-C after so many steps."""

    def __init__(self, after: int) -> None:
        self.after = after

    def advance(self, done: int) -> None:
        self.after -= 1
        if self.after == 0:
            signal.raise_signal(signal.SIGINT)  # to this thread: heard before the next line


@pytest.mark.parametrize("update", ["head", "full"])
def test_measuring_changes_nothing_and_resumes_to_the_bit(folder, whole, tmp_path, update):
    given = recipe(folder, update)
    runs.train(recipe(folder, update, measured=False), tmp_path / "plain")
    uninterrupted = whole[update].folder
    with pytest.raises(KeyboardInterrupt):
        runs.train(given, tmp_path / "part", reporter=Interrupts(5 if update == "full" else 9))
    runs.train(given, tmp_path / "part", resume=True)
    expected = weights(tmp_path / "plain")
    for run in (uninterrupted, tmp_path / "part"):
        found = weights(run)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items()), run
    lines = benchmark_lines(uninterrupted)
    assert lines == benchmark_lines(tmp_path / "part")
    named = {f"benchmark/pairs other/{name}" for name in EXACT}
    for line in lines:
        assert named < line.keys()
        assert any(key.startswith("benchmark/reward_bench/") for key in line)
    assert [line["stage"] for line in lines].count("b") == (1 if update == "head" else 2)
    own = [line for line in MetricsLog(uninterrupted / "metrics.jsonl").read() if "loss" in line]
    plain = [line for line in MetricsLog(tmp_path / "plain/metrics.jsonl").read() if "loss" in line]
    assert [line["loss"] for line in own] == [line["loss"] for line in plain], "no step's own line is lost"


def test_the_figures_are_those_of_an_evaluation_afterwards(folder, whole, tmp_path):
    from poise.evaluation.harness import score_sets
    from poise.evaluation.sets import load_set
    from poise.evaluation.suite import measure
    from poise.scorers import Own

    run = whole["full"]
    last = benchmark_lines(run.folder)[-1]
    sets = [load_set(f"pairs:{folder}/other.jsonl"), load_set(f"reward_bench={folder}/bench.jsonl")]
    pairs, bench = measure(score_sets(Own(run.model, "run"), sets, tmp_path / "e"), resamples=5).sets
    for name in EXACT:
        assert last[f"benchmark/pairs other/{name}"] == pytest.approx(pairs.pairs.metrics[name].value, abs=1e-4)
    (headline, value), *_ = bench.figures.items()
    assert last[f"benchmark/reward_bench/{headline}"] == pytest.approx(value.value)
    titles = [panel.title for panel in training_panels("t", MetricsLog(run.folder / "metrics.jsonl").read())]
    assert "pairs other: nll" in titles
    assert f"reward_bench: {headline}" in titles


def test_generators_and_modes_are_what_they_were():
    module = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(2, 2)).train()
    module[1].eval()
    before = torch.get_rng_state()
    with undisturbed(module):
        assert not module.training
        torch.rand(5)
        assert not module[1](torch.ones(2)).requires_grad
    assert torch.equal(torch.get_rng_state(), before)
    assert module.training
    assert not module[1].training


def test_what_cannot_be_measured_is_refused_before_training(folder, tmp_path):
    with pytest.raises(ConfigError, match="unknown evaluation set 'rm_bnch'"):
        recipe(folder, "head", benchmarks=["rm_bnch"], measured=False)
    with pytest.raises(ConfigError, match="heads are measured at the end of each stage"):
        recipe(folder, "head", measured=False, benchmark_every=5)
    with pytest.raises(DataError, match="no such file"):
        runs.train(recipe(folder, "head", measured=False, benchmarks=["rm_bench=/nowhere"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
