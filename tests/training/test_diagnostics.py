"""What training logs beyond its loss terms."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from poise import run as runs
from poise.data.batch import Batch, Targets
from poise.evaluation import metrics
from poise.features import Features
from poise.methods.bandit import Bandit, BanditConfig
from poise.training.diagnostics import diagnostics
from poise.training.recipe import parse_recipe
from tests.conftest import on_disk, tiny_decoder, written

STATES = torch.tensor([[3.0, 4.0], [0.0, 15.0], [1.0, 0.0], [0.0, 1.0]])


def test_figures_of_a_batch_by_hand():
    method = Bandit(BanditConfig(samples=4), 2)
    features = Features(STATES.clone().requires_grad_())
    output = method(features)  # the start: every reward is N(0, 1)
    batch = Batch(torch.tensor([[0, 1], [2, 3]]), Targets.certain(2))
    found = diagnostics(method, output, batch, features)
    assert found["mean_reward"] == found["reward_std"] == found["margin"] == 0
    assert found["sigma"] == pytest.approx(1)
    assert 0 <= found["zero_variance_groups"] <= 1
    assert found["spread_at_a_limit"] == 0
    with torch.no_grad():
        method.score.weight[1] = torch.tensor([0.0, -1.0])  # raw σ −4, −15, 0, −1; the floor is at ln .001 = −6.9
    assert diagnostics(method, method(features), batch, features)["spread_at_a_limit"] == 0.25
    assert found["hidden/norm_dispersion"] == pytest.approx(np.std([5, 15, 1, 1]) / 5.5)
    assert found["hidden/effective_rank"] == pytest.approx(metrics.effective_rank(STATES.numpy()))
    assert not any(name.startswith("hidden/") for name in diagnostics(method, output, batch))


@pytest.mark.parametrize("update", ["full", "head"])
def test_lines_of_a_run(tmp_path, update):
    backbone = tiny_decoder()
    on_disk(backbone, tmp_path / "decoder")
    rows = [{"prompt": f"How long, {i}?", "chosen": f"yes, {i}", "rejected": f"no, {i}"} for i in range(32)]
    written(tmp_path / "pairs.jsonl", rows)
    whole = {"update": "full", "accumulation": 2, "arguments": {"logging_steps": 2}}
    recipe = {
        "data": {"train": str(tmp_path / "pairs.jsonl"), "evaluate_fraction": 0.25},
        "backbone": {"name": str(tmp_path / "decoder"), "dtype": "float32", "device": "cpu"},
        "method": {"name": "drpo", "samples": 4},
        "stages": [{"epochs": 2, "batch_size": 4, "learning_rate": 1e-3}],
        "training": whole if update == "full" else {},
        "cache": str(tmp_path / "cache"),
    }
    runs.train(parse_recipe(recipe), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    wanted = {"loss/policy", "loss/kl", "mean_reward", "reward_std", "sigma", "zero_variance_groups"}
    assert all(wanted <= line.keys() for line in steps)
    if update == "head":
        assert not any(name.startswith("hidden/") for line in lines for name in line)
        return
    assert all(line["hidden/norm_dispersion"] > 0 for line in steps)
    assert all(1 <= line["hidden/effective_rank"] <= 8 for line in steps), "at most the 8 texts of a step"
    tokens = [line["unique_tokens"] for line in steps]
    assert tokens == sorted(set(tokens))
    assert all(line["unique_tokens_per_s"] > 0 for line in steps)
