"""Training through the backbone: learns, resumes to the bit, accumulates exactly, and saves a whole model."""

from __future__ import annotations

import json
import signal

import pytest
import torch
from safetensors.torch import load_file

from poise import run as runs
from poise.backbone import Backbone, BackboneConfig
from poise.data.load import load_preferences
from poise.data.records import Message
from poise.errors import ConfigError, DataError
from poise.methods import METHODS
from poise.model import RewardModel
from poise.run_folder import prompt_hash, train_prompts
from poise.training import finetune
from poise.training.forecast import plan
from poise.training.monitor import Silent
from poise.training.recipe import parse_recipe
from tests.conftest import on_disk, tiny_decoder, tiny_encoder, written

PAIRS = 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny decoder and encoder on disk, pairs with attributes and rated responses: good answers say yes."""
    place = tmp_path_factory.mktemp("finetune")
    for name, made in (("decoder", tiny_decoder()), ("encoder", tiny_encoder())):
        on_disk(made, place / name)
    rows, rated = [], []
    for i in range(PAIRS):
        prompt = [{"role": "user", "content": f"How do I boil an egg for {i} minutes in the small village by the sea?"}]
        good, bad = f"yes, put it in water, {i}", f"no, {i} times no"
        row = {"prompt": prompt, "chosen": [said(good)], "rejected": [said(bad)]}
        rows.append(row | {"attributes": {"clarity": [5, 1 + i % 3], "safety": [4, 2]}})
        rated.append({"prompt": prompt, "response": good, "ratings": {"clarity": [5, 4]}, "scale": [1, 5]})
        rated.append({"prompt": prompt, "response": bad, "ratings": {"clarity": [1, 2]}, "scale": [1, 5]})
    written(place / "pairs.jsonl", rows)
    written(place / "rated.jsonl", rated)
    return place


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def recipe(folder, method="bt", backbone="decoder", stages=None, ratings=False, **training):
    data = {"train": str(folder / "pairs.jsonl"), "evaluate_fraction": 0.25}
    if ratings:
        data["ratings"] = str(folder / "rated.jsonl")
    stage = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3}
    return parse_recipe(
        {
            "data": data,
            "backbone": {"name": str(folder / backbone), "dtype": "float32", "device": "cpu"},
            "method": method,
            "stages": [stage | s for s in stages or [{}]],
            "training": {"update": "full"} | training,
        }
    )


def weights(run) -> dict[str, torch.Tensor]:
    checkpoint = run / "checkpoint"
    found = {}
    for path in sorted(checkpoint.glob("*.safetensors")):
        found |= load_file(path)
    return found


class Interrupts(Silent):
    """Sends Ctrl-C after so many steps."""

    def __init__(self, after: int) -> None:
        self.after, self.stage = after, 0

    def advance(self, done: int) -> None:
        self.after -= 1
        if self.after == 0:
            signal.raise_signal(signal.SIGINT)  # to this thread: heard before the next line


def test_learns_and_comes_back_as_a_whole_model(folder, tmp_path):
    before = load_file(folder / "decoder" / "model.safetensors")
    done = runs.train(recipe(folder, stages=[{"epochs": 6}]), tmp_path / "run")
    assert done.result.metrics["accuracy"].value > 0.8
    after = weights(tmp_path / "run")
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(after[name], before[name.removeprefix("model.")])
    config = json.loads((tmp_path / "run" / "checkpoint" / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForSequenceClassification"]
    model = RewardModel.load(tmp_path / "run", device="cpu")
    prompt, answer = (Message("user", "Is it so?"),), (Message("assistant", "yes"),)
    assert torch.equal(model.predict(prompt, answer).mean, done.model.predict(prompt, answer).mean)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("eval/accuracy" in line for line in lines)
    assert any("loss/preference" in line or "loss/bt" in line for line in lines)
    assert not (tmp_path / "run" / "stages").exists()


@pytest.mark.parametrize("after", [3, 6, 9])
def test_an_interrupted_run_ends_with_the_same_weights(folder, tmp_path, after):
    chosen = recipe(
        folder,
        method={"name": "drpo", "samples": 4},
        stages=[
            {"name": "zero", "share": 0.5},
            {"name": "refine", "share": 0.5, "method": {"reference": "previous_stage"}},
        ],
        arguments={"save_steps": 2},
    )
    whole = runs.train(chosen, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        runs.train(chosen, tmp_path / "broken", reporter=Interrupts(after))
    resumed = runs.train(chosen, tmp_path / "broken", resume=True)
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert whole.result.metrics == resumed.result.metrics


def test_a_checkpoint_without_its_mark_is_written_again(folder, tmp_path):
    chosen = recipe(folder, arguments={"save_steps": 2})
    runs.train(chosen, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        runs.train(chosen, tmp_path / "broken", reporter=Interrupts(6))
    newest = max((tmp_path / "broken" / "stages" / "0").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    (newest / "complete").unlink()
    (newest / "model.safetensors").write_bytes(b"half")
    runs.train(chosen, tmp_path / "broken", resume=True)
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_accumulation_is_exact(folder, tmp_path):
    once = runs.train(recipe(folder), tmp_path / "once")
    parts = runs.train(recipe(folder, accumulation=4), tmp_path / "parts")
    expected, found = weights(tmp_path / "once"), weights(tmp_path / "parts")
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=2e-5, rtol=1e-3)
    assert once.result.metrics["nll"].value == pytest.approx(parts.result.metrics["nll"].value, abs=1e-4)


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_every_layout_trains_to_the_same_weights(folder, tmp_path, layout):
    runs.train(recipe(folder), tmp_path / "tree")
    runs.train(recipe(folder, layout=layout), tmp_path / "other")
    expected, found = weights(tmp_path / "tree"), weights(tmp_path / "other")
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=5e-5, rtol=1e-2)


def test_the_best_epoch_is_kept_and_training_stops_when_it_gets_no_better(folder, tmp_path):
    stage = {"epochs": 12, "learning_rate": 0.03, "select": "nll", "patience": 2, "schedule": "constant", "warmup": 0}
    done = runs.train(recipe(folder, stages=[stage]), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["validation/nll"] for line in lines if "validation/nll" in line]
    assert losses
    best = losses.index(min(losses))
    assert len(losses) == 12 or len(losses) == best + 3
    again = runs.train(recipe(folder, stages=[stage | {"epochs": best + 1, "patience": None}]), tmp_path / "short")
    for name, values in weights(tmp_path / "run").items():
        assert torch.equal(values, weights(tmp_path / "short")[name])
    assert done.result.metrics == again.result.metrics


@pytest.mark.parametrize("update", ["head", "full"])
def test_further_sets_are_watched_and_their_prompts_never_trained_on(folder, tmp_path, update):
    rows = (folder / "pairs.jsonl").read_text().splitlines()
    (tmp_path / "other.jsonl").write_text("\n".join(rows[:6]) + "\n")
    chosen = recipe(folder, update=update).to_dict()
    chosen["data"]["watch"] = {"other": str(tmp_path / "other.jsonl")}
    runs.train(chosen, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("other/nll" in line and "eval/nll" in line for line in lines)
    trained = train_prompts(tmp_path / "run")
    assert not trained & {prompt_hash(pair) for pair in load_preferences(tmp_path / "other.jsonl").records}


def test_part_of_an_epoch_takes_the_same_steps_by_every_road(folder, tmp_path):
    taken = []
    for update in ("head", "full"):
        given = recipe(folder, update=update, stages=[{"epochs": 0.5}])
        runs.train(given, tmp_path / update)
        lines = [json.loads(line) for line in (tmp_path / update / "metrics.jsonl").read_text().splitlines()]
        taken.append(max(line["step"] for line in lines))
    (planned,) = plan(given).stages
    assert planned.pairs % 16, "the half must be no whole number of steps"
    assert taken == [planned.steps] * 2


@pytest.mark.parametrize("epochs", [1, 3])
def test_the_learning_rate_reaches_its_end(folder, tmp_path, epochs):
    runs.train(recipe(folder, stages=[{"epochs": epochs}], arguments={"logging_steps": 1}), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rates = [line["learning_rate"] for line in lines if "learning_rate" in line]
    assert max(rates) <= 1e-3
    assert rates[-1] < 1.5e-3 / len(rates)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_every_schedule_warms_up(folder, tmp_path, schedule):
    stage = {"schedule": schedule, "warmup": 0.5}
    runs.train(recipe(folder, stages=[stage], arguments={"logging_steps": 1}), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rates = [line["learning_rate"] for line in lines if "learning_rate" in line]
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == pytest.approx([1e-3 * i / peak for i in range(peak + 1)])
    assert abs(peak - len(rates) / 2) <= 1
    assert (rates[-1] == max(rates)) == (schedule == "constant")


def test_an_interrupt_within_an_epoch_is_no_evaluation(folder, tmp_path):
    """It would be one more candidate for the best weights, and count for the patience."""
    chosen = recipe(folder, stages=[{"epochs": 2, "select": "nll"}], arguments={"logging_steps": 1})
    runs.train(chosen, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        runs.train(chosen, tmp_path / "broken", reporter=Interrupts(2))
    runs.train(chosen, tmp_path / "broken", resume=True)

    def evaluated(run) -> list[int]:
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [line["step"] for line in lines if "eval/nll" in line]

    assert evaluated(tmp_path / "broken") == evaluated(tmp_path / "whole")
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_lora_trains_adapters_and_head_and_merges_them(folder, tmp_path):
    done = runs.train(recipe(folder, update="lora", lora={"rank": 4}, stages=[{"epochs": 4}]), tmp_path / "run")
    before, after = load_file(folder / "decoder" / "model.safetensors"), weights(tmp_path / "run")
    assert set(after) == {f"model.{name}" for name in before} | {"score.weight"}
    moved = [name for name in before if not torch.equal(before[name], after[f"model.{name}"])]
    assert moved
    assert all("proj" in name for name in moved)
    assert torch.equal(before["embed_tokens.weight"], after["model.embed_tokens.weight"])
    start = runs.train(recipe(folder, update="lora", stages=[{"learning_rate": 1e-12}]), tmp_path / "still")
    assert not torch.equal(start.model.method.score.weight, done.model.method.score.weight)
    assert RewardModel.load(tmp_path / "run", device="cpu")


@pytest.mark.parametrize(("method", "read"), [("bt", 0), ("vrm", 0), ({"name": "ensemble", "kind": "laplace"}, 1)])
def test_all_texts_are_read_before_a_stage_only_where_the_method_fits_itself_to_them(
    folder, tmp_path, monkeypatch, method, read
):
    calls = []
    monkeypatch.setattr(finetune, "_features", lambda *given: calls.append(1) or features(*given))
    features = finetune._blank
    runs.train(recipe(folder, method, stages=[{"epochs": 1}]), tmp_path / "run")
    assert len(calls) == read


def test_a_method_fits_itself_to_features_without_dropout(folder, tmp_path, monkeypatch):
    """Also in a stage that finds the backbone as the stage before has left it, in training mode."""
    read, features = [], finetune._features
    monkeypatch.setattr(
        finetune, "_features", lambda *given: read.append((features(*given), features(*given))) or read[-1][0]
    )
    stages = [{"method": {"objective": "quantiles", "solver": "steps"}}, {"method": {"objective": "gate"}}]
    runs.train(recipe(folder, "qrm", "encoder", [{"epochs": 1} | s for s in stages], ratings=True), tmp_path / "run")
    assert len(read) == 2
    assert all(torch.equal(once.response, twice.response) for once, twice in read)


def test_a_stage_says_what_it_has_left_out_as_easy(folder, tmp_path):
    runs.train(recipe(folder, stages=[{"name": "all"}, {"name": "unsure", "curate": "keep_hard"}]), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    of = {name: [line for line in lines if line["stage"] == name and "loss" in line] for name in ("all", "unsure")}
    shares = [line[f"curation/{kind}"] for line in of["unsure"][:1] for kind in ("easy", "boundary", "hard")]
    assert sum(shares) == pytest.approx(1)
    assert not any(key.startswith("curation/") for line in of["all"] for key in line)


@pytest.mark.parametrize("update", ["head", "full"])
def test_no_epoch_is_selected_without_validation_pairs(folder, tmp_path, update):
    chosen = recipe(folder, update=update, stages=[{"select": "nll"}]).to_dict()
    chosen["data"]["validation_fraction"] = 1e-9
    with pytest.raises(DataError, match="no validation pair is left after the split by prompt"):
        runs.train(chosen, tmp_path / "run")


@pytest.mark.parametrize("backbone", ["decoder", "encoder"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_every_method_trains_through_the_backbone(folder, tmp_path, method, backbone):
    stages = [{**stage, "epochs": 1, "batch_size": 8, "learning_rate": 1e-3} for stage in method.default_stages]
    done = runs.train(recipe(folder, method.name, backbone, stages, ratings=True), tmp_path / "run")
    assert 0.0 <= done.result.metrics["accuracy"].value <= 1.0
    again = RewardModel.load(tmp_path / "run", device="cpu")
    text = (Message("user", "Is it so?"),), (Message("assistant", "yes"),)
    for name, values in done.model.predict(*text).row_parameters().items():
        assert torch.equal(values, again.predict(*text).row_parameters()[name])


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"arguments": {"gradient_chekpointing": True}}, "did you mean 'gradient_checkpointing'"),
        ({"arguments": {"learning_rate": 1.0}}, "is set by the stage"),
        ({"accumulation": 3}, "must be a multiple of accumulation × processes, 3"),
        ({"update": "head", "arguments": {"bf16": True}}, "set update to full or lora"),
        ({"update": "lora", "lora": {"target_modules": ["q_prj"]}}, "training.lora: Target modules .*q_prj"),
    ],
)
def test_training_options_that_cannot_be_meant_are_refused(folder, tmp_path, training, message):
    with pytest.raises(ConfigError, match=message):
        runs.train(recipe(folder, **training), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_a_later_stage_is_refused_before_the_first_is_trained(folder, tmp_path):
    with pytest.raises(ConfigError, match="must be a multiple of accumulation"):
        runs.train(recipe(folder, stages=[{}, {"batch_size": 9}], accumulation=2), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_automatic_precision_keeps_the_weights_in_float32(folder):
    from poise.backbone import trainable

    config = BackboneConfig(name=str(folder / "decoder"), device="cpu")
    assert Backbone.load(trainable(config)).dtype == torch.float32
    assert trainable(BackboneConfig(dtype="bfloat16")).dtype == "bfloat16"
