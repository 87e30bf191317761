"""Reward models for the tiny policy: decoders over phrases, trained with poise on the judgements of one simulated world."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from experiments import people
from experiments.phrase_world import World, phrase_tokenizer, prompts
from experiments.tiny_policy import Policy, fine_tuned, judge, tiny_lm
from poise import run
from poise.data.records import Preference
from poise.model import RewardModel
from poise.utility import parse_utility


def bradley_terry(world: World, folder: Path, *, pairs: int, epochs: float, seed: int, **options: Any) -> RewardModel:
    """Backbone and head trained together on ``pairs`` pairs, from random weights; ``options`` are the method's."""
    backbone = folder / "backbone"
    tokenizer = phrase_tokenizer()
    tokenizer.save_pretrained(backbone)
    tiny_lm(tokenizer, seed).model.save_pretrained(backbone)
    rows = [_pair(pair) for pair in world.pairs(pairs)]
    recipe = {
        "seed": seed,
        "data": {"train": _write(folder / "pairs.jsonl", rows), "evaluate_fraction": 0.1},
        "backbone": {"name": str(backbone), "dtype": "float32", "max_length": 64},
        "method": {"name": "bt", **options},
        "stages": [{"epochs": epochs, "batch_size": 64, "learning_rate": 2e-3, "warmup": 0.1}],
        "training": {"update": "full", "loss_over": "micro"},
    }
    return run.train(recipe, folder / "run").model


def quantiles(backbone: Path, folder: Path, asked: Asked, *, seed: int, update: str) -> RewardModel:
    """QRM of what people say about a policy's answers: all that is rated through the backbone (``full``), or the overall
    judgement, what they disagree about, on its frozen features (``head``)."""
    folder.mkdir(parents=True, exist_ok=True)
    through = update == "full"
    attributes = list(people.RATED) if through else ["overall"]
    given = {
        "seed": seed,
        "method": {
            "name": "qrm",
            "attributes": attributes,
            "weights": [1] * len(attributes),
            "verbosity": "",
            "solver": "steps" if through else "exact",
        },
        "stages": [{"name": "quantiles", "epochs": 3, "batch_size": 64, "learning_rate": 1e-3, "warmup": 0.1}],
        "data": {
            "train": _write(folder / "pairs.jsonl", asked.pairs),
            "ratings": _write(folder / "ratings.jsonl", asked.ratings),
            "evaluate_fraction": 0.1,
        },
        "backbone": {"name": str(backbone), "dtype": "float32", "max_length": 64},
        "training": {"update": "full", "loss_over": "micro"} if through else {},
    }
    return run.train(given, folder / "run").model


class Rewards:
    """A reward model with a utility as the reward of reinforcement learning, in units of its spread over ``responses``."""

    def __init__(self, model: RewardModel, utility: str, topics: Sequence[str], responses: Sequence[str]) -> None:
        self.model, self.utility = model, parse_utility(utility)
        self.scale = 1.0
        self.scale = float(self(topics, responses).std())

    def __call__(self, topics: Sequence[str], responses: Sequence[str]) -> Tensor:
        """[B]; an empty response, which no reward model reads, is worth the least that any other of the batch is."""
        written = [i for i, text in enumerate(responses) if text]
        told = self.model.predict([topics[i] + " " for i in written], [responses[i] for i in written])
        values = self.utility(told).float() / self.scale
        out = torch.full((len(responses),), float(values.min()))
        out[torch.tensor(written)] = values
        return out


def agreement(rewards: Any, gold: Any) -> float:
    """Spearman correlation of rewards [B] with gold utilities [B]."""
    ranks = [np.argsort(np.argsort(np.asarray(values))) for values in (rewards, gold)]
    return float(np.corrcoef(*ranks)[0, 1])


def _pair(pair: Preference) -> dict[str, Any]:
    assert pair.votes is not None
    votes = {name: int(getattr(pair.votes, name)) for name in ("chosen", "rejected", "tie")}
    return {"prompt": f"{pair.prompt} ", "chosen": pair.chosen, "rejected": pair.rejected, "votes": votes}


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    return str(path)


class Asked(NamedTuple):
    """What people said: rows of a rating file and of a preference file."""

    ratings: list[dict[str, Any]]
    pairs: list[dict[str, Any]]


class Laboratory:
    """What both studies need, made once and kept in a folder: the fine-tuned policy, and reward models by seed.

    ``asks`` names the people whose ratings teach the QRM rewards, one of ``people.PEOPLE``.
    """

    def __init__(self, work: Path, smoke: bool, asks: str = "world") -> None:
        self.work, self.smoke = work / ("smoke" if smoke else "full"), smoke
        self.groups, self.told = people.PEOPLE[asks], "" if asks == "world" else f"_{asks}"
        self.work.mkdir(parents=True, exist_ok=True)
        self.pairs, self.epochs = (160, 1.0) if smoke else (2000, 3.0)

    @property
    def topics(self) -> list[str]:
        """What policies are judged on."""
        return list(prompts())[:: 12 if self.smoke else 1]

    def world(self, seed: int) -> World:
        """Six answers' worth of prompts per topic; seed 0 is what the policy learned from, reward models have others."""
        return World(1 if self.smoke else 6, seed)

    def policy(self) -> Policy:
        """The reference: fine-tuned on what the world's models write."""
        path, tokenizer = self.work / "policy.pt", phrase_tokenizer()
        if not path.exists():
            made = fine_tuned(World(1 if self.smoke else 12, 0).answers, 0, epochs=1 if self.smoke else 3)
            torch.save(made.model.state_dict(), path)
        policy = Policy(tiny_lm(tokenizer, 0), tokenizer)
        policy.model.load_state_dict(torch.load(path))
        return policy

    def bradley_terry(self, seed: int, name: str = "bt") -> RewardModel:
        """``bt`` or ``bt + bsr`` on the seed's own world."""
        folder = self.work / f"{name.replace(' + ', '_')}_{seed}"
        options = {} if name == "bt" else {"regulariser": "bsr"}
        if not (folder / "run" / "result.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            bradley_terry(self.world(seed), folder, pairs=self.pairs, epochs=self.epochs, seed=seed, **options)
        return RewardModel.load(folder / "run" / "checkpoint")

    def rated_backbone(self) -> Path:
        """One for all seeds, as the paper's is: a language model of such answers, the policy, that then read people's ratings."""
        folder = self.work / f"rated_backbone{self.told}"
        if not (folder / "run" / "result.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
            start, policy = folder / "backbone", self.policy()
            policy.tokenizer.save_pretrained(start)
            policy.model.model.save_pretrained(start)
            quantiles(start, folder, self.asked(2 if self.smoke else 48, 0), seed=0, update="full")
        return folder / "run" / "checkpoint"

    def qrm(self, seed: int) -> RewardModel:
        """What the seed's people say about the policy's answers, on frozen features of ``rated_backbone``."""
        folder = self.work / f"qrm{self.told}_{seed}"
        if not (folder / "run" / "result.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
            answers = self.asked(2 if self.smoke else 12, seed)
            quantiles(self.rated_backbone(), folder, answers, seed=seed, update="head")
        return RewardModel.load(folder / "run" / "checkpoint")

    def asked(self, per_topic: int, seed: int) -> Asked:
        """That many of the policy's answers to each topic, rated by eight people each; half of the pairs are voted on."""
        policy = self.policy()
        topics = [topic for topic in self.topics for _ in range(per_topic)]
        texts = judge(policy, None, topics, seed=9000 + seed).texts
        few = 4 * (len(topics) // 8)
        return Asked(
            people.ratings(policy, topics, texts, 8, seed, self.groups),
            people.pairs(policy, topics[:few], texts[:few], 5, seed, self.groups),
        )
