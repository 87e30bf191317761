"""Ensembles of heads and last-layer Laplace: against scikit-learn, autograd and closed forms."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import softplus

from poise.data.batch import Batch, Targets
from poise.data.records import Preference
from poise.errors import ConfigError
from poise.features import Features, unit_scale
from poise.laplace import PairData, fit_posterior, newton
from poise.methods.ensemble import Ensemble, EnsembleConfig
from poise.pairing import PairFeatures
from poise.training.heads import HeadData, train_heads
from poise.training.recipe import parse_recipe

from ..methods import test_contract as contract

WIDTH = 6


def pair_data(pairs: int = 400, width: int = WIDTH, size: float = 1.0, seed: int = 0) -> PairData:
    """Pairs of different weight whose head has weights of mean square ``size``²."""
    generator = torch.Generator().manual_seed(seed)
    difference = torch.randn(pairs, width, generator=generator, dtype=torch.float64)
    truth = torch.randn(width, generator=generator, dtype=torch.float64)
    truth *= size / truth.square().mean().sqrt()
    label = (torch.rand(pairs, generator=generator) < torch.sigmoid(difference @ truth)).double()
    weight = torch.rand(pairs, generator=generator, dtype=torch.float64) * 2
    return PairData(difference, label, weight)


def batch_of(label: torch.Tensor) -> Batch:
    certain = Targets.certain(len(label))
    return Batch(torch.arange(2 * len(label)).view(-1, 2), dataclasses.replace(certain, label=label))


# ── every kind keeps the contract

KINDS = [
    {"bootstrap": "none"},
    {"bootstrap": "bayesian"},
    {"belief": "gaussian"},
    {"kind": "laplace", "prior_precision": 1.0},
]
CHECKS = [check for name, check in vars(contract).items() if name.startswith("test_")]


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__.removeprefix("test_"))
def test_contract(check, options):
    torch.manual_seed(0)
    made = Ensemble(EnsembleConfig(**options), contract.WIDTH)
    made.fit(contract.features(), contract.batch(made))
    check(made)


# ── heads


@pytest.mark.parametrize("bootstrap", ["none", "poisson"])
def test_each_member_trains_as_if_alone(bootstrap):
    method = Ensemble(EnsembleConfig(members=3, bootstrap=bootstrap), WIDTH)
    x, label = torch.randn(80, WIDTH), torch.rand(40)
    batch = batch_of(label)
    method.loss(method(Features(x)), batch)["nll"].backward()
    drawn = method.bootstrap_weights(x, batch.pairs)
    for member in range(3):
        alone = method.score.weight[member].detach().requires_grad_()
        margin = (x[::2] - x[1::2]) @ alone
        nll = label * softplus(-margin) + (1 - label) * softplus(margin)
        (expected,) = torch.autograd.grad((drawn[:, member] * nll).mean(), alone)
        torch.testing.assert_close(method.score.weight.grad[member], expected)


@pytest.mark.parametrize(("bootstrap", "variance"), [("poisson", 1.0), ("bayesian", 1.0), ("none", 0.0)])
def test_bootstrap_weights_belong_to_pair_and_member(bootstrap, variance):
    method = Ensemble(EnsembleConfig(members=8, bootstrap=bootstrap), WIDTH)
    states, pairs = torch.randn(8000, WIDTH), torch.arange(8000).view(-1, 2)
    drawn = method.bootstrap_weights(states, pairs)
    assert drawn.mean().item() == pytest.approx(1, abs=0.02)
    assert drawn.var().item() == pytest.approx(variance, abs=0.05)
    assert torch.equal(method.bootstrap_weights(states, pairs[7:9].flip(1)), drawn[7:9])
    if variance:
        correlation = torch.corrcoef(drawn.T) - torch.eye(8)
        assert correlation.abs().max() < 0.06
        assert (drawn == 0).double().mean().item() == pytest.approx(0.3679 if bootstrap == "poisson" else 0, abs=0.01)
        torch.manual_seed(1)
        assert not torch.equal(Ensemble(method.config, WIDTH).bootstrap_weights(states, pairs), drawn)


def test_members_are_compared_with_themselves():
    method = Ensemble(EnsembleConfig(members=5, belief="gaussian", initial=1.0), WIDTH)
    reward = method(Features(torch.randn(2, WIDTH))).reward
    z = (reward.means[0] - reward.means[1]) / reward.stds.square().sum(0).sqrt()
    torch.testing.assert_close(reward[0].prob_greater(reward[1]), torch.special.ndtr(z).mean())
    within, between = reward.split()
    torch.testing.assert_close(within, reward.stds.square().mean(1))
    torch.testing.assert_close(between, reward.means.var(1, correction=0))


# ── Laplace


@pytest.mark.parametrize("precision", [1e-5, 0.3, 20.0])
def test_the_maximum_is_that_of_scikit_learn(precision):
    data = pair_data()
    soft = dataclasses.replace(data, label=0.8 * data.label + 0.1)
    mean, _ = newton(soft, precision, torch.zeros(WIDTH, dtype=torch.float64))
    reference = LogisticRegression(fit_intercept=False, C=1 / precision, tol=1e-10, max_iter=10_000)
    both = torch.cat([soft.weight * soft.label, soft.weight * (1 - soft.label)])  # a soft label is one of each
    outcome = torch.cat([torch.ones(400), torch.zeros(400)])
    reference.fit(soft.difference.repeat(2, 1).numpy(), outcome.numpy(), sample_weight=both.numpy())
    torch.testing.assert_close(mean, torch.from_numpy(reference.coef_[0]), atol=1e-6, rtol=1e-6)


def test_gradient_and_hessian_are_those_of_autograd():
    data, at = pair_data(), torch.randn(WIDTH, dtype=torch.float64)
    torch.testing.assert_close(data.gradient(at, 0.7), torch.func.grad(data.objective)(at, 0.7))
    torch.testing.assert_close(
        data.hessian(at, 0.7), torch.autograd.functional.hessian(lambda v: data.objective(v, 0.7), at)
    )
    plain = torch.einsum("p,pi,pj->ij", data.weight, data.difference, data.difference) + 0.7 * torch.eye(WIDTH)
    torch.testing.assert_close(data.hessian(at, 0.7, unweighted=True), plain)


def test_separable_pairs_and_hardly_a_prior_have_a_maximum():
    data = pair_data(pairs=4)
    mean, steps = newton(data, 1e-5, torch.zeros(WIDTH, dtype=torch.float64))
    assert data.gradient(mean, 1e-5).norm() < 1e-6
    assert steps < 40


def test_figures_are_those_of_the_posterior():
    data = pair_data()
    posterior = fit_posterior(data, 0.5)
    hessian = data.hessian(posterior.mean, 0.5)
    torch.testing.assert_close(posterior.cholesky @ posterior.cholesky.T, hessian)
    assert posterior.figures["log_determinant"] == pytest.approx(hessian.logdet().item())
    assert posterior.figures["gradient_norm"] < 1e-6
    determined = WIDTH - 0.5 * torch.linalg.inv(hessian).trace().item()
    assert posterior.figures["determined_weights"] == pytest.approx(determined)


def test_pairs_that_say_nothing_have_a_posterior():
    undecided = dataclasses.replace(pair_data(), label=torch.full((400,), 0.5, dtype=torch.float64))
    equal = dataclasses.replace(pair_data(), difference=torch.zeros(400, WIDTH, dtype=torch.float64))
    for data in (undecided, equal):
        posterior = fit_posterior(data, None)
        assert torch.isfinite(posterior.draws(4)).all()
        torch.testing.assert_close(posterior.prob_first(pair_data().difference).mean().item(), 0.5, atol=0.05, rtol=0)


@pytest.mark.parametrize("size", [0.3, 1.0])
def test_the_default_precision_has_the_largest_evidence_and_is_that_of_the_world(size):
    data = dataclasses.replace(pair_data(4000, 60, size), weight=torch.ones(4000, dtype=torch.float64))
    figures = fit_posterior(data, None).figures
    assert figures["prior_precision"] == pytest.approx(size**-2, rel=0.4)
    for factor in (0.8, 1.25):
        other = fit_posterior(data, factor * figures["prior_precision"]).figures
        assert other["log_evidence"] < figures["log_evidence"]


def test_draws_have_the_moments_of_the_posterior_and_give_its_probabilities():
    data = pair_data(150, 40, 0.3)
    posterior, fresh = fit_posterior(data, None), pair_data(500, 40, seed=1).difference
    torch.testing.assert_close(posterior.draws(8).mean(0), posterior.mean)
    covariance = torch.linalg.inv(data.hessian(posterior.mean, posterior.figures["prior_precision"]))
    torch.testing.assert_close(posterior.draws(40_000).T.cov(), covariance, atol=0.03 * covariance.max().item(), rtol=0)
    exact = posterior.prob_first(fresh)
    for draws, allowed in ((64, 0.009), (4096, 0.0011)):
        error = torch.sigmoid(fresh @ posterior.draws(draws).T).mean(1) - exact
        assert error.square().mean().sqrt() < allowed


@pytest.mark.parametrize("unweighted", [False, True])
def test_the_method_predicts_by_the_paired_variance(unweighted):
    """Also where the features have another scale, and although responses share much of theirs with their prompt."""
    data = pair_data(300)
    prompt = 30 * torch.randn(300, 1, WIDTH, dtype=torch.float64)
    x = (prompt + torch.stack([data.difference, torch.zeros_like(data.difference)], 1)).flatten(0, 1)
    method = Ensemble(EnsembleConfig(kind="laplace", members=2000, prior_precision=0.4, unweighted=unweighted), WIDTH)
    method.input_scale.fill_(0.5)
    features, batch = Features(x.float()), batch_of(data.label.float())
    figures = method.fit(features, batch)
    assert figures["prior_precision"] == 0.4
    reward = method(features).reward
    scaled = PairData(0.5 * data.difference, data.label, torch.ones_like(data.label))
    exact = fit_posterior(scaled, 0.4, unweighted=unweighted).prob_first(scaled.difference)
    torch.testing.assert_close(reward[::2].prob_greater(reward[1::2]).double(), exact, atol=0.01, rtol=0)
    paired = (reward.means[::2] - reward.means[1::2]).var(1)
    assert paired.mean() < 0.1 * reward.variance.mean()


def test_a_stage_of_laplace_is_solved_and_not_stepped():
    data = pair_data(60)
    states = torch.stack([data.difference, torch.zeros_like(data.difference)], 1).flatten(0, 1).float()
    rows, records = (
        torch.arange(120).view(-1, 2),
        tuple(Preference(prompt=str(i), chosen="a", rejected="b") for i in range(60)),
    )
    training = HeadData(PairFeatures(Features(states), rows, records, prompts=tuple(map(str, range(60)))))
    options = {"name": "ensemble", "kind": "laplace", "members": 10}
    head = train_heads(Ensemble, parse_recipe({"data": {"train": "x"}, "method": options}), training)
    solved = Ensemble(head.config, WIDTH)
    solved.input_scale.fill_(unit_scale(training.features))
    solved.fit(training.features, batch_of(torch.ones(60)))
    solved.fold_input_scale()
    torch.testing.assert_close(head.score.weight, solved.score.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"members": 1}, "at least 2"),
        ({"initial": -1.0}, "initial is -1.0"),
        ({"prior": -1.0}, "prior is -1.0"),
        ({"prior_precision": 0.0}, "must be positive"),
        ({"kind": "laplace", "members": 7}, "even number"),
        ({"kind": "laplace", "belief": "gaussian"}, "set belief to 'point'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        EnsembleConfig(**options)
