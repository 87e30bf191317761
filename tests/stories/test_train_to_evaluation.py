"""From a data file to an evaluated model, as a user goes the way: train, load, predict, evaluate, resume."""

from __future__ import annotations

import json
import random
import signal
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import poise
from poise.errors import ConfigError, DataError
from poise.output import sole
from poise.run_folder import prompt_hash, train_prompts
from poise.training.monitor import Silent
from tests.conftest import tiny_decoder, tiny_encoder

FILES = {
    "recipe.yaml",
    "environment.json",
    "metrics.jsonl",
    "train_prompts.npy",
    "checkpoint",
    "result.json",
    "report.html",
}
GOOD = [
    "put it in boiling water for eight minutes",
    "boiling water for eight minutes",
    "in boiling water eight minutes",
]
BAD = ["tell me a story", "the fox and the dog", "hello to everyone by the sea"]


def simulated(path: Path, prompts: int = 80) -> Path:
    """Answers about eggs are better; one vote in five goes astray; some prompts are asked twice."""
    pick = random.Random(0)
    with path.open("w", encoding="utf8") as file:
        for i in range(prompts):
            prompt = [{"role": "user", "content": f"How do I boil egg number {i % (prompts - 5)}?"}]
            chosen, rejected = pick.choice(GOOD), pick.choice(BAD)
            if pick.random() < 0.5:
                votes = {"chosen": 4, "rejected": 1}
            else:
                chosen, rejected, votes = rejected, chosen, {"chosen": 1, "rejected": 4}
            row = {"prompt": prompt, "votes": votes}
            for name, text in (("chosen", chosen), ("rejected", rejected)):
                row[name] = [{"role": "assistant", "content": f"{text} {i}"}]
            file.write(json.dumps(row) + "\n")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return simulated(tmp_path_factory.mktemp("data") / "pairs.jsonl")


@pytest.fixture(scope="module")
def backbones(tmp_path_factory) -> dict[str, Path]:
    folders = {}
    for name, backbone in (("encoder", tiny_encoder()), ("decoder", tiny_decoder())):
        folders[name] = tmp_path_factory.mktemp(name)
        backbone.model.save_pretrained(folders[name])
        backbone.tokenizer.save_pretrained(folders[name])
    return folders


def recipe_for(method: str, data: Path, backbone: Path, **changes) -> dict:
    stage = {"epochs": 12, "batch_size": 16, "learning_rate": 0.05}
    stages = {
        "bt": [stage],
        "drpo": [
            {"name": "zero", "share": 0.6, **stage},
            {
                "name": "refine",
                "share": 0.4,
                **stage,
                "epochs": 3,
                "method": {"beta": 0.1, "kappa": 0.1, "reference": "previous_stage"},
            },
        ],
    }[method]
    return {
        "name": f"{method} story",
        "data": {"train": str(data), "evaluate_fraction": 0.3},
        "backbone": {"name": str(backbone), "dtype": "float32", "device": "cpu"},
        "method": method,
        "stages": stages,
        "seed": 3,
        **changes,
    }


@pytest.mark.parametrize("backbone", ["encoder", "decoder"])
@pytest.mark.parametrize("method", ["bt", "drpo"])
def test_from_a_file_to_an_evaluated_model(tmp_path, data, backbones, method, backbone):
    out, recipe = tmp_path / "run", recipe_for(method, data, backbones[backbone])
    run = poise.train(recipe, out)

    assert {p.name for p in out.iterdir()} == FILES, "the state of training is gone, everything else is there"
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {s["stage"] for s in steps} == ({"train"} if method == "bt" else {"zero", "refine"})
    assert all(np.isfinite(s["loss"]) for s in steps)
    assert "story" in (out / "report.html").read_text()
    assert json.loads((out / "environment.json").read_text())["versions"]["poise"]

    model = poise.RewardModel.load(out, device="cpu")
    question = "How do I boil egg number 1000?"
    rewards = model.predict(question, [GOOD[0], BAD[0]])
    assert torch.equal(rewards.mean, run.model.predict(question, [GOOD[0], BAD[0]]).mean)
    assert rewards[:1].prob_greater(rewards[1:]).item() > 0.5
    assert (rewards.std > 0).all() == (method == "drpo")

    pairs = poise.load_preferences(data).records
    trained_on = train_prompts(out)
    unseen = [p for p in pairs if prompt_hash(p) not in trained_on]
    assert 0 < len(unseen) < len(pairs)
    result, features, _ = poise.evaluate(model, unseen, source=str(data))
    assert len(features) == len(unseen) == run.result.data.rows
    assert result.metrics["accuracy"].value == run.result.metrics["accuracy"].value > 0.7
    assert result.data.prompts == run.result.data.prompts
    with pytest.raises(ConfigError, match="exists already"):
        poise.train(recipe, out)
    with pytest.raises(ConfigError, match="finished run"):
        poise.train(recipe, out, resume=True)


def test_a_recipe_file_says_the_same_as_the_mapping_and_the_run_writes_it_down(tmp_path, data, backbones):
    recipe = recipe_for("bt", data, backbones["encoder"])
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    one, other = poise.train(recipe, tmp_path / "one"), poise.train(tmp_path / "recipe.yaml", tmp_path / "other")
    assert head_of(one.folder).equal(head_of(other.folder))
    third = poise.train(one.folder / "recipe.yaml", tmp_path / "third")
    assert head_of(third.folder).equal(head_of(one.folder)), "recipe.yaml does not reproduce its own run"


def head_of(run: Path) -> torch.Tensor:
    return load_file(run / "checkpoint" / "head.safetensors")["score.weight"]


class Interrupting(Silent):
    """Presses Ctrl-C in the middle of a stage."""

    def __init__(self, stage: str, step: int) -> None:
        self.stage, self.step, self.now = stage, step, ""

    def begin(self, what: str, total: int) -> None:
        self.now = what

    def advance(self, done: int) -> None:
        if self.now == f"stage {self.stage}" and done == self.step:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("stage", ["zero", "refine"])
def test_an_interrupted_run_resumes_to_the_same_weights(tmp_path, data, backbones, stage):
    recipe = recipe_for("drpo", data, backbones["encoder"])
    whole = poise.train(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        poise.train(recipe, tmp_path / "broken", reporter=Interrupting(stage, 3))
    assert (tmp_path / "broken" / "state.safetensors").exists()
    assert not (tmp_path / "broken" / "checkpoint").exists()
    with pytest.raises(ConfigError, match="exists already; continue it with resume"):
        poise.train(recipe, tmp_path / "broken")
    with pytest.raises(ConfigError, match=r"the recipe differs .*\(seed\)"):
        poise.train({**recipe, "seed": 4}, tmp_path / "broken", resume=True)
    resumed = poise.train(recipe, tmp_path / "broken", resume=True)
    assert head_of(resumed.folder).equal(head_of(whole.folder))
    assert {p.name for p in resumed.folder.iterdir()} == FILES

    def logged(run):
        return [(s["stage"], s["step"], s["loss"]) for s in run.record.metrics]

    assert logged(resumed) == logged(whole), "the log of a resumed run has gaps or repetitions"


def test_two_runs_do_not_share_a_folder(tmp_path, data, backbones, monkeypatch):
    """One that is at work keeps others out; one that began while this one read its data is not written over."""
    recipe, out = recipe_for("bt", data, backbones["encoder"]), tmp_path / "run"
    with sole(out), pytest.raises(ConfigError, match="another process is writing"):
        poise.train(recipe, out)

    @contextmanager
    def too_late(folder):
        with sole(folder):
            (folder / "recipe.yaml").write_text("of another run")
            yield

    monkeypatch.setattr("poise.run.sole", too_late)
    with pytest.raises(ConfigError, match="exists already; choose another"):
        poise.train(recipe, out)
    assert (out / "recipe.yaml").read_text() == "of another run"


def test_what_a_run_refuses_before_it_writes_anything(tmp_path, data, backbones):
    recipe = recipe_for("bt", data, backbones["encoder"])
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match="no run to resume"):
        poise.train(recipe, out, resume=True)
    with pytest.raises(ConfigError, match="did you mean 'stages'"):
        poise.train({**recipe, "stagse": []}, out)
    with pytest.raises(DataError, match=r"nothing\.jsonl"):
        poise.train({**recipe, "data": {"train": str(tmp_path / "nothing.jsonl")}}, out)
    with pytest.raises(poise.PoiseError, match=r"no config\.json"):
        poise.train({**recipe, "backbone": {"name": str(tmp_path)}}, out)
    assert not out.exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(ConfigError, match="exists already"):
        poise.train(recipe, tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]
