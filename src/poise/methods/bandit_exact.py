"""DRPO without sampling: the expectation of its objective in closed form, and proper scores in its place.

Which form is which:

``score="linear"`` is the **faithful** objective. The expected meta-reward E[R] = P(r_w > r_l + m) has the gradient of
the sampled policy gradient, up to its factor (1 − 1/G) and its noise; with ``standardize="pair"`` it is divided by the
standard deviation σ_R of the meta-rewards, as sampling does. It is linear in P, an improper score: under a flip rate
below ½ the best P is 1, so it does not calibrate.

``score="brier"`` (recommended, with a temperature fitted afterwards) and ``score="log"`` are **corrected**: proper, so
the best P under flip rate ε is 1 − ε. Brier is bounded as well, so a badly mislabelled pair stops pulling. The log score
is the Thurstone likelihood.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from poise.data.batch import Batch
from poise.distributions import Categorical, Gaussian
from poise.distributions.numerics import legendre, log_ndtr, normal_cdf
from poise.errors import ConfigError
from poise.losses import both_ways, weighted_mean
from poise.methods.belief_heads import Belief, BeliefMethod, HeadKind, pair_spread, standard_normal_levels, z_of_pair

NODES, WEIGHTS = legendre(16, torch.zeros((), dtype=torch.float64))


@dataclass(frozen=True)
class BanditExactConfig:
    """``beta`` weighs the KL; ``kappa`` is the margin in units of √(σ_w² + σ_l²) and 0 for the proper scores.

    The paper's beta, 0.05, belongs to pair standardisation, whose pull on an undecided pair is 3.4 times as strong;
    without it that weight shrinks every P towards ½.

    ``standardize="pair"`` is for the linear score of Gaussians; ``samples`` is the G of its σ_R. ``head="categorical"``
    has ``bins`` levels from −3 to 3; equal levels lose under the linear score, as in sampling, and count half under the
    proper ones, so that both directions add up to 1.
    """

    score: Literal["linear", "brier", "log"] = "brier"
    standardize: Literal["none", "pair"] = "none"
    kappa: float = 0.0
    beta: float = 0.01
    samples: int = 32
    reference: Literal["standard_normal", "previous_stage"] = "standard_normal"
    head: HeadKind = "gaussian"
    bins: int = 21

    def __post_init__(self) -> None:
        if self.kappa < 0 or self.beta < 0:
            raise ConfigError(f"kappa ({self.kappa}) and beta ({self.beta}) must not be negative")
        if self.kappa and self.score != "linear":
            raise ConfigError(f"score {self.score!r} is proper only without margin; set kappa to 0 or score to linear")
        if self.standardize == "pair" and (self.score != "linear" or self.head != "gaussian"):
            raise ConfigError("standardize='pair' is for score='linear' with head='gaussian'; use 'none'")
        if self.samples < 2:
            raise ConfigError(f"samples is {self.samples}; a group needs at least 2")
        if self.bins < 2:
            raise ConfigError(f"bins is {self.bins}; a categorical head needs at least 2")


class BanditExact(BeliefMethod[BanditExactConfig]):
    """The head of ``drpo``: Linear(H, 2) → (μ, raw σ) that starts as N(0, 1), or Linear(H, K)."""

    name = "drpo_exact"
    reference = "Distributional Reward Policy Optimization (ICLR 2026 submission), closed and corrected forms"
    Config = BanditExactConfig
    default_stages = ({"epochs": 5, "batch_size": 128, "learning_rate": 3e-3},)

    def __init__(self, config: BanditExactConfig, hidden_size: int) -> None:
        super().__init__(config, hidden_size, *standard_normal_levels(config.head, config.bins))

    @property
    def needs_reference(self) -> bool:
        """A refining stage is pulled to the frozen previous one."""
        return self.config.reference == "previous_stage"

    def loss(self, output: Belief, batch: Batch) -> dict[str, Tensor]:  # noqa: D102
        weight, pair = batch.targets.weight, output.reward[batch.pairs]
        won = lost = self.score_of_win(pair)
        if bool((batch.targets.label < 1).any()):
            lost = self.score_of_win(pair[:, [1, 0]])
        score = both_ways(-0.5 * won, -0.5 * lost, batch.targets.label)
        kl = weighted_mean(self.kl(output.reward, batch), weight)
        return {self.config.score: weighted_mean(score, weight), "kl": self.config.beta * kl}

    def score_of_win(self, pair: Gaussian | Categorical) -> Tensor:
        """What pairs [P, 2] earn if their first response won, [P]."""
        if isinstance(pair, Categorical):
            return self._categorical_score(pair)
        config, z = self.config, z_of_pair(pair)
        if config.score == "brier":
            return brier_score(normal_cdf(-z))
        if config.score == "log":
            return log_ndtr(z)
        s = pair_spread(pair)
        win = normal_cdf(z - config.kappa * s.detach() / s)
        if config.standardize == "none":
            return win
        share = (pair.std / s[:, None]).square().detach()
        sigma = meta_reward_std(z.detach() - config.kappa, share[:, 0], share[:, 1], config.samples)
        # the value stays P(win); only the gradient is divided
        return win.detach() + (win - win.detach()) / sigma

    def _categorical_score(self, pair: Categorical) -> Tensor:
        first, second = pair[:, 0], pair[:, 1]
        if self.config.score == "log":
            return first.log_prob_greater(second)
        if self.config.score == "brier":
            return brier_score(second.prob_greater(first))
        return prob_greater_by(first, second, self.config.kappa * pair_spread(pair).detach())


def brier_score(loses: Tensor) -> Tensor:
    """1 − (1 − P)² of 1 − P, the probability of the event that did not happen."""
    return 1 - loses.square()


def prob_greater_by(first: Categorical, second: Categorical, margin: Tensor) -> Tensor:
    """Σ p_i q_j 1[v_i > v_j + m] [P] on one support, m [P] without gradient; ties count as lost."""
    below = pad(second.probs.cumsum(-1), (1, 0))
    reached = first.support - margin.detach()[:, None]
    return (first.probs * below.gather(-1, torch.searchsorted(first.support, reached))).sum(-1)


def meta_reward_std(a: Tensor, share_first: Tensor, share_second: Tensor, group: int) -> Tensor:
    """σ_R [P], the deviation of the 2G pooled meta-rewards of a pair with a = z − κ and shares σ²/s² of its variance.

    σ_R² = (1 − 1/G){½[Φ₂(a,a;ρ_w) + Φ₂(a,a;ρ_l)] − Φ(a)²} + Φ(a)(1 − Φ(a))/G. It is even in a, and computed at −|a|,
    where nothing cancels.
    """
    tail = -a.abs()
    win = normal_cdf(tail)
    shares = torch.stack([share_first, share_second], -1)
    between = (both_below(tail[..., None], shares).mean(-1) - win.square()).clamp(min=0)
    variance = (1 - 1 / group) * between + win * (1 - win) / group
    return variance.clamp(min=torch.finfo(a.dtype).tiny).sqrt()


def both_below(a: Tensor, correlation: Tensor) -> Tensor:
    """Φ₂(a, a; ρ) = Φ(a) − 2T(a, √((1−ρ)/(1+ρ))): P that two normals with correlation ρ >= 0 are both below a."""
    return normal_cdf(a) - 2 * owens_t(a, ((1 - correlation) / (1 + correlation)).sqrt())


def owens_t(h: Tensor, a: Tensor) -> Tensor:
    """Owen's T(h, a) = (1/2π) ∫₀^a exp(−½h²(1+x²))/(1+x²) dx for 0 <= a <= 1, by 16 Gauss–Legendre nodes."""
    square = 1 + (a[..., None] * NODES.to(a)).square()
    values = torch.exp(-0.5 * h[..., None].square() * square) / square
    return a * (values @ WEIGHTS.to(a)) / (2 * math.pi)
