"""A tiny policy on the simulated world: written from scratch, fine-tuned on answers, then trained by REINFORCE leave-one-out.

The loop is our own, not TRL's trainer: on a processor TRL spends more time around a step of a model this small than in it.
One batch's loss is TRL's (``tests/experiments/test_tiny_policy.py``), and the divergence from the reference is exact: summed
over the whole vocabulary at every token of a sampled response, not estimated from the token drawn.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from experiments.phrase_world import gold, phrase_tokenizer, prompts, read, text_of
from poise.data.simulate.answers import Answer
from poise.data.simulate.raters import GROUPS, Floats, Group

BLOCK = 256  # responses drawn at a time
LONGEST = 40  # phrases of a response; the world's own have at most 24
Reward = Callable[[Sequence[str], Sequence[str]], Tensor]  # topics, responses -> [B]


class Sample(NamedTuple):
    """Responses drawn from a policy: ids [B, 1 + T] (topic first) and the mask [B, T] of what counts, the end included."""

    topics: list[str]
    ids: Tensor
    mask: Tensor
    texts: list[str]


def tiny_lm(tokenizer: PreTrainedTokenizerFast, seed: int, width: int = 96) -> Qwen3ForCausalLM:
    """Two layers with random weights."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=width // 4,
        intermediate_size=3 * width,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return Qwen3ForCausalLM(config)


class Policy:
    """A language model over phrases."""

    def __init__(self, model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.topic_ids = dict(zip(prompts(), tokenizer.convert_tokens_to_ids(list(prompts())), strict=True))

    def copy(self) -> Policy:
        """The same policy with weights of its own."""
        return Policy(copy.deepcopy(self.model), self.tokenizer)

    @torch.no_grad()
    def sample(self, topics: Sequence[str], draw: torch.Generator) -> Sample:
        """One response to each topic at temperature 1."""
        self.model.eval()
        ids = torch.tensor([[self.topic_ids[topic]] for topic in topics])
        running, masks, past = torch.ones(len(topics), dtype=torch.bool), [], None
        while running.any() and ids.shape[1] <= LONGEST:
            out = self.model(ids[:, -1:], past_key_values=past, use_cache=True)
            past = out.past_key_values
            drawn = torch.multinomial(out.logits[:, -1].softmax(-1), 1, generator=draw)[:, 0]
            drawn = torch.where(running, drawn, self.tokenizer.pad_token_id)
            ids = torch.cat([ids, drawn[:, None]], dim=1)
            masks.append(running)
            running = running & (drawn != self.tokenizer.eos_token_id)
        texts = self.tokenizer.batch_decode(ids[:, 1:], skip_special_tokens=True)
        return Sample(list(topics), ids, torch.stack(masks, dim=1), texts)

    def log_probs(self, ids: Tensor) -> Tensor:
        """[B, T, V] of every next token; no padding mask is needed, as it comes last."""
        logits: Tensor = self.model(ids[:, :-1], use_cache=False).logits
        return logits.log_softmax(-1)


def fine_tuned(answers: Sequence[Answer], seed: int, epochs: int, batch: int = 64) -> Policy:
    """A policy that has learned to write as the world's models do."""
    policy = Policy(tiny_lm(tokenizer := phrase_tokenizer(), seed), tokenizer)
    rows = [
        [policy.topic_ids[a.prompt.question], *tokenizer(text_of(a)).input_ids, tokenizer.eos_token_id] for a in answers
    ]
    optimiser = torch.optim.AdamW(policy.model.parameters(), lr=3e-3)
    steps = epochs * (len(rows) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps, pct_start=0.1)
    policy.model.train()
    for chosen in _batches(len(rows), batch, steps, seed):
        longest = max(len(rows[i]) for i in chosen)
        ids = torch.tensor([rows[i] + [tokenizer.pad_token_id] * (longest - len(rows[i])) for i in chosen])
        logits = policy.model(ids[:, :-1], use_cache=False).logits
        loss = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=tokenizer.pad_token_id)
        _step(policy.model, optimiser, loss)
        schedule.step()
    return policy


def _batches(rows: int, size: int, steps: int, seed: int) -> Iterator[list[int]]:
    draw, waiting = np.random.default_rng(seed), []
    for _ in range(steps):
        if len(waiting) < size:
            waiting = draw.permutation(rows).tolist()
        yield waiting[:size]
        waiting = waiting[size:]


def said(policy: Policy, sample: Sample) -> Tensor:
    """log π(y|x) of each response: [B]."""
    taken = policy.log_probs(sample.ids).gather(-1, sample.ids[:, 1:, None])[..., 0]
    return (taken * sample.mask).sum(1)


def rloo_loss(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """−mean(A · log π(y|x)), whose gradient is that of TRL's ratio loss where the sample is the policy's own: []."""
    return -(advantages * log_probs).mean()


def leave_one_out(rewards: Tensor) -> Tensor:
    """[prompts, k] → reward less the mean of the others' in its group."""
    k = rewards.shape[1]
    return (rewards - rewards.mean(1, keepdim=True)) * k / (k - 1)


@dataclass(frozen=True)
class Settings:
    """RLOO as in the papers (k = 2, constant rate), at the size of this laboratory; ``beta`` is the KL's weight."""

    steps: int
    beta: float
    prompts: int = 64
    k: int = 2
    learning_rate: float = 3e-4
    every: int = 10


def train(start: Policy, reward: Reward, settings: Settings, seed: int) -> Iterator[tuple[int, Policy]]:
    """Yields (step, policy) at the start and every so many steps; the policy goes on changing afterwards."""
    policy, draw = start.copy(), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(policy.model.parameters(), lr=settings.learning_rate)
    topics = list(prompts())
    yield 0, policy
    for step in range(1, settings.steps + 1):
        asked = [topics[i] for i in torch.randint(len(topics), (settings.prompts,), generator=draw).tolist()]
        sample = policy.sample([topic for topic in asked for _ in range(settings.k)], draw)
        log_probs = said(policy, sample)
        with torch.no_grad():
            ratio = log_probs.detach() - said(start, sample)
            told = reward(sample.topics, sample.texts) - settings.beta * ratio
        advantages = leave_one_out(told.view(settings.prompts, settings.k)).flatten()
        _step(policy.model, optimiser, rloo_loss(log_probs, advantages))
        if step % settings.every == 0:
            yield step, policy


def _step(model: nn.Module, optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()


class Judged(NamedTuple):
    """What is known of responses: gold utility [B], each group's [B, groups] with its share, faults, levels, KL [B], texts."""

    gold: Floats
    groups: Floats
    shares: Floats
    faults: Floats
    levels: Floats
    kl: Floats
    topics: list[str]
    texts: list[str]

    def of(self, rows: Sequence[int]) -> Judged:
        """Some of them."""
        numbers = [values[rows] for values in self[:6]]
        return Judged(*numbers, [self.topics[i] for i in rows], [self.texts[i] for i in rows])


@torch.no_grad()
def judge(
    policy: Policy, reference: Policy | None, topics: Sequence[str], seed: int, groups: Sequence[Group] = GROUPS
) -> Judged:
    """Draw one response per topic, as these groups of people read it; ``kl`` is the exact KL along each response [nat].

    Without a reference ``kl`` is NaN, and half of the time is saved.
    """
    draw = torch.Generator().manual_seed(seed)
    texts: list[str] = []
    distances = []
    for i in range(0, len(topics), BLOCK):
        sample = policy.sample(topics[i : i + BLOCK], draw)
        texts += sample.texts
        if reference is None:
            distances.append(np.full(len(sample.texts), np.nan))
            continue
        new, old = policy.log_probs(sample.ids), reference.log_probs(sample.ids)
        distances.append(((new.exp() * (new - old)).sum(-1) * sample.mask).sum(1).double().numpy())
    return Judged(*read_gold(policy.tokenizer, topics, texts, groups), np.concatenate(distances), list(topics), texts)


def read_gold(
    tokenizer: PreTrainedTokenizerFast, topics: Sequence[str], texts: Sequence[str], groups: Sequence[Group] = GROUPS
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """(gold, groups, shares, faults, levels) of responses; one without an end has a fault more."""
    rows = [tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids) for text in texts]
    readings = [read(topic, row) for topic, row in zip(topics, rows, strict=True)]
    worth, shares = gold(topics, readings, groups)
    faults = np.array([float(reading.faults) for reading in readings])
    return (worth * shares).sum(1), worth, shares, faults, np.array([reading.levels for reading in readings])
