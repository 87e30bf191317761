"""What every method must do, whatever it is. A new method is tested by standing in ``METHODS``."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from poise.data.batch import Batch, Targets
from poise.data.ratings import Ratings
from poise.distributions import RewardDistribution
from poise.errors import ConfigError
from poise.features import Features
from poise.methods import METHODS

WIDTH, PAIRS, RATED = 16, 24, 20
ATTRIBUTES = ("clarity", "safety")


def features(rows: int = 2 * PAIRS + RATED, seed: int = 0) -> Features:
    """Those of the pairs first, then those of the rated responses."""
    generator = torch.Generator().manual_seed(seed)
    return Features(torch.randn(rows, WIDTH, generator=generator), torch.randn(rows, WIDTH, generator=generator))


def targets(pairs: int = PAIRS, seed: int = 1, attributes: int = 2) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 5, (pairs,), generator=generator) / 4
    rated = torch.randint(1, 6, (pairs, 2, attributes), generator=generator).float()
    return replace(Targets.certain(pairs), label=label, strength=torch.ones(pairs), attributes=rated)


def ratings(seed: int = 2) -> Ratings:
    """Five-level ratings by three people; the first response is rated on one attribute only."""
    generator = torch.Generator().manual_seed(seed)
    given = torch.randint(1, 6, (RATED, 2, 3), generator=generator).tolist()
    rows = [dict(zip(ATTRIBUTES, row, strict=True)) for row in given]
    return Ratings.of([{"clarity": rows[0]["clarity"]}, *rows[1:]], dict.fromkeys(ATTRIBUTES, (1.0, 5.0)))


def batch(method, pairs: torch.Tensor | None = None, wanted: Targets | None = None, reference=None) -> Batch:
    pairs = torch.arange(2 * PAIRS).view(-1, 2) if pairs is None else pairs
    given = Batch(pairs, wanted or targets(len(pairs)), reference, torch.Generator().manual_seed(3))
    chosen = torch.tensor([ATTRIBUTES.index(a) for a in method.attributes], dtype=torch.long)
    given = replace(given, targets=replace(given.targets, attributes=given.targets.attributes[..., chosen]))
    if "ratings" not in method.learns_from:
        return given
    return replace(given, rated=torch.arange(2 * PAIRS, 2 * PAIRS + RATED), ratings=ratings().columns(chosen))


@pytest.fixture(params=METHODS, ids=lambda m: m.name)
def method(request):
    torch.manual_seed(0)
    made = request.param(request.param.for_data(request.param.Config(), ATTRIBUTES), WIDTH)
    with torch.no_grad():  # away from a zero start, where all beliefs are equal
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return made


def test_says_what_it_is(method):
    assert method.name
    assert method.reference
    assert type(method).Config.__dataclass_params__.frozen
    assert type(method).Config.__doc__


def test_no_attribute_has_the_name_of_the_reward(method):
    """In tables of beliefs the one would take the place of the other."""
    kind, rated = type(method), ("reward", "safety")
    if not method.attributes:
        assert kind.for_data(kind.Config(), rated) == kind.Config()
        return
    with pytest.raises(ConfigError, match=r"called 'reward'.*rename it"):
        kind.for_data(kind.Config(), rated)


def test_one_belief_per_response(method):
    reward = method(features()).reward
    assert isinstance(reward, RewardDistribution)
    assert len(reward) == 2 * PAIRS + RATED
    assert torch.isfinite(reward.mean).all()
    assert (reward.std >= 0).all()
    assert reward.mean.dtype == torch.float32


def test_rows_do_not_see_each_other(method):
    method.eval()
    x = features()
    whole, alone = method(x).reward, method(x[3:4]).reward
    torch.testing.assert_close(whole.mean[3:4], alone.mean, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(whole.std[3:4], alone.std, atol=1e-6, rtol=1e-6)


def test_deterministic_at_inference(method):
    method.eval()
    x = features()
    first, second = method(x).reward, method(x).reward
    assert torch.equal(first.mean, second.mean)
    assert torch.equal(first.std, second.std)


def test_loss_terms_are_named_finite_scalars_with_gradient(method):
    terms = method.loss(method(features()), batch(method))
    assert terms
    total = torch.stack(list(terms.values())).sum()
    assert all(term.ndim == 0 and torch.isfinite(term) for term in terms.values())
    total.backward()
    gradients = [p.grad for n, p in method.named_parameters() if method.trainable(n)]
    assert any(g is not None and g.abs().sum() > 0 for g in gradients)
    assert all(g is None or torch.isfinite(g).all() for g in gradients)


def test_pairs_are_row_numbers(method):
    """Shuffling the responses and the row numbers alike changes nothing."""
    x, order = features(), torch.randperm(2 * PAIRS + RATED, generator=torch.Generator().manual_seed(2))
    given, place = batch(method), torch.argsort(order)
    moved = replace(batch(method, place[given.pairs]), rated=None if given.rated is None else place[given.rated])
    here, there = method.loss(method(x), given), method.loss(method(x[order]), moved)
    for name in here:
        torch.testing.assert_close(here[name], there[name], atol=1e-5, rtol=1e-5)


def test_rows_without_weight_do_not_count(method):
    wanted = targets()
    weight = torch.ones(PAIRS)
    weight[5] = 0.0
    ignored = replace(wanted, label=wanted.label.clone(), weight=weight)
    ignored.label[5] = 1 - ignored.label[5]
    same = replace(wanted, weight=weight)
    here, there = (method.loss(method(features()), batch(method, wanted=w)) for w in (same, ignored))
    for name in here:
        torch.testing.assert_close(here[name], there[name])


def test_a_reference_is_used_exactly_where_it_is_needed(method):
    reference = method(features(seed=9)).reward.detach()
    with_it = method.loss(method(features()), batch(method, reference=reference))
    without = method.loss(method(features()), batch(method))
    assert method.needs_reference or all(torch.equal(with_it[n], without[n]) for n in without)


def test_state_round_trip(method):
    other = type(method)(method.config, WIDTH)
    other.load_state_dict(method.state_dict())
    x = features()
    assert torch.equal(method.eval()(x).reward.mean, other.eval()(x).reward.mean)


def test_folding_the_input_scale_keeps_the_beliefs(method):
    method.input_scale.fill_(7.5)
    x = features()
    before = method.eval()(x).reward
    method.fold_input_scale()
    after = method(x).reward
    torch.testing.assert_close(before.mean, after.mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(before.std, after.std, atol=1e-5, rtol=1e-5)


def test_diagnostics_are_numbers(method):
    found = method.diagnostics(method(features()), batch(method))
    assert all(isinstance(value, float) for value in found.values())


def test_probabilities_of_both_orders_add_up(method):
    reward = method(features()).reward
    first, second = reward[:PAIRS], reward[PAIRS : 2 * PAIRS]
    torch.testing.assert_close(first.prob_greater(second) + second.prob_greater(first), torch.ones(PAIRS))


def test_weights_and_ratings_go_by_its_attributes(method):
    output = method(features())
    beliefs = method.of_attributes(output)
    assert set(beliefs) <= set(method.attributes)
    assert all(len(belief) == 2 * PAIRS + RATED for belief in beliefs.values())
    if len(beliefs) < 2:
        return
    one = torch.eye(len(method.attributes))
    assert all(torch.isfinite(method.steered(output, weight).mean).all() for weight in one)
    assert not torch.equal(method.steered(output, one[0]).mean, method.steered(output, one[1]).mean)


def test_a_batch_of_ratings_alone_has_a_finite_loss(method):
    if "ratings" not in method.learns_from:
        pytest.skip("learns from pairs alone")
    given = batch(method, torch.empty(0, 2, dtype=torch.long), targets(0))
    terms = method.loss(method(features()), given)
    assert torch.isfinite(torch.stack(list(terms.values())).sum())
