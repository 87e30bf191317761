"""DRPO: the reward model as a contextual-bandit policy whose action is a reward.

Distributional Reward Policy Optimization (ICLR 2026 submission), faithful to its text. Rewards are sampled from the
predicted N(μ, σ²), or from masses on fixed levels; the share of comparisons a sample wins is its meta-reward,
standardised within the group and fed to a policy gradient with a KL penalty. Stage *zero* starts from and is pulled to
N(0, 1); stage *refine* continues with the frozen zero model as reference. The objective alone does not calibrate: its
expectation is linear in P(win), an improper score. ``meta_reward="brier"`` is the corrected form that still samples;
``drpo_exact`` has those in closed form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from poise.data.batch import Batch
from poise.distributions import Categorical, Gaussian
from poise.distributions.numerics import normal_cdf
from poise.errors import ConfigError
from poise.losses import both_ways, weighted_mean
from poise.methods.belief_heads import Belief, BeliefMethod, HeadKind, pair_spread, standard_normal_levels, z_of_pair

RANKS_ABOVE = 128  # samples from which counting by ranks beats comparing all with all


@dataclass(frozen=True)
class BanditConfig:
    """Defaults are the paper's stage *zero*; *refine* uses beta 0.1, kappa 0.1 and ``reference="previous_stage"``.

    ``samples`` is G, per response; ``kappa`` the margin in units of √(σ_w² + σ_l²); ``beta`` the KL weight.
    ``standardize`` is the group whose mean and deviation make the advantage: ``pair`` (2G samples), ``batch``,
    ``response`` (G samples) or ``none`` (no division; the pair mean is subtracted). ``head="categorical"`` has ``bins``
    levels from −3 to 3 and starts as the bin masses of N(0, 1).
    ``meta_reward="brier"`` weighs the indicator by 2(1 − P(win)), with P(win) = Φ(z): its expected gradient is that of
    −(1 − P(win))², a proper score. Only without margin, for Gaussians, and with ``standardize="none"``: dividing by the
    deviation of a pair's own meta-rewards would cancel the weight, by that of a batch bias the two sides of a soft label.
    ``supervised="mean_of_log"`` replaces the policy gradient by the paper's supervised ablation, the mean over G sampled
    differences of −log Λ(r_w − r_l): the baseline whose σ collapses. It is no argument for a policy gradient: the log
    of the mean (method ``likelihood``) does not collapse.
    """

    samples: int = 32
    kappa: float = 0.05
    beta: float = 0.05
    meta_reward: Literal["indicator", "hinge", "brier"] = "indicator"
    standardize: Literal["pair", "batch", "response", "none"] = "pair"
    std: Literal["population", "unbiased"] = "population"
    reference: Literal["standard_normal", "previous_stage"] = "standard_normal"
    head: HeadKind = "gaussian"
    bins: int = 21
    supervised: Literal["no", "mean_of_log"] = "no"

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise ConfigError(f"samples is {self.samples}; a group needs at least 2")
        if self.kappa < 0 or self.beta < 0:
            raise ConfigError(f"kappa ({self.kappa}) and beta ({self.beta}) must not be negative")
        if self.bins < 2:
            raise ConfigError(f"bins is {self.bins}; a categorical head needs at least 2")
        proper = self.kappa == 0 and self.standardize == "none" and self.head == "gaussian"
        if self.meta_reward == "brier" and not proper:
            raise ConfigError(
                "meta_reward='brier' is proper only with kappa=0, standardize='none' and head='gaussian'; set these three"
            )
        if self.supervised != "no" and self.head != "gaussian":
            raise ConfigError("supervised='mean_of_log' differentiates through the samples; it needs head='gaussian'")


class Bandit(BeliefMethod[BanditConfig]):
    """Linear(H, 2) → (μ, raw σ), zero-initialised so that every belief starts as N(0, 1) exactly; or Linear(H, K)."""

    name = "drpo"
    reference = "Distributional Reward Policy Optimization (ICLR 2026 submission)"
    Config = BanditConfig
    # shares, kappa and beta are the paper's; the rest suits a linear head on frozen features. Zero stops early: a zero
    # stage that is trained out is sure of itself, and the KL to it then holds refine fast.
    default_stages = (
        {"name": "zero", "share": 0.1, "epochs": 5, "batch_size": 64, "learning_rate": 1e-3},
        {
            "name": "refine",
            "share": 0.9,
            "epochs": 3,
            "batch_size": 64,
            "learning_rate": 1e-3,
            "method": {"kappa": 0.1, "beta": 0.1, "reference": "previous_stage"},
        },
    )

    def __init__(self, config: BanditConfig, hidden_size: int) -> None:
        super().__init__(config, hidden_size, *standard_normal_levels(config.head, config.bins))

    @property
    def needs_reference(self) -> bool:
        """Refine is pulled to the frozen previous stage."""
        return self.config.reference == "previous_stage"

    def loss(self, output: Belief, batch: Batch) -> dict[str, Tensor]:  # noqa: D102
        weight = batch.targets.weight
        kl = self.config.beta * weighted_mean(self.kl(output.reward, batch), weight)
        pair = output.reward[batch.pairs]
        if self.config.supervised != "no" and isinstance(pair, Gaussian):
            return {"supervised": weighted_mean(self._mean_of_log(pair, batch), weight), "kl": kl}
        return {"policy": weighted_mean(self._policy_loss(pair, batch), weight), "kl": kl}

    def _policy_loss(self, pair: Gaussian | Categorical, batch: Batch) -> Tensor:
        """−(1/2G) Σ log π(r)·Â of each pair, [P]."""
        margin = self.margin(pair)
        samples = self.sample(pair, batch.generator)
        log_policy = log_prob(samples, pair)
        won = lost = (log_policy * self.advantage(samples, margin)).mean((1, 2))
        if bool((batch.targets.label < 1).any()):
            lost = (log_policy.flip(1) * self.advantage(samples.flip(1), margin)).mean((1, 2))
        if self.config.meta_reward == "brier":
            z = z_of_pair(pair).detach()
            won, lost = 2 * normal_cdf(-z) * won, 2 * normal_cdf(z) * lost
        return both_ways(-won, -lost, batch.targets.label)

    def _mean_of_log(self, pair: Gaussian, batch: Batch) -> Tensor:
        """(1/G) Σ softplus(−(r_first − r_second)) over differentiable samples, [P]."""
        samples = pair.mean[..., None] + pair.std[..., None] * self._noise(pair, batch.generator)
        difference = samples[:, 0] - samples[:, 1]
        return both_ways(softplus(-difference).mean(1), softplus(difference).mean(1), batch.targets.label)

    def margin(self, pair: Gaussian | Categorical) -> Tensor:
        """κ·√(σ_w² + σ_l²) [P], without gradient."""
        return self.config.kappa * pair_spread(pair).detach()

    @torch.no_grad()
    def sample(self, pair: Gaussian | Categorical, generator: torch.Generator | None) -> Tensor:
        """Rewards [P, 2, G] drawn from the current policy. Detached: attached, the gradient of log π would vanish."""
        if isinstance(pair, Gaussian):
            return pair.mean[..., None] + pair.std[..., None] * self._noise(pair, generator)
        cumulative = pair.probs.cumsum(-1)
        shape = (*pair.shape, self.config.samples)
        uniform = torch.rand(shape, generator=generator, device=pair.device, dtype=pair.dtype)
        chosen = torch.searchsorted(cumulative, uniform * cumulative[..., -1:], right=True)
        return pair.support[chosen.clamp(max=len(pair.support) - 1)]

    def _noise(self, pair: Gaussian, generator: torch.Generator | None) -> Tensor:
        shape = (*pair.shape, self.config.samples)
        return torch.randn(shape, generator=generator, device=pair.device, dtype=pair.dtype)

    def advantage(self, samples: Tensor, margin: Tensor) -> Tensor:
        """Standardised meta-rewards [P, 2, G] of samples whose row 0 should win by ``margin`` [P]; no gradient."""
        meta = meta_rewards(samples, margin, self.config.meta_reward)
        return standardised(meta, self.config.standardize, unbiased=self.config.std == "unbiased")

    @torch.no_grad()
    def diagnostics(self, output: Belief, batch: Batch) -> dict[str, float]:  # noqa: D102
        pair = output.reward[batch.pairs]
        fixed = torch.Generator(pair.device).manual_seed(0)  # logging must not disturb the run's own randomness
        meta = meta_rewards(self.sample(pair, fixed), self.margin(pair), self.config.meta_reward)
        return super().diagnostics(output, batch) | {
            "meta_reward": meta.mean().item(),
            "zero_variance_groups": (meta.flatten(1).amax(1) == meta.flatten(1).amin(1)).float().mean().item(),
        }


def log_prob(samples: Tensor, policy: Gaussian | Categorical) -> Tensor:
    """log π(r) [..., G] of rewards drawn from the policy [...]; for a Gaussian up to its constant."""
    if isinstance(policy, Gaussian):
        return normal_log_prob(samples, policy)
    return policy.log_probs.gather(-1, torch.searchsorted(policy.support, samples.contiguous()))


def normal_log_prob(samples: Tensor, policy: Gaussian) -> Tensor:
    """log N(r; μ, σ²) up to its constant, [..., G]."""
    z = (samples - policy.mean[..., None]) / policy.std[..., None]
    return -0.5 * z.square() - policy.std[..., None].log()


@torch.no_grad()
def meta_rewards(samples: Tensor, margin: Tensor, kind: str) -> Tensor:
    """Share of comparisons won [P, 2, G], or for ``hinge`` the mean surplus max(0, r_w − r_l), without margin.

    ``samples`` is [P, 2, G] with the winner in row 0. Both responses share the credit of a won comparison.
    """
    group = samples.shape[-1]
    if kind == "hinge":
        surplus = (samples[:, 0, :, None] - samples[:, 1, None, :]).relu_()
        return torch.stack([surplus.sum(2), surplus.sum(1)], 1) / group
    reduced = torch.stack([samples[:, 0] - margin[:, None], samples[:, 1]], 1)
    if group > RANKS_ABOVE:
        return wins_by_rank(reduced) / group
    won = samples.new_empty(len(samples), group, group)
    torch.gt(reduced[:, 0, :, None], reduced[:, 1, None, :], out=won)  # into floats: no second pass to convert
    return torch.stack([won.sum(2), won.sum(1)], 1) / group


def wins_by_rank(samples: Tensor) -> Tensor:
    """How many comparisons r_w > r_l each sample of [P, 2, G] took part in as won, in G log G instead of G²."""
    ordered, group = samples.sort(-1).values, samples.shape[-1]
    beaten = torch.searchsorted(ordered[:, 1].contiguous(), samples[:, 0].contiguous())
    not_above = torch.searchsorted(ordered[:, 0].contiguous(), samples[:, 1].contiguous(), right=True)
    return torch.stack([beaten, group - not_above], 1).to(samples.dtype)


def standardised(meta: Tensor, scope: str, *, unbiased: bool = False) -> Tensor:
    """(R − mean) / std over the scope, [P, 2, G]; where all meta-rewards are equal the advantage is 0, not NaN."""
    axes = {"pair": (1, 2), "response": (2,), "batch": (0, 1, 2), "none": (1, 2)}[scope]
    centred = meta - meta.mean(axes, keepdim=True)
    if scope == "none":
        return centred
    count = math.prod(meta.shape[axis] for axis in axes)
    spread = (centred.square().sum(axes, keepdim=True) / (count - int(unbiased))).sqrt()
    rounding = 8 * torch.finfo(meta.dtype).eps * meta.abs().amax(axes, keepdim=True)
    return torch.where(spread > rounding, centred / spread.clamp(min=torch.finfo(meta.dtype).tiny), 0.0)
