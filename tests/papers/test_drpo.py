"""DRPO: the units, identities and worked numbers of its faithful form with a Gaussian head."""

from __future__ import annotations

import math

import pytest
import torch

from poise.data.batch import Batch, Targets
from poise.distributions import Gaussian
from poise.errors import ConfigError
from poise.features import Features
from poise.methods.bandit import (
    Bandit,
    BanditConfig,
    meta_rewards,
    normal_log_prob,
    standardised,
    wins_by_rank,
)
from poise.methods.belief_heads import Belief

PHI = torch.special.ndtr


def density(x: float) -> float:
    return math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def policy(mu_w, sigma_w, mu_l, sigma_l, pairs: int = 1, dtype=torch.float64):
    """Parameters with gradient and the output [2·pairs] they make, chosen first."""
    parameters = [torch.tensor(v, dtype=dtype, requires_grad=True) for v in (mu_w, sigma_w, mu_l, sigma_l)]
    mean = torch.stack([parameters[0], parameters[2]]).repeat(pairs)
    std = torch.stack([parameters[1], parameters[3]]).repeat(pairs)
    return parameters, Belief(Gaussian(mean, std))


def loss(config, output, pairs, label=1.0, seed=0, reference=None):
    certain = Targets.certain(pairs)
    targets = Targets(*(getattr(certain, n).double() for n in certain.__dataclass_fields__))
    targets = Targets(
        torch.full((pairs,), label, dtype=torch.float64), targets.tie, targets.weight, targets.margin, targets.strength
    )
    rows = torch.arange(2 * pairs).view(-1, 2)
    method = Bandit(config, 2).double()
    return method.loss(output, Batch(rows, targets, reference, torch.Generator().manual_seed(seed)))


def test_starts_as_the_standard_normal_exactly():
    reward = Bandit(BanditConfig(), 8)(Features(torch.randn(5, 8))).reward
    assert torch.equal(reward.mean, torch.zeros(5))
    assert torch.equal(reward.std, torch.ones(5))


def test_meta_reward_against_a_double_loop():
    samples = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0))
    margin = torch.tensor([0.0, 0.5, 1.0])
    got = meta_rewards(samples, margin, "indicator")
    for p in range(3):
        for k in range(5):
            won = sum(float(samples[p, 0, k] > samples[p, 1, j] + margin[p]) for j in range(5)) / 5
            beaten = sum(float(samples[p, 0, j] > samples[p, 1, k] + margin[p]) for j in range(5)) / 5
            assert got[p, 0, k].item() == pytest.approx(won)
            assert got[p, 1, k].item() == pytest.approx(beaten)


@pytest.mark.parametrize("group", [5, 150])
def test_counting_by_ranks_against_a_double_loop(group):
    """Large groups are counted by sorting; ties, as a categorical head makes them, lose."""
    samples = torch.randn(4, 2, group, generator=torch.Generator().manual_seed(0)).mul(4).round().div(4)
    margin = torch.tensor([0.0, 0.25, 0.5, 0.7])
    won = (samples[:, 0, :, None] - margin[:, None, None] > samples[:, 1, None, :]).double()
    reduced = torch.stack([samples[:, 0] - margin[:, None], samples[:, 1]], 1)
    expected = torch.stack([won.sum(2), won.sum(1)], 1)
    assert torch.equal(wins_by_rank(reduced).double(), expected)
    torch.testing.assert_close(meta_rewards(samples, margin, "indicator").double(), expected / group)


def test_both_responses_share_the_credit():
    """mean(R_w) = mean(R_l) always: pair and response standardisation centre identically."""
    samples = torch.randn(50, 2, 8, generator=torch.Generator().manual_seed(0))
    for kind in ("indicator", "hinge"):
        meta = meta_rewards(samples, torch.full((50,), 0.1), kind)
        torch.testing.assert_close(meta[:, 0].mean(1), meta[:, 1].mean(1))


@pytest.mark.parametrize("scope", ["pair", "batch", "response", "none"])
def test_advantages_are_finite_where_every_comparison_is_equal(scope):
    meta = torch.ones(4, 2, 6)
    assert torch.equal(standardised(meta, scope), torch.zeros(4, 2, 6))


def test_advantages_are_zero_where_equal_shares_do_not_average_exactly():
    third = torch.full((1, 2, 6), 1 / 3)
    assert torch.equal(standardised(third, "response"), torch.zeros(1, 2, 6))


@pytest.mark.parametrize(("scope", "axes"), [("pair", (1, 2)), ("batch", (0, 1, 2)), ("response", (2,))])
def test_standardisation_scopes(scope, axes):
    meta = torch.rand(4, 2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for unbiased in (False, True):
        got = standardised(meta, scope, unbiased=unbiased)
        torch.testing.assert_close(got.mean(axes), torch.zeros_like(got.mean(axes)), atol=1e-12, rtol=0)
        spread = got.std(axes, correction=int(unbiased))
        torch.testing.assert_close(spread, torch.ones_like(spread))


def test_single_failing_sample_has_the_extreme_advantage():
    group = 32
    meta = torch.ones(1, 2, group, dtype=torch.float64)
    meta[0, 0, 0] = 0.0
    assert standardised(meta, "response")[0, 0, 0].item() == pytest.approx(-math.sqrt(group - 1))
    assert standardised(meta, "pair")[0, 0, 0].item() == pytest.approx(-math.sqrt(2 * group - 1))


@pytest.mark.parametrize(("z", "share"), [(1.0, 0.0), (2.0, 0.017), (3.0, 0.59), (4.0, 0.98)])
def test_frequency_of_zero_variance_groups(z, share):
    generator = torch.Generator().manual_seed(0)
    pairs = 6000
    samples = torch.randn(pairs, 2, 32, generator=generator)
    samples[:, 0] += z * math.sqrt(2)
    meta = meta_rewards(samples, torch.zeros(pairs), "indicator")
    silent = (meta.flatten(1).std(1, correction=0) == 0).double().mean().item()
    assert silent == pytest.approx(share, abs=0.02)


def test_samples_carry_no_gradient():
    (mu, *_), output = policy(0.3, 1.0, 0.0, 1.0)
    samples = Bandit(BanditConfig(), 2).double().sample(output.reward[None], None)
    assert not samples.requires_grad
    assert mu.requires_grad


def test_attached_samples_would_give_no_gradient_to_the_mean():
    """The trap of the reparameterised reading: log π(μ + σε) does not depend on μ."""
    mu, sigma = torch.tensor([0.4], requires_grad=True), torch.tensor([1.3], requires_grad=True)
    noise = torch.randn(1, 64)
    attached = mu[:, None] + sigma[:, None] * noise
    advantage = torch.rand(1, 64)
    (normal_log_prob(attached, Gaussian(mu, sigma)) * (advantage - advantage.mean())).mean().backward()
    assert mu.grad.abs().item() < 1e-6
    assert sigma.grad.abs().item() < 1e-6


@pytest.mark.parametrize("kappa", [0.0, 0.3])
def test_sampled_gradient_is_the_gradient_of_half_phi(kappa):
    """E[∇] = (1 − 1/G) · ∇ ½Φ((δ − κs)/s) with the margin held fixed, within Monte-Carlo error."""
    config = BanditConfig(samples=8, kappa=kappa, beta=0.0, standardize="none")
    values = (0.5, 0.9, 0.1, 1.3)
    pairs = 400_000
    parameters, output = policy(*values, pairs=pairs)
    got = torch.autograd.grad(-loss(config, output, pairs)["policy"], parameters)

    mu_w, s_w, mu_l, s_l = exact = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values]
    s = (s_w.square() + s_l.square()).sqrt()
    value = 0.5 * PHI((mu_w - mu_l - kappa * s.detach()) / s)
    expected = torch.autograd.grad((1 - 1 / 8) * value, exact)
    for a, b in zip(got, expected, strict=True):
        assert a.item() == pytest.approx(b.item(), abs=2e-3)


@pytest.mark.parametrize(("z", "sign"), [(0.1, 1), (0.5, -1)])
def test_sigma_grows_below_kappa_and_shrinks_above(z, sign):
    config = BanditConfig(samples=16, kappa=0.3, beta=0.0, standardize="none")
    pairs = 200_000
    parameters, output = policy(z * math.sqrt(2), 1.0, 0.0, 1.0, pairs=pairs)
    gradient = torch.autograd.grad(-loss(config, output, pairs)["policy"], parameters)
    assert gradient[1].item() * sign > 0
    assert gradient[3].item() * sign > 0


@pytest.mark.parametrize(("kappa", "beta"), [(0.05, 0.05), (0.1, 0.1)])
def test_stationary_sigma_of_an_unresolved_pair(kappa, beta):
    """σ* = √(1 + φ(κ)κ/2β) at z = 0 under the N(0, 1) prior: 1.095 for both published settings.

    Checked on the sampled objective: at σ* the expected gradient vanishes (no standardisation, G → ∞ by its factor).
    """
    sigma = math.sqrt(1 + density(kappa) * kappa / (2 * beta))
    assert sigma == pytest.approx(1.095, abs=0.001)
    pairs, group = 300_000, 16
    config = BanditConfig(samples=group, kappa=kappa, beta=beta, standardize="none")
    parameters, output = policy(0.0, sigma, 0.0, sigma, pairs=pairs)
    terms = loss(config, output, pairs)
    (policy_pull,) = torch.autograd.grad(terms["policy"], parameters[1], retain_graph=True)
    (prior_pull,) = torch.autograd.grad(terms["kl"], parameters[1])
    # J carries ½(1 − 1/G) of ∂Φ and ½β of each KL
    assert (policy_pull / (1 - 1 / group) + prior_pull).item() == pytest.approx(0.0, abs=1.5e-3)


def test_kl_of_zero_is_the_closed_form():
    _, output = policy(0.7, 1.4, -0.2, 0.6)
    expected = sum(0.5 * (s * s + m * m - 1) - math.log(s) for m, s in ((0.7, 1.4), (-0.2, 0.6))) / 2
    assert loss(BanditConfig(beta=0.2), output, 1)["kl"].item() == pytest.approx(0.2 * expected)


def test_kl_of_refine_is_against_the_frozen_stage():
    config = BanditConfig(reference="previous_stage", beta=1.0)
    _, output = policy(0.7, 1.4, -0.2, 0.6)
    frozen = Gaussian(output.reward.mean.detach(), output.reward.std.detach())
    assert loss(config, output, 1, reference=frozen)["kl"].item() == pytest.approx(0.0)
    with pytest.raises(ConfigError, match="earlier stage"):
        loss(config, output, 1)


def test_hinge_meta_reward_always_inflates_the_spread():
    """E[max(0, r_w − r_l)] = s(zΦ(z) + φ(z)), whose derivative in s is φ(z) > 0."""
    samples = torch.randn(40_000, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    samples[:, 0] = samples[:, 0] * 0.8 + 0.5
    s = math.sqrt(1 + 0.64)
    z = 0.5 / s
    expected = s * (z * PHI(torch.tensor(z)).item() + density(z))
    assert meta_rewards(samples, torch.zeros(40_000), "hinge").mean().item() == pytest.approx(expected, abs=0.01)


def test_soft_label_mixes_the_two_directions():
    config = BanditConfig(beta=0.0)
    values = (0.4, 1.0, 0.0, 1.2)
    _, output = policy(*values)
    won, lost, mixed = (loss(config, output, 1, label=y)["policy"].item() for y in (1.0, 0.0, 0.3))
    assert mixed == pytest.approx(0.3 * won + 0.7 * lost)


def test_exchanging_the_responses_and_the_label_is_the_same_loss():
    config = BanditConfig(beta=0.0, standardize="none", samples=64)
    pairs = 20_000
    _, one = policy(0.4, 1.0, 0.0, 1.2, pairs=pairs)
    _, other = policy(0.0, 1.2, 0.4, 1.0, pairs=pairs)
    a = loss(config, one, pairs, label=1.0)["policy"].item()
    b = loss(config, other, pairs, label=0.0, seed=1)["policy"].item()
    assert a == pytest.approx(b, abs=3e-3)


def test_identical_responses_are_not_driven_apart():
    pairs = 200_000
    config = BanditConfig(samples=8, kappa=0.05, beta=0.0, standardize="none")
    mu = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    output = Belief(Gaussian(mu.expand(2 * pairs), torch.ones(2 * pairs, dtype=torch.float64)))
    (gradient,) = torch.autograd.grad(loss(config, output, pairs)["policy"], mu)
    assert abs(gradient.item()) < 1e-3
