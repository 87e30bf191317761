"""Reward distributions: what a reward model returns, and everything that can be asked of it.

A family per file over one component view; ``base.py`` has the operations, ``comparison.py`` and ``scores.py`` the formulas.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from poise.distributions.atoms import pinball
from poise.distributions.base import Components, Coupling, RewardDistribution
from poise.distributions.categorical import Categorical
from poise.distributions.combine import barycentre, mixture
from poise.distributions.comparison import prob_best, win_matrix
from poise.distributions.gaussian import Gaussian
from poise.distributions.link import Link
from poise.distributions.mixture import Mixture, Samples, VarianceSplit, wasserstein_to_samples
from poise.distributions.numerics import std_from_raw
from poise.distributions.point import Point
from poise.distributions.quantiles import Quantiles, mid_levels
from poise.distributions.win_map import WinMap
from poise.errors import ConfigError, unknown_choice

__all__ = [
    "FAMILIES",
    "Categorical",
    "Components",
    "Coupling",
    "Gaussian",
    "Link",
    "Mixture",
    "Point",
    "Quantiles",
    "RewardDistribution",
    "Samples",
    "VarianceSplit",
    "WinMap",
    "barycentre",
    "mid_levels",
    "mixture",
    "pinball",
    "prob_best",
    "restore",
    "std_from_raw",
    "wasserstein_to_samples",
    "win_matrix",
]

FAMILIES: tuple[type[RewardDistribution], ...] = (Point, Gaussian, Categorical, Quantiles, Mixture, Samples)


def restore(family: str, parameters: Mapping[str, Tensor], options: Mapping[str, Any]) -> RewardDistribution:
    """Build again what ``family``, ``parameters()`` and ``options()`` describe; ConfigError if they do not fit."""
    by_name = {cls.family: cls for cls in FAMILIES}
    if family not in by_name:
        raise ConfigError(unknown_choice("reward family", family, by_name))
    settings = {**options, "link": Link.restored(options["link"])}
    try:
        return by_name[family](**parameters, **settings)
    except TypeError as error:
        raise ConfigError(f"these are not the parameters of a {family}: {sorted(parameters)} ({error})") from None
