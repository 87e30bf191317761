"""Best-of-n: which of several responses to give, how sure that is, and when to stop drawing more.

``choose`` decides among rewards, ``best_of_n`` among texts, and ``BestOfN`` while a policy is still writing. How sure:
P(best) is the probability that the chosen response is the best of those seen. When to stop is another question, about
responses not yet seen. It is answered from the utilities of those seen, taken for draws of a normal distribution with
unknown mean and spread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from poise.distributions import RewardDistribution, win_matrix
from poise.errors import ConfigError, DataError
from poise.model import Prompt, Response
from poise.utility import Utility, parse_utility, probability_best

FEWEST = 3  # two say nothing finite about the expected gain of a third


class Predictor(Protocol):
    """Whatever predicts rewards of texts: a ``RewardModel``, an ``Ensemble``."""

    def predict(self, prompts: Prompt, responses: Sequence[Response]) -> RewardDistribution:
        """[n]."""
        ...


@dataclass(frozen=True)
class Choice:
    """``index`` of the response with the highest of the ``utilities`` [n], the first of equals.

    ``p_best`` [n]: the probability that each is the best of the n, ties split. ``wins`` [n, n]: P(row better than column),
    ties half. ``abstained``: P(best) of the choice is less than was asked for.
    """

    index: int
    utilities: Tensor
    p_best: Tensor
    wins: Tensor
    abstained: bool


def choose(reward: RewardDistribution, utility: str | Utility = "mean", *, min_p_best: float = 0.0) -> Choice:
    """Among responses to one prompt with rewards [n]; equal utilities are decided by the mean.

    Raises as the utility does, and ``DataError`` for none.
    """
    if len(reward.shape) != 1 or not len(reward):
        raise DataError(f"best-of-n chooses among rewards [n] of one prompt, got the shape {list(reward.shape)}")
    if not 0 <= min_p_best <= 1:
        raise ConfigError(f"min_p_best is {min_p_best}; it must be a probability")
    utilities = parse_utility(utility)(reward, torch.zeros(len(reward), dtype=torch.long))
    index, p_best = _best(utilities, reward), probability_best(reward)
    return Choice(index, utilities, p_best, win_matrix(reward), bool(p_best[index] < min_p_best))


def _best(utilities: Tensor, reward: RewardDistribution) -> int:
    """Shrinkage that trusts no difference makes all utilities equal: the first response would then be no choice."""
    return int(torch.where(utilities == utilities.max(), reward.mean, -torch.inf).argmax())


def best_of_n(
    model: Predictor,
    prompt: Prompt,
    responses: Sequence[Response],
    utility: str | Utility = "mean",
    *,
    min_p_best: float = 0.0,
) -> Choice:
    """Among the responses to one prompt, by what ``model`` predicts; see ``choose``."""
    return choose(model.predict(prompt, responses), utility, min_p_best=min_p_best)


@dataclass(frozen=True)
class Stopping:
    """When ``n`` responses need not all be drawn: a share ``at`` of certainty, or a ``cost`` per response, or both.

    ``at``: as soon as the probability that no response still to come has a higher utility reaches it. Over prompts that
    probability is k/n on average after k responses, so it saves a share 1 − ``at`` at best. ``cost``, in units of the
    utility: as soon as the expected gain of one more response is less (Weitzman 1979). Never below three responses.
    """

    n: int
    at: float | None = None
    cost: float | None = None

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ConfigError(f"n is {self.n}; it must be at least 1")
        if self.at is not None and not 0 < self.at <= 1:
            raise ConfigError(f"the certainty to stop at is {self.at}; it must be a probability above 0")
        if self.cost is not None and not self.cost >= 0:
            raise ConfigError(f"the cost of a response is {self.cost}; it must be at least 0, in units of the utility")

    def holds(self, utilities: Sequence[float]) -> bool:
        """Whether responses of these utilities are enough."""
        if len(utilities) >= self.n:
            return True
        if len(utilities) < FEWEST:
            return False
        certain = self.at is not None and p_final(utilities, self.n) >= self.at
        return certain or (self.cost is not None and expected_gain(utilities) < self.cost)


class BestOfN:
    """Draws that come one after the other: ``update`` until ``done``.

    >>> search = BestOfN(model, prompt, Stopping(n=16, at=0.9))
    >>> while not search.done:
    ...     choice = search.update(policy.generate(prompt, 4))
    >>> search.responses[choice.index]
    """

    def __init__(
        self,
        model: Predictor,
        prompt: Prompt,
        stopping: Stopping,
        *,
        utility: str | Utility = "mean",
        min_p_best: float = 0.0,
    ) -> None:
        self.model, self.prompt, self.stopping = model, prompt, stopping
        self.utility, self.min_p_best = parse_utility(utility), min_p_best
        self.responses: list[Response] = []
        self.choice: Choice | None = None
        self._reward: RewardDistribution | None = None

    def update(self, responses: Sequence[Response]) -> Choice:
        """The choice among all responses so far; only the new ones are scored."""
        new = self.model.predict(self.prompt, responses)
        self._reward = new if self._reward is None else RewardDistribution.concatenate([self._reward, new])
        self.responses += responses
        self.choice = choose(self._reward, self.utility, min_p_best=self.min_p_best)
        return self.choice

    @property
    def done(self) -> bool:
        """Whether more responses are not worth it, or all n are there."""
        return self.choice is not None and self.stopping.holds(self.choice.utilities.tolist())


@dataclass(frozen=True)
class Replay:
    """After how many responses a search would have ended, and with which choice."""

    count: int
    index: int


def replay(reward: RewardDistribution, utility: Utility, stopping: Stopping) -> Replay:
    """The rewards [n] of one prompt as if they had been drawn one after the other, in this order."""
    every = None if utility.grouped else utility(reward)
    for count in range(1, len(reward) + 1):
        seen = utility(reward[:count], torch.zeros(count, dtype=torch.long)) if every is None else every[:count]
        if count == len(reward) or stopping.holds(seen.tolist()):
            return Replay(count, _best(seen, reward[:count]))
    raise DataError("there is no reward to choose from")


# ── responses not yet seen ──


def p_final(utilities: Sequence[float], n: int) -> float:
    """Probability that none of the n − k responses still to come has a higher utility than the best of these k.

    The mean of Φ((best − μ)/σ)^(n−k) over μ and σ given normal draws and the prior 1/σ, under which such probabilities are
    right in the long run. By quadrature, within .005.
    """
    values = np.asarray(utilities, dtype=np.float64)
    count = len(values)
    if count >= n:
        return 1.0
    if count < 2:
        return count / n
    spread = values.std(ddof=1)
    if spread == 0:
        return 1.0
    best = (values.max() - values.mean()) / spread
    sigma, offset = _posterior(count)
    return float(np.mean(stats.norm.cdf((best - offset) / sigma) ** (n - count)))


def _posterior(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """σ and μ [Q] in units of the observed spread, around the observed mean."""
    levels, normal = (np.arange(64) + 0.5) / 64, stats.norm.ppf((np.arange(16) + 0.5) / 16)
    sigma = np.sqrt((count - 1) / stats.chi2.ppf(levels, count - 1))[:, None]
    offset = sigma * normal / math.sqrt(count)
    return np.broadcast_to(sigma, offset.shape).ravel(), offset.ravel()


def expected_gain(utilities: Sequence[float]) -> float:
    """E(u − best)₊ of one more response, in units of the utility; infinite for fewer than three."""
    values = np.asarray(utilities, dtype=np.float64)
    freedom = len(values) - 1
    if freedom < 2:
        return math.inf
    scale = values.std(ddof=1) * math.sqrt(1 + 1 / len(values))
    if scale == 0:
        return 0.0
    z = (values.max() - values.mean()) / scale
    above = (freedom + z**2) / (freedom - 1) * stats.t.pdf(z, freedom) - z * stats.t.sf(z, freedom)
    return float(scale * above)
