"""DRPO with a categorical head: masses on levels in the place of N(μ, σ²)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from poise.data.batch import Batch, Targets
from poise.distributions import Categorical
from poise.errors import ConfigError
from poise.features import Features
from poise.methods.bandit import Bandit, BanditConfig, log_prob
from poise.methods.belief_heads import Belief

CATEGORICAL = {"head": "categorical", "bins": 5}


def start(bins: int = 21) -> Categorical:
    return Bandit(BanditConfig(head="categorical", bins=bins), 4)(Features(torch.randn(3, 4))).reward


def logits(pairs: int = 1) -> torch.Tensor:
    values = [[0.2, 0.9, 0.1, 0.4, 0.6], [0.5, -0.3, 0.8, 0.0, -0.7]]
    return torch.tensor(values, dtype=torch.float64).repeat(pairs, 1)


def run(config, given, pairs, reference=None):
    method = Bandit(config, 2).double()
    certain = Targets.certain(pairs)
    targets = Targets(*(getattr(certain, n).double() for n in certain.__dataclass_fields__))
    rows = torch.arange(2 * pairs).view(-1, 2)
    batch = Batch(rows, targets, reference, torch.Generator().manual_seed(0))
    return method.loss(Belief(Categorical(method.levels, given)), batch)


def test_starts_as_the_bin_masses_of_the_standard_normal():
    reward = start()
    torch.testing.assert_close(reward.support, torch.linspace(-3, 3, 21))
    edges = np.concatenate([[-np.inf], np.arange(-2.85, 3, 0.3), [np.inf]])
    expected = torch.tensor(np.diff(stats.norm.cdf(edges)), dtype=torch.float32)
    torch.testing.assert_close(reward.probs[0], expected)
    assert reward.mean[0].item() == pytest.approx(0.0, abs=1e-6)
    assert reward.std[0].item() == pytest.approx(1.0, abs=0.01)


def test_samples_are_levels_with_the_frequency_of_their_masses():
    method = Bandit(BanditConfig(**CATEGORICAL, samples=40_000), 2).double()
    pair = Categorical(method.levels, logits()[None])
    samples = method.sample(pair, torch.Generator().manual_seed(0))
    assert not samples.requires_grad
    shares = (samples[..., None] == method.levels).double().mean(2)
    torch.testing.assert_close(shares, pair.probs, atol=0.01, rtol=0)


def test_log_policy_is_the_log_mass_of_the_drawn_level():
    reward = Categorical(torch.linspace(-3, 3, 5).double(), logits())
    got = log_prob(reward.support.expand(2, 5), reward)
    torch.testing.assert_close(got, reward.probs.log())


@pytest.mark.parametrize("kappa", [0.0, 0.9])
def test_sampled_gradient_is_that_of_the_exact_expectation(kappa):
    """E[∇] = ½(1 − 1/G)·∇ Σ p_i q_j 1[v_i > v_j + m] with the margin held fixed, within Monte-Carlo error."""
    pairs, group = 200_000, 8
    config = BanditConfig(**CATEGORICAL, samples=group, kappa=kappa, beta=0.0, standardize="none")
    given = logits().requires_grad_()
    (got,) = torch.autograd.grad(-run(config, given.repeat(pairs, 1), pairs)["policy"], given)

    exact = logits().requires_grad_()
    reward = Categorical(torch.linspace(-3, 3, 5).double(), exact)
    margin = kappa * reward.variance.sum().sqrt().item()
    beats = (reward.support[:, None] > reward.support[None, :] + margin).double()
    value = 0.5 * reward.probs[0] @ beats @ reward.probs[1]
    (expected,) = torch.autograd.grad((1 - 1 / group) * value, exact)
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=0)


def test_margin_is_kappa_times_the_predicted_deviations():
    method = Bandit(BanditConfig(**CATEGORICAL, kappa=0.3), 2).double()
    p = logits().softmax(-1).numpy()
    v = np.linspace(-3, 3, 5)
    variance = p @ v**2 - (p @ v) ** 2
    got = method.margin(Categorical(method.levels, logits()[None]))
    assert got.item() == pytest.approx(0.3 * np.sqrt(variance.sum()), rel=1e-6)


def test_kl_of_zero_is_the_exact_sum_against_the_normal_masses():
    method = Bandit(BanditConfig(**CATEGORICAL), 2)
    normal = method.log_masses.exp().numpy()
    expected = np.mean([stats.entropy(p, normal) for p in logits().softmax(-1).numpy()])
    got = run(BanditConfig(**CATEGORICAL, beta=0.2), logits(), 1)["kl"]
    assert got.item() == pytest.approx(0.2 * expected, rel=1e-5)


def test_kl_of_refine_is_against_the_frozen_stage():
    config = BanditConfig(**CATEGORICAL, reference="previous_stage", beta=1.0)
    levels = Bandit(config, 2).double().levels
    assert run(config, logits(), 1, Categorical(levels, logits()))["kl"].item() == pytest.approx(0.0)
    other = Categorical(levels, logits().flip(-1))
    expected = np.mean([stats.entropy(p, p[::-1]) for p in logits().softmax(-1).numpy()])
    assert run(config, logits(), 1, other)["kl"].item() == pytest.approx(expected)


def test_options_that_do_not_go_together_are_refused():
    with pytest.raises(ConfigError, match="bins is 1"):
        BanditConfig(head="categorical", bins=1)
    with pytest.raises(ConfigError, match="gaussian"):
        BanditConfig(head="categorical", supervised="mean_of_log")
