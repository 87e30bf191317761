"""The head of the pairwise methods: one linear map from the features to a Gaussian, or to masses on fixed levels.

Its weights are zero at first, so that every belief starts as one known distribution; the KL to that start is the prior
that fixes what comparisons alone leave free (the zero and the unit of the rewards).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from poise.data.batch import Batch
from poise.distributions import Categorical, Gaussian, std_from_raw
from poise.distributions.numerics import STD_CEILING, STD_FLOOR
from poise.errors import ConfigError
from poise.features import Features
from poise.methods.base import ConfigT, Method

HeadKind = Literal["gaussian", "categorical"]


@dataclass(frozen=True)
class Belief:
    """The belief about each response."""

    reward: Gaussian | Categorical


class BeliefMethod(Method[ConfigT, Belief]):
    """Linear(H, 2) → (μ, raw σ), or with ``levels`` [K] Linear(H, K) → logits on top of fixed ``log_masses`` [K].

    The start is N(0, 1) for a Gaussian and ``log_masses`` for levels. Neither levels nor masses are saved: the
    configuration decides them.
    """

    levels: Tensor | None
    log_masses: Tensor

    def __init__(
        self, config: ConfigT, hidden_size: int, levels: Tensor | None = None, log_masses: Tensor | None = None
    ) -> None:
        super().__init__(config, hidden_size)
        self.score = nn.Linear(hidden_size, 2 if levels is None else len(levels), bias=False)
        nn.init.zeros_(self.score.weight)
        self.register_buffer("levels", levels, persistent=False)
        self.register_buffer("log_masses", log_masses, persistent=False)

    def forward(self, features: Features) -> Belief:  # noqa: D102
        raw = self.score(features.response * self.input_scale)
        if self.levels is not None:
            return Belief(Categorical(self.levels, raw + self.log_masses, validate=False))
        return Belief(Gaussian(raw[..., 0], self.std_of(raw[..., 1]), validate=False))

    def std_of(self, raw: Tensor) -> Tensor:
        """σ of the head's second output; 1 at 0."""
        return std_from_raw(raw)

    def linear_head(self) -> nn.Linear:  # noqa: D102
        return self.score

    def kl(self, reward: Gaussian | Categorical, batch: Batch) -> Tensor:
        """KL to the start, or to the frozen previous stage where the method needs it: mean over the pair, [P]."""
        if not self.needs_reference:
            kl = self.kl_to_start(reward)
        elif batch.reference is None:
            raise ConfigError("reference='previous_stage' needs an earlier stage; put a stage before it in the recipe")
        else:
            kl = reward.kl(batch.reference)
        return kl[batch.pairs].mean(1)

    def kl_to_start(self, reward: Gaussian | Categorical) -> Tensor:
        """½(σ² + μ² − 1) − ln σ, or Σ p (ln p − ln mass), [B]."""
        if isinstance(reward, Gaussian):
            return 0.5 * (reward.std.square() + reward.mean.square() - 1) - reward.std.log()
        log_probs = reward.log_probs
        return (log_probs.exp() * (log_probs - self.log_masses)).sum(-1)

    @torch.no_grad()
    def diagnostics(self, output: Belief, batch: Batch) -> dict[str, float]:  # noqa: D102
        first, second = output.reward[batch.first], output.reward[batch.second]
        std = output.reward.std
        found = {
            "mean_reward": output.reward.mean.mean().item(),
            "sigma": std.mean().item(),
            "margin": (first.mean - second.mean).mean().item(),
            "confidence": (2 * first.prob_greater(second) - 1).abs().mean().item(),
        }
        if isinstance(output.reward, Gaussian):
            limited = (std < 1.001 * STD_FLOOR) | (std > 0.999 * STD_CEILING)  # where no gradient reaches the head
            found["spread_at_a_limit"] = limited.float().mean().item()
        return found


def pair_spread(pair: Gaussian | Categorical) -> Tensor:
    """s = √(σ_first² + σ_second²) [P] of pairs [P, 2]."""
    if isinstance(pair, Gaussian):
        return torch.hypot(pair.std[:, 0], pair.std[:, 1])
    return pair.variance.sum(1).sqrt()


def z_of_pair(pair: Gaussian | Categorical) -> Tensor:
    """z = (μ_first − μ_second)/s [P] of pairs [P, 2]."""
    return (pair.mean[:, 0] - pair.mean[:, 1]) / pair_spread(pair)


def standard_normal_levels(head: HeadKind, bins: int) -> tuple[Tensor | None, Tensor | None]:
    """Levels [K] from −3 to 3 and the log masses [K] of N(0, 1) on them, for a categorical head; else neither."""
    if head == "gaussian":
        return None, None
    levels = torch.linspace(-3, 3, bins)
    return levels, normal_log_masses(levels)


def normal_log_masses(levels: Tensor) -> Tensor:
    """Log masses [K] of N(0, 1) on levels [K]: a bin reaches halfway to its neighbours, the outer two to infinity."""
    edges = ((levels[1:] + levels[:-1]) / 2).double()
    below = torch.cat([edges.new_zeros(1), torch.special.ndtr(edges), edges.new_ones(1)])
    return below.diff().log().to(levels.dtype)
