"""Which pairs to have labelled next, so that few labels teach much.

The default asks for the pairs that shrink the posterior variance of the margins of *all* candidates most (V-optimality,
the Gaussian form of expected predictive information gain): one after the other, each on condition of those before, so that
a batch does not ask the same thing twice. That needs no label, only where it would be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from poise.errors import ConfigError, unknown_choice
from poise.laplace import Posterior

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(32)


@dataclass(frozen=True)
class Selection:
    """The numbers of the pairs to label, best first, and what each was chosen by: see ``ACQUISITIONS`` for the unit."""

    pairs: tuple[int, ...]
    gain: tuple[float, ...]


def select(
    difference: Tensor,
    prompts: Sequence[Hashable],
    posterior: Posterior,
    budget: int,
    *,
    how: str = "variance",
    per_prompt: int | None = None,
    seed: int = 0,
) -> Selection:
    """``budget`` of P candidate pairs, or all there are, at most ``per_prompt`` of one prompt.

    ``difference`` [P, H] are float64 feature differences, ``how`` one of ``ACQUISITIONS``; ``seed`` decides what ``random``
    takes. ConfigError for what cannot be meant.
    """
    if how not in ACQUISITIONS:
        raise ConfigError(unknown_choice("way to select", how, ACQUISITIONS))
    for name, value in (("budget", budget), ("per-prompt", per_prompt)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}; it must be at least 1")
    return ACQUISITIONS[how](difference, posterior, _Room(prompts, budget, per_prompt), seed)


class _Room:
    """How many may still be taken, in all and of each prompt."""

    def __init__(self, prompts: Sequence[Hashable], budget: int, per_prompt: int | None) -> None:
        numbers: dict[Hashable, int] = {}
        self.prompt = torch.tensor([numbers.setdefault(one, len(numbers)) for one in prompts], dtype=torch.long)
        self.budget, self.per_prompt = budget, per_prompt
        self.open = torch.ones(len(prompts), dtype=torch.bool)
        self.taken: list[int] = []
        self._used: Counter[int] = Counter()

    def left(self) -> bool:
        return len(self.taken) < self.budget and bool(self.open.any())

    def take(self, pair: int) -> None:
        self.taken.append(pair)
        self.open[pair] = False
        prompt = int(self.prompt[pair])
        self._used[prompt] += 1
        if self._used[prompt] == self.per_prompt:
            self.open &= self.prompt != prompt

    def take_best(self, score: Tensor) -> Selection:
        """By a score [P] of each pair alone, equal ones in their order."""
        for pair in torch.argsort(-score, stable=True).tolist():
            if self.left() and self.open[pair]:
                self.take(pair)
        return Selection(tuple(self.taken), tuple(score[self.taken].tolist()))


def _by_variance(x: Tensor, posterior: Posterior, room: _Room, seed: int) -> Selection:
    """The expected drop of the candidates' mean margin variance, as a share of what it is before the first label.

    With A the weights' covariance, C the candidates' mean xxᵀ, and w = p(1 − p), a label of x takes A to A − k uuᵀ with
    u = Ax, k = w/(1 + w xᵀAx), and tr(AC) down by k uᵀCu; all scores follow by products of H numbers.
    """
    p = posterior.prob_first(x)
    weight, covariance = p * (1 - p), posterior.covariance.clone()
    target = x.T @ x / len(x)
    inner = covariance @ target @ covariance
    own, reach = ((x @ covariance) * x).sum(1), ((x @ inner) * x).sum(1)
    before, gains = float((covariance * target).sum()), []
    while room.left():
        drop = torch.where(room.open, weight * reach / (1 + weight * own), -1.0)
        best = int(drop.argmax())
        gains.append(float(drop[best]) / before)
        room.take(best)
        u, v = covariance @ x[best], inner @ x[best]
        k, spread = weight[best] / (1 + weight[best] * own[best]), x[best] @ v
        along, across = (x @ torch.stack([u, v], 1)).T  # one pass over the candidates
        reach = (reach - 2 * k * along * across + k * k * spread * along.square()).clamp(min=0)
        own = (own - k * along.square()).clamp(min=0)
        inner = inner - k * (torch.outer(u, v) + torch.outer(v, u)) + k * k * spread * torch.outer(u, u)
        covariance = covariance - k * torch.outer(u, u)
    return Selection(tuple(room.taken), tuple(gains))


def _by_bald(x: Tensor, posterior: Posterior, room: _Room, seed: int) -> Selection:
    """Mutual information [nat] of the label and the weights (Houlsby et al. 2011), each pair alone."""
    mean, spread = posterior.margin(x)
    nodes, weights = torch.from_numpy(NODES).to(x), torch.from_numpy(WEIGHTS / WEIGHTS.sum()).to(x)
    p = torch.sigmoid(mean[:, None] + spread[:, None] * nodes)
    return room.take_best(_entropy(p @ weights) - _entropy(p) @ weights)


def _by_uncertainty(x: Tensor, posterior: Posterior, room: _Room, seed: int) -> Selection:
    """Entropy [nat] of the label."""
    return room.take_best(_entropy(posterior.prob_first(x)))


def _by_chance(x: Tensor, posterior: Posterior, room: _Room, seed: int) -> Selection:
    """Random order."""
    drawn = torch.rand(len(x), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return room.take_best(drawn)


def _entropy(p: Tensor) -> Tensor:
    nats: Tensor = -torch.special.xlogy(p, p) - torch.special.xlogy(1 - p, 1 - p)
    return nats


ACQUISITIONS: Mapping[str, Callable[[Tensor, Posterior, _Room, int], Selection]] = {
    "variance": _by_variance,
    "bald": _by_bald,
    "uncertainty": _by_uncertainty,
    "random": _by_chance,
}
