"""Shared prompts are read once, and what a text's state is depends on that text alone."""

from __future__ import annotations

import random

import pytest
import torch

from poise.backbone import Row
from poise.reading import plan_trees, read, why_padded
from tests.conftest import tiny_decoder, tiny_encoder


def rows(count: int = 40, seed: int = 0) -> list[Row]:
    """Rows over fewer prompts, some without a prompt or without a response, none empty."""
    draw = random.Random(seed)
    prompts = [tuple(draw.choices(range(5, 60), k=draw.randrange(0, 40))) for _ in range(count // 3)]
    made = []
    for _ in range(count):
        prompt = draw.choice(prompts)
        own = tuple(draw.choices(range(5, 60), k=draw.randrange(0 if prompt else 1, 30)))
        made.append(Row(prompt + own, len(prompt)))
    return made


def states(backbone, given: list[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    text, prompt = torch.zeros(2, len(given), backbone.hidden_size).unbind()
    for batch, texts, prompts in read(backbone, given):
        text[batch], prompt[batch] = texts, prompts
    return text, prompt


@pytest.mark.parametrize("pooling", ["last", "mean", "response_mean", "cls"])
def test_trees_read_what_padded_rows_read(pooling):
    backbone = tiny_decoder(pooling=pooling)
    assert why_padded(backbone) is None
    given = rows()
    for found, expected in zip(states(backbone, given), backbone.states(given), strict=True):
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_state_does_not_depend_on_what_it_is_read_with(dtype, monkeypatch):
    backbone = tiny_decoder()
    backbone.model.to(getattr(torch, dtype))
    given = rows()
    together = states(backbone, given)
    for one, other in zip(together, states(backbone, given[::-1]), strict=True):
        assert torch.equal(one, other.flip(0))
    for number, row in enumerate(given[:15]):
        alone = states(backbone, [row])
        assert all(torch.equal(alone[part][0], together[part][number]) for part in (0, 1))
    monkeypatch.setattr("poise.reading.CPU_TREE_BYTES", 256)
    assert all(torch.equal(a, b) for a, b in zip(together, states(backbone, given), strict=True))


@pytest.mark.parametrize("budget", [1, 50, 10_000])
def test_a_plan_holds_every_row_once_within_its_budget(budget):
    given = rows(60)
    plan = list(plan_trees(given, budget))
    assert sorted(number for batch in plan for number in batch) == list(range(60))
    for batch in plan:
        prompts = {given[i].ids[: given[i].prompt_length] for i in batch}
        tokens = sum(map(len, prompts)) + sum(len(given[i].ids) - given[i].prompt_length for i in batch)
        assert tokens <= budget or len(batch) == 1
    if budget == 10_000:
        assert len(plan) == 1


def test_encoders_are_padded():
    assert "encoder" in why_padded(tiny_encoder())


def test_a_model_that_cannot_be_packed_is_padded(monkeypatch):
    backbone = tiny_decoder()
    monkeypatch.setattr("poise.reading.self_test", lambda model, share: "of a reason")
    assert why_padded(backbone) == "of a reason"
    given = rows(9)
    for found, expected in zip(states(backbone, given), backbone.states(given), strict=True):
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
