"""Many linear heads on one table of features: an ensemble, or draws from the posterior of one Bayesian head.

``kind="heads"``: heads that differ by their start and by the bootstrap of the pairs. Online bagging draws fresh weights at
every step, which average out over the epochs; here a pair keeps its weights, which are a hash of its features (where a
backbone trains along and changes them, that is online bagging after all).

``kind="laplace"``: the last-layer Laplace approximation of Bradley–Terry (``poise.laplace``); the members are draws from
its posterior.

Member m of one reward belongs to member m of every other, so comparisons go member by member. ``Mixture.split()`` tells
the variance within the members (people differ; 0 for Bradley–Terry, which has it in the link) from that between them (the
model does not know). Pairs say nothing about what both responses to a prompt share: the variance between the members
includes it as it was at the start or in the prior, and only comparisons of two responses to one prompt are free of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from poise.data.batch import Batch
from poise.distributions import Link, Mixture, std_from_raw
from poise.distributions.numerics import log_ndtr
from poise.errors import ConfigError
from poise.features import Features
from poise.laplace import PairData, fit_posterior
from poise.losses import both_ways, weighted_mean
from poise.methods.base import Method

POISSON = torch.tensor([math.exp(-1) / math.factorial(k) for k in range(16)], dtype=torch.float64).cumsum(0)


@dataclass(frozen=True)
class EnsembleConfig:
    """``members`` is the number of heads, or of posterior draws, which come in opposite pairs: 64 give probabilities
    within .003 (root mean square) of the closed form on MiniLM features, where independent draws are .014 off.

    For ``heads``: ``belief`` makes each a Bradley–Terry reward (``point``) or (μ, σ) under Thurstone's likelihood
    (``gaussian``, with the KL to N(0, 1) weighed by ``prior``). ``bootstrap`` weighs the pairs of each head by Poisson(1)
    or (``bayesian``) exponential numbers. ``initial`` is the deviation of the rewards at the start, in which the heads
    differ.

    For ``laplace``: ``prior_precision`` is c, of weights on features of unit spread; None takes the c of the largest
    evidence (MacKay 1992). That takes a soft label for one vote: with many votes behind each it asks for too much prior.
    ``unweighted`` drops p(1 − p) from the Hessian.
    """

    kind: Literal["heads", "laplace"] = "heads"
    members: int = 8
    belief: Literal["point", "gaussian"] = "point"
    bootstrap: Literal["none", "poisson", "bayesian"] = "poisson"
    initial: float = 0.3
    prior: float = 0.03
    prior_precision: float | None = None
    unweighted: bool = False

    def __post_init__(self) -> None:
        if self.members < 2:
            raise ConfigError(f"members is {self.members}; it must be at least 2")
        for name in ("initial", "prior"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.prior_precision is not None and self.prior_precision <= 0:
            raise ConfigError(f"prior_precision is {self.prior_precision}; it must be positive")
        if self.kind == "laplace" and self.members % 2:
            raise ConfigError(f"members is {self.members}; posterior draws come in pairs: give an even number")
        if self.kind == "laplace" and self.belief != "point":
            raise ConfigError("kind='laplace' is the posterior of a Bradley–Terry head; set belief to 'point'")


@dataclass(frozen=True)
class EnsembleOutput:
    """The members' beliefs; ``states`` [B, H] tell one pair from another."""

    reward: Mixture
    states: Tensor


class Ensemble(Method[EnsembleConfig, EnsembleOutput]):
    """Linear(H, M) → rewards, or Linear(H, 2M) → all μ, then all raw σ."""

    name = "ensemble"
    reference = "Ensembles of reward heads, and last-layer Laplace (MacKay 1992)"
    Config = EnsembleConfig
    default_stages = ({"epochs": 5, "batch_size": 128, "learning_rate": 3e-3},)

    keys: Tensor

    def __init__(self, config: EnsembleConfig, hidden_size: int) -> None:
        super().__init__(config, hidden_size)
        self.score = nn.Linear(hidden_size, config.members * (2 if config.belief == "gaussian" else 1), bias=False)
        nn.init.normal_(self.score.weight, std=config.initial * hidden_size**-0.5)
        self.register_buffer("keys", torch.randint(-(2**62), 2**62, (hidden_size,)), persistent=False)

    def forward(self, features: Features) -> EnsembleOutput:  # noqa: D102
        raw, members = self.score(features.response * self.input_scale), self.config.members
        mean = raw[..., :members]
        gaussian = self.config.belief == "gaussian"
        std = std_from_raw(raw[..., members:]) if gaussian else torch.zeros_like(mean)
        link = Link("step" if gaussian else "logistic")
        reward = Mixture(torch.zeros_like(mean), mean, std, link=link, validate=False, coupling="paired")
        return EnsembleOutput(reward, features.response)

    def loss(self, output: EnsembleOutput, batch: Batch) -> dict[str, Tensor]:  # noqa: D102
        # summed, not averaged, over the members: each trains as if it were alone
        reward, targets = output.reward, batch.targets
        pair_nll = thurstone_nll if self.config.belief == "gaussian" else bradley_terry_nll
        nll = pair_nll(reward.means[batch.pairs], reward.stds[batch.pairs], targets.label[:, None])
        drawn = self.bootstrap_weights(output.states, batch.pairs, batch.identity)
        terms = {"nll": weighted_mean((nll * drawn).sum(1), targets.weight)}
        if self.config.belief == "gaussian" and self.config.prior:
            kl = 0.5 * (reward.stds.square() + reward.means.square() - 1) - reward.stds.log()
            terms["prior"] = self.config.prior * weighted_mean(kl.sum(1)[batch.pairs].mean(1), targets.weight)
        return terms

    @torch.no_grad()
    def bootstrap_weights(self, states: Tensor, pairs: Tensor, identity: Tensor | None = None) -> Tensor:
        """[P, M] of mean 1, the same for a pair whenever it comes and whichever response stands first.

        Responses are told apart by ``identity`` [B], else by their states, which then must not change.
        """
        if self.config.bootstrap == "none":
            return states.new_ones(len(pairs), self.config.members)
        bits = states.float().contiguous().view(torch.int32).long() if identity is None else identity[:, None]
        response = scrambled((bits * self.keys[: bits.shape[1]]).sum(-1))
        member = scrambled(torch.arange(1, self.config.members + 1, device=states.device))
        mixed = scrambled(response[pairs].sum(1)[:, None] + member)
        uniform = ((mixed >> 11 & (1 << 53) - 1).double() + 0.5) / 2**53
        if self.config.bootstrap == "poisson":
            return torch.bucketize(uniform, POISSON.to(uniform.device)).to(states.dtype)
        return -uniform.log().to(states.dtype)

    @property
    def fits_features(self) -> bool:  # noqa: D102
        return self.config.kind == "laplace"

    @torch.no_grad()
    def fit(self, features: Features, batch: Batch) -> dict[str, float] | None:
        """The posterior and its draws for ``laplace``; nothing for ``heads``."""
        if self.config.kind == "heads":
            return None
        states = features.response.double() * self.input_scale.double()
        pairs = PairData(states[batch.first] - states[batch.second], batch.targets.label, batch.targets.weight)
        posterior = fit_posterior(pairs, self.config.prior_precision, unweighted=self.config.unweighted)
        self.score.weight.copy_(posterior.draws(self.config.members))
        return posterior.figures

    @torch.no_grad()
    def diagnostics(self, output: EnsembleOutput, batch: Batch) -> dict[str, float]:  # noqa: D102
        means = output.reward.means[batch.pairs]
        return {
            "mean_reward": output.reward.mean.mean().item(),
            "aleatoric_variance": output.reward.split().within.mean().item(),
            "disagreement": (means[:, 0] - means[:, 1]).std(1, correction=0).mean().item(),
        }

    def linear_head(self) -> nn.Linear:  # noqa: D102
        return self.score


def bradley_terry_nll(means: Tensor, _stds: Tensor, label: Tensor) -> Tensor:
    """−log Λ(Δ) of each member [P, M] from members [P, 2, M]."""
    difference = means[:, 0] - means[:, 1]
    return both_ways(softplus(-difference), softplus(difference), label)


def thurstone_nll(means: Tensor, stds: Tensor, label: Tensor) -> Tensor:
    """−log Φ(z) of each member [P, M] from members [P, 2, M]."""
    z = (means[:, 0] - means[:, 1]) / torch.hypot(stds[:, 0], stds[:, 1])
    return both_ways(-log_ndtr(z), -log_ndtr(-z), label)


def scrambled(x: Tensor) -> Tensor:
    """The finaliser of splitmix64: every bit of an int64 depends on all of them."""
    x = (x ^ (x >> 30 & (1 << 34) - 1)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ (x >> 27 & (1 << 37) - 1)) * (0x94D049BB133111EB - 2**64)
    return x ^ (x >> 31 & (1 << 33) - 1)
