"""The test bed: Gaussian features with a known utility, people who disagree on some prompts, and flipped labels.

A prompt has two responses. Of the H features the first ones belong to the prompt and are shared; the others say the utility
u; feature 1 is constant. On noisy prompts (feature 0 is above 0) people compare u with a spread of ``LOUD``, on the others of ``QUIET``:
P(a ≻ b) = Φ((u_a − u_b) / (√2 spread)).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from poise.data.records import Preference
from poise.distributions import RewardDistribution
from poise.evaluation import metrics
from poise.features import Features
from poise.methods import Method, method_class
from poise.pairing import PairFeatures
from poise.training.heads import HeadData, train_heads
from poise.training.recipe import parse_recipe

WIDTH, SHARED = 64, 8
QUIET, LOUD = 0.4, 2.0
HELD = 20_000  # the calibration error of few pairs is mostly noise: up to .4·√(15/n)


@dataclass(frozen=True, eq=False)
class Bed:
    """``train`` and ``held`` pairs with the utilities [P, 2] of both responses; ``noisy`` [P] marks the held
    pairs on which people disagree. The first of a pair is the one that it is labelled for.
    """

    train: PairFeatures
    train_utility: Tensor
    held: PairFeatures
    held_utility: Tensor
    noisy: Tensor


@lru_cache(6)
def bed(seed: int, pairs: int, flips: float = 0.1, learnable: bool = True, held_flips: float | None = None) -> Bed:
    """A bed whose labels say the contrary of a rater's with probability ``flips``; held-out ones too, unless told.

    Kept for the next study of the same seed, which finds what was trained on it as well.
    """
    draw = np.random.default_rng([seed, 7])
    weights = draw.normal(size=WIDTH - SHARED) / (WIDTH - SHARED) ** 0.5
    parts = []
    for count, wrong in ((pairs, flips), (HELD, flips if held_flips is None else held_flips)):
        x = draw.normal(size=(count, 2, WIDTH))
        x[:, :, :SHARED] = x[:, :1, :SHARED]
        x[:, :, 0] = np.sign(x[:, :, 0])
        x[:, :, 1] = (
            1.0  # states of real backbones have a mean; without one a head without bias cannot move σ as a whole
        )
        utility = x[:, :, SHARED:] @ weights * (1.5 if learnable else 0.0)
        spread = np.where(x[:, 0, 0] > 0, LOUD, QUIET)
        p = torch.special.ndtr(torch.from_numpy((utility[:, 0] - utility[:, 1]) / (2**0.5 * spread)))
        second = torch.from_numpy(draw.random(count)) > p
        order = np.where((second.numpy() ^ (draw.random(count) < wrong))[:, None], [1, 0], [0, 1])
        chosen = torch.from_numpy(np.take_along_axis(x, order[:, :, None], 1)).float()
        ordered = torch.from_numpy(np.take_along_axis(utility, order, 1))
        parts.append((pair_features(chosen), ordered, torch.from_numpy(x[:, 0, 0] > 0)))
    return Bed(*parts[0][:2], *parts[1])


def pair_features(
    x: Tensor, attributes: Sequence[Mapping[str, tuple[float, float]]] = (), prompt: bool = False
) -> PairFeatures:
    """Features [P, 2, H], chosen first, as pairs of P prompts; ``prompt`` states are the shared features alone."""
    count = len(x)
    records = tuple(Preference(prompt=str(i), chosen="a", rejected="b", row=i) for i in range(count))
    if attributes:
        records = tuple(replace(one, attributes=given) for one, given in zip(records, attributes, strict=True))
    flat = x.flatten(0, 1)
    states = flat.clone()
    states[:, SHARED:] = 0.0
    return PairFeatures(
        features=Features(flat, states if prompt else None),
        pairs=torch.arange(2 * count).view(-1, 2),
        preferences=records,
        prompts=tuple(str(i) for i in range(count)),
    )


def fit(
    method: str,
    data: PairFeatures | HeadData,
    seed: int,
    stages: Sequence[Mapping[str, Any]] | None = None,
    folder: Path | None = None,
    **options: Any,
) -> Method[Any, Any]:
    """Train a head with poise's own loop; ``stages`` are the method's own by default."""
    given: dict[str, Any] = {"data": {"train": "x"}, "seed": seed, "method": {"name": method, **options}}
    recipe = parse_recipe(given | ({"stages": stages} if stages else {}))
    data = data if isinstance(data, HeadData) else HeadData(data)
    return train_heads(method_class(method), recipe, data, folder=folder)


def long_stage(epochs: float = 30, learning_rate: float = 3e-3) -> list[dict[str, Any]]:
    """One stage that is trained out."""
    return [{"epochs": epochs, "batch_size": 128, "learning_rate": learning_rate}]


@torch.inference_mode()
def beliefs(method: Method[Any, Any], pairs: PairFeatures) -> RewardDistribution:
    """Rewards [P, 2] of pairs, chosen first, in float64."""
    reward: RewardDistribution = method(pairs.features).reward.to(torch.float64)
    return reward[pairs.pairs]


@dataclass(frozen=True)
class Judged:
    """What a method says about pairs: P(first ≻ second) [P], mean spread of each pair [P], and the usual measures."""

    p: Tensor
    sigma: Tensor
    label: np.ndarray[Any, np.dtype[np.float64]]

    @property
    def accuracy(self) -> float:
        """Share of pairs ordered as labelled."""
        return float(metrics.accuracy(self.p.numpy(), self.label))

    @property
    def ece(self) -> float:
        """Calibration error of max(p, 1 − p)."""
        return float(metrics.expected_calibration_error(self.p.numpy(), self.label))

    @property
    def nll(self) -> float:
        """Mean −log likelihood, nat."""
        return float(metrics.nll(self.p.numpy(), self.label))


def judge(method: Method[Any, Any], pairs: PairFeatures) -> Judged:
    """A trained method on held-out pairs."""
    pair = beliefs(method, pairs)
    p = pair[:, 0].prob_greater(pair[:, 1])
    return Judged(p, pair.std.mean(1), pairs.targets().label.double().numpy())


def auroc(score: Tensor, positive: Tensor) -> float:
    """P(score of a positive > score of a negative)."""
    return float(metrics.auroc(score.double().numpy(), positive.numpy()))
