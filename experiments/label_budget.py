"""Active selection against random on the simulated world; part of ``curation.py``.

Candidates are all six pairs of four responses to a prompt; a label is the vote of one rater, drawn by the true P. Labels are
bought in rounds; after each, the posterior is fitted again and judged on pairs of other prompts against the truth (P ≷ ½).
One half of the world's prompts is there to choose a method, the other to report on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from poise.backbone import Backbone
from poise.curation.posterior import Posterior, fit
from poise.curation.select import select
from poise.data.simulate import WorldConfig, simulate
from poise.evaluation.metrics.rows import FloatArray
from poise.feature_cache import FeatureCache
from poise.features import unit_scale
from poise.pairing import PairFeatures, pair_features

PROMPTS, HELD_PROMPTS, DRAWN, BUDGET, ROUND, ORDERS = 2000, 550, 900, 300, 30, 2
METHODS = ("random", "uncertainty", "bald", "variance")
PARTS = ("to choose", "to report")


@dataclass(frozen=True)
class Half:
    """Half of the prompts: feature differences [P, H] and true P [P] of candidates and of held-out pairs."""

    pool: Tensor
    pool_truth: FloatArray
    prompts: tuple[str, ...]
    held: Tensor
    held_truth: FloatArray

    def accuracy(self, posterior: Posterior) -> float:
        """Share of the held-out pairs of which the better response is preferred."""
        said, decided = posterior.margin(self.held)[0].numpy(), self.held_truth != 0.5
        return float(((said > 0) == (self.held_truth > 0.5))[decided].mean())


def halves(backbone: Backbone, cache: FeatureCache) -> dict[str, Half]:
    """The world, divided by prompt."""
    config = WorldConfig(train_pairs=6 * PROMPTS, eval_pairs=6 * HELD_PROMPTS, pairs_per_prompt=6, flip_rate=0.0)
    world = simulate(config)
    pool, held = (pair_features(backbone, world.preferences[split], cache) for split in ("train", "in_domain"))
    scale = unit_scale(pool.features)
    x, z = (differences(part) * scale for part in (pool, held))
    p, q = (np.array([pair.meta["true_p_chosen"] for pair in part.preferences], dtype=float) for part in (pool, held))
    cuts = [(slice(len(x) // 2), slice(len(z) // 2)), (slice(len(x) // 2, None), slice(len(z) // 2, None))]
    return {
        name: Half(x[mine], p[mine], pool.prompts[mine], z[other], q[other])
        for name, (mine, other) in zip(PARTS, cuts, strict=True)
    }


def curves(half: Half, seed: int) -> dict[str, list[float]]:
    """Accuracy after every round by method, on ``DRAWN`` prompts and votes of this seed; random is the mean of some orders."""
    draw = np.random.default_rng([seed, 5])
    asked = set(draw.permutation(sorted(set(half.prompts)))[:DRAWN].tolist())
    mine = [i for i, prompt in enumerate(half.prompts) if prompt in asked]
    votes = torch.from_numpy((draw.random(len(mine)) < half.pool_truth[mine]).astype(np.float64))
    x, prompts = half.pool[mine], [half.prompts[i] for i in mine]

    def curve(how: str, seed: int) -> list[float]:
        return one_curve(x, votes, prompts, how, seed, half.accuracy)

    found = {how: curve(how, seed) for how in METHODS if how != "random"}
    return {"random": np.mean([curve("random", 100 * seed + i) for i in range(ORDERS)], axis=0).tolist(), **found}


def differences(part: PairFeatures) -> Tensor:
    """Chosen minus rejected [P, H]."""
    states = part.features.response.double()
    return states[part.pairs[:, 0]] - states[part.pairs[:, 1]]


def one_curve(
    x: Tensor, votes: Tensor, prompts: Sequence[str], how: str, seed: int, accuracy: Callable[[Posterior], float]
) -> list[float]:
    """Accuracy after each round of labels."""
    bought: list[int] = []
    left = np.arange(len(x))
    posterior, found = fit(x[:0], votes[:0]), []
    for number in range(BUDGET // ROUND):
        chosen = select(x[left], [prompts[i] for i in left], posterior, ROUND, how=how, seed=1000 * seed + number)
        bought += left[list(chosen.pairs)].tolist()
        left = np.setdiff1d(left, bought)
        posterior = fit(x[bought], votes[bought], start=posterior.precision)
        found.append(accuracy(posterior))
    return found


def labels_needed(curve: Sequence[float], wanted: float) -> float:
    """Labels, interpolated, after which a curve has reached ``wanted``; more than the budget counts as the budget."""
    for i, value in enumerate(curve):
        if value >= wanted:
            before = curve[i - 1] if i else 0.5
            return ROUND * (i + (wanted - before) / (value - before))
    return float(BUDGET)


def shares(found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Labels that each method needs for random's final accuracy, as a share of random's."""
    return {how: labels_needed(curve, found["random"][-1]) / BUDGET for how, curve in found.items() if how != "random"}
