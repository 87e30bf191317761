"""Reward models that return a distribution instead of a number.

What is listed in ``__all__`` is promised; everything is imported on first use.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# the libraries below tell their makers what is used; they read this when they are imported
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from poise.data.load import load_preferences, load_ratings
    from poise.data.records import Message, Preference, Rating, Votes
    from poise.distributions import Categorical, Gaussian, Mixture, Point, Quantiles, RewardDistribution
    from poise.ensemble import Ensemble
    from poise.errors import PoiseError
    from poise.model import RewardModel
    from poise.policy.best_of_n import best_of_n
    from poise.policy.reward_function import as_reward_function
    from poise.run import evaluate, train
    from poise.utility import Utility, parse_utility
    from poise.version import __version__

_HOME = {
    "load_preferences": "poise.data.load",
    "load_ratings": "poise.data.load",
    "Message": "poise.data.records",
    "Preference": "poise.data.records",
    "Rating": "poise.data.records",
    "Votes": "poise.data.records",
    "RewardDistribution": "poise.distributions",
    "Point": "poise.distributions",
    "Gaussian": "poise.distributions",
    "Categorical": "poise.distributions",
    "Quantiles": "poise.distributions",
    "Mixture": "poise.distributions",
    "Ensemble": "poise.ensemble",
    "PoiseError": "poise.errors",
    "RewardModel": "poise.model",
    "best_of_n": "poise.policy.best_of_n",
    "as_reward_function": "poise.policy.reward_function",
    "evaluate": "poise.run",
    "train": "poise.run",
    "Utility": "poise.utility",
    "parse_utility": "poise.utility",
    "__version__": "poise.version",
}

__all__ = [
    "Categorical",
    "Ensemble",
    "Gaussian",
    "Message",
    "Mixture",
    "Point",
    "PoiseError",
    "Preference",
    "Quantiles",
    "Rating",
    "RewardDistribution",
    "RewardModel",
    "Utility",
    "Votes",
    "__version__",
    "as_reward_function",
    "best_of_n",
    "evaluate",
    "load_preferences",
    "load_ratings",
    "parse_utility",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'poise' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
