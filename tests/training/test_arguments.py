"""What ``training.arguments`` hands on to the Trainer."""

from __future__ import annotations

import pytest
import torch
from transformers.integrations import get_available_reporting_integrations
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP

from poise import run as runs
from poise.errors import ConfigError
from poise.training.recipe import parse_recipe
from tests.conftest import on_disk, tiny_decoder, written


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Train Bradley–Terry on a few pairs; returns the model."""
    place, backbone = tmp_path_factory.mktemp("arguments"), tiny_decoder()
    on_disk(backbone, place / "decoder")
    rows = [{"prompt": f"How long, {i}?", "chosen": f"yes, {i}", "rejected": f"no, {i}"} for i in range(16)]
    written(place / "pairs.jsonl", rows)

    def run(update: str, out, **arguments):
        recipe = {
            "data": {"train": str(place / "pairs.jsonl"), "evaluate_fraction": 0.25},
            "backbone": {"name": str(place / "decoder"), "dtype": "float32", "device": "cpu"},
            "method": "bt",
            "stages": [{"epochs": 1, "batch_size": 4, "learning_rate": 1e-3}],
            "training": {"update": update, "arguments": arguments},
        }
        return runs.train(parse_recipe(recipe), out).model

    return run


@pytest.mark.parametrize("update", ["full", "lora"])
def test_activation_checkpointing_computes_again_and_changes_no_weight(train, tmp_path, monkeypatch, update):
    passes, forward = [], Qwen3MLP.forward
    monkeypatch.setattr(Qwen3MLP, "forward", lambda self, x: passes.append(None) or forward(self, x))
    plain, once = train(update, tmp_path / "plain").backbone.model.state_dict(), len(passes)
    saving = train(update, tmp_path / "saving", activation_checkpointing=True).backbone.model.state_dict()
    assert len(passes) - once > once
    for name, values in plain.items():
        torch.testing.assert_close(saving[name], values, atol=1e-6, rtol=1e-5)


def test_a_tracker_that_is_not_installed_is_refused(train, tmp_path):
    absent = next(n for n in ("comet_ml", "neptune", "clearml") if n not in get_available_reporting_integrations())
    with pytest.raises(ConfigError, match=f"report_to: {absent} is not installed"):
        train("full", tmp_path / "run", report_to=absent)
