"""Memory against the bytes of a real training step, operations against torch's own count, and what may be assumed."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from poise.errors import ConfigError
from poise.methods import method_class
from poise.training.forecast import Assumed, estimate, shape
from poise.training.recipe import TrainingConfig, parse_recipe
from tests.conftest import tiny_decoder


def planned(update="full", **training):
    backbone = tiny_decoder()
    recipe = parse_recipe({"data": {"train": "x"}, "method": "drpo_exact", "training": {"update": update, **training}})
    return backbone, recipe, shape.shape_of(backbone.model.config, recipe, False)


def test_weights_gradients_and_adam_are_the_bytes_of_a_real_step():
    backbone, recipe, found = planned()
    head = method_class("drpo_exact")(recipe.method.options, backbone.hidden_size)
    parameters = [*backbone.model.requires_grad_(True).parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters)
    torch.stack([p.square().sum() for p in parameters]).sum().backward()
    optimizer.step()

    def size(tensors):
        return sum(t.numel() * t.element_size() for t in tensors)

    moments = [t for state in optimizer.state.values() for name, t in state.items() if name != "step"]
    count = sum(p.numel() for p in head.parameters())
    memory = estimate.training_memory(found, count, "auto", recipe.training, 1, (0, 0))
    assert memory.fixed["weights"] == size(parameters)
    assert memory.fixed["gradients"] == size(p.grad for p in parameters)
    assert memory.fixed["optimizer"] == size(moments)
    assert memory.total == size(parameters) + size(p.grad for p in parameters) + size(moments)


@pytest.mark.parametrize("update", ["full", "lora"])
def test_operations_are_those_that_torch_counts(update):
    """Up to attention, which the estimate leaves out: few tokens of a wide model."""
    backbone, recipe, found = planned(update)
    from poise.training.finetune import with_lora

    model = backbone.model.requires_grad_(update == "full")
    model = with_lora(model, recipe) if update == "lora" else model
    with FlopCounterMode(display=False) as reading, torch.no_grad():
        model(input_ids=torch.zeros(1, 4, dtype=torch.long), use_cache=False)
    adapters = found.trained if update == "lora" else 0
    read = estimate.reading_per_token(found) + 2 * adapters
    assert reading.get_total_flops() / 4 == pytest.approx(read, rel=0.05)
    with FlopCounterMode(display=False) as training:
        embedded = model.get_input_embeddings()(torch.zeros(1, 4, dtype=torch.long)).requires_grad_()
        model(inputs_embeds=embedded, use_cache=False).last_hidden_state.sum().backward()
    expected = estimate.operations_per_token(found, recipe.training)
    assert training.get_total_flops() / 4 == pytest.approx(expected, rel=0.05)


def test_reading_layers_or_texts_twice_costs_two_more_per_weight():
    _, _, found = planned()
    weights = found.parameters - found.embedding
    for config, per_weight in (
        (TrainingConfig(update="full"), 6),
        (TrainingConfig(update="full", arguments={"activation_checkpointing": True}), 8),
        (TrainingConfig(update="full", arguments={"fsdp_config": {"activation_checkpointing": True}}), 8),
        (TrainingConfig(update="full", accumulation=4), 8),
        (TrainingConfig(update="full", accumulation=4, loss_over="micro"), 6),
    ):
        assert estimate.operations_per_token(found, config) == per_weight * weights


def test_processes_divide_with_fsdp_and_buffer_gradients_without():
    _, recipe, found = planned()
    divided = TrainingConfig(update="full", arguments={"fsdp": True})
    alone, beside, parts = (
        estimate.training_memory(found, 33, "auto", config, processes, (100, 200))
        for config, processes in ((recipe.training, 1), (recipe.training, 4), (divided, 4))
    )
    assert beside.total == alone.total + alone.fixed["gradients"]
    assert all(parts.fixed[name] == alone.fixed[name] / 4 for name in ("weights", "gradients", "optimizer"))
    assert parts.activations == alone.activations
    assert alone.most - alone.total == pytest.approx(alone.activations)


def test_checkpointing_keeps_the_inputs_and_one_layer():
    _, _, found = planned()
    config = TrainingConfig(update="full", arguments={"activation_checkpointing": True})
    known = found.activations
    memory = estimate.training_memory(found, 0, "auto", config, 1, (10, 10))
    assert memory.activations == pytest.approx(10 * (known.inputs + known.layer + known.outside))
    assert known.inputs + known.layer < known.layers


def test_assumptions():
    found = Assumed.of(["pairs=80000, gpus=8", "tflops=989"])
    assert (found.pairs, found.processes, found.tflops, found.tokens) == (80000, 8, 989, None)
    for given, says in (
        ("pair=3", "unknown assumption 'pair'; did you mean 'pairs'?"),
        ("pairs=many", "no positive number"),
        ("pairs=-3", "no positive number"),
        ("tokens", "no positive number"),
        ("gpus=0.5", "gpus=0.5: give a whole number"),
        ("utilisation=40", "at most 1"),
    ):
        with pytest.raises(ConfigError, match=says):
            Assumed.of([given])


def test_the_rate_of_this_machine_is_one_that_a_machine_could_have():
    assert 1e8 < estimate.measured_rate(torch.device("cpu"), torch.float32) < 1e14
