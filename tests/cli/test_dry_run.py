"""``poise train --dry-run``: what it says is what the run then does, and it writes nothing."""

from __future__ import annotations

import json

import pytest
import yaml

from poise.backbone import Backbone
from poise.cli.dry_run import duration
from tests.cli.place import pairs, poise
from tests.published_shapes import on_the_hub

TWO_STAGES = {
    "method": {"name": "drpo", "samples": 4},
    "stages": [
        {"name": "zero", "share": 0.5, "epochs": 2, "batch_size": 4},
        {"name": "refine", "share": 0.5, "epochs": 1, "batch_size": 4, "method": {"reference": "previous_stage"}},
    ],
}


@pytest.fixture(autouse=True)
def _no_weights(monkeypatch, request):
    if "runs" not in request.keywords:
        monkeypatch.setattr(Backbone, "load", lambda *_: pytest.fail("weights were loaded", pytrace=False))


def planned(*arguments: object) -> dict:
    outcome = poise("train", *arguments, "--dry-run", "--json")
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def test_it_says_what_the_run_then_does(place, monkeypatch):
    recipe = place.recipe(TWO_STAGES)
    before = place.fingerprint()
    found = planned(recipe)
    assert place.fingerprint() == before
    monkeypatch.undo()
    monkeypatch.chdir(place.folder)
    ran = poise("train", recipe, "--out", "out", "--json")
    assert ran.code == 0, ran.err
    log = [json.loads(line) for line in (place.folder / "out" / "metrics.jsonl").read_text().splitlines()]
    steps = {name: max(line["step"] for line in log if line["stage"] == name) for name in ("zero", "refine")}
    assert {stage["name"]: stage["steps"] for stage in found["stages"]} == steps
    counts = json.loads(ran.out)["result"]["data"]
    assert (found["data"]["evaluation"], found["data"]["prompts"]) == (counts["rows"], found["data"]["training"])
    assert f"training pairs: {found['data']['training']} pairs" in ran.err
    assert found["stages"][0]["pairs"] + found["stages"][1]["pairs"] == found["data"]["training"]


def test_parameters_and_tokens_are_those_of_the_model(place, monkeypatch):
    found = planned(place.recipe())
    monkeypatch.undo()
    from poise.backbone import BackboneConfig
    from poise.data.load import load_preferences

    backbone = Backbone.load(BackboneConfig(name=str(place.backbone), dtype="float32"))
    assert found["shape"]["parameters"] == sum(p.numel() for p in backbone.model.parameters())
    assert found["head"] == backbone.hidden_size
    assert found["memory_bytes"]["total"] == 4 * found["shape"]["parameters"]
    data = load_preferences(str(place.folder / "data.jsonl")).records
    lengths = [len(one.ids) for p in data for one in backbone.encode([(p.prompt, p.chosen), (p.prompt, p.rejected)])]
    assert found["data"]["tokens_per_pair"] == pytest.approx(2 * sum(lengths) / len(lengths), rel=0.05)


def test_people_read_the_stages_in_order(place):
    outcome = poise("train", place.recipe(TWO_STAGES), "--dry-run")
    assert outcome.code == 0, outcome.err
    assert outcome.out.index("zero") < outcome.out.index("refine")
    for part in (
        "training pairs over",
        "tokens:",
        "parameters:",
        "memory:",
        "features:",
        "measured on this cpu",
        "40% of",
    ):
        assert part in outcome.out
    assert outcome.out.endswith("A dry run: nothing was written.\n")


def test_offline_it_says_what_is_missing_and_reckons_with_what_the_recipe_says(place, monkeypatch):
    monkeypatch.setattr("poise.training.forecast.shape.try_to_load_from_cache", lambda *_, **__: None)

    def unreachable(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("poise.training.forecast.shape.AutoConfig.from_pretrained", unreachable)
    recipe = place.recipe({"backbone": "Qwen/Qwen3-8B", "training": {"update": "full"}})
    given = "gpus=8,tflops=989"
    outcome = poise("train", recipe, "--dry-run", "--assume", given)
    assert outcome.code == 0, outcome.err
    assert not outcome.err
    assert "could it be had from the hub (cannot load backbone 'Qwen/Qwen3-8B' (no network)" in outcome.out
    assert "taken as 8 billion weights, as its name says, activations not counted" in outcome.out
    found = planned(recipe, "--assume", given)
    assert found["memory"]["fixed"]["weights"] == 8e9 * 4
    assert found["data"]["tokens_how"].startswith("characters / 4")
    (stage,) = found["stages"]
    tokens = found["data"]["tokens_per_pair"] * stage["pairs"] * 2
    assert stage["seconds"] == pytest.approx(6 * 8e9 * tokens / (8 * 989e12 * 0.4))
    assert found["seconds"] > stage["seconds"]
    assert poise("train", place.recipe({"backbone": "org/nameless"}), "--dry-run").code == 0


def test_data_of_the_hub_are_not_downloaded(place, tmp_path, monkeypatch):
    on_the_hub(monkeypatch, tmp_path / "hub")
    changes = {
        "backbone": "Qwen/Qwen3-0.6B",
        "data": {"train": ["named:skywork-80k-v0.2"], "ratings": ["named:helpsteer2"]},
    }
    stages = [{"name": name, "method": {"objective": name}} for name in ("quantiles", "gate")]
    recipe = place.recipe({**changes, "method": {"name": "qrm"}, "stages": stages})
    outcome = poise("train", recipe, "--dry-run")
    assert outcome.code == 0, outcome.err
    assert "say --assume pairs=…,tokens=…,ratings=… for steps and time" in outcome.out
    assert "time: about ?" in outcome.out
    found = planned(recipe, "--assume", "pairs=1000,tokens=100,ratings=500,tflops=10")
    assert (found["data"]["training"], found["data"]["evaluation"]) == (800, 200)
    assert found["stages"][1]["steps"] == 5 * 7
    assert found["seconds"] == pytest.approx(2 * 440e6 * 100 * 1250 / (10e12 * 0.4), rel=0.01)


@pytest.mark.parametrize(
    ("changes", "more", "says"),
    [
        ({"data": {"train": "nowhere.jsonl"}}, [], "nowhere.jsonl: no such file or folder; check the path"),
        ({"data": {"train": "named:skywerk"}}, [], "unknown named dataset 'skywerk'"),
        ({"data": {"train": "named:helpsteer2"}}, [], "holds rating rows"),
        ({"backbone": "./nowhere"}, [], "no folder here and no hub id"),
        ({"training": {"update": "full", "accumulation": 3}}, [], "must be a multiple of accumulation"),
        ({"training": {"update": "full"}}, ["--assume", "gpus=3"], "must be a multiple of accumulation"),
        ({"training": {"update": "full", "arguments": {"save_step": 3}}}, [], "did you mean 'save_steps'"),
        ({"stages": [{"share": 0.5}, {"share": 0.0001}]}, [], "gets no pair"),
        ({}, ["--assume", "pair=3"], "unknown assumption 'pair'"),
        ({}, ["--resume", "out"], "--dry-run is about a recipe that has not begun"),
        ({}, ["--out", "recipe.yaml"], "recipe.yaml exists already"),
    ],
)
def test_what_a_run_would_refuse_a_dry_run_refuses(place, changes, more, says):
    outcome = poise("train", place.recipe(changes), "--dry-run", *more)
    assert outcome.code == 2, outcome
    assert says in outcome.err
    assert not outcome.out


def test_assumptions_are_for_dry_runs(place):
    outcome = poise("train", place.recipe(), "--assume", "pairs=3")
    assert outcome.code == 2
    assert "--assume pairs=3 is for --dry-run" in outcome.err


def test_broken_rows_are_found(place):
    outcome = poise("train", place.recipe(data=place.data(*pairs(9), {"prompt": "p", "chosen": "a"})), "--dry-run")
    assert outcome.code == 2
    assert "row 10: " in outcome.err


def test_durations():
    told = {None: "?", 0.4: "0 s", 90: "90 s", 121: "2.0 min", 7200: "2.0 h", 5 * 86400: "5.0 days"}
    assert {seconds: duration(seconds) for seconds in told} == told


def test_what_is_resolved_is_what_was_set(place):
    found = planned(place.recipe(), "--set", "stages.0.epochs=7", "--set", "method=drpo_exact")
    assert (found["method"], found["stages"][0]["epochs"]) == ("drpo_exact", 7)
    assert yaml.safe_load((place.folder / "recipe.yaml").read_text())["method"] == "bt"
