"""Utilities by name: what can be meant, what is refused and how."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

import poise
from poise.distributions import Gaussian, Samples
from poise.errors import ConfigError
from poise.utility import KINDS, Utility, parse_utility

SPECS = [f"{kind.name}:{kind.number.example}" if kind.number else kind.name for kind in KINDS]


@pytest.mark.parametrize("spec", SPECS)
def test_every_utility_says_what_it_is(spec):
    utility = parse_utility(spec)
    assert utility.spec == spec
    assert parse_utility(utility) is utility
    assert parse_utility(f" {spec} ") == utility
    reward = Samples(torch.randn(4, 6), coupling="paired")
    prompts = torch.tensor([0, 0, 1, 1])
    found = utility(reward, prompts)
    assert found.shape == (4,)
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()
    assert torch.equal(pickle.loads(pickle.dumps(utility))(reward, prompts), found)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cvr:0.1", "unknown utility 'cvr'; did you mean 'cvar'\\? choose from cvar, "),
        ("", "unknown utility ''; choose from"),
        ("cvar", "cvar:a needs a share above 0 and up to 1, as in cvar:0.1"),
        ("cvar:ten", "utility cvar:ten has no readable number"),
        ("cvar:0", "utility cvar:0 is out of range"),
        ("cvar:1.5", "out of range; cvar:a needs a share above 0 and up to 1"),
        ("quantile:1", "strictly between 0 and 1"),
        ("quantile:0", "strictly between 0 and 1"),
        ("lcb:-1", "at least 0"),
        ("entropic:inf", "out of range"),
        ("entropic:nan", "out of range"),
        ("exponential:0", "above 0"),
        ("mean:1", "mean takes no number; write mean"),
    ],
)
def test_what_cannot_be_meant(spec, message):
    with pytest.raises(ConfigError, match=message):
        parse_utility(spec)


def test_units_and_groups():
    """Everything is in units of the reward and of one response alone, but for these."""
    others = {"exponential": "utility", "win_rate": "probability", "p_best": "probability"}
    for spec in SPECS:
        utility = parse_utility(spec)
        assert utility.unit == others.get(spec.split(":")[0], "reward")
        assert utility.grouped is (spec in ("shrinkage", "win_rate", "p_best"))


@pytest.mark.parametrize("spec", ["shrinkage", "win_rate", "p_best"])
def test_groups_need_prompt_numbers(spec):
    reward = Samples(torch.randn(3, 4), coupling="paired")
    with pytest.raises(ConfigError, match=f"{spec} looks at all responses to a prompt; pass prompts"):
        parse_utility(spec)(reward)
    with pytest.raises(ConfigError, match="one prompt number per reward"):
        parse_utility(spec)(reward, torch.zeros(2))


def test_the_guide_lists_every_utility():
    guide = (Path(__file__).parents[2] / "docs/guides/utilities.md").read_text("utf8")
    for kind in KINDS:
        assert f"`{kind.form}`" in guide, f"docs/guides/utilities.md lacks {kind.form}"
        assert kind.summary.split(";")[0] in guide, f"docs/guides/utilities.md says something else about {kind.form}"


def test_the_public_names():
    assert poise.parse_utility is parse_utility
    assert poise.Utility is Utility
    utility = poise.parse_utility("mean")
    assert utility(Gaussian(torch.ones(2, 3), 1.0)).shape == (2, 3)
    with pytest.raises(AttributeError):
        utility.spec = "lcb:1"
