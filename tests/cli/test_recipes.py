"""Every recipe that ships resolves without its weights, and says of itself what the dry run says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from poise.cli.dry_run import duration
from poise.cli.show import size
from tests.cli.place import pairs, poise
from tests.published_shapes import on_the_hub

RECIPES = Path(__file__).parents[2] / "recipes"
REAL = sorted([*(RECIPES / "papers").glob("*.yaml"), *(RECIPES / "models").glob("*.yaml")])
SMALL = sorted(RECIPES.glob("*.yaml"))
SAYS = re.compile(r"# Dry run with (?P<assumed>\S+): (?P<memory>[\d.]+ \w+)(?P<each> a GPU)?, (?P<time>[\d.]+ \w+)\.\n")
OURS = re.compile(r"\b[Oo]urs?\b|our choice")


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_a_recipe_of_a_real_model_resolves_and_says_what_it_takes(path, tmp_path, monkeypatch):
    on_the_hub(monkeypatch, tmp_path)
    text = path.read_text(encoding="utf8")
    said = SAYS.search(text)
    assert said, f"{path} does not say what a dry run says"
    outcome = poise("train", path, "--dry-run", "--assume", said["assumed"], "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert found["name"] == path.stem
    assert [one.partition(":")[0].startswith("data named") for one in found["unresolved"]] == [True]
    assert (size(found["memory_bytes"]["total"]), duration(found["seconds"])) == (said["memory"], said["time"])
    assert OURS.search(text), f"{path} does not say what is not the paper's"
    if found["update"] != "head":
        assert found["memory"]["activations"] > 0
        assert found["memory_bytes"]["total"] < 70e9, "the recipe is for GPUs of 80 GB, with room for long texts"


def test_the_papers_hyper_parameters_are_the_papers():
    """As the methods' papers give them; the recipes' comments name the rest as ours."""
    from poise.training.recipe import read_recipe

    papers = {path.stem: read_recipe(path) for path in (RECIPES / "papers").glob("*.yaml")}
    for name in ("drpo_qwen3_4b", "drpo_qwen3_8b", "drpo_llama31_8b"):
        recipe = papers[name]
        zero, refine = recipe.stages
        assert [(s.share, s.learning_rate, s.batch_size, s.epochs, s.schedule) for s in (zero, refine)] == [
            (0.1, 2e-5, 512, 1, "linear"),
            (0.9, 1e-5, 512, 1, "linear"),
        ]
        options = [recipe.stage_options(stage) for stage in recipe.stages]
        assert [(o.samples, o.beta, o.kappa) for o in options] == [(32, 0.05, 0.05), (32, 0.1, 0.1)]
        assert recipe.backbone.max_length == 2048
    for name, rate in (("bsr_llama31_8b", 2e-6), ("bsr_qwen25_3b", 3e-6)):
        (stage,) = papers[name].stages
        assert (stage.batch_size, stage.learning_rate, stage.warmup, stage.schedule) == (128, rate, 0.05, "linear")
        options = papers[name].method.options
        assert (options.regulariser, options.coefficient, options.scale_by_batch, options.scope) == (
            "bsr",
            1e-3,
            True,
            "micro",
        )
    _, gate = papers["qrm_llama3_8b"].stages
    assert (gate.epochs, gate.batch_size, gate.learning_rate, gate.weight_decay) == (3, 1024, 3e-4, 1e-3)
    qrm = papers["qrm_llama3_8b"].method.options
    assert (qrm.alpha, qrm.max_rows, len(qrm.levels), qrm.gate_layers, qrm.gate_width) == (0.003, 60000, 19, 3, 1024)
    (regression,) = papers["helpsteer2_llama31_8b"].stages
    assert (regression.learning_rate, regression.schedule, regression.batch_size, regression.epochs) == (
        2e-6,
        "constant",
        128,
        2,
    )


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_a_recipe_on_frozen_features_resolves_on_given_data(path, place, tmp_path, monkeypatch):
    on_the_hub(monkeypatch, tmp_path / "hub")
    attributes = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    rated = [{"prompt": f"p {i}", "response": f"r {i}", "ratings": dict.fromkeys(attributes, i % 5)} for i in range(40)]
    given = [{**pair, "attributes": {name: [4, i % 3] for name in attributes}} for i, pair in enumerate(pairs(60))]
    sets = ["--set", f"data.train={place.data(*given)}"]
    if "ratings:" in path.read_text():
        sets += ["--set", f"data.ratings={place.data(*rated, name='ratings.jsonl')}"]
    outcome = poise("train", path, *sets, "--dry-run", "--assume", "tflops=1", "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert found["seconds"] >= 0
    assert not found["unresolved"]
