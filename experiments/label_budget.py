"""Active selection against random on the simulated world; part of ``curation.py``.

Candidates are all six pairs of four responses to a prompt; a label is the vote of one rater, drawn by the true P. Labels are
bought in rounds; after each, the posterior is fitted again and judged on pairs of other prompts against the truth (P ≷ ½).
One world is there to choose a method, another one to report on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

from poise.backbone import Backbone
from poise.curation.select import select
from poise.data.simulate import WorldConfig, simulate
from poise.evaluation.metrics.rows import FloatArray
from poise.feature_cache import FeatureCache
from poise.features import unit_scale
from poise.laplace import PairData, Posterior, fit_posterior
from poise.pairing import PairFeatures, pair_features

PROMPTS, HELD_PROMPTS, DRAWN, BUDGET, ROUND, ORDERS, RESAMPLES = 2000, 550, 900, 300, 30, 4, 2000
BUDGETS = (60, 120, 180, 240, BUDGET)
METHODS = ("random", "uncertainty", "bald", "variance")
WORLDS = {"to choose": 0, "to report": 1}  # by seed


@dataclass(frozen=True)
class Pool:
    """Feature differences [P, H] and true P [P] of candidates; of held-out pairs that are not ties those and Q prompts."""

    candidates: Tensor
    truth: FloatArray
    prompts: tuple[str, ...]
    held: Tensor
    better: FloatArray
    held_prompt: FloatArray

    def right(self, posterior: Posterior) -> FloatArray:
        """Held-out pairs of each prompt [Q] of which the better response is preferred."""
        said = (self.held @ posterior.mean).numpy() > 0
        return np.bincount(self.held_prompt, said == self.better)

    @property
    def pairs(self) -> FloatArray:
        """Held-out pairs of each prompt [Q]."""
        return np.bincount(self.held_prompt).astype(float)


def pool_of(backbone: Backbone, cache: FeatureCache, world: int) -> Pool:
    """The world of this seed."""
    config = WorldConfig(
        seed=world, train_pairs=6 * PROMPTS, eval_pairs=6 * HELD_PROMPTS, pairs_per_prompt=6, flip_rate=0.0
    )
    preferences = simulate(config).preferences
    pool, held = (pair_features(backbone, preferences[split], cache) for split in ("train", "in_domain"))
    scale = unit_scale(pool.features)
    truth, held_truth = (
        np.array([pair.meta["true_p_chosen"] for pair in part.preferences], dtype=float) for part in (pool, held)
    )
    decided = np.flatnonzero(held_truth != 0.5)
    prompt = np.unique([held.prompts[i] for i in decided], return_inverse=True)[1]
    judged = (differences(held) * scale)[torch.from_numpy(decided)]
    return Pool(differences(pool) * scale, truth, pool.prompts, judged, held_truth[decided] > 0.5, prompt)


def differences(part: PairFeatures) -> Tensor:
    """Chosen minus rejected [P, H]."""
    states = part.features.response.double()
    return states[part.pairs[:, 0]] - states[part.pairs[:, 1]]


def measure(pool: Pool, seeds: int, name: str) -> dict[str, Any]:
    """Curves [S, rounds] of every method, and per budget the labels that it needs as a share of random's, with an interval."""
    runs = []
    for seed in range(seeds):
        runs.append(one_seed(pool, seed))
        print(
            name,
            seed,
            {how: np.round(right.sum(1) / pool.pairs.sum(), 3) for how, right in runs[-1].items()},
            flush=True,
        )
    right = {how: np.stack([run[how] for run in runs]) for how in METHODS}
    found = {how: values.sum(2) / pool.pairs.sum() for how, values in right.items()}
    resampled = {how: bootstrap(values, pool.pairs) for how, values in right.items()}
    needs: dict[str, dict[str, list[float]]] = {how: {} for how in METHODS[1:]}
    for how, told in needs.items():
        for budget in BUDGETS:
            resamples = [share(*both, budget) for both in zip(resampled[how], resampled["random"], strict=True)]
            value = share(found[how].mean(0), found["random"].mean(0), budget)
            told[str(budget)] = [value, *np.quantile(resamples, (0.025, 0.975)).tolist()]
        print(name, how, told, flush=True)
    return {"curves": {how: values.tolist() for how, values in found.items()}, "needs": needs}


def drawn(pool: Pool, seed: int) -> tuple[Tensor, Tensor, list[str]]:
    """Differences [P, H], votes [P] and prompts of the candidates of this seed."""
    draw = np.random.default_rng([seed, 5])
    asked = set(draw.permutation(sorted(set(pool.prompts)))[:DRAWN].tolist())
    mine = [i for i, prompt in enumerate(pool.prompts) if prompt in asked]
    votes = torch.from_numpy((draw.random(len(mine)) < pool.truth[mine]).astype(np.float64))
    return pool.candidates[mine], votes, [pool.prompts[i] for i in mine]


def possible(pool: Pool, seeds: int) -> dict[str, list[float]]:
    """Budget → share of random's labels, seed by seed, with which ``variance`` has lowered the candidates' variance as far.

    That is what it aims at, reckoned with the prior and the votes' noise of a head that has a vote on every candidate: no
    wrong model and no luck of votes is in it.
    """
    told: dict[str, list[float]] = {str(budget): [] for budget in BUDGETS}
    for seed in range(seeds):
        x, votes, prompts = drawn(pool, seed)
        known = fit_posterior(PairData.equal(x, votes))
        nothing = fit_posterior(PairData.equal(x[:0], votes[:0]), start=known.precision)
        chosen = list(select(x, prompts, nothing, BUDGET, how="variance").pairs)
        orders = [np.random.default_rng([seed, i]).permutation(len(x))[:BUDGET].tolist() for i in range(ORDERS)]
        mine, *random = (variances(x, order, known) for order in (chosen, *orders))
        theirs = np.mean(random, axis=0)
        for budget in BUDGETS:
            needed = np.interp(-theirs[budget // ROUND], -mine, ROUND * np.arange(len(mine)))
            told[str(budget)].append(float(needed / budget))
    return told


def variances(x: Tensor, order: Sequence[int], known: Posterior) -> FloatArray:
    """[1 + rounds] the candidates' mean margin variance as labels come in this order."""
    found = []
    for labels in range(0, BUDGET + 1, ROUND):
        some = x[list(order[:labels])]
        hessian = PairData.equal(some, some.new_zeros(len(some))).hessian(
            known.mean, known.precision
        )  # whatever the labels
        found.append(float(torch.linalg.solve(hessian, x.T @ x / len(x)).trace()))
    return np.array(found)


def one_seed(pool: Pool, seed: int) -> dict[str, FloatArray]:
    """Right answers [rounds, Q] by method, on ``DRAWN`` prompts and votes of this seed; random is the mean of some orders."""
    x, votes, prompts = drawn(pool, seed)

    def bought(how: str, order: int) -> FloatArray:
        return np.stack([pool.right(posterior) for posterior in rounds(x, votes, prompts, how, order)])

    found = {how: bought(how, seed) for how in METHODS[1:]}
    return {"random": np.mean([bought("random", 100 * seed + i) for i in range(ORDERS)], axis=0), **found}


def rounds(x: Tensor, votes: Tensor, prompts: Sequence[str], how: str, seed: int) -> list[Posterior]:
    """What is known after each round of labels."""
    bought: list[int] = []
    left, found = np.arange(len(x)), [fit_posterior(PairData.equal(x[:0], votes[:0]))]
    for number in range(BUDGET // ROUND):
        chosen = select(x[left], [prompts[i] for i in left], found[-1], ROUND, how=how, seed=1000 * seed + number)
        bought += left[list(chosen.pairs)].tolist()
        left = np.setdiff1d(left, bought)
        found.append(fit_posterior(PairData.equal(x[bought], votes[bought]), start=found[-1].precision))
    return found[1:]


def bootstrap(right: FloatArray, pairs: FloatArray) -> FloatArray:
    """Curves [resamples, rounds], averaged over resampled seeds, on resampled held-out prompts; the same for every method."""
    draw, (seeds, _, prompts) = np.random.default_rng(0), right.shape
    of_seed = draw.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds
    of_prompt = draw.multinomial(prompts, np.full(prompts, 1 / prompts), RESAMPLES).astype(float)
    by_seed = np.tensordot(of_prompt, right, ([1], [2])) / (of_prompt @ pairs)[:, None, None]
    return np.einsum("bs,bsr->br", of_seed, by_seed)


def share(curve: FloatArray, random: FloatArray, budget: int = BUDGET) -> float:
    """Labels that a curve needs for random's accuracy after the budget, as a share of it; both are made monotone first."""
    mine, theirs = isotonic_regression(curve).x, isotonic_regression(random).x
    return min(labels_needed(mine, theirs[budget // ROUND - 1]) / budget, 1.0)


def labels_needed(curve: Sequence[float], wanted: float) -> float:
    """Labels, interpolated, after which a curve has reached ``wanted``; what it never reaches counts as all labels."""
    for i, value in enumerate(curve):
        if value >= wanted:
            before = curve[i - 1] if i else 0.5
            return float(ROUND * (i + (wanted - before) / (value - before)))
    return float(BUDGET)


def by_seed(found: Mapping[str, Any], how: str) -> list[float]:
    """The share of every seed by itself."""
    both = zip(found["curves"][how], found["curves"]["random"], strict=True)
    return [share(np.array(mine), np.array(theirs)) for mine, theirs in both]
