"""The posterior against independent references, and the selection against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from poise.curation.select import ACQUISITIONS, select
from poise.errors import ConfigError
from poise.laplace import PairData, Posterior, fit_posterior


def world(pairs: int = 400, width: int = 6, seed: int = 0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(pairs, width, generator=draw, dtype=torch.float64) * torch.linspace(0.2, 2, width)
    truth = torch.linspace(1, -1, width, dtype=torch.float64)
    label = (torch.rand(pairs, generator=draw, dtype=torch.float64) < torch.sigmoid(x @ truth)).double()
    return x, label, [f"p{i // 4}" for i in range(pairs)], truth


def fit(x, label, precision=None, start=1.0):
    return fit_posterior(PairData.equal(x, label), precision, start=start)


def test_the_mean_is_that_of_penalised_logistic_regression():
    x, label, _, _ = world()
    found = fit(x, label, precision=0.7)
    other = LogisticRegression(C=1 / 0.7, fit_intercept=False, tol=1e-10).fit(x.numpy(), label.numpy())
    assert found.mean.numpy() == pytest.approx(other.coef_[0], abs=1e-4)


def test_the_evidence_is_found_from_wherever_it_is_sought():
    x, label, _, _ = world()
    assert fit(x, label, start=100.0).precision == pytest.approx(fit(x, label).precision, rel=0.02)


@pytest.mark.parametrize("pairs", [1, 3, 12])
def test_fewer_labels_than_features_leave_the_prior_outside_of_their_span(pairs):
    x, label, _, _ = world(pairs, 20)
    found = fit(x, label, precision=0.7)
    other = LogisticRegression(C=1 / 0.7, fit_intercept=False, tol=1e-10).fit(
        np.concatenate([x, -x]), np.concatenate([label, 1 - label]), np.full(2 * pairs, 0.5)
    )
    assert found.mean.numpy() == pytest.approx(other.coef_[0], abs=1e-4)
    p = torch.sigmoid(x @ found.mean)
    hessian = 0.7 * torch.eye(20, dtype=torch.float64) + x.T @ (x * (p * (1 - p))[:, None])
    assert torch.allclose(found.covariance, torch.linalg.inv(hessian))
    outside = torch.linalg.svd(x).Vh[pairs:]
    assert torch.allclose(found.covariance @ outside.T, outside.T / 0.7)


def test_pairs_without_weight_change_nothing():
    """With them there are as many pairs as features, and the solver takes another path."""
    x, label, _, _ = world(12, 20)
    more, none = torch.cat([x, torch.ones(8, 20, dtype=torch.float64)]), torch.zeros(8, dtype=torch.float64)
    found, other = (
        fit(x, label),
        fit_posterior(PairData(more, torch.cat([label, none]), torch.cat([torch.ones_like(label), none]))),
    )
    assert torch.allclose(found.mean, other.mean)
    assert found.figures == pytest.approx(other.figures, rel=1e-6, abs=1e-6)


def test_without_labels_the_posterior_is_the_prior():
    found = fit(torch.empty(0, 3, dtype=torch.float64), torch.empty(0, dtype=torch.float64), start=4.0)
    assert found.precision == 4
    assert torch.allclose(found.covariance, torch.eye(3, dtype=torch.float64) / 4)
    assert found.mean.tolist() == [0, 0, 0]


def test_probabilities_integrate_over_the_posterior():
    x, label, _, _ = world(60)
    found = fit(x, label)
    draws = torch.distributions.MultivariateNormal(found.mean, found.covariance).sample((20_000,))
    expected = torch.sigmoid(x @ draws.T).mean(1)
    assert torch.allclose(found.prob_first(x), expected, atol=0.02)


def direct_gain(x, posterior: Posterior, chosen: list[int]) -> float:
    """1 − tr(A'C)/tr(AC) with A' recomputed from scratch."""
    p = posterior.prob_first(x)[chosen]
    precision = torch.linalg.inv(posterior.covariance) + x[chosen].T @ (x[chosen] * (p * (1 - p))[:, None])
    target = x.T @ x / len(x)
    before, after = (float((a * target).sum()) for a in (posterior.covariance, torch.linalg.inv(precision)))
    return 1 - after / before


def test_greedy_variance_reduction_is_what_brute_force_does():
    x, label, prompts, _ = world(60)
    posterior = fit(x[:20], label[:20])
    found = select(x, prompts, posterior, 6)
    brute: list[int] = []
    for _ in range(6):
        rest = [i for i in range(len(x)) if i not in brute]
        brute.append(max(rest, key=lambda i: direct_gain(x, posterior, [*brute, i])))
    assert list(found.pairs) == brute
    assert sum(found.gain) == pytest.approx(direct_gain(x, posterior, brute), abs=1e-9)


def test_bald_is_the_mutual_information():
    x, label, prompts, _ = world(40)
    posterior = fit(x, label)
    found = select(x, prompts, posterior, 40, how="bald")
    draws = torch.distributions.MultivariateNormal(posterior.mean, posterior.covariance).sample((50_000,))
    p = torch.sigmoid(x @ draws.T)

    def entropy(q):
        return -(q * q.log() + (1 - q) * (1 - q).log())

    expected = entropy(p.mean(1)) - entropy(p).mean(1)
    assert np.array(found.gain) == pytest.approx(expected[list(found.pairs)].numpy(), abs=2e-3)
    assert list(found.gain) == sorted(found.gain, reverse=True)


@pytest.mark.parametrize("how", ACQUISITIONS)
def test_budget_prompts_and_seed(how):
    x, label, prompts, _ = world()
    posterior = fit(x[:50], label[:50])
    found = select(x, prompts, posterior, 30, how=how, per_prompt=1)
    assert len(set(found.pairs)) == 30 == len({prompts[i] for i in found.pairs})
    assert found == select(x, prompts, posterior, 30, how=how, per_prompt=1)
    assert len(select(x, prompts, posterior, 10_000, how=how).pairs) == len(x)
    assert len(select(x, prompts, posterior, 10_000, how=how, per_prompt=3).pairs) == 300


def test_a_batch_does_not_ask_the_same_thing_twice():
    x = torch.tensor([[8.0, 0.0], [8.0, 0.0], [0.0, 7.9]], dtype=torch.float64)
    posterior = fit(x[:0], torch.empty(0, dtype=torch.float64))
    assert select(x, list("abc"), posterior, 2).pairs == (0, 2)
    assert select(x, list("abc"), posterior, 2, how="bald").pairs == (0, 1)


def test_fewer_labels_than_random_for_the_same_accuracy():
    """Where most candidates say nothing new: 40 selected labels do better than 40 random ones."""
    better = []
    for seed in range(10):
        x, label, prompts, truth = world(600, 30, seed)
        x[: 5 * 100] *= 0.05
        scores = {}
        for how in ("variance", "random"):
            bought = list(select(x, prompts, fit(x[:0], label[:0]), 40, how=how, seed=seed).pairs)
            said = fit(x[bought], label[bought]).margin(x)[0]
            scores[how] = ((said > 0) == (x @ truth > 0)).double().mean().item()
        better.append(scores["variance"] - scores["random"])
    assert np.mean(better) > 0.05


def test_what_cannot_be_meant():
    x, label, prompts, _ = world(20)
    posterior = fit(x, label)
    for options, says in (
        ({"budget": 0}, "budget is 0"),
        ({"budget": 2, "per_prompt": 0}, "per-prompt is 0"),
        ({"budget": 2, "how": "variances"}, "did you mean 'variance'"),
    ):
        with pytest.raises(ConfigError, match=says):
            select(x, prompts, posterior, **options)
