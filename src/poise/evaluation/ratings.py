"""Predicted rating distributions against what people gave: scores per item, and how good they could be.

A finite panel of raters is itself a noisy sample of the population, so every distance has a floor above 0. It is measured
by splitting the raters of an item in half: half A is taken as the prediction for half B. A perfect prediction of the
population scores about 0.71 of that against one half (both halves are noisy, the prediction is not). ``marginal`` (the
pooled ratings of other items) is what knows nothing about the item, ``point`` (the mean of half A) what knows everything
but the spread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from poise.distributions import Mixture, Point, RewardDistribution, Samples
from poise.errors import DataError
from poise.evaluation.metrics.rows import FloatArray

SPLITS = 20


@dataclass(frozen=True)
class Panel:
    """The ratings of n items, each by its own number of raters."""

    items: tuple[FloatArray, ...]

    @staticmethod
    def of(ratings: Sequence[Sequence[float]]) -> Panel:
        """Raises ``DataError`` for an item without ratings."""
        items = tuple(np.asarray(given, dtype=np.float64) for given in ratings)
        empty = [number for number, given in enumerate(items) if not given.size]
        if empty or not items:
            raise DataError(f"item {empty[0]} has no rating; leave it out" if empty else "no rated item was given")
        return Panel(items)

    def __len__(self) -> int:
        return len(self.items)

    def halves(self, generator: np.random.Generator) -> tuple[Panel, Panel]:
        """The raters of every item dealt into two halves at random; of an odd number the second half is the larger."""
        dealt = [generator.permutation(given) for given in self.items]
        return Panel(tuple(d[: len(d) // 2] for d in dealt)), Panel(tuple(d[len(d) // 2 :] for d in dealt))

    def groups(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(item numbers [m], ratings [m, R]) for every number of raters R."""
        sizes = np.array([len(given) for given in self.items])
        for size in np.unique(sizes):
            rows = np.flatnonzero(sizes == size)
            yield torch.from_numpy(rows), torch.from_numpy(np.stack([self.items[i] for i in rows]))


def crps(belief: RewardDistribution, panel: Panel) -> FloatArray:
    """Mean over an item's raters of the continuous ranked probability score, [n], in units of the ratings."""
    return _by_group(panel, lambda rows, given: _wide(belief)[rows][:, None].crps(given).mean(-1))


def wasserstein(belief: RewardDistribution, panel: Panel) -> FloatArray:
    """W1 to the empirical distribution of an item's ratings, [n], in units of the ratings."""
    return _by_group(panel, lambda rows, given: _wide(belief)[rows].wasserstein(Samples(given)))


def cramer(belief: RewardDistribution, panel: Panel) -> FloatArray:
    """Unbiased Cramér distance ∫(F − G)² to the population an item's raters come from, [n]; NaN with a single rater.

    Mean CRPS over the raters less half their mean distance from each other; it can fall below 0 by chance.
    """
    spread = np.array([_mean_distance(given) for given in panel.items])
    return crps(belief, panel) - 0.5 * spread


@dataclass(frozen=True)
class NoiseFloor:
    """Mean W1 against one half of an item's raters, in units of the ratings (see the module's text)."""

    split_half: float
    marginal: float
    point: float


def half_wasserstein(belief: RewardDistribution, panel: Panel, splits: int = SPLITS, seed: int = 0) -> FloatArray:
    """W1 to half of an item's raters, [n], mean over random halves: on the same footing as ``noise_floor``.

    The halves are those of ``noise_floor`` with the same ``splits`` and ``seed``; items need two raters or more.
    """
    generator = np.random.default_rng(seed)
    total = np.zeros(len(panel))
    for _ in range(splits):
        total += wasserstein(belief, panel.halves(generator)[1])
    return total / splits


def noise_floor(panel: Panel, marginal: Sequence[float], splits: int = SPLITS, seed: int = 0) -> NoiseFloor:
    """What half of the raters, the pooled ``marginal`` ratings and the half's mean would score; two raters or more each.

    Raises ``DataError`` where an item has a single rater.
    """
    if any(len(given) < 2 for given in panel.items):
        raise DataError("a noise floor needs at least two raters per item; leave the other items out")
    generator = np.random.default_rng(seed)
    pooled = empirical(marginal).expand(len(panel))
    found: dict[str, list[float]] = {"split_half": [], "marginal": [], "point": []}
    for _ in range(splits):
        first, second = panel.halves(generator)
        by_half = np.empty(len(panel))
        for rows, given in second.groups():
            for row, observed in zip(rows.tolist(), given, strict=True):
                half = Samples(torch.from_numpy(first.items[row]))
                by_half[row] = half.wasserstein(Samples(observed))
        means = Point(torch.tensor([given.mean() for given in first.items], dtype=torch.float64))
        found["split_half"].append(by_half.mean())
        found["marginal"].append(wasserstein(pooled, second).mean())
        found["point"].append(wasserstein(means, second).mean())
    return NoiseFloor(**{name: float(np.mean(values)) for name, values in found.items()})


def empirical(ratings: Sequence[float]) -> Mixture:
    """The distribution of many ratings, one atom per distinct value; batch shape [1]."""
    values, counts = np.unique(np.asarray(ratings, dtype=np.float64), return_counts=True)
    return Mixture.from_samples(torch.from_numpy(values)[None], torch.from_numpy(counts.astype(np.float64))[None])


def _by_group(panel: Panel, score: Callable[[Tensor, Tensor], Tensor]) -> FloatArray:
    scores = np.empty(len(panel))
    for rows, given in panel.groups():
        scores[rows.numpy()] = score(rows, given).numpy()
    return scores


def _wide(belief: RewardDistribution) -> RewardDistribution:
    return belief.to(torch.float64)


def _mean_distance(given: FloatArray) -> float:
    """Mean |x − x'| over pairs of different raters."""
    count = len(given)
    if count < 2:
        return float("nan")
    ordered = np.sort(given)
    weights = 2 * np.arange(count) - count + 1
    return float(2 * (weights * ordered).sum() / (count * (count - 1)))
