"""The simulated world read by MiniLM: texts with known truth, frozen features, one world per seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from experiments.claims.claim import Setting
from poise.backbone import Backbone, BackboneConfig
from poise.data.ratings import scales_of
from poise.data.records import Preference, Rating
from poise.data.simulate import WorldConfig, simulate
from poise.feature_cache import FeatureCache, default_cache
from poise.pairing import PairFeatures, pair_features
from poise.rated import RatedFeatures, rated_features

EVALUATION = ("in_domain", "prompt_disjoint", "response_disjoint", "mutual_disjoint")
READ = ("in_domain", "prompt_disjoint")  # by MiniLM; reading is most of a world's cost


@dataclass(frozen=True, eq=False)
class ReadWorld:
    """Training pairs and rated training responses, held-out pairs by split, rated responses of the in-domain split."""

    train: PairFeatures
    rated: RatedFeatures
    splits: Mapping[str, PairFeatures]
    held_ratings: RatedFeatures


@lru_cache(1)
def minilm() -> Backbone:
    """The one encoder of all studies."""
    return Backbone.load(BackboneConfig(name="minilm"))


@lru_cache(2)
def read_world(config: WorldConfig) -> ReadWorld:
    """A world with its features; the true levels of both responses stand as attributes of each pair."""
    made = simulate(config)
    backbone = minilm()
    cache = FeatureCache(default_cache(), backbone.fingerprint(), backbone.hidden_size)

    def read(preferences: Sequence[Preference]) -> PairFeatures:
        return pair_features(backbone, [with_levels(p) for p in preferences], cache, prompt_states=True)

    def rated(records: Sequence[Rating]) -> RatedFeatures:
        return rated_features(backbone, records, scales_of(records), cache, prompt_states=True)

    splits = {name: read(made.preferences[name]) for name in READ}
    return ReadWorld(
        read(made.preferences["train"]), rated(made.ratings["train"]), splits, rated(made.ratings["in_domain"])
    )


def world(setting: Setting) -> ReadWorld:
    """The seed's world."""
    sizes = {"train_pairs": setting.size(3000, 200), "eval_pairs": setting.size(1000, 100)}
    return read_world(WorldConfig(seed=setting.seed, **sizes))


def with_levels(pair: Preference) -> Preference:
    """The pair with the true attribute levels of its responses, as a rater without noise would give them."""
    levels: Any = pair.meta["attributes"]
    return replace(pair, attributes={name: (float(a), float(b)) for name, (a, b) in levels.items()})


def true_p(pairs: PairFeatures) -> torch.Tensor:
    """P(chosen ≻ rejected) of a new rater, [P]."""
    return torch.tensor([float(p.meta["true_p_chosen"]) for p in pairs.preferences], dtype=torch.float64)  # type: ignore[arg-type]


def true_rating_variance(rated: RatedFeatures, attribute: str = "overall") -> np.ndarray[Any, np.dtype[np.float64]]:
    """Variance of what raters say about each response [R], in squared steps of the scale 1 … 5."""
    masses = np.array([record.meta["true_distribution"][attribute] for record in rated.records])  # type: ignore[index]
    steps = np.arange(1.0, 6.0)
    mean = masses @ steps
    return np.asarray(masses @ steps**2 - mean**2)
