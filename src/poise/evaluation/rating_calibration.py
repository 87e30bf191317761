"""Are beliefs about ratings as spread as the raters: PIT, quantile coverage and intervals, resampled by item."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from poise.distributions import RewardDistribution
from poise.evaluation.bootstrap import Interval, Metric, PromptBootstrap
from poise.evaluation.metrics.ratings import interval_score, pit_distance, pit_shares
from poise.evaluation.metrics.rows import BoolArray, FloatArray, mean
from poise.evaluation.ratings import Panel
from poise.evaluation.result import CurvePoint, Record

LEVELS = (0.1, 0.5, 0.9)
COVERAGE = LEVELS[-1] - LEVELS[0]
CURVE = tuple(step / 20 for step in range(1, 20))
BINS = 10


class Coverage(Record):
    """At a quantile of ``level``: the shares of ratings below it and at most at it. Calibrated is ``below`` ≤ ``level`` ≤ ``at_most``."""

    level: float
    below: Interval
    at_most: Interval


def calibration_metrics(belief: RewardDistribution, panel: Panel) -> dict[str, Metric]:
    """Measures of beliefs [n] about single ratings; every item counts once, whatever its number of raters.

    ``below_q10`` and ``at_most_q10`` are P(x < q) and P(x <= q) at the 10 % quantile: a calibrated belief has .1 between them.
    ``coverage_80``, ``width_80`` and ``interval_score_80`` are of the interval from the 10 % to the 90 % quantile, ends included.
    """
    item, value = _flat(panel)
    wide = belief.to(torch.float64)
    quantiles = wide.quantile(torch.tensor(LEVELS, dtype=torch.float64)).numpy()
    low, high = quantiles[:, 0], quantiles[:, -1]
    found: dict[str, Metric] = {"pit_distance": partial(pit_distance, _by_item(pit_shares(*_jumps(wide, panel)), item))}
    per_rating: dict[str, FloatArray | BoolArray] = {}
    for number, level in enumerate(LEVELS):
        quantile = quantiles[item, number]
        per_rating[f"below_q{round(100 * level)}"] = value < quantile
        per_rating[f"at_most_q{round(100 * level)}"] = value <= quantile
    per_rating["coverage_80"] = (low[item] <= value) & (value <= high[item])
    per_rating["width_80"] = (high - low)[item]
    per_rating["interval_score_80"] = interval_score(value, low[item], high[item], COVERAGE)
    return found | {name: partial(mean, _by_item(each, item)) for name, each in per_rating.items()}


def coverage_curve(belief: RewardDistribution, panel: Panel, bootstrap: PromptBootstrap) -> list[Coverage]:
    """Quantile coverage over all levels, of single ratings; every item counts once."""
    item, value = _flat(panel)
    quantiles = belief.to(torch.float64).quantile(torch.tensor(CURVE, dtype=torch.float64)).numpy()[item]
    sides = {"below": value[:, None] < quantiles, "at_most": value[:, None] <= quantiles}
    means = {name: _by_item(side, item) for name, side in sides.items()}
    found = bootstrap.intervals(
        {f"{name} {i}": partial(mean, given[:, i]) for name, given in means.items() for i in range(len(CURVE))}
    )
    return [
        Coverage(level=level, below=found[f"below {i}"], at_most=found[f"at_most {i}"]) for i, level in enumerate(CURVE)
    ]


def pit_curve(belief: RewardDistribution, panel: Panel, bootstrap: PromptBootstrap) -> list[CurvePoint]:
    """Density of the randomised PIT over ``BINS`` bins, in expectation over its draws: 1 everywhere where calibrated."""
    item, _ = _flat(panel)
    shares = _by_item(pit_shares(*_jumps(belief.to(torch.float64), panel), bins=BINS), item)
    found = bootstrap.intervals({str(i): partial(mean, BINS * shares[:, i]) for i in range(BINS)})
    return [CurvePoint(x=(i + 0.5) / BINS, y=found[str(i)]) for i in range(BINS)]


def _flat(panel: Panel) -> tuple[NDArray[np.intp], FloatArray]:
    """(number of the item, rating) of every rating [N]."""
    item = np.repeat(np.arange(len(panel)), [len(given) for given in panel.items])
    return item, np.concatenate(panel.items)


def _jumps(belief: RewardDistribution, panel: Panel) -> tuple[FloatArray, FloatArray]:
    """F(x−) and F(x) of every rating [N]."""
    item, value = _flat(panel)
    rows, given = belief[torch.from_numpy(item)], torch.from_numpy(value)
    left, right = rows.cdf_left(given).numpy().clip(0.0, 1.0), rows.cdf(given).numpy().clip(0.0, 1.0)
    return np.minimum(left, right), right


def _by_item(values: FloatArray | BoolArray, item: NDArray[np.intp]) -> FloatArray:
    """Mean over each item's ratings: [N, ...] to [n, ...]; ``item`` [N] ascends."""
    starts = np.flatnonzero(np.diff(item, prepend=-1))
    count = np.diff(starts, append=len(item))
    sums = np.add.reduceat(values.astype(np.float64), starts, axis=0)
    return np.asarray(sums / count.reshape(-1, *[1] * (values.ndim - 1)))
