"""Numbers and identities of the Bradley–Terry family, worked by hand or by an independent form."""

from __future__ import annotations

import math

import pytest
import torch

from poise.data.batch import Batch, Targets
from poise.distributions import Point
from poise.errors import ConfigError
from poise.features import Features
from poise.methods import bradley_terry as bt
from poise.methods.bradley_terry import BradleyTerry, BradleyTerryConfig, BradleyTerryOutput

ZERO = torch.zeros(())


def loss_of(config: BradleyTerryConfig, first, second, **columns) -> dict[str, float]:
    """The loss terms of given rewards (no head involved)."""
    first, second = torch.as_tensor(first, dtype=torch.float64), torch.as_tensor(second, dtype=torch.float64)
    method = BradleyTerry(config, 4).double()
    rewards = torch.stack([first, second], 1).flatten()
    certain = Targets.certain(len(first))
    given = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in columns.items()}
    targets = Targets(**({n: getattr(certain, n).double() for n in certain.__dataclass_fields__} | given))
    output = BradleyTerryOutput(Point(rewards))
    terms = method.loss(output, Batch(torch.arange(2 * len(first)).view(-1, 2), targets))
    return {name: term.item() for name, term in terms.items()}


def test_plain_loss_is_the_negative_log_sigmoid():
    expected = sum(-math.log(1 / (1 + math.exp(-d))) for d in (0.5, -2.0, 3.0)) / 3
    assert loss_of(BradleyTerryConfig(), [0.5, -1.0, 4.0], [0.0, 1.0, 1.0])["bt"] == pytest.approx(expected, rel=1e-6)


def test_margin_broadcasts_per_row_and_missing_is_zero():
    """The defect of a (B, 1) − (B,) margin would give a (B, B) loss; a missing margin counts as 0 in its own row."""
    margins = [1.0, math.nan, -0.5]
    differences = [0.5, -2.0, 3.0]
    expected = sum(math.log1p(math.exp(-(d - m))) for d, m in zip(differences, (1.0, 0.0, -0.5), strict=True)) / 3
    assert loss_of(BradleyTerryConfig(), differences, [0.0] * 3, margin=margins)["bt"] == pytest.approx(
        expected, rel=1e-6
    )
    method = BradleyTerry(BradleyTerryConfig(), 4)
    assert method._per_pair(torch.zeros(3), torch.zeros(3), Targets.certain(3)).shape == (3,)


@pytest.mark.parametrize("loss", ["bt", "scaled_bt", "hinge", "dr"])
def test_every_loss_that_takes_a_margin_changes_with_it(loss):
    without = loss_of(BradleyTerryConfig(loss=loss, margin=0.0), [0.5], [0.2], strength=[1.0])
    with_it = loss_of(BradleyTerryConfig(loss=loss, margin=2.0), [0.5], [0.2], strength=[1.0])
    assert with_it[loss] > without[loss] + 0.1


@pytest.mark.parametrize("loss", ["norm", "rao_kupper", "davidson", "ordinal"])
def test_every_other_loss_refuses_a_margin(loss):
    with pytest.raises(ConfigError, match="no margin"):
        BradleyTerryConfig(loss=loss, margin=1.0)
    method = BradleyTerry(BradleyTerryConfig(loss=loss), 4)
    certain = Targets.certain(2)
    rows = Targets(certain.label, certain.tie, certain.weight, torch.ones(2), torch.ones(2))
    with pytest.raises(ConfigError, match="no margin"):
        method.check_targets(rows)


def test_hinge_default_margin_is_one():
    assert loss_of(BradleyTerryConfig(loss="hinge"), [0.25, 5.0], [0.0, 0.0])["hinge"] == pytest.approx(0.75 / 2)


def test_norm_never_falls_below_its_floor():
    """The argument is at most √2, reached at r_l = −r_w."""
    floor = math.log1p(math.exp(-math.sqrt(2)))
    assert floor == pytest.approx(0.2176, abs=1e-4)
    best = loss_of(BradleyTerryConfig(loss="norm"), [30.0], [-30.0])["norm"]
    assert best == pytest.approx(floor, abs=1e-6)


def test_norm_gradient_is_finite_at_zero():
    reward = torch.zeros(2, requires_grad=True)
    bt.norm(reward[:1], reward[1:], ZERO).sum().backward()
    assert torch.isfinite(reward.grad).all()


def test_dr_is_finite_far_on_the_wrong_side():
    value = loss_of(BradleyTerryConfig(loss="dr"), [-500.0], [500.0])["dr"]
    assert value == pytest.approx(1000 + 500 + 500)


def test_label_smoothing_is_conservative_dpo():
    eps, d = 0.1, 1.7
    expected = (1 - eps) * math.log1p(math.exp(-d)) + eps * math.log1p(math.exp(d))
    assert loss_of(BradleyTerryConfig(label_noise=eps), [d], [0.0])["bt"] == pytest.approx(expected, rel=1e-6)


def test_rdpo_is_unbiased_under_flips_and_clipped():
    config = BradleyTerryConfig(label_noise=0.1, noise_model="rdpo")
    assert loss_of(config, [5.0], [0.0])["bt"] == pytest.approx(-0.62, abs=0.005)
    assert loss_of(config, [20.0], [0.0])["bt"] == pytest.approx(loss_of(config, [10.0], [0.0])["bt"])
    kept, flipped = (loss_of(config, [1.2], [0.0], label=[y])["bt"] for y in (1.0, 0.0))
    clean = loss_of(BradleyTerryConfig(), [1.2], [0.0])["bt"]
    assert 0.9 * kept + 0.1 * flipped == pytest.approx(clean, rel=1e-6)


def test_soft_labels_are_the_cross_entropy():
    p = 1 / (1 + math.exp(-0.8))
    expected = -(0.7 * math.log(p) + 0.3 * math.log(1 - p))
    assert loss_of(BradleyTerryConfig(), [0.8], [0.0], label=[0.7])["bt"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("model", "strength"), [(bt.rao_kupper, 0.7), (bt.davidson, 0.7)])
def test_tie_models_sum_to_one(model, strength):
    difference = torch.linspace(-9, 9, 37, dtype=torch.float64)
    parts = model(difference, torch.tensor(strength, dtype=torch.float64))
    torch.testing.assert_close(sum(p.exp() for p in parts), torch.ones_like(difference))


def test_tie_models_at_equal_rewards():
    theta, nu = 0.7, 0.7
    sigmoid = 1 / (1 + math.exp(theta))
    assert loss_of_tie("rao_kupper", theta) == pytest.approx(-math.log(1 - 2 * sigmoid), rel=1e-5)
    assert loss_of_tie("davidson", nu) == pytest.approx(-math.log(nu / (2 + nu)), rel=1e-5)


def loss_of_tie(loss: str, value: float) -> float:
    method = BradleyTerry(BradleyTerryConfig(loss=loss), 4)
    with torch.no_grad():
        method.raw_tie.fill_(math.log(math.expm1(value)))
    certain = Targets.certain(1)
    tied = Targets(torch.tensor([0.5]), torch.ones(1), certain.weight, certain.margin, certain.strength)
    output = BradleyTerryOutput(Point(torch.zeros(2)))
    return method.loss(output, Batch(torch.tensor([[0, 1]]), tied))[loss].item()


def test_tie_models_speak_the_same_probabilities_at_inference():
    for loss in ("rao_kupper", "davidson"):
        method = BradleyTerry(BradleyTerryConfig(loss=loss), 4)
        reward = method(Features(torch.randn(2, 4))).reward
        difference = (reward.value[0] - reward.value[1]).detach()
        tie = torch.nn.functional.softplus(method.raw_tie.detach())
        won, _, tied = (bt.rao_kupper if loss == "rao_kupper" else bt.davidson)(difference, tie)
        torch.testing.assert_close(reward[:1].prob_tie(reward[1:])[0].detach(), tied.exp(), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(reward[:1].prob_greater(reward[1:])[0].detach(), (won.exp() + tied.exp() / 2))


def test_ordinal_categories_sum_to_one_and_mirror():
    cuts = torch.tensor([-2.0, -0.5, 0.5, 2.0], dtype=torch.float64)
    strengths = torch.tensor([-2.0, -1, 0, 1, 2], dtype=torch.float64)
    for d in (-3.0, 0.0, 0.4, 12.0):
        difference = torch.full((5,), d, dtype=torch.float64)
        p = torch.exp(-bt.ordinal_nll(difference, strengths, cuts))
        assert p.sum().item() == pytest.approx(1.0)
        mirrored = torch.exp(-bt.ordinal_nll(-difference, -strengths, cuts))
        torch.testing.assert_close(p, mirrored)
    sigmoid = torch.sigmoid(cuts - 0.4)
    expected = sigmoid[1] - sigmoid[0]  # strength −1 lies between the first two cut-points
    got = torch.exp(-bt.ordinal_nll(torch.tensor([0.4], dtype=torch.float64), strengths[1:2], cuts))
    assert got.item() == pytest.approx(expected.item())


def test_ordinal_gradient_is_finite_in_every_category():
    cuts = torch.tensor([-2.0, -0.5, 0.5, 2.0], requires_grad=True)
    difference = torch.tensor([-50.0, -1.0, 0.0, 1.0, 50.0], requires_grad=True)
    bt.ordinal_nll(difference, torch.tensor([2.0, -1, 0, 1, -2]), cuts).sum().backward()
    assert torch.isfinite(difference.grad).all()
    assert torch.isfinite(cuts.grad).all()


@pytest.mark.parametrize("difference", [1e2, 1e4, 3e5, 1.7e7, 1e9])
@pytest.mark.parametrize("width", [0.02, 2.0])
def test_ordinal_loss_far_out_is_that_of_its_limit(difference, width):
    """−log(Λ(b − Δ) − Λ(a − Δ)) → Δ − b − log(1 − e^{a − b}) for Δ ≫ b, in float32 to its rounding of Δ."""
    cuts = torch.tensor([-1 - width, -1.0, 1.0, 1 + width], requires_grad=True)
    found = bt.ordinal_nll(torch.tensor([difference]), torch.tensor([-1.0]), cuts)
    exact = difference + 1 - math.log(-math.expm1(-width))
    assert found.item() == pytest.approx(exact, rel=3e-7)
    found.sum().backward()
    assert torch.isfinite(cuts.grad).all()


def test_centering_penalises_the_sum_not_the_difference():
    first, second = [1.0, -2.0], [3.0, 0.5]
    expected = 0.5 * ((1 + 3) ** 2 + (-2 + 0.5) ** 2) / 2
    config = BradleyTerryConfig(regulariser="center", coefficient=0.5)
    assert loss_of(config, first, second)["center"] == pytest.approx(expected, rel=1e-6)


def test_magnitude_is_the_mean_square():
    config = BradleyTerryConfig(regulariser="magnitude", coefficient=2.0)
    assert loss_of(config, [1.0], [3.0])["magnitude"] == pytest.approx(2.0 * (1 + 9) / 2)


def test_bsr_code_scale_is_the_paper_scale_times_the_batch():
    rewards = [1.0, 2.0, 0.0], [0.5, -1.0, 4.0]
    mean = (1 + 2 + 0 + 0.5 - 1 + 4) / 6
    code = BradleyTerryConfig(regulariser="bsr", coefficient=1e-3)
    paper = BradleyTerryConfig(regulariser="bsr", coefficient=1e-3, scale_by_batch=False)
    assert loss_of(paper, *rewards)["bsr"] == pytest.approx(1e-3 * mean**2, rel=1e-6)
    assert loss_of(code, *rewards)["bsr"] == pytest.approx(3e-3 * mean**2, rel=1e-6)


def test_bsr_gradient_is_the_same_for_every_reward():
    """∂(r̄²)/∂r_i = r̄/P, not r_i/P as the paper's eq. 28 prints: no outlier is singled out."""
    reward = torch.tensor([5.0, -1.0, 0.5, 2.5], requires_grad=True)
    bt.batch_sum_to_zero(reward.mean(), "micro").backward()
    torch.testing.assert_close(reward.grad, torch.full((4,), reward.mean().item() / 2))


def test_bsr_expectation_is_centring_of_prompts():
    """E[r̄²] = (E m)² + Var(m)/P for independent pair means m."""
    generator = torch.Generator().manual_seed(0)
    pairs, mean, std = 16, 0.3, 1.2
    means = mean + std * torch.randn(200_000, pairs, generator=generator)
    expected = mean**2 + std**2 / pairs
    assert means.mean(1).square().mean().item() == pytest.approx(expected, rel=0.01)


def test_identical_responses_exert_no_pull_apart():
    reward = torch.tensor([0.7, 0.7], requires_grad=True)
    bt.bradley_terry(reward[:1], reward[1:], ZERO).sum().backward()
    torch.testing.assert_close(reward.grad, torch.tensor([-0.5, 0.5]))


def test_scaled_bt_weighs_by_strength_and_zero_is_nothing():
    value = loss_of(BradleyTerryConfig(loss="scaled_bt"), [1.0, 1.0], [0.0, 0.0], strength=[3.0, 0.0])["scaled_bt"]
    assert value == pytest.approx(3 * math.log1p(math.exp(-1.0)) / 2, rel=1e-6)


def test_missing_strength_is_refused():
    with pytest.raises(ConfigError, match="needs a strength"):
        BradleyTerry(BradleyTerryConfig(loss="scaled_bt"), 4).check_targets(Targets.certain(3))


def test_head_has_no_bias_and_the_authors_initialisation():
    torch.manual_seed(0)
    head = BradleyTerry(BradleyTerryConfig(), 4096).score
    assert head.bias is None
    assert head.weight.std().item() == pytest.approx(4096**-0.5, rel=0.05)
