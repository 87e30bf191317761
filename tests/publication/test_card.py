"""The model card of a real run, as the hub reads it, and what is sent there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError

from poise.errors import ConfigError, ServerError
from poise.evaluation.result import EvaluationResult
from poise.publication import About, Export, export, verify_folder
from poise.publication.hub import push
from tests.cli.place import poise
from tests.conftest import tiny_decoder
from tests.stories.test_train_to_evaluation import simulated
from tests.test_model import make_model


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """LoRA through a decoder, merged, evaluated: the whole road that ends in a published folder."""
    place = tmp_path_factory.mktemp("story")
    backbone = tiny_decoder()
    backbone.model.save_pretrained(place / "backbone")
    backbone.tokenizer.save_pretrained(place / "backbone")
    recipe = {
        "name": "eggs",
        "data": {"train": [str(simulated(place / "pairs.jsonl"))], "evaluate_fraction": 0.4},
        "backbone": {"name": str(place / "backbone"), "dtype": "float32"},
        "method": {"name": "bt"},
        "stages": [{"epochs": 2, "batch_size": 16, "learning_rate": 1e-3}],
        "training": {"update": "lora", "lora": {"rank": 4}},
    }
    (place / "recipe.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    outcome = poise("train", place / "recipe.yaml", "--out", place / "run")
    assert outcome.code == 0, outcome.err
    return place / "run"


@pytest.fixture(scope="module")
def exported(run) -> Path:
    outcome = poise("export", run, "--out", run.parent / "out", "--license", "apache-2.0")
    assert outcome.code == 0, outcome.err
    return run.parent / "out"


def test_merged_adapters_are_exported(run, exported):
    assert verify_folder(exported).agrees
    assert not [path for path in exported.rglob("*") if "adapter" in path.name]


def test_the_exported_folder_is_evaluated_like_the_run(run, exported):
    pairs = run.parent / "pairs.jsonl"
    figures = []
    for model in (run, exported):
        outcome = poise(
            "evaluate", model, pairs, "--include-train-prompts", "--resamples", 10, "--json", "--device", "cpu"
        )
        assert outcome.code == 0, outcome.err
        figures.append(json.loads(outcome.out)["sets"][0]["pairs"]["metrics"])
    for name in ("accuracy", "nll"):  # the scorer of classifiers computes in bfloat16 where the processor does
        assert figures[0][name]["value"] == pytest.approx(figures[1][name]["value"], abs=2e-3)


def test_the_front_matter_is_what_the_hub_reads(run, exported):
    data = ModelCard.load(exported / "README.md").data
    assert data.pipeline_tag == "text-classification"
    assert data.library_name == "transformers"
    assert data.license == "apache-2.0"
    assert {"reward-model", "bt"} <= set(data.tags)
    assert data.base_model is None, "a folder on this machine is no model of the hub"
    result = EvaluationResult.load(run / "result.json")
    found = {one.metric_type: one.metric_value for one in data.eval_results}
    assert found["accuracy"] == pytest.approx(result.metrics["accuracy"].value, abs=1e-6)
    assert {"accuracy", "nll"} <= set(found)


def test_nothing_that_is_uploaded_names_this_machine(run, exported):
    for path in exported.rglob("*.*"):
        assert str(run.parent).encode() not in path.read_bytes(), path.name
    assert "pairs.jsonl" in (exported / "README.md").read_text("utf8")


def test_the_card_shows_the_runs_own_figures(run, exported):
    text = (exported / "README.md").read_text("utf8")
    result = EvaluationResult.load(run / "result.json")
    assert f"{result.data.rows:,} held-out pairs over {result.data.prompts:,} prompts" in text
    assert f"{result.metrics['accuracy'].value:.3f}" in text
    assert "rank: 4" in text
    golden = [json.loads(line) for line in (exported / "golden.jsonl").read_text("utf8").splitlines()]
    for one in golden:
        assert f"{one['raw'][0]:.4f}" in text
    svg = (exported / "figures" / "reliability.svg").read_text("utf8")
    assert svg.startswith("<svg xmlns=")
    used, known = set(re.findall(r"var\((--[\w-]+)\)", svg)), set(re.findall(r"(--[\w-]+):", svg))
    assert used <= known, "every colour that it names is in the file"


def test_the_code_of_the_card_prints_what_it_says(exported, capsys):
    text = (exported / "README.md").read_text("utf8")
    code = re.search(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert code is not None
    exec(compile(code[1].replace('"FOLDER"', repr(str(exported))), "card", "exec"), {})
    said = re.search(r"# \[\[(.*?)\]\]", code[1])
    assert said is not None
    assert f"[[{said[1]}]]" in capsys.readouterr().out


def test_a_card_without_a_run_claims_nothing(tmp_path):
    export(make_model(), tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.eval_results is None
    assert "no held-out evaluation" in card.text


def test_hub_names_are_linked_and_local_ones_are_not(tmp_path):
    about = About("x", base_model="Qwen/Qwen3-0.6B", data=("org/data", str(tmp_path / "mine.jsonl"), "mine.jsonl"))
    export(make_model(), tmp_path / "out", about=about)
    data = ModelCard.load(tmp_path / "out" / "README.md").data
    assert data.base_model == "Qwen/Qwen3-0.6B"
    assert data.datasets == ["org/data"]


# ── the hub


class Hub:
    """What ``push`` asks of ``huggingface_hub.HfApi``."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple[str, dict]] = []
        self.error = error

    def create_repo(self, repo_id, **options) -> str:
        self.calls.append(("create", {"repo_id": repo_id, **options}))
        if self.error is not None:
            raise self.error
        return f"https://hub/{repo_id}"

    def upload_folder(self, **options) -> None:
        assert (Path(options["folder_path"]) / "model.safetensors").is_file()
        self.calls.append(("upload", options))


def test_repositories_are_private_and_one_per_form(tmp_path):
    exports, hub = export(make_model(), tmp_path / "out", "both"), Hub()
    assert push(exports, "me/eggs", api=hub) == ["https://hub/me/eggs", "https://hub/me/eggs-params"]
    assert [name for name, _ in hub.calls] == ["create", "upload"] * 2
    assert all(options["private"] and options["exist_ok"] for name, options in hub.calls if name == "create")
    assert hub.calls[3][1]["folder_path"] == str(tmp_path / "out" / "params")
    push(exports[:1], "me/eggs", private=False, api=hub)
    assert hub.calls[4][1]["private"] is False


def test_what_the_hub_refuses_is_one_message(tmp_path):
    made: list[Export] = export(make_model(), tmp_path / "out")
    with pytest.raises(ServerError, match=r"me/eggs: the hub refused \(You are not signed in"):
        push(made, "me/eggs", api=Hub(OSError("You are not signed in\nmore")))
    assert issubclass(HfHubHTTPError, OSError), "its errors are caught as this"


def test_a_license_must_be_one_of_the_hubs():
    with pytest.raises(ConfigError, match=r"apache-2\.0 or mit"):
        About(license="Apache License")
