"""Calibrated predictions of ratings: what a stored calibration does to a belief about one attribute."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from poise.calibration.record import Source, Stored
from poise.distributions import Categorical, Quantiles, RewardDistribution

RatingMethod = Literal["none", "affine", "conformal"]


class ConformalInterval(Stored):
    """The central ``coverage`` interval of a belief, widened (or narrowed) by ``margin`` in units of the ratings."""

    coverage: Annotated[float, Field(gt=0, lt=1)]
    margin: float
    source: Source | None = None

    def of(self, belief: RewardDistribution) -> tuple[Tensor, Tensor]:
        """(low, high) [B]; low is above high where a narrowed interval is empty."""
        tail = (1 - self.coverage) / 2
        low, high = belief.quantile(torch.tensor([tail, 1 - tail])).unbind(-1)
        return low - self.margin, high + self.margin


class RatingCalibration(Stored):
    """Of one attribute, in units of its ratings.

    ``affine``: mean → shift + slope·mean, deviations from the mean → spread·deviation; on the fixed levels of a Categorical
    logits → logits/spread + slope·level, its exponential tilt. ``conformal``: quantile j/(K+1) → itself + offsets[j−1], as
    quantiles. ``scores``: cross-validated CRPS of every candidate.
    """

    method: RatingMethod
    shift: float = 0.0
    slope: float = 1.0
    spread: Annotated[float, Field(gt=0)] = 1.0
    offsets: tuple[float, ...] = ()
    scores: dict[str, float] = Field(default={})
    source: Source | None = None
    interval: ConformalInterval | None = None

    def apply(self, belief: RewardDistribution) -> RewardDistribution:
        """The belief about ratings as raters will bear it out."""
        if self.method == "affine":
            return affine(belief, self.shift, self.slope, self.spread)
        return conformalised(belief, torch.tensor(self.offsets)) if self.method == "conformal" else belief


def affine(belief: RewardDistribution, shift: float, slope: float, spread: float) -> RewardDistribution:
    """See ``RatingCalibration``; a Categorical has its own form, because it cannot leave its levels."""
    if isinstance(belief, Categorical):
        logits = belief.log_probs / spread + slope * belief.support
        return Categorical(belief.support, logits, belief.link, validate=False)
    return belief.affine(torch.full_like(belief.mean, spread), shift + (slope - spread) * belief.mean)


def conformal_levels(count: int) -> Tensor:
    """j/(count + 1), j = 1…count: equal atoms there have exactly these quantiles."""
    return torch.arange(1, count + 1, dtype=torch.float64) / (count + 1)


def conformalised(belief: RewardDistribution, offsets: Tensor) -> Quantiles:
    """The belief's quantiles at ``conformal_levels`` plus ``offsets`` [K]."""
    levels = conformal_levels(len(offsets)).to(belief.device, belief.dtype)
    values = belief.quantile(levels) + offsets.to(belief.device, belief.dtype)
    return Quantiles(values.sort(dim=-1).values, levels, "equal", belief.link, validate=False)
