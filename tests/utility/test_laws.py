"""What must hold for every family: order, shifts, scales and limits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.distributions import Mixture, RewardDistribution, Samples
from poise.utility import parse_utility
from tests.distributions.families import FAMILIES, build, seeds

families = st.sampled_from(FAMILIES)
IN_REWARD_UNITS = (
    "mean", "lcb:2", "ucb:1", "quantile:0.25", "cvar:0.2", "cvar_upper:0.2", "entropic:1.5", "entropic:-0.5"
)  # fmt: skip
COHERENT = ("mean", "lcb:2", "ucb:1", "quantile:0.25", "cvar:0.2", "cvar_upper:0.2")
MONOTONE = ("mean", "quantile:0.25", "cvar:0.2", "cvar_upper:0.2", "entropic:1.5", "exponential:1.5")


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@settings(max_examples=15, deadline=None)
@given(families, seeds, st.floats(-50, 50))
def test_a_shift_of_the_reward_shifts_the_utility(family, seed, shift):
    reward = build(family, seed)
    for spec in IN_REWARD_UNITS:
        close(parse_utility(spec)(reward.affine(1.0, shift)), parse_utility(spec)(reward) + shift)


@settings(max_examples=15, deadline=None)
@given(families, seeds, st.floats(0.1, 10))
def test_a_scale_of_the_reward_scales_the_utility(family, seed, scale):
    reward = build(family, seed)
    for spec in COHERENT:
        close(parse_utility(spec)(reward.affine(scale)), scale * parse_utility(spec)(reward))
    close(parse_utility("entropic:1")(reward.affine(scale)), scale * parse_utility(f"entropic:{scale!r}")(reward))


@settings(max_examples=15, deadline=None)
@given(families, seeds, st.floats(0, 3))
def test_a_reward_that_dominates_is_worth_more(family, seed, step):
    """Every component moved upwards by its own amount: first-order dominance."""
    reward = Mixture.of(build(family, seed))
    moved = reward.means + step * torch.rand(reward.means.shape, generator=torch.Generator().manual_seed(seed))
    better = Mixture(reward.log_weights, moved, reward.stds)
    for spec in MONOTONE:
        assert (parse_utility(spec)(better) >= parse_utility(spec)(reward) - 1e-9).all(), spec


@settings(max_examples=15, deadline=None)
@given(families, seeds, st.floats(0.05, 3), st.floats(1.05, 3))
def test_more_caution_never_raises_a_value(family, seed, amount, factor):
    reward = build(family, seed)
    for low, high in (
        (f"entropic:{amount * factor}", f"entropic:{amount}"),
        (f"lcb:{amount * factor}", f"lcb:{amount}"),
        (f"cvar:{max(0.05, 0.3 / factor)}", "cvar:0.3"),
        ("cvar:0.3", "quantile:0.3"),
        ("cvar:0.3", "mean"),
        (f"entropic:{amount}", "mean"),
        ("mean", f"entropic:{-amount}"),
        ("mean", "cvar_upper:0.3"),
    ):
        assert (parse_utility(low)(reward) <= parse_utility(high)(reward) + 1e-9).all(), (low, high)


@settings(max_examples=10, deadline=None)
@given(families, seeds)
def test_limits_of_the_certainty_equivalent(family, seed):
    reward = build(family, seed)
    close(parse_utility("entropic:1e-9")(reward), reward.mean)
    slope = (reward.mean - parse_utility("entropic:1e-5")(reward)) / 1e-5
    torch.testing.assert_close(slope, reward.variance / 2, rtol=1e-3, atol=1e-6)
    if reward._is_atomic():
        worst = reward.components().means.amin(-1)
        torch.testing.assert_close(parse_utility("entropic:1e7")(reward), worst, rtol=1e-5, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(families, seeds)
def test_the_exponential_utility_orders_like_the_certainty_equivalent(family, seed):
    reward = build(family, seed)
    certain, utility = (parse_utility(f"{name}:0.8")(reward) for name in ("entropic", "exponential"))
    close(utility, -torch.exp(-0.8 * certain))


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_do_not_see_each_other(family):
    """[2, 3] and one alone say what [6] says."""
    reward = build(family, 3, batch=6)
    members = [build("mixture", seed, batch=6) for seed in (1, 2, 3)]
    for rewards, specs in (
        (reward, (*IN_REWARD_UNITS, "exponential:1.5")),
        (Mixture.from_members(members, coupling="paired"), ("lcb_epistemic:1", "ucb_epistemic:1.5")),
    ):
        folded = RewardDistribution.concatenate([rewards[:3][None], rewards[3:][None]])
        for spec in specs:
            whole = parse_utility(spec)(rewards)
            close(parse_utility(spec)(folded), whole.reshape(2, 3))
            close(parse_utility(spec)(rewards[4]), whole[4])


def reward_of_a_group(seed: int, count: int, shared: bool = False) -> RewardDistribution:
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    offset = torch.randn(6, generator=generator, dtype=torch.float64) * 10 if shared else 0.0
    return Samples(draws + offset, coupling="paired")


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(2, 9))
def test_shrinkage_moves_towards_the_group_and_keeps_its_mean_for_equal_doubt(seed, count):
    reward = reward_of_a_group(seed, count)
    shrunk, center = parse_utility("shrinkage")(reward, torch.zeros(count)), reward.mean.mean()
    before, after = reward.mean - center, shrunk - center
    assert (after * before >= -1e-12).all()
    assert (after.abs() <= before.abs() + 1e-12).all()


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(2, 9))
def test_what_members_disagree_about_all_responses_does_not_matter(seed, count):
    apart = parse_utility("shrinkage")(reward_of_a_group(seed, count), torch.zeros(count))
    offset = parse_utility("shrinkage")(reward_of_a_group(seed, count, shared=True), torch.zeros(count))
    close(apart - apart.mean(), offset - offset.mean())


@settings(max_examples=20, deadline=None)
@given(families, seeds, st.booleans())
def test_probabilities_of_a_group(family, seed, rounded):
    reward = build(family, seed, rounded=rounded)
    alone = torch.zeros(len(reward), dtype=torch.long)
    best, wins = (parse_utility(spec)(reward, alone) for spec in ("p_best", "win_rate"))
    close(best.sum(), torch.ones((), dtype=torch.float64))
    close(wins.mean(), torch.tensor(0.5, dtype=torch.float64))
    close(parse_utility("p_best")(reward[:2], alone[:2])[0], reward[0].prob_greater(reward[1]))


@pytest.mark.parametrize("spec", ["shrinkage", "win_rate", "p_best"])
def test_prompts_do_not_see_each_other(spec):
    reward = Samples(torch.randn(7, 6, dtype=torch.float64), coupling="paired")
    prompts = torch.tensor([5, 2, 5, 5, 2, 9, 2])
    found = parse_utility(spec)(reward, prompts)
    for number in (2, 5, 9):
        rows = prompts == number
        close(found[rows], parse_utility(spec)(reward[rows], torch.zeros(int(rows.sum()))))
