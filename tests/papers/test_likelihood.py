"""Thurstone and DPL: worked numbers, what comparisons leave free, and which likelihood collapses."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from scipy import stats
from scipy.optimize import minimize_scalar
from scipy.special import expit

from poise.data.batch import Batch, Targets
from poise.distributions import Categorical, Gaussian
from poise.errors import ConfigError
from poise.features import Features
from poise.methods.bandit import Bandit, BanditConfig
from poise.methods.belief_heads import Belief
from poise.methods.likelihood import (
    Likelihood,
    LikelihoodConfig,
    dpl_nll,
    explained_share,
    negative_marginal_entropy,
    quality_nll,
    thurstone_nll,
)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def batch_of(label, weight=None) -> Batch:
    pairs = len(label)
    certain = Targets.certain(pairs)
    weight = certain.weight if weight is None else weight
    targets = Targets(label, certain.tie, weight.to(label), certain.margin, certain.strength)
    return Batch(torch.arange(2 * pairs).view(-1, 2), targets, None, torch.Generator().manual_seed(0))


def nll(reward, label=1.0, **options) -> float:
    """The nll of one pair [2]."""
    method = Likelihood(LikelihoodConfig(prior=0, **options), 2).double()
    return method.loss(Belief(reward), batch_of(tensor(label)))["nll"].item()


def train(method, features: torch.Tensor, label: torch.Tensor, steps: int, lr: float):
    """Full-batch training on features [2P, H]."""
    batch, optimizer = batch_of(label), torch.optim.Adam(method.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.stack(list(method.loss(method(Features(features)), batch).values())).sum().backward()
        optimizer.step()
    with torch.no_grad():
        return method.eval()(Features(features)).reward


# ── the links


def test_thurstone_is_scipys_normal_logcdf_far_into_the_tail():
    z = torch.linspace(-40, 10, 101, dtype=torch.float64)
    torch.testing.assert_close(thurstone_nll(z), torch.from_numpy(-stats.norm.logcdf(z.numpy())))
    single = torch.tensor([-300.0, -6.0, 6.0], requires_grad=True)
    thurstone_nll(single).sum().backward()
    torch.testing.assert_close(single.grad, torch.tensor([-300.0, -6.158, 0.0]), atol=1e-2, rtol=1e-3)


def test_thurstone_is_the_log_of_the_mean_over_sampled_rewards():
    draws = torch.randn(2, 1_000_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    won = (0.5 + 0.7 * draws[0] > 0.2 + 1.1 * draws[1]).double().mean()
    got = nll(Gaussian(tensor(0.5, 0.2), tensor(0.7, 1.1)))
    assert got == pytest.approx(-math.log(won), abs=3e-3)


def test_dpl_is_too_steep():
    one = tensor(1.0)
    assert torch.exp(-dpl_nll(one)).item() == pytest.approx(0.925, abs=5e-4)
    assert torch.exp(-thurstone_nll(one)).item() == pytest.approx(0.841, abs=5e-4)


def test_the_logistic_slopes_that_fit():
    """1.596 has the slope of Φ at 0, 1.702 the smallest largest gap; DPL's is √(2π) = 2.507."""
    assert stats.norm.pdf(0) * 4 == pytest.approx(1.596, abs=5e-4)
    z = torch.linspace(0, 6, 6001, dtype=torch.float64).numpy()
    best = minimize_scalar(lambda c: abs(expit(c * z) - stats.norm.cdf(z)).max(), bracket=(1.5, 1.7, 2.0))
    assert best.x == pytest.approx(1.702, abs=1e-3)
    slope = torch.func.grad(lambda x: -dpl_nll(x))(torch.tensor(0.0, dtype=torch.float64)).item()
    assert slope == pytest.approx(math.sqrt(2 * math.pi) / 2)


@pytest.mark.parametrize("link", ["thurstone", "dpl"])
def test_comparisons_leave_zero_and_unit_free_and_the_prior_fixes_them(link):
    mean, std = tensor(0.5, 0.2), tensor(0.7, 1.1)
    here = nll(Gaussian(mean, std), 0.8, link=link)
    assert nll(Gaussian(3 * mean + 5, 3 * std), 0.8, link=link) == pytest.approx(here)
    method = Likelihood(LikelihoodConfig(link=link, prior=0.5), 2).double()
    for m, s in ((mean, std), (3 * mean + 5, 3 * std)):
        expected = 0.5 * (0.5 * (s**2 + m**2 - 1) - s.log()).mean().item()
        got = method.loss(Belief(Gaussian(m, s)), batch_of(tensor(1.0)))["prior"].item()
        assert got == pytest.approx(expected)


@pytest.mark.parametrize("label", [0.5, 0.7, 0.95])
def test_the_optimum_under_a_soft_label_is_that_label(label):
    def value(z):
        return nll(Gaussian(tensor(z * math.sqrt(2), 0.0), tensor(1.0, 1.0)), label)

    z = minimize_scalar(value, bracket=(0.0, 1.0), tol=1e-10).x
    assert stats.norm.cdf(z) == pytest.approx(label, abs=1e-6)


def test_starts_as_the_standard_normal_or_as_equal_masses():
    features = Features(torch.randn(3, 4))
    for std in ("exp", "softplus"):
        reward = Likelihood(LikelihoodConfig(std=std), 4)(features).reward
        assert torch.equal(reward.mean, torch.zeros(3))
        torch.testing.assert_close(reward.std, torch.ones(3))
    reward = Likelihood(LikelihoodConfig(head="categorical"), 4)(features).reward
    torch.testing.assert_close(reward.support, torch.linspace(0, 1, 10))
    torch.testing.assert_close(reward.probs, torch.full((3, 10), 0.1))


# ── levels


def levels(seed: int = 0) -> Categorical:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 10, dtype=torch.float64, generator=generator)
    return Categorical(torch.linspace(0, 1, 10, dtype=torch.float64), logits)


def test_levels_are_compared_exactly_with_half_ties():
    reward = levels()
    p, q = reward.probs.tolist()
    win = sum(p[i] * q[j] * (1.0 if i > j else 0.5 if i == j else 0.0) for i in range(10) for j in range(10))
    for label in (1.0, 0.3):
        expected = -label * math.log(win) - (1 - label) * math.log(1 - win)
        assert nll(reward, label, head="categorical") == pytest.approx(expected)


def test_marginal_entropy_is_that_of_the_mean_masses_of_the_batch():
    method = Likelihood(LikelihoodConfig(head="categorical", prior=0), 2).double()
    reward = Categorical.concatenate([levels(0), levels(1)])
    weight = tensor(1.0, 3.0)
    masses = reward.probs.view(2, 2, 10).mean(1).numpy()
    expected = -0.1 * stats.entropy((masses[0] + 3 * masses[1]) / 4)
    got = method.loss(Belief(reward), batch_of(tensor(1.0, 1.0), weight))["marginal_entropy"]
    assert got.item() == pytest.approx(expected)


def test_marginal_entropy_is_lowest_where_all_levels_are_used_alike():
    support, weight = torch.linspace(0, 1, 10), torch.ones(1)
    flat = negative_marginal_entropy(Categorical(support, torch.zeros(1, 2, 10)), weight)
    assert flat.item() == pytest.approx(-math.log(10))
    peaked = Categorical(support, torch.zeros(1, 2, 10).index_fill_(-1, torch.tensor([3]), 200.0))
    assert negative_marginal_entropy(peaked, weight).item() == pytest.approx(0.0, abs=1e-6)
    logits = torch.zeros(1, 2, 10, requires_grad=True)
    negative_marginal_entropy(Categorical(support, logits), torch.zeros(1)).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all(), "a batch in which nothing counts"


def test_prior_of_levels_is_the_kl_to_equal_masses():
    method = Likelihood(LikelihoodConfig(head="categorical", prior=0.2), 2).double()
    expected = 0.2 * sum(math.log(10) - stats.entropy(p) for p in levels().probs.numpy()) / 2
    got = method.loss(Belief(levels()), batch_of(tensor(1.0)))["prior"]
    assert got.item() == pytest.approx(expected, rel=1e-6)


# ── anchors


def test_quality_labels_are_an_ordinal_probit():
    reward = Gaussian(tensor(0.5, -3.0, 0.0), tensor(0.7, 0.4, 2.0))
    masses = []
    for quality, (low, high) in enumerate([(-math.inf, -0.43), (-0.43, 0.43), (0.43, math.inf)]):
        got = torch.exp(-quality_nll(reward, torch.full((3,), float(quality)), 0.43))
        expected = stats.norm.cdf(high, reward.mean, reward.std) - stats.norm.cdf(low, reward.mean, reward.std)
        torch.testing.assert_close(got, torch.from_numpy(expected))
        masses.append(got)
    torch.testing.assert_close(sum(masses), torch.ones(3, dtype=torch.float64))


def test_quality_labels_are_equally_likely_at_the_start():
    start = Gaussian(torch.zeros(3), torch.ones(3))
    got = quality_nll(start, torch.tensor([0.0, 1.0, 2.0]), LikelihoodConfig().threshold)
    torch.testing.assert_close(got, torch.full((3,), math.log(3)), atol=1e-5, rtol=0)


def test_anchor_is_finite_with_gradient_far_out_in_single_precision():
    mean = torch.tensor([-3e7, -50.0, 0.0, 50.0, 3e7]).repeat(3).requires_grad_()
    std = torch.full((15,), 1e-3).requires_grad_()
    nll = quality_nll(Gaussian(mean, std), torch.tensor([0.0, 1.0, 2.0]).repeat_interleave(5), 0.43)
    nll.sum().backward()
    assert torch.isfinite(nll).all()
    assert torch.isfinite(mean.grad).all()
    assert torch.isfinite(std.grad).all()


def test_anchor_counts_labelled_responses_only_and_fixes_the_unit():
    method = Likelihood(LikelihoodConfig(anchor=0.5, prior=0), 2).double()
    certain = batch_of(tensor(1.0, 1.0)).targets
    targets = dataclasses.replace(certain, quality=tensor(2.0, math.nan, math.nan, 0.0).view(2, 2))
    batch = dataclasses.replace(batch_of(tensor(1.0, 1.0)), targets=targets)
    mean, std = tensor(0.5, 9.0, -9.0, 0.3), tensor(0.7, 1.0, 1.0, 1.2)
    t = method.config.threshold
    expected = -(stats.norm.logsf(t, 0.5, 0.7) + stats.norm.logcdf(-t, 0.3, 1.2)) / 2
    got = method.loss(Belief(Gaussian(mean, std)), batch)
    assert got["anchor"].item() == pytest.approx(0.5 * expected)
    scaled = method.loss(Belief(Gaussian(3 * mean, 3 * std)), batch)
    assert scaled["nll"].item() == pytest.approx(got["nll"].item())
    assert scaled["anchor"].item() != pytest.approx(got["anchor"].item())


def test_anchor_without_quality_labels_is_refused_before_training():
    with pytest.raises(ConfigError, match="none; set"):
        Likelihood(LikelihoodConfig(anchor=0.5), 2).check_targets(Targets.certain(3))
    Likelihood(LikelihoodConfig(), 2).check_targets(Targets.certain(3))


# ── what is learnt


def noisy_prompts(pairs: int = 1500, noisy: float = 1.5):
    """Features [2P, 6] of which two say the reward and one, shared by a pair, that people disagree here."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(pairs, 2, 6, generator=generator)
    x[:, :, 5] = torch.randint(0, 2, (pairs, 1), generator=generator).float()
    x[:, :, 4] = 1.0
    spread = torch.where(x[:, 0, 5] > 0, noisy, 0.4)
    z = (x[:, 0, :2] - x[:, 1, :2]).sum(1) / (spread * math.sqrt(2))
    label = (torch.rand(pairs, generator=generator) < torch.special.ndtr(z)).float()
    return x.flatten(0, 1), label


def test_mean_of_the_log_collapses_sigma_and_log_of_the_mean_does_not():
    """So it is not supervision that collapses, as the DRPO paper has it, but the order of the two."""
    features, label = noisy_prompts()
    noisy = features[:, 5] > 0
    torch.manual_seed(0)
    collapsed = train(Bandit(BanditConfig(supervised="mean_of_log", beta=0.0), 6), features, label, 400, 0.03)
    healthy = train(Likelihood(LikelihoodConfig(), 6), features, label, 400, 0.03)
    assert collapsed.std.mean() < 0.1
    assert healthy.std.mean() > 0.5
    assert healthy.std[noisy].mean() > 1.5 * healthy.std[~noisy].mean()


def test_mean_of_the_log_gains_by_every_loss_of_spread():
    """∂/∂s E softplus(−(δ + sε)) = s·E[Λ(1−Λ)] > 0, right or wrong."""
    for mean in ((1.0, 0.0), (0.0, 1.0)):
        std = torch.ones(2, dtype=torch.float64, requires_grad=True)
        method = Bandit(BanditConfig(supervised="mean_of_log", samples=50_000, beta=0.0), 2).double()
        term = method.loss(Belief(Gaussian(tensor(*mean), std)), batch_of(tensor(1.0)))["supervised"]
        (gradient,) = torch.autograd.grad(term, std)
        draws = torch.randn(1_000_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        chance = torch.sigmoid(mean[0] - mean[1] + math.sqrt(2) * draws)
        expected = (chance * (1 - chance)).mean().item()  # s·∂s/∂σ_i = σ_i = 1
        assert gradient.tolist() == pytest.approx([expected, expected], abs=0.01)


@pytest.mark.parametrize("options", [{}, {"link": "dpl", "std": "softplus"}, {"head": "categorical", "prior": 0.0}])
def test_hidden_context_in_the_world_of_the_dpl_paper(options):
    """Utility a, doubled or zeroed with probability ½ from .8 on: spread must be found there, and the Borda count.

    Borda: .1 + a below .8, .275 + .25a above.
    """
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(3000, 2, generator=generator)
    doubled = torch.rand(3000, 2, generator=generator) < 0.5
    utility = torch.where(a < 0.8, a, torch.where(doubled, 2 * a, 0.0))
    won, tied = utility[:, 0] > utility[:, 1], utility[:, 0] == utility[:, 1]
    bucket = (a.flatten() * 10).long()
    label = torch.where(tied, 0.5, won.float())
    one_hot = torch.nn.functional.one_hot(bucket, 10).float()
    torch.manual_seed(0)
    method = Likelihood(LikelihoodConfig(**options), 10)
    train(method, one_hot, label, 150, 0.1)
    with torch.no_grad():
        reward = method(Features(torch.eye(10))).reward
    assert reward.std[8:].min() > 1.3 * reward.std[:8].max()
    if options.get("link") != "dpl":  # read by Φ, what was fitted by its steep logistic is not calibrated
        borda = reward[:, None].prob_greater(reward[None, :]).mean(1)
        middle = torch.arange(0.05, 1, 0.1)
        expected = torch.where(middle < 0.8, 0.1 + middle, 0.275 + 0.25 * middle)
        torch.testing.assert_close(borda, expected, atol=0.06, rtol=0)


def test_explained_share_is_the_law_of_total_variance():
    reward = Gaussian(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 3.0]))
    assert explained_share(reward).item() == pytest.approx(1 / (1 + 5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "categorical", "link": "dpl"}, "head='gaussian'"),
        ({"head": "categorical", "std": "softplus"}, "head='gaussian'"),
        ({"head": "categorical", "anchor": 0.5}, "head='gaussian'"),
        ({"head": "categorical", "rating_weight": 0.5}, "head='gaussian'"),
        ({"prior": -1.0}, "prior is -1.0"),
        ({"rating_weight": -1.0}, "rating_weight is -1.0"),
        ({"anchor": -1.0}, "anchor is -1.0"),
        ({"threshold": 0.0}, "threshold is 0.0"),
        ({"bins": 1}, "bins is 1"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        LikelihoodConfig(**options)
