"""Numbers that look at all responses to one prompt: shrinkage, and probabilities of beating the others.

A reward here is one group [n]; ``Utility`` deals a batch out to its prompts.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from poise.distributions import Mixture, RewardDistribution, prob_best, win_matrix
from poise.distributions.link import Link
from poise.utility.formulas import member_means

DRAWS = 4096
EXACT = 2**19  # evaluations up to which P(best) is by quadrature: 70 Gaussians, some 50 ms


def shrinkage(reward: RewardDistribution) -> Tensor:
    """Empirical-Bayes mean m + t²/(t² + σ²)·(μ − m) [n], in reward units: against the winner's curse of best-of-n.

    m is the mean of the group, t² = max(0, Var(μ) − mean σ²) how far true rewards differ (both variances unbiased), and σ²
    what the members disagree about a response *beyond* what they disagree about all of the group: an offset of a member is
    no reason to distrust one response more than another. UnsupportedOperation for a reward without members.
    """
    weights, means = member_means(reward)
    posterior = (weights * means).sum(-1)
    count = len(posterior)
    if count == 1:
        return posterior
    center = posterior.mean()
    deviations = (means - means.mean(0)) - (posterior - center).unsqueeze(-1)
    unknown = (weights * deviations.square()).sum(-1) * count / (count - 1)
    spread = (posterior.var() - unknown.mean()).clamp(min=0)
    total = spread + unknown
    kept = torch.where(total > 0, spread / torch.where(total > 0, total, 1.0), 1.0)
    return center + kept * (posterior - center)


def win_rate(reward: RewardDistribution) -> Tensor:
    """Mean probability of beating each of the others [n], ties half; ½ for a response without others."""
    count = len(reward)
    if count == 1:
        return torch.full_like(reward.mean, 0.5)
    wins = win_matrix(reward)
    return (wins.sum(1) - wins.diagonal()) / (count - 1)


def probability_best(reward: RewardDistribution) -> Tensor:
    """P(this response is the best of the group) [n], ties split equally; sums to 1 and is always the same.

    It goes with ``prob_greater``: of two responses it is the probability of winning. So a link's noise counts: logistic
    rewards are best with softmax probabilities (Plackett–Luce), a probit link widens every reward. Tie thresholds do not
    count. Members of one ensemble are compared with their own. Exact, or by 4,096 fixed draws (within .02) for
    large groups and for logistic rewards with a spread; where a calibration maps win probabilities, these are coupled into one answer.
    """
    if reward.link.win_map is not None:
        return coupled(win_matrix(reward))
    if reward.coupling == "paired":
        weights, members = reward._members()
        return (weights * _best(members, reward.link)).sum(-1)
    return _best(reward, reward.link)


def coupled(wins: Tensor) -> Tensor:
    """P(best) [n] of a win matrix [n, n]: 1/(Σ 1/wins − (n − 2)), made to sum to 1 (Price et al. 1995).

    Exact for two responses and for win probabilities p_i/(p_i + p_j).
    """
    count = len(wins)
    inverse = 1 / wins.clamp(min=torch.finfo(wins.dtype).tiny)
    found = 1 / (inverse.sum(1) - inverse.diagonal() - (count - 2))
    return found / found.sum()


def _best(reward: RewardDistribution, link: Link) -> Tensor:
    """P(best) along the first axis of [n, ...]."""
    weights = reward._log_weights()
    _, means, stds = reward.components()
    known = means.shape[-1] == 1 and not stds.any()
    draws = max(DRAWS // reward.shape[1:].numel(), 256)
    if link.kind in ("logistic", "davidson"):
        values = reward.mean[None] if known else reward.sample(draws, _generator(reward))
        return torch.softmax(values / link.temperature, 1).mean(0)
    if link.kind == "probit":  # the difference of two has the link's variance
        noise = torch.full_like(stds, link.temperature / math.sqrt(2))
        reward = Mixture(weights, means, torch.hypot(stds, noise), members=1, validate=False)
    elif known:
        best = (reward.mean == reward.mean.amax(0)).to(reward.dtype)
        return best / best.sum(0)
    nodes = 100 if stds.any() else len(reward) / 2
    if means.numel() * len(reward) * nodes <= EXACT:
        return prob_best(reward, axis=0)
    return prob_best(reward, axis=0, draws=draws, generator=_generator(reward))


def _generator(reward: RewardDistribution) -> torch.Generator:
    return torch.Generator(reward.device).manual_seed(0)
