"""Sampled DRPO with the Brier score: its gradient, where it comes to rest, and that it calibrates."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from scipy import stats

from poise.data.batch import Batch, Targets
from poise.distributions import Gaussian
from poise.errors import ConfigError
from poise.evaluation import metrics
from poise.features import Features
from poise.methods.bandit import Bandit, BanditConfig
from poise.methods.belief_heads import Belief

BRIER = {"meta_reward": "brier", "kappa": 0.0, "standardize": "none"}


def batch_of(label: torch.Tensor, seed: int = 0) -> Batch:
    certain = Targets.certain(len(label))
    targets = dataclasses.replace(certain, label=label, weight=certain.weight.to(label))
    rows = torch.arange(2 * len(label)).view(-1, 2)
    return Batch(rows, targets, generator=torch.Generator().manual_seed(seed))


def sampled_gradient(values, label: float, pairs: int, **options) -> list[float]:
    """Where (μ_w, σ_w, μ_l, σ_l) are moved, averaged over many equal pairs."""
    parameters = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values]
    reward = Gaussian(torch.stack(parameters[0::2]).repeat(pairs), torch.stack(parameters[1::2]).repeat(pairs))
    method = Bandit(BanditConfig(beta=0.0, **options), 2).double()
    term = method.loss(Belief(reward), batch_of(torch.full((pairs,), label, dtype=torch.float64)))["policy"]
    return [-g.item() for g in torch.autograd.grad(term, parameters)]


@pytest.mark.parametrize("label", [1.0, 0.3])
def test_sampled_gradient_is_that_of_half_the_negative_brier_score(label):
    """(1 − 1/G) · ∇ −½[y(1 − P)² + (1 − y)P²], within Monte Carlo error."""
    values, group = (0.5, 0.9, 0.1, 1.3), 8
    mu_w, s_w, mu_l, s_l = exact = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values]
    p = torch.special.ndtr((mu_w - mu_l) / torch.hypot(s_w, s_l))
    score = -0.5 * (label * (1 - p) ** 2 + (1 - label) * p**2)
    expected = [(1 - 1 / group) * g.item() for g in torch.autograd.grad(score, exact)]
    got = sampled_gradient(values, label, 300_000, samples=group, **BRIER)
    assert got == pytest.approx(expected, abs=1.5e-3)
    assert max(map(abs, expected)) > 0.05


@pytest.mark.parametrize("flips", [0.1, 0.3])
def test_it_comes_to_rest_at_the_true_probability(flips):
    z = stats.norm.ppf(1 - flips)
    values = (z * 2**0.5, 1.0, 0.0, 1.0)
    still = sampled_gradient(values, 1 - flips, 200_000, samples=8, **BRIER)
    assert still == pytest.approx([0, 0, 0, 0], abs=1e-3)
    pulled = sampled_gradient(values, 1 - flips, 50_000, samples=8, kappa=0.0, standardize="none")
    assert pulled[0] > 0.02


def test_it_calibrates_and_the_share_of_wins_does_not():
    generator = torch.Generator().manual_seed(0)
    x, truth = torch.randn(6000, 8, generator=generator), torch.randn(8, generator=generator)
    p = torch.special.ndtr(0.7 * ((x[::2] - x[1::2]) @ truth) / truth.norm())
    label = (torch.rand(3000, generator=generator) < p).float()
    found = {}
    for name, options in {"brier": BRIER, "indicator": {"kappa": 0.0, "standardize": "none"}}.items():
        method = Bandit(BanditConfig(samples=16, beta=1e-3, **options), 8)
        optimizer = torch.optim.Adam(method.parameters(), lr=0.05)
        for step in range(150):
            optimizer.zero_grad()
            torch.stack(
                list(method.loss(method(Features(x[:4000])), batch_of(label[:2000], step)).values())
            ).sum().backward()
            optimizer.step()
        with torch.no_grad():
            reward = method(Features(x[4000:])).reward
        said = reward[::2].prob_greater(reward[1::2]).double().numpy()
        found[name] = metrics.expected_calibration_error(said, p[2000:].double().numpy())
    assert found["brier"] < 0.04
    assert found["indicator"] > 4 * found["brier"]


@pytest.mark.parametrize(
    "options", [{"kappa": 0.05}, {"standardize": "pair"}, {"standardize": "batch"}, {"head": "categorical"}]
)
def test_where_it_would_not_be_proper_it_is_refused(options):
    with pytest.raises(ConfigError, match="set these three"):
        BanditConfig(**(BRIER | options))
