"""Real ratings as anchors of a Gaussian reward: the mass of an interval, whom it counts, and what it identifies."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import stats

from poise.data.batch import Batch, Targets
from poise.data.ratings import Ratings
from poise.distributions import Gaussian
from poise.errors import ConfigError
from poise.features import Features
from poise.methods.belief_heads import Belief
from poise.methods.likelihood import Likelihood, LikelihoodConfig, interval_nll, rating_nll


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def batch_of(label: torch.Tensor) -> Batch:
    certain = Targets.certain(len(label))
    targets = dataclasses.replace(certain, label=label, weight=certain.weight.to(label))
    return Batch(torch.arange(2 * len(label)).view(-1, 2), targets)


STEP = 0.25


def rated(reward_of_raters: list[list[float]]) -> Ratings:
    return Ratings.of([{"help": row} for row in reward_of_raters], {"help": (1.0, 5.0)})


def test_a_rating_is_the_mass_of_its_interval_with_open_ends():
    reward, masses = Gaussian(tensor(0.4, 0.9, -3.0), tensor(0.2, 0.05, 0.4)), []
    for level in range(5):
        got = torch.exp(-rating_nll(reward, tensor(level / 4)[0], tensor(STEP)[0]))
        low, high = (level - 0.5) / 4 if level else -math.inf, (level + 0.5) / 4 if level < 4 else math.inf
        expected = stats.norm.cdf(high, reward.mean, reward.std) - stats.norm.cdf(low, reward.mean, reward.std)
        torch.testing.assert_close(got, torch.from_numpy(expected), atol=1e-15, rtol=1e-6)
        masses.append(got)
    torch.testing.assert_close(sum(masses), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.1), (6.0, 7.0), (-7.0, -6.0), (-9.0, math.inf), (-math.inf, -9.0)])
def test_the_mass_of_an_interval_keeps_its_digits_in_single_precision(low, high):
    got = interval_nll(Gaussian(torch.zeros(1), torch.ones(1)), torch.tensor([low]), torch.tensor([high])).item()
    far, near = sorted([abs(low), abs(high)], reverse=True)
    if low * high >= 0 and low > -9:  # both in one tail
        expected = -math.log(stats.norm.sf(near) - stats.norm.sf(far))
    else:
        expected = -stats.norm.logcdf(9.0 if low < high == math.inf else -9.0)
    assert got == pytest.approx(expected, rel=1e-4, abs=1e-8)


def test_a_scale_of_one_step_says_nothing():
    mean = torch.zeros(1, requires_grad=True)
    nll = rating_nll(Gaussian(mean, torch.ones(1)), torch.tensor([0.5]), torch.tensor(1.0))
    nll.sum().backward()
    assert nll.item() == 0
    assert mean.grad.item() == 0


def test_ratings_count_by_rater_and_response_and_alone():
    """Three raters of the first response, one of the second; the third is rated on something else."""
    method = Likelihood(LikelihoodConfig(rating_weight=0.5, attribute="help"), 2).double()
    ratings = rated([[1, 2, 2], [5], []])
    mean, std = tensor(0.3, -0.5, 9.0), tensor(0.7, 1.2, 1.0)
    alone = dataclasses.replace(batch_of(tensor()), rated=torch.arange(3), ratings=ratings)
    terms = method.loss(Belief(Gaussian(mean, std)), alone)
    said = stats.norm(0.5 + 0.25 * mean.numpy(), 0.25 * std.numpy())
    one = -(math.log(said.cdf(0.125)[0]) + 2 * math.log(said.cdf(0.375)[0] - said.cdf(0.125)[0])) / 3
    assert terms["ratings"].item() == pytest.approx(0.5 * (one - math.log(said.sf(0.875)[1])) / 2)
    assert terms["nll"].item() == terms["prior"].item() == 0
    without = method.loss(Belief(Gaussian(mean[:2], std[:2])), batch_of(tensor(1.0)))
    assert without["ratings"].item() == 0


def test_what_raters_say_is_the_reward_on_their_scale_cut_into_ratings():
    method = Likelihood(LikelihoodConfig(rating_weight=1.0, attribute="help"), 3)
    said = method.of_attributes(method(Features(torch.randn(4, 3))))["help"]
    normal = stats.norm(0.5, 0.25)
    inner = np.diff(normal.cdf([0.125, 0.375, 0.625, 0.875]))
    expected = [normal.cdf(0.125), *inner, normal.sf(0.875)]
    np.testing.assert_allclose(said.probs.detach().numpy(), np.tile(expected, (4, 1)), rtol=1e-5)
    assert said.support.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert method.attributes == ("help",)
    assert method.learns_from == ("pairs", "ratings")


def test_raters_who_split_between_the_ends_are_said_to_do_so():
    """Half say 0, half 1: the reward is wide, the predicted ratings are not wider than the scale."""
    method = Likelihood(LikelihoodConfig(rating_weight=1.0, attribute="help"), 1)
    ratings = Ratings.of([{"help": (1, 3)}] * 8 + [{"help": (2,)}], {"help": (1.0, 3.0)})
    rated_only = dataclasses.replace(batch_of(tensor().float()), rated=torch.arange(9), ratings=ratings)
    given = Features(torch.ones(9, 1))
    method.fit(given, rated_only)
    assert method.rating_step == 0.5
    optimizer = torch.optim.Adam(method.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        method.loss(method(given), rated_only)["ratings"].backward()
        optimizer.step()
    said = method.of_attributes(method(given))["help"]
    np.testing.assert_allclose(said.probs[0].detach().numpy(), [8 / 18, 2 / 18, 8 / 18], atol=0.02)


def test_the_anchoring_attribute_is_the_only_one_or_named():
    config = LikelihoodConfig(rating_weight=1.0)
    assert Likelihood.for_data(config, ["help"]).attribute == "help"
    assert Likelihood.for_data(LikelihoodConfig(), ["help", "tone"]).attribute == ""
    with pytest.raises(ConfigError, match="one of help, tone"):
        Likelihood.for_data(config, ["help", "tone"])
    with pytest.raises(ConfigError, match="did you mean 'tone'"):
        Likelihood.for_data(dataclasses.replace(config, attribute="tones"), ["help", "tone"])
    with pytest.raises(ConfigError, match="not what was rated"):
        _ = Likelihood(config, 2).attributes  # set by a stage alone, which the data does not complete
    with pytest.raises(ConfigError, match="data has none"):
        Likelihood.for_data(config, [])
    with pytest.raises(ConfigError, match=r"files in data\.ratings"):
        Likelihood(Likelihood.for_data(config, ["help"]), 2).fit(Features(torch.zeros(2, 2)), batch_of(tensor(1.0)))


def test_pairs_alone_do_not_tell_sigma_and_ratings_do():
    """One pair per prompt and a free (μ, σ) for every response: only z is identified (methods.md §4)."""
    prompts, generator = 150, torch.Generator().manual_seed(0)
    mu, log_sigma = torch.randn(2, 2 * prompts, generator=generator) * torch.tensor([[1.0], [0.5]])
    noise = log_sigma.exp()[:, None] * torch.randn(2 * prompts, 8, generator=generator)
    ratings = rated((3 + mu[:, None] + noise).round().clamp(1, 5).tolist())
    pairs = Gaussian(mu, log_sigma.exp())[batch_of(mu[::2]).pairs]
    batch = batch_of(pairs[:, 0].prob_greater(pairs[:, 1]))

    def learnt(weight: float) -> torch.Tensor:
        """log σ after full-batch training."""
        method = Likelihood(LikelihoodConfig(rating_weight=weight, attribute="help"), 2 * prompts)
        optimizer, given = torch.optim.Adam(method.parameters(), lr=0.05), Features(torch.eye(2 * prompts))
        everything = dataclasses.replace(batch, rated=torch.arange(2 * prompts), ratings=ratings)
        for _ in range(200):
            optimizer.zero_grad()
            torch.stack(list(method.loss(method(given), everything).values())).sum().backward()
            optimizer.step()
        return method(given).reward.std.log().detach()

    alone, anchored = learnt(0.0).view(-1, 2), learnt(1.0)
    torch.testing.assert_close(alone[:, 0], alone[:, 1], atol=1e-3, rtol=0)
    assert torch.corrcoef(torch.stack([anchored, log_sigma]))[0, 1] > 0.7
