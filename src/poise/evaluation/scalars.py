"""From beliefs to the number that a benchmark compares: the evaluation's utility, and the two sides of every pair."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from poise.data.splits import prompt_key
from poise.distributions import RewardDistribution
from poise.evaluation.belief_table import REWARD
from poise.evaluation.benchmark import Item
from poise.evaluation.metrics.rows import FloatArray
from poise.evaluation.predictions import SetPredictions
from poise.utility import Utility


def scalars(one: SetPredictions, utility: Utility) -> FloatArray:
    """[B] in float64; a utility that looks at a group sees an item's responses, or all to a prompt where items have one."""
    several = any(len(item.responses) > 1 for item in one.items)
    keys: list[Hashable] = [i if several else prompt_key(item.prompt) for i, item in enumerate(one.items)]
    numbers: dict[Hashable, int] = {}
    rows = [numbers.setdefault(keys[i], len(numbers)) for i, item in enumerate(one.items) for _ in item.responses]
    return utility(one.scored.beliefs[REWARD], torch.tensor(rows)).double().numpy()


def by_item(items: Sequence[Item], values: FloatArray) -> list[FloatArray]:
    """[B] flat values → one array per item."""
    ends = np.cumsum([len(item.responses) for item in items])
    return list(np.split(values, ends[:-1]))


@dataclass(frozen=True)
class SetPairs:
    """The pairs of a set: (item, better, worse) each, the beliefs [P] about both sides in float64, and the ``label`` [P],
    the share that finds the better one better."""

    rows: list[tuple[int, int, int]]
    better: RewardDistribution
    worse: RewardDistribution
    label: FloatArray

    @classmethod
    def of(cls, one: SetPredictions) -> SetPairs:
        """Every pair of every item."""
        rows = [(i, a, b) for i, item in enumerate(one.items) for a, b in item.better]
        starts = np.concatenate([[0], np.cumsum([len(item.responses) for item in one.items])])
        # float64 before the comparison: in float32 a sure 1 − p is 0
        reward = one.scored.beliefs[REWARD].to(torch.float64)
        first, second = (reward[[int(starts[row[0]]) + row[side] for row in rows]] for side in (1, 2))
        label = np.array([float(one.items[i].meta.get("p_better", 1.0)) for i, _, _ in rows])
        return cls(rows, first, second, label)

    @property
    def p(self) -> FloatArray:
        """P(better ≻ worse) with half ties [P]."""
        return self.better.prob_greater(self.worse).numpy()

    @property
    def tie(self) -> FloatArray:
        """P(tie) [P]."""
        return self.better.prob_tie(self.worse).numpy()

    def prompts(self, items: Sequence[Item]) -> list[str]:
        """The prompt of each pair, for a bootstrap."""
        return [prompt_key(items[i].prompt) for i, _, _ in self.rows]
