"""Bring your own method: people of two camps, each with a Bradley–Terry reward of its own.

P(a ≻ b) = Σ_k π_k Λ(r_k(a) − r_k(b)). One camp's reward would make a 70 : 30 split look like a small difference in quality;
here it can be what it is, a large difference on which people disagree.

python examples/own_method.py
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

import poise
from poise.data.batch import Batch
from poise.distributions import Link, Mixture
from poise.features import Features
from poise.losses import both_ways, weighted_mean
from poise.methods import Method, register


@dataclass(frozen=True)
class CampsConfig:
    """``camps`` is the number of groups of people."""

    camps: int = 2


@dataclass(frozen=True)
class CampsOutput:
    """One component per camp; a camp compares two responses by its own reward (``coupling="paired"``)."""

    reward: Mixture


class Camps(Method[CampsConfig, CampsOutput]):
    """Linear(H, K) → the rewards of K camps, with the camps' shares of all people as free parameters."""

    name = "camps"
    reference = "Mixture of Bradley–Terry models"
    Config = CampsConfig
    default_stages = ({"epochs": 30, "batch_size": 64, "learning_rate": 1e-2},)

    def __init__(self, config: CampsConfig, hidden_size: int) -> None:
        super().__init__(config, hidden_size)
        self.score = nn.Linear(hidden_size, config.camps, bias=False)
        self.share = nn.Parameter(torch.zeros(config.camps))

    def forward(self, features: Features) -> CampsOutput:
        """B responses → their K rewards each."""
        rewards = self.score(features.response * self.input_scale)
        people_agree = torch.zeros_like(rewards)  # within a camp the link alone is uncertain
        return CampsOutput(Mixture(self.share, rewards, people_agree, link=Link("logistic"), coupling="paired"))

    def loss(self, output: CampsOutput, batch: Batch) -> dict[str, Tensor]:
        """−log P of each label, votes as shares."""
        rewards = output.reward.means
        difference = rewards[batch.first] - rewards[batch.second]  # [P, K]
        share = self.share.log_softmax(-1)
        won, lost = ((share + logsigmoid(sign * difference)).logsumexp(-1) for sign in (1, -1))
        return {"nll": weighted_mean(both_ways(-won, -lost, batch.targets.label), batch.targets.weight)}


register(Camps)  # a package does so with an entry point: [project.entry-points."poise.methods"]  camps = "mine:Camps"

QUESTIONS = [
    f"How do I {verb} {thing}?" for verb in ("cook", "store", "peel") for thing in ("an egg", "rice", "a beet")
]
POLITE = [
    "",
    "Sure! ",
    "What a lovely question! ",
    "What a lovely question, and how kindly asked! I am delighted to help! ",
]


def people(rows: int, seed: int = 0) -> list[dict[str, object]]:
    """Seven people in ten want politeness, three cannot stand it; ten of them vote on each pair."""
    drawn = random.Random(seed)
    found: list[dict[str, object]] = []
    for _ in range(rows):
        more, less = sorted(drawn.sample(range(len(POLITE)), 2), reverse=True)
        votes = sum(drawn.random() < (0.95 if drawn.random() < 0.7 else 0.05) for _ in range(10))
        question, advice = drawn.choice(QUESTIONS), f"Take {drawn.randint(2, 40)} minutes."
        texts = {"chosen": POLITE[more] + advice, "rejected": POLITE[less] + advice}
        found.append({"prompt": question, **texts, "votes": {"chosen": votes, "rejected": 10 - votes}})
    return found


def main() -> poise.RewardModel:
    """Train by name, as any method; load; look at what the camps think."""
    with open("people.jsonl", "w", encoding="utf8") as file:
        file.writelines(json.dumps(row) + "\n" for row in people(100))
    poise.train({"data": {"train": "people.jsonl"}, "backbone": "minilm", "method": "camps"}, out="runs/camps")
    model = poise.RewardModel.load("runs/camps")
    advice = "Take eight minutes."
    belief = model.predict("How do I boil an egg?", [POLITE[3] + advice, advice])
    print("shares of the camps  ", [round(share, 2) for share in belief.log_weights[0].exp().tolist()])
    print("their rewards        ", [[round(r, 1) for r in row] for row in belief.means.tolist()])
    print("P(polite ≻ curt)     ", round(belief[:1].prob_greater(belief[1:]).item(), 2), "  (7 in 10 in truth)")
    return model


if __name__ == "__main__":
    main()
