"""Beliefs about rated responses against what raters said: the record of one attribute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from pydantic import Field

from poise.data.ratings import Scales
from poise.data.records import Text
from poise.data.splits import prompt_key
from poise.distributions import RewardDistribution
from poise.errors import DataError
from poise.evaluation.belief_table import REWARD
from poise.evaluation.benchmark import Item
from poise.evaluation.bootstrap import Interval, Metric, PromptBootstrap
from poise.evaluation.chosen import BestOfNResult, choose
from poise.evaluation.metrics.correlation import pearson, spearman
from poise.evaluation.metrics.rows import FloatArray, mean
from poise.evaluation.rating_calibration import Coverage, calibration_metrics, coverage_curve, pit_curve
from poise.evaluation.ratings import Panel, cramer, crps, half_wasserstein, noise_floor, wasserstein
from poise.evaluation.result import CurvePoint, Record

SPLITS = 5


class RatingResult(Record):
    """One attribute. Without a belief about it (``known`` is false) only the order of the rewards is measured.

    ``floor``: W1 against half of the raters that the other half, the pooled ratings and the other half's mean reach, in
    units of the ratings; absent where an item has one rater. ``best_of_n``: what choosing by the belief among the responses
    to one prompt gains in mean rating, where enough prompts have several. ``coverage`` and ``pit`` need a belief.
    """

    attribute: str
    items: int
    raters: float
    known: bool
    metrics: dict[str, Interval]
    floor: dict[str, float] = Field(default={})
    best_of_n: BestOfNResult | None = None
    coverage: list[Coverage] = Field(default=[])
    pit: list[CurvePoint] = Field(default=[])


@dataclass(frozen=True)
class Rated:
    """The items of a set with the beliefs [n] about them by attribute, on the ``scales`` of the model's training.

    ``scalar`` [n] is the evaluation's number of each response: what orders them where no belief is about the attribute.
    """

    items: Sequence[Item]
    beliefs: Mapping[str, RewardDistribution]
    scales: Scales
    scalar: FloatArray

    def of(self, name: str) -> tuple[list[int], Panel, RewardDistribution | None]:
        """The rows that are rated on an attribute, their ratings, and the belief about it on the scale of the data, if any.

        Raises ``DataError`` where the data states several scales.
        """
        rows = [i for i, item in enumerate(self.items) if item.meta["ratings"].get(name)]
        panel = Panel.of([self.items[i].meta["ratings"][name] for i in rows])
        stated = {tuple(self.items[i].meta.get("scale") or ()) for i in rows}
        if len(stated) > 1:
            raise DataError(f"the ratings of {name!r} have the scales {sorted(stated)}; give all of them one scale")
        if name not in self.beliefs or name not in self.scales:
            return rows, panel, None
        belief = self.beliefs[name][torch.tensor(rows)].to(torch.float64)
        return rows, panel, _on_scale(belief, self.scales[name], stated.pop())

    def measures(self, name: str, seed: int = 0) -> tuple[list[int], dict[str, Metric]]:
        """The rows that are rated on an attribute, and what is measured of them."""
        rows, panel, belief = self.of(name)
        if belief is not None:
            return rows, rating_metrics(belief, panel, seed=seed)
        return rows, order_metrics(self.scalar[rows], self.beliefs[REWARD][torch.tensor(rows)], panel)


def attributes_of(items: Sequence[Item]) -> list[str]:
    """What at least one of the items is rated on."""
    return list(dict.fromkeys(name for item in items for name, given in item.meta["ratings"].items() if given))


def evaluate_ratings(rated: Rated, *, resamples: int = 1000, seed: int = 0) -> list[RatingResult]:
    """Every attribute that the items are rated on."""
    return [_attribute(name, rated, resamples, seed) for name in attributes_of(rated.items)]


def _attribute(name: str, rated: Rated, resamples: int, seed: int) -> RatingResult:
    rows, panel, belief = rated.of(name)
    items = [rated.items[i] for i in rows]
    bootstrap = PromptBootstrap([prompt_key(item.prompt) for item in items], resamples=resamples, seed=seed)
    about: dict[str, Any] = {}
    if belief is not None:
        about["coverage"] = coverage_curve(belief, panel, bootstrap)
        about["pit"] = pit_curve(belief, panel, bootstrap)
    if min(len(given) for given in panel.items) > 1:
        pooled = np.concatenate(panel.items).tolist()
        about["floor"] = vars(noise_floor(panel, pooled, splits=SPLITS, seed=seed))
    scalar = rated.scalar[rows] if belief is None else belief.mean.double().numpy()
    return RatingResult(
        attribute=name,
        items=len(rows),
        raters=float(np.mean([len(given) for given in panel.items])),
        known=belief is not None,
        metrics=bootstrap.intervals(rated.measures(name, seed)[1]),
        best_of_n=_chosen(items, scalar, panel, resamples, seed),
        **about,
    )


def _chosen(items: Sequence[Item], scalar: FloatArray, panel: Panel, resamples: int, seed: int) -> BestOfNResult | None:
    groups: dict[Text, list[int]] = {}
    for row, item in enumerate(items):
        groups.setdefault(item.prompt, []).append(row)
    gold = np.array([given.mean() for given in panel.items])
    proxies, golds = ([values[rows] for rows in groups.values()] for values in (scalar, gold))
    prompts = [prompt_key(prompt) for prompt in groups]
    return choose(proxies, golds, prompts, resamples=resamples, seed=seed)


def rating_metrics(belief: RewardDistribution, panel: Panel, *, seed: int = 0) -> dict[str, Metric]:
    """The measures of beliefs [n] about ratings, in units of the ratings, in the order of the tables."""
    per_item = {"crps": crps(belief, panel), "w1": wasserstein(belief, panel)}
    if min(len(given) for given in panel.items) > 1:
        per_item |= {"w1_half": half_wasserstein(belief, panel, SPLITS, seed), "cramer": cramer(belief, panel)}
    means: dict[str, Metric] = {name: partial(mean, values) for name, values in per_item.items()}
    return means | calibration_metrics(belief, panel) | order_metrics(belief.mean.double().numpy(), belief, panel)


def order_metrics(scalar: FloatArray, belief: RewardDistribution, panel: Panel) -> dict[str, Metric]:
    """What needs no scale: correlations of ``scalar`` [n] with mean ratings, and of spreads with the raters' spreads."""
    means = scalar, np.array([given.mean() for given in panel.items])
    found: dict[str, Metric] = {"spearman": partial(spearman, *means), "pearson": partial(pearson, *means)}
    if min(len(given) for given in panel.items) > 1 and belief.std.any():
        spreads = np.array([given.std(ddof=1) for given in panel.items])
        found["spread_spearman"] = partial(spearman, belief.std.double().numpy(), spreads)
    return found


def _on_scale(belief: RewardDistribution, trained: tuple[float, float], stated: Sequence[float]) -> RewardDistribution:
    """On the scale that the data states; unstated, it is taken to be that of training."""
    if not stated:
        return belief
    factor = (stated[1] - stated[0]) / (trained[1] - trained[0])
    return belief.affine(factor, stated[0] - factor * trained[0])
