"""Distributional preference learning by maximum likelihood: the logarithm of the mean win probability.

``link="thurstone"`` is the corrected form, −log Φ(z) with z = (μ_w − μ_l)/√(σ_w² + σ_l²) (Thurstone 1927).
``link="dpl"`` is faithful to Distributional Preference Learning (Siththaranjan, Laidlaw & Hadfield-Menell, ICLR 2024),
which puts Λ(√(2π)·z) in the place of Φ(z): .925 at z = 1 where Φ is .841. The slope of Φ at 0 would ask for 4/√(2π) =
1.596, the best fit for 1.702. Beliefs are read by Φ, so a model fitted with 2.507 reports too little confidence.
``head="categorical"`` is DPL's second form: the exact probability of masses on levels in [0, 1], ties counted half.

Comparisons leave the zero and the unit of Gaussian rewards free, (cμ + d, cσ) costs the same; a weak prior fixes them.
Worse, of two responses to a prompt they tell only z: σ of a single response needs an anchor. Where rows carry a quality
label, that is an ordinal probit on bad, normal and good, as in anchor-guided variance-aware reward modelling (its masses
are differences of log cdfs here, not of clamped cdfs). Where responses are rated, it is the mass of each rater's rating
under the reward, mapped to the scale of the ratings by a learnt scale and shift.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from poise.data.batch import Batch, Targets
from poise.distributions import Categorical, Gaussian, RewardDistribution, std_from_raw
from poise.distributions.numerics import log_ndtr
from poise.errors import ConfigError
from poise.features import Features
from poise.losses import both_ways, weighted_mean
from poise.methods.belief_heads import Belief, BeliefMethod, HeadKind, z_of_pair
from poise.methods.rating_term import RatingTerm

DPL_SLOPE = math.sqrt(2 * math.pi)
FINEST_STEP = 0.01


@dataclass(frozen=True)
class LikelihoodConfig:
    """``link`` turns z into a probability (Gaussian head only); ``std`` makes σ of the raw output, DPL's is ``softplus``.

    ``prior`` weighs the KL to N(0, 1), for levels to equal masses. ``marginal_entropy`` weighs Σ p̄ ln p̄ of the mean
    masses p̄ of the batch, which keeps a categorical head from using few of its ``bins`` levels; it depends on the batch
    size. DPL as published: ``link="dpl"``, ``std="softplus"``, ``prior=0``.
    ``anchor`` weighs −log P(quality label) of Gaussian rewards; a reward below −``threshold`` is bad, one above good. By
    default N(0, 1) has each with the same probability. ``rating_weight`` weighs −log P(rating) of rated responses,
    averaged over their raters; ``attribute`` is what they were rated on, and can be left out where that is one thing.
    """

    head: HeadKind = "gaussian"
    link: Literal["thurstone", "dpl"] = "thurstone"
    std: Literal["exp", "softplus"] = "exp"
    prior: float = 0.03
    bins: int = 10
    marginal_entropy: float = 0.1
    anchor: float = 0.0
    threshold: float = 0.43073
    rating_weight: float = 0.0
    attribute: str = ""

    def __post_init__(self) -> None:
        for name in ("prior", "marginal_entropy", "anchor", "rating_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; a weight must not be negative")
        if self.threshold <= 0:
            raise ConfigError(f"threshold is {self.threshold}; it must be positive")
        if self.bins < 2:
            raise ConfigError(f"bins is {self.bins}; a categorical head needs at least 2")
        if self.head == "categorical" and (self.link, self.std) != ("thurstone", "exp"):
            raise ConfigError("link and std are for head='gaussian'; a categorical head compares its masses exactly")
        if self.head == "categorical" and (self.anchor or self.rating_weight):
            raise ConfigError("anchor and rating_weight are for head='gaussian'; set them to 0")


class Likelihood(RatingTerm[LikelihoodConfig, Belief], BeliefMethod[LikelihoodConfig]):
    """Linear(H, 2) → (μ, raw σ) that starts as N(0, 1), or Linear(H, K) that starts with equal masses on [0, 1].

    ``rating_step``: the distance of neighbouring ratings on the unit scale, where ratings anchor.
    """

    rating_step: Tensor

    name = "likelihood"
    reference = "Thurstone (1927) and Distributional Preference Learning (ICLR 2024)"
    Config = LikelihoodConfig
    default_stages = ({"epochs": 5, "batch_size": 128, "learning_rate": 3e-3},)

    def __init__(self, config: LikelihoodConfig, hidden_size: int) -> None:
        if config.head == "gaussian":
            super().__init__(config, hidden_size)
        else:
            equal = torch.full((config.bins,), -math.log(config.bins))
            super().__init__(config, hidden_size, torch.linspace(0, 1, config.bins), equal)
        if config.rating_weight:  # N(0, 1) is spread over the unit scale at first
            self.shift, self.log_scale = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(math.log(0.25)))
            self.register_buffer("rating_step", torch.tensor(0.25))

    def std_of(self, raw: Tensor) -> Tensor:  # noqa: D102
        return std_from_raw(raw, self.config.std)

    def loss(self, output: Belief, batch: Batch) -> dict[str, Tensor]:  # noqa: D102
        config, targets, pair = self.config, batch.targets, output.reward[batch.pairs]
        won, lost = self.nll_both_ways(pair)
        terms = {"nll": weighted_mean(both_ways(won, lost, targets.label), targets.weight)}
        if config.prior:
            terms["prior"] = config.prior * weighted_mean(self.kl(output.reward, batch), targets.weight)
        if isinstance(pair, Categorical) and config.marginal_entropy:
            terms["marginal_entropy"] = config.marginal_entropy * negative_marginal_entropy(pair, targets.weight)
        if isinstance(pair, Gaussian) and config.anchor:
            labelled = targets.weight[:, None] * ~targets.quality.isnan()
            nll = quality_nll(pair, targets.quality.nan_to_num(1), config.threshold)
            terms["anchor"] = config.anchor * weighted_mean(nll, labelled)
        if isinstance(output.reward, Gaussian) and config.rating_weight:
            terms["ratings"] = config.rating_weight * self._ratings_nll(output.reward, batch)
        return terms

    def _ratings_nll(self, reward: Gaussian, batch: Batch) -> Tensor:
        """Mean over the rated responses of the mean over their raters; 0 without any."""
        if batch.rated is None or batch.ratings is None:
            return reward.mean.new_zeros(())
        ratings, said = batch.ratings, self._on_rating_scale(reward)[batch.rated][:, None]
        nll = rating_nll(said, ratings.value[:, 0], ratings.step[0])
        return weighted_mean((ratings.share[:, 0] * nll).sum(1), ratings.known[:, 0].to(nll.dtype))

    def _on_rating_scale(self, reward: Gaussian) -> Gaussian:
        return reward.affine(self.log_scale.exp(), self.shift)

    def of_attributes(self, output: Belief) -> Mapping[str, RewardDistribution]:  # noqa: D102
        if not isinstance(output.reward, Gaussian) or not self.config.rating_weight:
            return {}
        # what lies beyond the scale was said as its end: raters who split between the ends make a wide reward, not wide ratings
        levels = torch.linspace(0, 1, 1 + round(1 / self.rating_step.item()), device=output.reward.device)
        said = self._on_rating_scale(output.reward)[:, None]
        return {self.config.attribute: Categorical(levels, -rating_nll(said, levels, 1 / (len(levels) - 1)))}

    def fit(self, features: Features, batch: Batch) -> None:
        """Takes over the resolution of the ratings; refuses a stage without any if they should anchor."""
        if self.rated(batch) and batch.ratings is not None:
            self.rating_step.copy_(batch.ratings.step[0].clamp(FINEST_STEP, 1.0))

    def check_targets(self, targets: Targets) -> None:  # noqa: D102
        if self.config.anchor and targets.quality.isnan().all():
            raise ConfigError("anchor needs rows with quality labels, and there are none; set method.anchor=0")

    def nll_both_ways(self, pair: Gaussian | Categorical) -> tuple[Tensor, Tensor]:
        """−log P(first ≻ second) and −log P(second ≻ first) of pairs [P, 2], each [P]."""
        if isinstance(pair, Categorical):
            first, second = pair[:, 0], pair[:, 1]
            return -first.log_prob_greater(second), -second.log_prob_greater(first)
        nll, z = NLL[self.config.link], z_of_pair(pair)
        return nll(z), nll(-z)

    @torch.no_grad()
    def diagnostics(self, output: Belief, batch: Batch) -> dict[str, float]:  # noqa: D102
        return super().diagnostics(output, batch) | {"explained_share": explained_share(output.reward).item()}


def thurstone_nll(z: Tensor) -> Tensor:
    """−log Φ(z)."""
    return -log_ndtr(z)


def dpl_nll(z: Tensor) -> Tensor:
    """−log Λ(√(2π)·z)."""
    return softplus(-DPL_SLOPE * z)


NLL = {"thurstone": thurstone_nll, "dpl": dpl_nll}


def quality_nll(reward: Gaussian, quality: Tensor, threshold: float) -> Tensor:
    """−log mass of a quality label (0 below −t, 1 between, 2 above t) under each reward; broadcast shape."""
    edges = reward.mean.new_tensor([-torch.inf, -threshold, threshold, torch.inf])
    return interval_nll(reward, edges[quality.long()], edges[quality.long() + 1])


def rating_nll(reward: Gaussian, rating: Tensor, step: Tensor | float) -> Tensor:
    """−log mass within half a ``step`` of a rating in [0, 1]; the outer ratings reach to infinity. Broadcast shape."""
    low, high = rating - step / 2, rating + step / 2
    return interval_nll(reward, low.where(low > 0, -torch.inf), high.where(high < 1, torch.inf))


def interval_nll(reward: Gaussian, low: Tensor, high: Tensor) -> Tensor:
    """−log P(low < r < high), low < high, either of which may be infinite; broadcast shape."""
    below_all, above_all = low.isinf(), high.isinf()
    # an infinite edge is not used, but would make the gradient NaN
    low = (low.masked_fill(below_all, 0.0) - reward.mean) / reward.std
    high = (high.masked_fill(above_all, 0.0) - reward.mean) / reward.std
    # Φ(high) − Φ(low), both moved to the lower tail, where log Φ keeps its digits
    mirrored = low + high > 0
    log_low = log_ndtr(torch.where(mirrored, -high, low))
    log_high = log_ndtr(torch.where(mirrored, -low, high))
    gap = (log_low - log_high).clamp(max=-torch.finfo(low.dtype).eps)
    between = log_high + torch.log(-torch.expm1(gap))
    nll = -torch.where(below_all, log_ndtr(high), torch.where(above_all, log_ndtr(-low), between))
    return nll.masked_fill(below_all & above_all, 0.0)


def negative_marginal_entropy(pair: Categorical, weight: Tensor) -> Tensor:
    """Σ p̄ ln p̄ of the mean masses p̄ [K] of pairs [P, 2]; its minimum −ln K means that all levels are used alike."""
    total = weight.sum()
    masses = (pair.probs.mean(1) * weight[:, None]).sum(0) / torch.where(total > 0, total, 1.0)
    return (masses * masses.clamp(min=torch.finfo(masses.dtype).tiny).log()).sum()


def explained_share(reward: RewardDistribution) -> Tensor:
    """DPL's r² = Var(means)/(Var(means) + mean variance): low where hidden context decides."""
    explained = reward.mean.var(correction=0)
    return explained / (explained + reward.variance.mean())
