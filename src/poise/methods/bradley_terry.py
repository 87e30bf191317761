"""Bradley–Terry scalar rewards with batch sum-to-zero regularisation and the usual variants.

On the Robustness of Reward Models for Language Model Alignment (BT-BSR, ICML 2025). A loss here says what a pair costs
if its first response won; soft labels, ties and label noise mix the two directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from poise.data.batch import Batch, Targets
from poise.distributions import Link, Point
from poise.errors import ConfigError
from poise.features import Features
from poise.losses import both_ways, weighted_mean
from poise.methods.base import Method

Loss = Literal["bt", "scaled_bt", "hinge", "norm", "dr", "rao_kupper", "davidson", "ordinal"]
TAKES_MARGIN = ("bt", "scaled_bt", "hinge", "dr")
RDPO_CLIP = 10.0


@dataclass(frozen=True)
class BradleyTerryConfig:
    """``loss`` with an optional ``regulariser`` (weight ``coefficient``).

    ``margin`` is subtracted from the reward difference; None takes the rows' margins where given, else 0 (hinge: 1).
    ``label_noise`` is the assumed flip rate ε: ``smooth`` mixes the labels (cDPO), ``rdpo`` is unbiased under flips.
    ``bsr``: ``scale_by_batch`` multiplies the coefficient by the number of pairs, as the authors' code does (False is
    the paper's equation); ``scope`` is the mean over the batch that the loss sees (a step; with training.loss_over=micro a
    micro-batch, as their code) or that of all processes.
    ``initial`` weights: ``normal`` N(0, 1/H) as the authors' code, for trainable backbones; ``zero`` for heads on frozen
    features, where a random start is only noise that training must first undo.
    """

    loss: Loss = "bt"
    margin: float | None = None
    label_noise: float = 0.0
    noise_model: Literal["smooth", "rdpo"] = "smooth"
    regulariser: Literal["none", "bsr", "center", "magnitude"] = "none"
    coefficient: float = 1e-3
    scale_by_batch: bool = True
    scope: Literal["micro", "global"] = "micro"
    strength_levels: int = 3
    initial: Literal["normal", "zero"] = "normal"

    def __post_init__(self) -> None:
        if not 0 <= self.label_noise < 0.5:
            raise ConfigError(f"label_noise is {self.label_noise}; it must lie in [0, 0.5)")
        if self.margin and self.loss not in TAKES_MARGIN:
            raise ConfigError(f"loss {self.loss!r} has no margin; remove it or choose from {', '.join(TAKES_MARGIN)}")
        if self.coefficient < 0:
            raise ConfigError(f"coefficient is {self.coefficient}; it must not be negative")
        if self.strength_levels < 1:
            raise ConfigError(f"strength_levels is {self.strength_levels}; it must be at least 1")


@dataclass(frozen=True)
class BradleyTerryOutput:
    """A scalar reward per response; the link says how a difference becomes a probability."""

    reward: Point


class BradleyTerry(Method[BradleyTerryConfig, BradleyTerryOutput]):
    """Linear(H, 1) without bias on the pooled state."""

    name = "bt"
    reference = "Bradley–Terry with batch sum-to-zero regularisation (BT-BSR, ICML 2025)"
    Config = BradleyTerryConfig
    reads_margin = True
    default_stages = ({"epochs": 5, "batch_size": 128, "learning_rate": 3e-3},)

    def __init__(self, config: BradleyTerryConfig, hidden_size: int) -> None:
        super().__init__(config, hidden_size)
        self.score = nn.Linear(hidden_size, 1, bias=False)
        if config.initial == "zero":
            nn.init.zeros_(self.score.weight)
        else:
            nn.init.normal_(self.score.weight, std=hidden_size**-0.5)
        if config.loss in ("rao_kupper", "davidson"):
            self.raw_tie = nn.Parameter(torch.tensor(math.log(math.e - 1)))  # softplus → 1
        if config.loss == "ordinal":
            # cut-points symmetric about 0: ±c₁ < ±c₂ < …, one gap per strength, a gap at 0 for "no difference"
            self.raw_gaps = nn.Parameter(torch.zeros(config.strength_levels))

    def forward(self, features: Features) -> BradleyTerryOutput:  # noqa: D102
        value = self.score(features.response * self.input_scale).squeeze(-1)
        return BradleyTerryOutput(Point(value, self.link()))

    def link(self) -> Link:
        """Logistic; with the learnt tie threshold (Rao–Kupper) or tie weight (Davidson) where the loss has one."""
        if self.config.loss == "rao_kupper":
            return Link("logistic", tie_threshold=softplus(self.raw_tie).item())
        if self.config.loss == "davidson":
            return Link("davidson", tie_weight=softplus(self.raw_tie).item())
        return Link("logistic")

    def loss(self, output: BradleyTerryOutput, batch: Batch) -> dict[str, Tensor]:  # noqa: D102
        reward = output.reward.value.float()
        first, second = reward[batch.first], reward[batch.second]
        terms = {self.config.loss: weighted_mean(self._per_pair(first, second, batch.targets), batch.targets.weight)}
        return terms | self._regularisation(first, second)

    def _per_pair(self, first: Tensor, second: Tensor, targets: Targets) -> Tensor:
        """The loss of each pair, [P]."""
        loss = self.config.loss
        if loss in ("rao_kupper", "davidson"):
            tie = softplus(self.raw_tie)
            won, lost, tied = (rao_kupper if loss == "rao_kupper" else davidson)(first - second, tie)
            return (
                -(targets.label - targets.tie / 2) * won
                - (1 - targets.label - targets.tie / 2) * lost
                - targets.tie * tied
            )
        if loss == "ordinal":
            signed = targets.strength.round() * torch.where(targets.label >= 0.5, 1.0, -1.0)
            return ordinal_nll(first - second, torch.where(targets.label == 0.5, 0.0, signed), self.cut_points())
        margin = self._margins(targets)
        one = LOSSES[loss]
        label = self._noisy(targets.label)
        if self.config.noise_model == "rdpo" and self.config.label_noise:
            # unbounded below: without the clip, one pair can be driven to −∞
            middle, half = (first + second) / 2, ((first - second) / 2).clamp(-RDPO_CLIP / 2, RDPO_CLIP / 2)
            first, second = middle + half, middle - half
        values = both_ways(one(first, second, margin), one(second, first, margin), label)
        return values * targets.strength.abs() if loss == "scaled_bt" else values

    def _margins(self, targets: Targets) -> Tensor:
        constant = (1.0 if self.config.loss == "hinge" else 0.0) if self.config.margin is None else self.config.margin
        if self.config.margin is not None:
            return torch.full_like(targets.label, constant)
        return targets.margin.nan_to_num(constant)

    def _noisy(self, label: Tensor) -> Tensor:
        noise = self.config.label_noise
        if self.config.noise_model == "smooth":
            return label * (1 - noise) + (1 - label) * noise
        return (label - noise) / (1 - 2 * noise)

    def cut_points(self) -> Tensor:
        """Increasing cut-points [2J] of the signed strength −J … 0 … J."""
        positive = softplus(self.raw_gaps).cumsum(0)
        return torch.cat([-positive.flip(0), positive])

    def _regularisation(self, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        config, kind = self.config, self.config.regulariser
        if kind == "none":
            return {}
        if kind == "center":
            return {kind: config.coefficient * (first + second).square().mean()}
        if kind == "magnitude":
            return {kind: config.coefficient * torch.cat([first, second]).square().mean()}
        scale = config.coefficient * (len(first) if config.scale_by_batch else 1)
        return {kind: scale * batch_sum_to_zero(torch.cat([first, second]).mean(), config.scope)}

    def diagnostics(self, output: BradleyTerryOutput, batch: Batch) -> dict[str, float]:  # noqa: D102
        reward = output.reward.value.detach()
        difference = reward[batch.first] - reward[batch.second]
        return {
            "mean_reward": reward.mean().item(),
            "margin": difference.mean().item(),
        }

    def check_targets(self, targets: Targets) -> None:  # noqa: D102
        loss = self.config.loss
        if loss in ("scaled_bt", "ordinal") and targets.strength.isnan().any():
            missing = int(targets.strength.isnan().sum())
            raise ConfigError(
                f"loss {loss!r} needs a strength in every row; {missing} of {len(targets)} rows have none"
            )
        if loss == "ordinal" and targets.strength.abs().max() > self.config.strength_levels:
            top = targets.strength.abs().max().item()
            raise ConfigError(
                f"strength {top:g} is above method.strength_levels={self.config.strength_levels}; raise it"
            )
        if loss not in TAKES_MARGIN and self.config.margin is None and not targets.margin.isnan().all():
            raise ConfigError(
                f"loss {loss!r} has no margin, but the rows have; set method.margin=0 to leave theirs out"
            )

    def linear_head(self) -> nn.Linear:  # noqa: D102
        return self.score


def bradley_terry(winner: Tensor, loser: Tensor, margin: Tensor) -> Tensor:
    """−log Λ(Δ − m), [P]."""
    return softplus(margin - (winner - loser))


def hinge(winner: Tensor, loser: Tensor, margin: Tensor) -> Tensor:
    """max(0, m − Δ), [P]."""
    return (margin - (winner - loser)).relu()


def norm(winner: Tensor, loser: Tensor, _margin: Tensor) -> Tensor:
    """−log Λ(Δ / √(r_w² + r_l²)), [P]; the argument is at most √2, so the loss never falls below .2176."""
    return softplus(-(winner - loser) / (winner.square() + loser.square() + 1e-8).sqrt())


def dr(winner: Tensor, loser: Tensor, margin: Tensor) -> Tensor:
    """Bradley–Terry plus an anchor of each reward's sign, [P]; softplus, because log(sigmoid) overflows far off."""
    return bradley_terry(winner, loser, margin) + softplus(-winner) + softplus(loser)


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "bt": bradley_terry,
    "scaled_bt": bradley_terry,
    "hinge": hinge,
    "norm": norm,
    "dr": dr,
}


def rao_kupper(difference: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities [P] of (first, second, tie): Λ(Δ−θ), Λ(−Δ−θ), and what is left, in closed form."""
    won, lost = logsigmoid(difference - threshold), logsigmoid(-difference - threshold)
    # 1 − Λ(Δ−θ) − Λ(−Δ−θ) = (e^{2θ} − 1) Λ(Δ−θ) Λ(−Δ−θ)
    return won, lost, torch.log(torch.expm1(2 * threshold)) + won + lost


def davidson(difference: Tensor, tie_weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities [P] of (first, second, tie) = log softmax(Δ/2, −Δ/2, ln ν)."""
    logits = torch.stack([difference / 2, -difference / 2, tie_weight.log().expand_as(difference)])
    won, lost, tied = logits.log_softmax(0)
    return won, lost, tied


def ordinal_nll(difference: Tensor, strength: Tensor, cut_points: Tensor) -> Tensor:
    """−log P(signed strength) [P] with P(strength ≤ j) = Λ(c_j − Δ); ``strength`` is an integer in −J … J."""
    edges = torch.cat([cut_points.new_tensor([-torch.inf]), cut_points, cut_points.new_tensor([torch.inf])])
    category = (strength + len(cut_points) // 2).long()
    low, high = edges[category] - difference, edges[category + 1] - difference
    # log(Λ(high) − Λ(low)) = log Λ(high) + log Λ(−low) + log(1 − e^{low − high})
    gap = edges[category + 1] - edges[category]  # not high − low, which has no digits far out
    return -(logsigmoid(high) + logsigmoid(-low) + torch.log(-torch.expm1(-gap)))


def batch_sum_to_zero(mean: Tensor, scope: str) -> Tensor:
    """r̄², the squared batch mean of all rewards.

    With ``global`` scope over several processes the value is that of the global mean, and the gradient is such that
    gradients *averaged* over processes equal those of the global r̄².
    """
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if scope == "micro" or not distributed:
        return mean.square()
    everywhere = mean.detach().clone()
    torch.distributed.all_reduce(everywhere)
    everywhere /= torch.distributed.get_world_size()
    surrogate = 2 * everywhere * mean
    return everywhere.square() + surrogate - surrogate.detach()
