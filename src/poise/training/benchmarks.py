"""Evaluation sets on which a model is measured while it trains: a few figures without intervals, for the training curves.

What is measured in full, with intervals, is for ``poise evaluate`` afterwards. Measuring draws no random number and changes
nothing that training goes on with.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from poise.backbone import Backbone
from poise.data.chat import Encoded
from poise.distributions import RewardDistribution
from poise.evaluation import metrics
from poise.evaluation.belief_table import REWARD
from poise.evaluation.encoding import conversation, encode
from poise.evaluation.items import flat_texts
from poise.evaluation.metrics.correlation import spearman
from poise.evaluation.predictions import Scored, SetPredictions
from poise.evaluation.rated import attributes_of
from poise.evaluation.scalars import SetPairs, by_item, scalars
from poise.evaluation.sets import EvaluationSet, Reading, check_gold, kind_of, load_set, rules_of
from poise.features import Features
from poise.training.monitor import Reporter
from poise.training.recipe import Recipe
from poise.utility import parse_utility

PREFIX = "benchmark"


@dataclass(frozen=True)
class BenchmarkTexts:
    """One set, encoded: the texts of all its responses. ``features`` where a head is trained on a frozen backbone."""

    given: EvaluationSet
    texts: tuple[Encoded, ...]
    features: Features | None = None

    @property
    def keys(self) -> list[object]:
        """The item that each text belongs to: its responses share a prompt."""
        return [i for i, item in enumerate(self.given.items) for _ in item.responses]

    @property
    def label(self) -> str:
        """The set in the names of figures: files by their stem."""
        kind, _, place = self.given.facts.name.partition(":")
        return f"{kind} {Path(place).name.partition('.')[0]}" if place else kind

    def figures(self, reward: RewardDistribution) -> dict[str, float]:
        """The headline of a benchmark; accuracy, NLL and ECE of pairs; the rank correlation with ratings."""
        one = SetPredictions(self.given.facts, self.given.items, Scored({REWARD: reward}, (), (), ()))
        scalar = scalars(one, parse_utility("mean"))
        found: dict[str, float] = {}
        if (rules := rules_of(self.given.facts.name)) is not None:
            ones = np.ones((1, len(one.items)))
            official = rules.score(one.items, by_item(one.items, scalar), ones)
            found |= {name: float(value[0]) for name, value in list(official.items())[:1]}
        elif kind_of(self.given.facts.name) == "pairs":
            pairs = SetPairs.of(one)
            p, y = pairs.p, pairs.label
            found |= {"accuracy": float(metrics.accuracy(p, y, pairs.tie)), "nll": float(metrics.nll(p, y))}
            found["ece"] = float(metrics.expected_calibration_error(p, y))
        else:
            for name in attributes_of(one.items):
                rows = [i for i, item in enumerate(one.items) if item.meta["ratings"].get(name)]
                mean = [float(np.mean(one.items[i].meta["ratings"][name])) for i in rows]
                found[f"{name} spearman"] = float(spearman(scalar[rows], mean))
        return {f"{PREFIX}/{self.label}/{name}": value for name, value in found.items()}


def load_benchmarks(
    backbone: Backbone, recipe: Recipe, known: Collection[int], *, conversational: bool, reporter: Reporter
) -> tuple[BenchmarkTexts, ...]:
    """The recipe's sets; prompts whose number is ``known`` from training are left out of files and counted in benchmarks."""
    reading = Reading(recipe.data.labels, recipe.data.bad_rows, known)
    found = []
    for name in recipe.training.benchmarks:
        one = load_set(name, reading)
        check_gold(one)
        for note in one.facts.notes:
            reporter.say(f"{name}: {note}")
        given = flat_texts(one.items)
        meant = [conversation(*text) for text in given] if conversational else given
        found.append(BenchmarkTexts(one, tuple(encode(backbone.encoder, meant, name))))
    return tuple(found)


@contextmanager
def undisturbed(*modules: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards modes and generators are what they were."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices), torch.no_grad():
        for module in modules:
            module.eval()
        yield
    for part, mode in modes:
        part.training = mode
