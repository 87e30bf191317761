"""VRM: closed forms against Monte Carlo and torch.distributions, the supervision by hand, and what the bound cannot do."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import Dirichlet, kl_divergence

from poise.data.batch import Batch, Targets
from poise.data.records import Preference
from poise.distributions import Gaussian, Mixture
from poise.errors import ConfigError
from poise.features import Features
from poise.methods.dirichlet import base_uniforms, dirichlet_at, dirichlet_kl, sample_dirichlet
from poise.methods.pac_bayes import pac_bayes
from poise.methods.variational import Variational, VariationalConfig, log_mean, supervision_loss
from poise.pairing import PairFeatures
from poise.training.heads import HeadData, train_heads
from poise.training.recipe import parse_recipe

DECODERS = ("linear", "mlp_features", "mlp")
NAMES = ("brevity", "honesty", "safety")


def method_and_output(rows: int = 6, **options):
    torch.manual_seed(0)
    method = Variational(VariationalConfig(**({"objectives": 4, "latent": 3} | options)), 8)
    return method, method(Features(torch.randn(rows, 8), torch.randn(rows, 8)))


def one_prompt(method, rows: int):
    """Features of responses to one prompt."""
    return Features(torch.randn(rows, 8), torch.randn(1, 8).expand(rows, 8))


def pairs_of(output, seed: int = 0) -> Batch:
    count = len(output.mean) // 2
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.arange(2 * count).view(-1, 2), Targets.certain(count), None, generator)


def drawn(method, output, draws: int, seed: int = 0):
    """r [draws, B] from the definition: w of each row, z of each row, nothing in closed form."""
    torch.manual_seed(seed)
    with torch.no_grad():
        weight = Dirichlet(output.concentration).sample((draws,))
        latent = output.mean + output.log_std.exp() * torch.randn(draws, *output.mean.shape)
        return method.decoder(weight, latent)


# ── the read-out ──


def test_moments_equal_monte_carlo():
    """V6, for one response: 1e5 draws within 4 standard errors."""
    method, output = method_and_output(rows=5)
    reward = drawn(method, output, 100_000)
    error = reward.std(0) / 100_000**0.5
    assert ((output.reward.mean - reward.mean(0)).abs() < 4 * error).all()
    kurtosis = (reward - reward.mean(0)).pow(4).mean(0) / reward.var(0).square()
    error = reward.var(0) * ((kurtosis - 1) / 100_000).sqrt()
    assert ((output.reward.variance - reward.var(0)).abs() < 4 * error).all()


def test_paired_read_out_has_the_paired_moments():
    """V6, for two responses to one prompt: Var(Δ) with μ_f replaced by the difference and Σ_f by the sum."""
    torch.manual_seed(0)
    method = Variational(VariationalConfig(objectives=4, latent=3, readout="paired", readout_draws=4096), 8).eval()
    output = method(one_prompt(method, 2))
    with torch.no_grad():
        center, both = output.mean[:1] - output.mean[1:], output.std.square().sum(0, keepdim=True).sqrt()
        mean, variance = method.decoder.moments(output.concentration[:1], center, both)
        reward = output.reward
        between = (reward.means[0] - reward.means[1]).var(unbiased=False)
        within = reward.stds.square().sum(0).mean()
    assert isinstance(reward, Mixture)
    assert reward.coupling == "paired"
    torch.testing.assert_close((reward.mean[0] - reward.mean[1]), mean[0], atol=1e-3, rtol=1e-2)
    torch.testing.assert_close(between + within, variance[0], atol=1e-4, rtol=1e-2)
    independent = reward.variance.sum()
    assert abs(independent - variance[0]) > 10 * abs(between + within - variance[0])


@pytest.mark.parametrize("decoder", DECODERS)
def test_paired_preference_is_that_of_draws_with_common_weights(decoder):
    torch.manual_seed(0)
    method = Variational(VariationalConfig(4, 3, decoder=decoder, readout="paired", readout_draws=256), 8).eval()
    with torch.no_grad():
        for parameter in method.decoder.parameters():
            parameter.mul_(2.0)
        output = method(one_prompt(method, 8))
        reward = output.reward
        weight = Dirichlet(output.concentration[0]).sample((40_000,))
        latent = output.mean + output.std * torch.randn(40_000, 8, 3)
        draws = method.decoder(weight[:, None], latent)
        expected = (draws[:, :4] - draws[:, 4:]).sigmoid().mean(0)
    tolerance = 0.005 if decoder == "linear" else 0.02  # a Gaussian stands for r given w
    torch.testing.assert_close(reward[:4].prob_greater(reward[4:]), expected, atol=tolerance, rtol=0)


def test_identical_responses_are_even_but_not_without_spread():
    method, _ = method_and_output(readout="paired")
    row = torch.randn(1, 8).expand(2, 8)
    reward = method.eval()(Features(row, row)).reward
    assert reward[:1].prob_greater(reward[1:]).item() == pytest.approx(0.5)
    assert (reward.stds > 0).all()


@pytest.mark.parametrize("decoder", DECODERS)
def test_both_read_outs_have_the_same_moments(decoder):
    torch.manual_seed(0)
    paired = Variational(VariationalConfig(4, 3, decoder=decoder, readout="paired", readout_draws=256), 8).eval()
    gaussian = Variational(VariationalConfig(4, 3, decoder=decoder, readout_draws=256), 8).eval()
    gaussian.load_state_dict(paired.state_dict())
    x = Features(torch.randn(6, 8), torch.randn(6, 8))
    here, there = paired(x).reward, gaussian(x).reward
    assert isinstance(there, Gaussian)
    torch.testing.assert_close(here.mean, there.mean, atol=0.01, rtol=0)
    torch.testing.assert_close(here.std, there.std, atol=0, rtol=0.03)


@pytest.mark.parametrize("decoder", DECODERS)
def test_read_out_by_draws_repeats_itself_row_by_row_and_after_loading(decoder):
    torch.manual_seed(0)
    config = VariationalConfig(4, 3, decoder=decoder, readout="paired")
    method, other = Variational(config, 8).eval(), Variational(config, 8).eval()
    with torch.no_grad():
        method.uniforms.mul_(0.9)  # what is loaded counts, not what a library draws today
    other.load_state_dict(method.state_dict())
    x = Features(torch.randn(6, 8), torch.randn(6, 8))
    torch.manual_seed(1)
    first, again, loaded = method(x).reward, method(x).reward, other(x).reward
    for name, values in first.row_parameters().items():
        assert torch.equal(values, again.row_parameters()[name])
        assert torch.equal(values, loaded.row_parameters()[name])
    torch.testing.assert_close(method(x[2:3]).reward.means, first.means[2:3], atol=1e-6, rtol=1e-5)


def test_fixed_draws_follow_the_dirichlet():
    concentration = torch.tensor([[0.01, 0.5, 3.0], [20.0, 5.0, 1.0]])
    weight = dirichlet_at(concentration, base_uniforms(4096, 3))
    expected = Dirichlet(concentration)
    assert torch.isfinite(weight).all()
    torch.testing.assert_close(weight.mean(1), expected.mean, atol=2e-3, rtol=0)
    torch.testing.assert_close(weight.var(1), expected.variance, atol=2e-3, rtol=0)
    alone = dirichlet_at(concentration[1:], base_uniforms(4096, 3))
    assert torch.equal(alone[0], weight[1])


@pytest.mark.parametrize("decoder", DECODERS)
def test_steered_reward_is_read_under_the_given_weights(decoder):
    options = {"attributes": NAMES, "supervision_weight": 0.1, "readout_draws": 4096}
    method, output = method_and_output(rows=2, decoder=decoder, **options)
    weight = torch.tensor([0.2, 0.0, 0.8])
    with torch.no_grad():
        latent = output.mean + output.std * torch.randn(100_000, 2, 3)
        draws = method.decoder(weight, latent)
        steered = method.steered(output, weight)
    torch.testing.assert_close(steered.mean, draws.mean(0), atol=5e-3, rtol=0)
    torch.testing.assert_close(steered.std, draws.std(0), atol=0, rtol=0.03)
    if decoder == "linear":
        loading = method.decoder.objectives
        torch.testing.assert_close(steered.mean, loading(output.mean) @ weight)
        by_hand = ((weight @ loading.weight).square() * output.std.square()).sum(-1)
        torch.testing.assert_close(steered.variance, by_hand)


def test_weights_without_names_cannot_be_steered():
    method, output = method_and_output()
    with pytest.raises(ConfigError, match="no attributes"):
        method.steered(output, torch.ones(4) / 4)


# ── the weights ──


def test_dirichlet_kl_against_torch():
    torch.manual_seed(0)
    concentration = torch.rand(50, 5, dtype=torch.float64) * 10 + 0.02
    expected = kl_divergence(Dirichlet(concentration), Dirichlet(torch.ones_like(concentration)))
    torch.testing.assert_close(dirichlet_kl(concentration), expected)


def test_dirichlet_draws_have_the_right_moments_and_gradient():
    concentration = torch.tensor([0.5, 2.0, 4.0], requires_grad=True)
    weight = sample_dirichlet(concentration.expand(300_000, 3), torch.Generator().manual_seed(0))
    total = concentration.detach().sum()
    torch.testing.assert_close(weight.mean(0).detach(), concentration.detach() / total, atol=2e-3, rtol=0)
    # d E[w_0] / dα = (δ_0j α₀ − α_0)/α₀²
    (gradient,) = torch.autograd.grad(weight[:, 0].mean(), concentration)
    expected = (torch.tensor([1.0, 0.0, 0.0]) * total - 0.5) / total**2
    torch.testing.assert_close(gradient, expected, atol=3e-3, rtol=0)


def test_tiny_concentrations_stay_finite():
    concentration = torch.full((1000, 5), 0.01, requires_grad=True)
    weight = sample_dirichlet(concentration, torch.Generator().manual_seed(0))
    weight.square().sum().backward()
    assert torch.isfinite(weight).all()
    assert torch.isfinite(concentration.grad).all()
    torch.testing.assert_close(weight.sum(-1), torch.ones(1000))


def test_tiny_concentrations_draw_near_the_vertices():
    """Their Gamma draws underflow together, and the row must not become even: Var w₁ = ⅕·⅘/(Σα + 1)."""
    weight = sample_dirichlet(torch.full((100_000, 5), 0.01), torch.Generator().manual_seed(0))
    assert weight[:, 0].var().item() == pytest.approx(0.16 / 1.05, abs=2e-3)
    assert weight.amax(-1).min() > 0.21, "0.2 in every place was the sign of it"


def test_one_objective_has_no_weights_to_infer():
    method, output = method_and_output(rows=4, objectives=1)
    assert method.loss(output, pairs_of(output))["kl_w"] == 0
    torch.testing.assert_close(output.reward.mean, method.decoder.objectives(output.mean)[:, 0])


def test_the_prompt_is_never_replaced_by_the_response():
    method, _ = method_and_output()
    with pytest.raises(ConfigError, match="prompt"):
        method(Features(torch.randn(2, 8)))


# ── the likelihood ──


def test_predictive_likelihood_is_the_log_of_the_mean():
    values = torch.randn(8, 5).sigmoid().log()
    torch.testing.assert_close(log_mean(values, 0), values.exp().mean(0).log())
    assert (log_mean(values, 0) >= values.mean(0)).all()
    with pytest.raises(ConfigError, match="draws"):
        VariationalConfig(likelihood="predictive", draws=1)


def test_difference_given_the_weights_has_the_law_of_two_draws_of_features():
    """The linear decoder draws r_a − r_b at once; drawing z of both and decoding them is the definition."""
    method, output = method_and_output(rows=6, draws=100_000)
    batch = pairs_of(output)
    with torch.no_grad():
        weight = sample_dirichlet(output.concentration[batch.first].expand(100_000, -1, -1), batch.generator)
        at_once = method.sampled_difference(weight, output, batch)
        latent = output.mean + output.std * torch.randn(100_000, 6, 3)
        twice = method.decoder(weight, latent[:, 0::2]) - method.decoder(weight, latent[:, 1::2])
    for moment in (lambda x: x.mean(0), lambda x: x.std(0), lambda x: x.sigmoid().log().mean(0)):
        torch.testing.assert_close(moment(at_once), moment(twice), atol=0.01, rtol=0.01)
    levels = torch.linspace(0.02, 0.98, 49)
    torch.testing.assert_close(at_once.quantile(levels, 0), twice.quantile(levels, 0), atol=0.03, rtol=0.02)


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_pair_shares_its_weights(decoder):
    """Identical responses differ in z only: with σ_z → 0 their difference is 0 for every draw of w."""
    method, _ = method_and_output(draws=16, decoder=decoder)
    with torch.no_grad():
        method.features.bias[3:] = -50.0  # log σ at its floor
        method.features.weight[3:] = 0.0
    row = torch.randn(1, 8)
    output = method(Features(row.repeat(2, 1), torch.randn(1, 8).repeat(2, 1)))
    batch = pairs_of(output)
    weight = sample_dirichlet(output.concentration[batch.first].expand(16, -1, -1), batch.generator)
    assert method.sampled_difference(weight, output, batch).abs().max() < 0.05


@pytest.mark.parametrize("decoder", DECODERS)
def test_no_posterior_lifts_the_bound_above_its_value_at_the_prior(decoder):
    """The prior of z does not know the response, so a pair has evidence ½ and the bound stays below −ln 2."""
    for seed in range(5):
        torch.manual_seed(seed)
        options = {"likelihood": "elbo", "draws": 4000, "kl_w": 1.0, "kl_z": 1.0}
        method = Variational(VariationalConfig(3, 4, decoder=decoder, **options), 8)
        with torch.no_grad():
            for parameter in method.parameters():
                parameter.mul_(seed / 2)
            output = method(Features(torch.randn(20, 8), torch.randn(20, 8)))
            loss = sum(method.loss(output, pairs_of(output)).values())
        assert loss > math.log(2) - 0.01


def test_pair_term_alone_shrinks_the_features_spread():
    """∂/∂σ E[softplus(−(δ + sε))] > 0: the mean of the log collapses σ_z; the log of the mean does not at δ = 0."""
    gradients = {}
    for likelihood in ("elbo", "predictive"):
        method, _ = method_and_output(draws=256, likelihood=likelihood, kl_w=0.0, kl_z=0.0)
        output = method(Features(torch.zeros(200, 8), torch.zeros(200, 8)))
        total = torch.stack(list(method.loss(output, pairs_of(output)).values())).sum()
        (gradient,) = torch.autograd.grad(total, output.log_std)
        gradients[likelihood] = gradient.sum().item()
    assert gradients["elbo"] > 0.005
    assert abs(gradients["predictive"]) < 0.1 * gradients["elbo"]


# ── supervision ──


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # t = (½, ⅜, ⅛), w = (¼, ¼, ½)
        ("kl", 0.5 * math.log(2) + 0.375 * math.log(1.5) + 0.125 * math.log(0.25)),
        ("mse", 0.25**2 + 0.125**2 + 0.375**2),
        # ordered pairs: (0, 1) softplus(0) = ln 2; (0, 2) and (1, 2) softplus(ln 2) = ln 3
        ("rank", (math.log(2) + 2 * math.log(3)) / 3),
    ],
)
def test_supervision_by_hand(kind, expected):
    target, weight = torch.tensor([[0.5, 0.375, 0.125]]), torch.tensor([[0.25, 0.25, 0.5]])
    assert supervision_loss(kind, target, weight).item() == pytest.approx(expected, abs=1e-6)
    even = torch.full((1, 3), 1 / 3)
    zero = supervision_loss("rank", even, weight) if kind == "rank" else supervision_loss(kind, target, target)
    assert zero.item() == pytest.approx(0.0, abs=1e-6)


def supervised(**options) -> Variational:
    torch.manual_seed(0)
    return Variational(VariationalConfig(latent=3, attributes=NAMES, supervision_weight=0.5, **options), 8)


def rated_pairs(labels: list[float]) -> Targets:
    """Two pairs rated 1 to 4 on brevity, constantly on honesty, and 5 or 1 on safety, with one rating missing."""
    attributes = torch.tensor(
        [
            [[1.0, 3.0, 5.0], [2.0, 3.0, 1.0]],
            [[3.0, 3.0, 5.0], [4.0, 3.0, 1.0]],
            [[2.5, math.nan, 5.0], [2.5, 3.0, 1.0]],
        ]
    )
    return replace(Targets.certain(3), label=torch.tensor(labels), attributes=attributes)


def test_ratings_are_scored_against_both_responses_of_all_pairs():
    method, targets = supervised(), rated_pairs([1.0, 0.0, 1.0])
    features = Features(torch.randn(6, 8), torch.randn(6, 8))
    assert method.fit(features, Batch(torch.arange(6).view(-1, 2), targets)) is None
    brevity = (0.0, math.sqrt((2 * 1.5**2 + 2 * 0.5**2) / 6))
    torch.testing.assert_close(method.rating_mean, torch.tensor([2.5, 3.0, 3.0]))
    torch.testing.assert_close(method.rating_std, torch.tensor([brevity[1], 0.0, 2.0]))
    # the first pair prefers its first response: z = (−1.5/sd, 0, 1); the second its second: (1.5/sd, 0, −1)
    scores = torch.tensor([[-1.5 / brevity[1], 0.0, 1.0], [1.5 / brevity[1], 0.0, -1.0]])
    torch.testing.assert_close(method.importance(targets)[:2], scores.softmax(-1))
    again = supervised()
    again.load_state_dict(method.state_dict())
    assert torch.equal(again.importance(targets)[:2], method.importance(targets)[:2])


def test_ties_and_unrated_pairs_are_not_supervised():
    method = supervised()
    assert method.rated(rated_pairs([1.0, 0.5, 1.0])).tolist() == [True, False, False]
    assert method.rated(rated_pairs([0.7, 0.2, 0.0])).tolist() == [True, True, True]
    targets = rated_pairs([1.0, 0.5, 1.0])
    weight = torch.tensor([[0.2, 0.3, 0.5]]).expand(3, 3)
    alone = supervision_loss("kl", method.importance(targets)[:1], weight[:1])
    torch.testing.assert_close(method.supervision(weight, targets), alone[0])  # a mean over one pair, not over three
    method.check_targets(targets)
    assert method.notes(targets) == ("1 of 3 pairs supervise the weights; the others are ties or lack a rating",)
    assert method.notes(rated_pairs([0.7, 0.2, 0.0])) == ()
    with pytest.raises(ConfigError, match="brevity, honesty, safety"):
        method.check_targets(rated_pairs([0.5, 0.5, 1.0]))


@pytest.mark.parametrize("supervise", ["mean", "draw"])
@pytest.mark.parametrize("kind", ["kl", "mse", "rank"])
def test_supervision_moves_the_weights_and_nothing_else(kind, supervise):
    method = supervised(supervision=kind, supervise=supervise)
    output = method(Features(torch.randn(6, 8), torch.randn(6, 8)))
    batch = replace(pairs_of(output), targets=rated_pairs([1.0, 0.0, 1.0]))
    term = method.loss(output, batch)["supervision"]
    term.backward()
    assert torch.isfinite(method.of_hidden.weight.grad).all()
    assert method.of_hidden.weight.grad.abs().sum() > 0
    assert method.features.weight.grad is None
    unrated = replace(batch, targets=rated_pairs([0.5, 0.5, 1.0]))
    assert method.loss(output, unrated)["supervision"] == 0


def test_supervision_teaches_the_mean_weights():
    """One prompt whose chosen responses are brief: the weights go to softmax of the z-scores."""
    method = supervised()
    output = method(one_prompt(method, 6))
    targets = rated_pairs([0.0, 0.0, 0.0])
    method.fit(Features(torch.randn(6, 8)), Batch(torch.arange(6).view(-1, 2), targets))
    optimizer = torch.optim.Adam(method.parameters(), lr=0.05)
    for _ in range(300):
        concentration = method.concentration(output.prompt[::2])
        weight = concentration / concentration.sum(-1, keepdim=True)
        optimizer.zero_grad()
        method.supervision(weight, targets).backward()
        optimizer.step()
    torch.testing.assert_close(weight[0], method.importance(targets).mean(0), atol=1e-2, rtol=0)


def test_supervised_weights_are_as_many_as_the_rated_attributes():
    wanted = VariationalConfig(supervision_weight=0.1)
    assert Variational.for_data(wanted, NAMES).attributes == NAMES
    assert Variational(Variational.for_data(wanted, NAMES), 8).attributes == NAMES
    assert Variational.for_data(wanted, NAMES).count == 3
    chosen = VariationalConfig(supervision_weight=0.1, attributes=("safety", "honesty"))
    assert Variational.for_data(chosen, NAMES) == chosen
    assert Variational.for_data(VariationalConfig(), NAMES) == VariationalConfig()
    with pytest.raises(ConfigError, match="safety"):
        Variational.for_data(VariationalConfig(supervision_weight=0.1, attributes=("safty",)), NAMES)
    with pytest.raises(ConfigError, match="supervision_weight"):
        VariationalConfig(attributes=NAMES)
    with pytest.raises(ConfigError, match="supervision_weight"):
        Variational(wanted, 8).check_targets(Targets.certain(3))


def test_ratings_reach_the_weights_through_a_recipe():
    records = tuple(
        Preference(
            prompt="p", chosen="a", rejected="b", row=i, attributes={"honesty": (5.0, 1.0), "safety": (i % 5, 3.0)}
        )
        for i in range(40)
    )
    features = Features(torch.randn(80, 8), torch.randn(80, 8))
    pairs = PairFeatures(features, torch.arange(80).view(-1, 2), records, prompts=tuple(f"{i:064x}" for i in range(40)))
    options = {"name": "vrm", "latent": 3, "supervision_weight": 1.0}
    head = train_heads(Variational, parse_recipe({"data": {"train": "x"}, "method": options}), HeadData(pairs))
    assert head.attributes == ("honesty", "safety")
    torch.testing.assert_close(head.rating_mean, torch.tensor([3.0, 2.5]))
    torch.testing.assert_close(head.rating_std, torch.tensor([2.0, 1.25**0.5]))
    steered = [head.steered(head(features), weight) for weight in torch.eye(2)]
    assert not torch.equal(steered[0].mean, steered[1].mean)


# ── the diagnostic ──


@pytest.mark.parametrize(("mean_kl", "limit"), [(0.1, 0.224), (1.0, 0.707), (2.0, 1.0)])
def test_the_pac_bayes_term_tends_to_the_root_of_half_the_mean_kl(mean_kl, limit):
    pairs = 10_000_000
    assert pac_bayes(0.0, mean_kl * pairs, pairs) == pytest.approx(limit, abs=2e-3)


def test_pac_bayes_forms():
    n, kl, delta = 1000, 50.0, 0.05
    expected = {
        "derived": math.sqrt((kl + math.log(4 * n / delta)) / (2 * n - 1)),
        "ln_plus2": math.sqrt((kl + math.log(1 / delta) + math.log(n) + 2) / (2 * n - 1)),
        "colt1999": math.sqrt((kl + math.log(1 / delta) + 2.5 * math.log(n) + 8) / (2 * n - 1)),
        "maurer": math.sqrt((kl + math.log(2 * math.sqrt(n) / delta)) / (2 * n)),
    }
    for form, term in expected.items():
        assert pac_bayes(0.25, kl, n, delta, form) == pytest.approx(0.25 + term)
