"""What a calibration is fitted on: beliefs beside what people said, grouped by prompt."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from poise.distributions import RewardDistribution
from poise.errors import DataError

FEWEST_PROMPTS = 5
IntArray = NDArray[np.int64]


def numbered(prompts: Sequence[Hashable]) -> IntArray:
    """Prompts as numbers [n] in the order in which they first appear."""
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(prompt, len(known)) for prompt in prompts], dtype=np.int64)


def fold_numbers(groups: IntArray, folds: int, seed: int = 0) -> IntArray:
    """The fold [n] of every row: whole groups, the larger first, each into the fold that has least.

    Raises ``DataError`` for fewer than ``FEWEST_PROMPTS`` groups.
    """
    names, sizes = np.unique(groups, return_counts=True)
    if len(names) < FEWEST_PROMPTS:
        raise DataError(
            f"a calibration needs at least {FEWEST_PROMPTS} different prompts to be judged on others than it saw, "
            f"got {len(names)}; give more data"
        )
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-sizes[order], kind="stable")]
    filled, fold_of = np.zeros(folds), np.zeros(names.max() + 1, dtype=np.int64)
    for i in order:
        fold_of[names[i]] = least = int(np.argmin(filled))
        filled[least] += sizes[i]
    return np.asarray(fold_of[groups])


@dataclass(frozen=True)
class PairEvidence:
    """P pairs: uncalibrated beliefs about both responses, the share [P] that prefers the first, ``groups`` [P] of the prompts."""

    first: RewardDistribution
    second: RewardDistribution
    label: Tensor
    groups: IntArray

    @classmethod
    def of(
        cls, first: RewardDistribution, second: RewardDistribution, label: Sequence[float], prompts: Sequence[Hashable]
    ) -> Self:
        """In float64: in float32 a sure 1 − p is 0."""
        wide = torch.tensor(label, dtype=torch.float64)
        return cls(first.to(torch.float64).detach(), second.to(torch.float64).detach(), wide, numbered(prompts))

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, rows: IntArray) -> PairEvidence:
        index = torch.from_numpy(rows)
        return PairEvidence(self.first[index], self.second[index], self.label[index], self.groups[rows])


@dataclass(frozen=True)
class RatingEvidence:
    """R ratings of n responses: a belief per response [n], ``value`` [R] with its response's ``row`` [R], ``groups`` [n]."""

    belief: RewardDistribution
    value: Tensor
    row: IntArray
    groups: IntArray

    @classmethod
    def of(cls, belief: RewardDistribution, ratings: Sequence[Sequence[float]], prompts: Sequence[Hashable]) -> Self:
        """``ratings`` of every response, at least one each, on the belief's scale."""
        row = np.repeat(np.arange(len(ratings)), [len(given) for given in ratings])
        value = torch.tensor([float(one) for given in ratings for one in given], dtype=torch.float64)
        return cls(belief.to(torch.float64).detach(), value, row, numbered(prompts))

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, rows: IntArray) -> RatingEvidence:
        place = np.full(len(self), -1, dtype=np.int64)
        place[rows] = np.arange(len(rows))
        kept = place[self.row] >= 0
        return RatingEvidence(
            self.belief[torch.from_numpy(rows)],
            self.value[torch.from_numpy(kept)],
            place[self.row[kept]],
            self.groups[rows],
        )

    @property
    def weights(self) -> Tensor:
        """Of every rating [R]: a response counts once, whatever its number of raters."""
        counts = np.bincount(self.row, minlength=len(self))
        return torch.from_numpy(1.0 / counts[self.row])

    def each(self, belief: RewardDistribution) -> RewardDistribution:
        """``belief`` [n] repeated for every rating: [R]."""
        return belief[torch.from_numpy(self.row)]
