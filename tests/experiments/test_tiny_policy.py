"""The laboratory: gold is the world's own utility on what the world writes, and the loop's gradient is TRL's."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from experiments.phrase_world import CONFIG, FAULT, World, gold, phrase_tokenizer, read, text_of
from experiments.tiny_policy import Policy, judge, leave_one_out, rloo_loss, said, tiny_lm
from trl import RLOOTrainer

from poise.data.simulate.judgements import rate


@pytest.fixture(scope="module")
def tokenizer():
    return phrase_tokenizer()


@pytest.fixture(scope="module")
def policy(tokenizer):
    return Policy(tiny_lm(tokenizer, 0, width=16), tokenizer)


def test_gold_is_the_worlds_utility_on_what_the_world_writes(tokenizer):
    world = World(1, 0)
    truth = [r.meta["true_utility"] for r in rate(world.answers, CONFIG, "train", np.random.default_rng(0))]
    checked = 0
    for answer, utility in zip(world.answers[:400], truth, strict=False):
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(text_of(answer)).input_ids)
        found = read(answer.prompt.question, tokens)
        groups, shares = gold([answer.prompt.question], [found])
        if found.faults == 0:  # a writer may tell an off-topic fact twice
            assert found.levels == answer.levels
            assert float((groups * shares).sum()) == pytest.approx(utility, abs=1e-7)
            checked += 1
    assert checked > 380


def test_what_no_one_would_write_costs_every_reader(tokenizer):
    answer = World(1, 0).answers[0]
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(text_of(answer)).input_ids)
    topic = answer.prompt.question
    whole, repeated, cut = (read(topic, row) for row in (tokens, [tokens[0], *tokens], tokens[:-1]))
    assert (whole.faults, repeated.faults, cut.faults) == (0, 1, 1)
    before, after = (gold([topic], [reading])[0] for reading in (whole, repeated))
    assert before - after == pytest.approx(np.full((1, 3), FAULT))


def test_the_gradient_is_that_of_trls_loss(policy):
    sample = policy.sample(
        ["keeping rabbits", "keeping rabbits", "storing passwords", "storing passwords"],
        torch.Generator().manual_seed(0),
    )
    advantages = leave_one_out(torch.tensor([[1.0, 0.0], [0.3, -2.0]])).flatten()
    assert advantages.tolist() == pytest.approx([1.0, -1.0, 2.3, -2.3])

    def log_probs(model, ids, mask, keep, **_):
        taken = policy.log_probs(ids).gather(-1, ids[:, 1:, None])[..., 0]
        return taken[:, -keep:], torch.zeros_like(taken), None

    with torch.no_grad():
        taken = policy.log_probs(sample.ids).gather(-1, sample.ids[:, 1:, None])[..., 0]
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=log_probs,
        aux_loss_enabled=False,
        epsilon_low=0.2,
        epsilon_high=0.2,
        model=policy.model,
        accelerator=SimpleNamespace(reduce=lambda x, reduction: x, gather=lambda x: x, gather_for_metrics=lambda x: x),
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
    )
    batch = {
        "prompt_ids": sample.ids[:, :1],
        "prompt_mask": torch.ones(4, 1),
        "completion_ids": sample.ids[:, 1:],
        "completion_mask": sample.mask.float(),
        "old_logps": (taken * sample.mask).sum(1),
        "advantages": advantages,
    }
    theirs, ours = RLOOTrainer._compute_loss(trainer, None, batch), rloo_loss(said(policy, sample), advantages)
    for one, two in zip(
        *(torch.autograd.grad(loss, list(policy.model.parameters())) for loss in (theirs, ours)), strict=True
    ):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_a_policy_is_no_distance_from_itself_and_some_from_another(policy, tokenizer):
    other = Policy(tiny_lm(tokenizer, 1, width=16), tokenizer)
    topics = ["keeping rabbits"] * 3
    assert judge(policy, policy, topics, seed=0).kl == pytest.approx(0.0, abs=1e-4)
    assert (judge(other, policy, topics, seed=0).kl > 0).all()
