"""DRPO in closed form: against sampling, scipy, and the derived numbers; and what is proper about the corrected scores."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from scipy.optimize import minimize, root
from scipy.special import owens_t as scipy_owens_t

from poise.data.batch import Batch, Targets
from poise.distributions import Categorical, Gaussian
from poise.errors import ConfigError
from poise.methods.bandit import Bandit, BanditConfig, meta_rewards
from poise.methods.bandit_exact import (
    BanditExact,
    BanditExactConfig,
    both_below,
    meta_reward_std,
    owens_t,
    prob_greater_by,
)
from poise.methods.belief_heads import Belief

PHI = torch.special.ndtr


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def density(x: float) -> float:
    return math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def batch_of(pairs: int, label: float = 1.0, reference=None) -> Batch:
    certain = Targets.certain(pairs)
    columns = {n: getattr(certain, n).double() for n in certain.__dataclass_fields__}
    columns["label"] = torch.full((pairs,), label, dtype=torch.float64)
    rows = torch.arange(2 * pairs).view(-1, 2)
    return Batch(rows, Targets(**columns), reference, torch.Generator().manual_seed(0))


def loss(parameters, *, label: float = 1.0, **options) -> dict[str, torch.Tensor]:
    """The terms for one pair with (μ_w, σ_w, μ_l, σ_l)."""
    mu_w, s_w, mu_l, s_l = parameters
    output = Belief(Gaussian(torch.stack([mu_w, mu_l]), torch.stack([s_w, s_l])))
    return BanditExact(BanditExactConfig(**options), 2).double().loss(output, batch_of(1, label))


def gradient(values, *, label: float = 1.0, **options) -> list[float]:
    """Of the score term, negated: in which direction training moves (μ_w, σ_w, μ_l, σ_l)."""
    parameters = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values]
    term = loss(parameters, label=label, beta=0.0, **options)[options["score"]]
    return [-g.item() for g in torch.autograd.grad(term, parameters)]


def optimum(flips: float = 0.0, log_sigma: float = -0.5, **options) -> tuple[float, float]:
    """(z, σ) at which the update of one pair μ_w = −μ_l with equal σ vanishes, sought from ``log_sigma`` on.

    A root and not a minimum: under standardisation the update is not the gradient of the value.
    """
    method = BanditExact(BanditExactConfig(**options), 2).double()
    batch = batch_of(1, 1 - flips)

    def update(x):
        half, raw = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in x)
        output = Belief(Gaussian(torch.stack([half, -half]), raw.exp().expand(2)))
        total = torch.stack(list(method.loss(output, batch).values())).sum()
        return [g.item() for g in torch.autograd.grad(total, (half, raw))]

    found = root(update, [0.95, log_sigma], tol=1e-10)
    assert found.success
    half, sigma = found.x[0], math.exp(found.x[1])
    return 2 * half / (sigma * math.sqrt(2)), sigma


# ── the formulas


def test_owens_t_is_scipys():
    h = torch.linspace(-9, 9, 37, dtype=torch.float64)[:, None].expand(-1, 11).flatten()
    a = torch.linspace(0, 1, 11, dtype=torch.float64).expand(37, -1).flatten()
    expected = torch.from_numpy(scipy_owens_t(h.numpy(), a.numpy()))
    torch.testing.assert_close(owens_t(h, a), expected, atol=1e-15, rtol=1e-10)


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.8])
def test_both_below_is_the_bivariate_normal(correlation):
    for a in (-2.0, -0.4, 1.0):
        expected = stats.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]]).cdf([a, a])
        assert both_below(tensor(a), tensor(correlation)).item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    ("a", "slope", "plain"), [(0, 1.34, 0.40), (1, 1.20, 0.24), (2, 0.84, 0.054), (3, 0.41, 0.004)]
)
def test_slopes_of_pair_standardisation(a, slope, plain):
    half = tensor(0.5)
    assert density(a) == pytest.approx(plain, abs=0.003)
    assert density(a) / meta_reward_std(tensor(a), half, half, 32).item() == pytest.approx(slope, abs=0.006)


@pytest.mark.parametrize(("z", "sigma_w", "kappa"), [(0.0, 1.0, 0.05), (1.1, 0.4, 0.3), (-0.7, 2.0, 0.0)])
def test_meta_reward_std_against_sampling(z, sigma_w, kappa):
    pairs, group, s = 100_000, 8, math.sqrt(sigma_w**2 + 1)
    noise = torch.randn(pairs, 2, group, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noise[:, 0] = noise[:, 0] * sigma_w + z * s
    meta = meta_rewards(noise, torch.full((pairs,), kappa * s, dtype=torch.float64), "indicator")
    expected = meta.var(correction=0).item()
    shares = tensor(sigma_w**2 / s**2), tensor(1 / s**2)
    assert meta_reward_std(tensor(z - kappa), *shares, group).item() ** 2 == pytest.approx(expected, rel=0.01)


def test_meta_reward_std_is_even_and_safe_far_out_in_single_precision():
    a, half = torch.tensor([0.5, 3.0, 6.0, 12.0, 40.0]), torch.full((5,), 0.5)
    sigma = meta_reward_std(a, half, half, 32)
    assert torch.equal(sigma, meta_reward_std(-a, half, half, 32))
    exact = meta_reward_std(a.double(), half.double(), half.double(), 32)
    torch.testing.assert_close(sigma[:4].double(), exact[:4], rtol=1e-4, atol=0)
    tail = torch.from_numpy(stats.norm.sf([6.0, 12.0]))  # far out only the noise of G samples is left
    torch.testing.assert_close(exact[2:4].square(), tail / 32, rtol=0.02, atol=0)
    assert (sigma > 0).all()


# ── the faithful form


@pytest.mark.parametrize("kappa", [0.0, 0.4])
def test_gradient_of_the_linear_score(kappa):
    """∂μ_w = φ(a)/s, ∂σ = −φ(a)·a·σ/s² with a = z − κ, all times ½: the margin is not differentiated."""
    mu_w, s_w, mu_l, s_l = values = (0.5, 0.9, 0.1, 1.3)
    s = math.hypot(s_w, s_l)
    a = (mu_w - mu_l) / s - kappa
    expected = [density(a) / s, -density(a) * a * s_w / s**2, -density(a) / s, -density(a) * a * s_l / s**2]
    assert gradient(values, score="linear", kappa=kappa) == pytest.approx([e / 2 for e in expected])


def test_pair_standardisation_divides_the_gradient_and_keeps_the_value():
    values = (0.5, 0.9, 0.1, 1.3)
    plain = gradient(values, score="linear", kappa=0.1)
    divided = gradient(values, score="linear", kappa=0.1, standardize="pair")
    s = math.hypot(0.9, 1.3)
    a, share = 0.4 / s - 0.1, 0.81 / s**2
    sigma = meta_reward_std(tensor(a), tensor(share), tensor(1 - share), 32).item()
    assert divided == pytest.approx([g / sigma for g in plain])
    value = loss([tensor(v)[0] for v in values], score="linear", kappa=0.1, standardize="pair")["linear"]
    assert value.item() == pytest.approx(-PHI(tensor(a)).item() / 2)


def test_sampled_policy_gradient_has_the_exact_one_as_its_mean():
    pairs, group, values = 300_000, 8, (0.5, 0.9, 0.1, 1.3)
    parameters = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values]
    mean, std = torch.stack(parameters[0::2]).repeat(pairs), torch.stack(parameters[1::2]).repeat(pairs)
    sampled = Bandit(BanditConfig(samples=group, kappa=0.2, beta=0.0, standardize="none"), 2).double()
    term = sampled.loss(Belief(Gaussian(mean, std)), batch_of(pairs))["policy"]
    got = [-g.item() for g in torch.autograd.grad(term, parameters)]
    exact = gradient(values, score="linear", kappa=0.2)
    assert got == pytest.approx([(1 - 1 / group) * g for g in exact], abs=1.5e-3)


@pytest.mark.parametrize(("z", "sign"), [(0.1, 1), (0.5, -1)])
def test_sigma_grows_below_kappa_and_shrinks_above(z, sign):
    moves = gradient((z * math.sqrt(2), 1.0, 0.0, 1.0), score="linear", kappa=0.3)
    assert moves[1] * sign > 0
    assert moves[3] * sign > 0


@pytest.mark.parametrize(("standardize", "expected"), [("none", 1.095), ("pair", 1.29)])
@pytest.mark.parametrize(("kappa", "beta"), [(0.05, 0.05), (0.1, 0.1)])
def test_stationary_sigma_of_an_unresolved_pair(standardize, expected, kappa, beta):
    """A pair held at z = 0 (both directions, say): κ inflates σ until the prior balances it."""
    low, high = 1.0, 2.0
    for _ in range(50):
        sigma = (low + high) / 2
        parameters = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.0, sigma, 0.0, sigma)]
        terms = loss(parameters, score="linear", kappa=kappa, beta=beta, standardize=standardize)
        (pull,) = torch.autograd.grad(torch.stack(list(terms.values())).sum(), parameters[1])
        low, high = (sigma, high) if pull < 0 else (low, sigma)
    assert sigma == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize("standardize", ["none", "pair"])
def test_an_isolated_pair_has_no_separate_uncertainty(standardize):
    """κ = 0: σ² = 1/(1 + z²/2) and μ² + σ² = 1 for any β and G."""
    z, sigma = optimum(score="linear", standardize=standardize, beta=0.2, samples=8)
    assert z > 0.5
    assert sigma**2 == pytest.approx(1 / (1 + z * z / 2), rel=1e-4)
    assert (z * sigma / math.sqrt(2)) ** 2 + sigma**2 == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize(
    ("standardize", "flips", "win"),
    [("none", 0.0, 0.989), ("none", 0.2, 0.980), ("pair", 0.0, 1.0), ("pair", 0.2, 1.0)],
)
def test_the_faithful_objective_is_sure_of_itself_whatever_the_noise(standardize, flips, win):
    start = -1.4 if standardize == "pair" else -0.5
    z, _ = optimum(flips, start, score="linear", standardize=standardize, kappa=0.05, beta=0.05)
    assert PHI(tensor(z)).item() == pytest.approx(win, abs=0.0011)


# ── the corrected scores


@pytest.mark.parametrize("flips", [0.05, 0.2, 0.4])
@pytest.mark.parametrize("score", ["brier", "log"])
def test_proper_scores_have_their_optimum_at_the_truth(score, flips):
    def expected_loss(z):
        terms = loss([tensor(v)[0] for v in (z[0] * math.sqrt(2), 1.0, 0.0, 1.0)], label=1 - flips, score=score)
        return terms[score].item()

    z = minimize(expected_loss, [0.1], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-14}).x[0]
    assert stats.norm.cdf(z) == pytest.approx(1 - flips, abs=1e-5)


@pytest.mark.parametrize("flips", [0.05, 0.2, 0.4])
def test_the_linear_score_goes_all_or_nothing(flips):
    """Its gradient under flips never changes sign, however sure the pair is already."""
    for z in (-3.0, 0.0, 3.0, 6.0):
        assert gradient((z, 1.0, 0.0, 1.0), score="linear", label=1 - flips)[0] > 0


def test_brier_is_bounded_and_lets_go_of_a_mislabelled_pair():
    pulls = {s: gradient((-9.0, 1.0, 0.0, 1.0), score=s)[0] for s in ("linear", "brier", "log")}
    assert pulls["linear"] < 1e-8
    assert pulls["brier"] < 1e-8
    assert pulls["log"] > 2.0
    values = [loss([tensor(v)[0] for v in (m, 1.0, 0.0, 1.0)], score="brier")["brier"].item() for m in (-50.0, 50.0)]
    assert values == pytest.approx([0.0, -0.5])


def test_brier_weighs_the_linear_gradient_by_twice_the_doubt():
    """d/dP[1 − (1 − P)²] = 2(1 − P)."""
    values = (0.5, 0.9, 0.1, 1.3)
    doubt = 1 - stats.norm.cdf(0.4 / math.hypot(0.9, 1.3))
    expected = [2 * doubt * g for g in gradient(values, score="linear")]
    assert gradient(values, score="brier") == pytest.approx(expected)


@pytest.mark.parametrize("score", ["linear", "brier", "log"])
def test_exchanging_the_responses_and_the_label_is_the_same_loss(score):
    one = [tensor(v)[0] for v in (0.5, 0.9, 0.1, 1.3)]
    here = loss(one, label=0.3, score=score)[score]
    there = loss(one[2:] + one[:2], label=0.7, score=score)[score]
    assert here.item() == pytest.approx(there.item())


# ── levels


def levels(bins: int = 7) -> tuple[torch.Tensor, Categorical]:
    generator = torch.Generator().manual_seed(0)
    support = torch.linspace(-3, 3, bins, dtype=torch.float64)
    return support, Categorical(support, torch.randn(4, 2, bins, dtype=torch.float64, generator=generator))


def categorical_loss(pair, label=1.0, **options):
    method = BanditExact(BanditExactConfig(head="categorical", bins=7, beta=0.0, **options), 2).double()
    output = Belief(Categorical(method.levels, pair.logits.flatten(0, 1)))
    return -2 * method.loss(output, batch_of(4, label))[options["score"]].item()


@pytest.mark.parametrize("margin", [0.0, 0.4, 1.0, 2.5])
def test_expected_meta_reward_of_levels_is_the_double_sum(margin):
    support, pair = levels()
    beats = (support[:, None] > support[None, :] + margin).double()
    expected = torch.einsum("pi,ij,pj->p", pair[:, 0].probs, beats, pair[:, 1].probs)
    got = prob_greater_by(pair[:, 0], pair[:, 1], torch.full((4,), margin, dtype=torch.float64))
    torch.testing.assert_close(got, expected)


def test_expected_meta_reward_of_levels_against_sampling():
    _, pair = levels()
    method = Bandit(BanditConfig(head="categorical", bins=7, samples=1000, kappa=0.2), 2).double()
    margin = method.margin(pair)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([meta_rewards(method.sample(pair, generator), margin, "indicator") for _ in range(20)])
    got = drawn.mean((0, 2, 3))
    torch.testing.assert_close(got, prob_greater_by(pair[:, 0], pair[:, 1], margin), atol=0.01, rtol=0)


@pytest.mark.parametrize("score", ["brier", "log"])
def test_proper_scores_of_levels_count_ties_half(score):
    support, pair = levels()
    beats = (support[:, None] > support[None, :]).double() + 0.5 * torch.eye(7, dtype=torch.float64)
    p = torch.einsum("pi,ij,pj->p", pair[:, 0].probs, beats, pair[:, 1].probs)
    won, lost = (1 - (1 - p) ** 2, 1 - p**2) if score == "brier" else (p.log(), (1 - p).log())
    for label in (1.0, 0.3):
        expected = (label * won + (1 - label) * lost).mean().item()
        assert categorical_loss(pair, label, score=score) == pytest.approx(expected)


def test_linear_score_of_levels_counts_ties_as_lost():
    support, pair = levels()
    beats = (support[:, None] > support[None, :]).double()
    p = torch.einsum("pi,ij,pj->p", pair[:, 0].probs, beats, pair[:, 1].probs)
    assert categorical_loss(pair, score="linear") == pytest.approx(p.mean().item())


# ── options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score": "brier", "kappa": 0.05}, "proper only without margin"),
        ({"score": "log", "kappa": 0.05}, "proper only without margin"),
        ({"score": "brier", "standardize": "pair"}, "score='linear'"),
        ({"score": "linear", "standardize": "pair", "head": "categorical"}, "head='gaussian'"),
        ({"beta": -1.0}, "negative"),
        ({"samples": 1}, "samples is 1"),
        ({"bins": 1}, "bins is 1"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        BanditExactConfig(**options)


def test_refining_needs_a_previous_stage():
    method = BanditExact(BanditExactConfig(reference="previous_stage", beta=1.0), 2).double()
    output = Belief(Gaussian(tensor(0.3, -0.3), tensor(1.0, 0.7)))
    assert method.needs_reference
    assert method.loss(output, batch_of(1, reference=output.reward))["kl"].item() == pytest.approx(0.0)
    with pytest.raises(ConfigError, match="earlier stage"):
        method.loss(output, batch_of(1))
