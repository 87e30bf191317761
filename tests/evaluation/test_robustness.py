"""Generalisation splits that do not leak, the spread of states in each, and what rewards follow besides quality."""

from __future__ import annotations

import numpy as np
import pytest

from poise.data.records import Message
from poise.data.splits import prompt_key
from poise.errors import ConfigError, DataError
from poise.evaluation.bias import bias_metrics, style
from poise.evaluation.bootstrap import PromptBootstrap
from poise.evaluation.robustness import Candidate, generalisation_splits, gold_pairs, states_kept

KNOWN, NEW = ("a", "b", "c", "d", "e"), ("x", "y", "z")


def world(prompts: int = 300) -> list[Candidate]:
    draw = np.random.default_rng(0)
    return [
        Candidate(f"question {i}", f"{model} says {i}", model, float(draw.normal()))
        for i in range(prompts)
        for model in KNOWN + NEW
    ]


def test_splits_are_what_they_are_called_and_share_no_response() -> None:
    splits = generalisation_splits(world(), NEW, new_prompts=0.2, in_domain=0.3)
    prompts = {prompt_key(one.prompt) for one in splits.train}
    seen = {(one.prompt, one.response) for one in splits.train}
    assert {one.model for one in splits.train} == set(KNOWN)
    for name, part in splits.evaluation.items():
        assert {one.model for one in part} == set(NEW if name in ("response_ood", "mutual_ood") else KNOWN), name
        known_prompts = name in ("in_domain", "response_ood")
        assert all((prompt_key(one.prompt) in prompts) == known_prompts for one in part), name
        assert not seen & {(one.prompt, one.response) for one in part}, name
    assert 0.14 < 1 - len(prompts) / 300 < 0.26
    assert all(
        sum(one.prompt == other.prompt for other in splits.evaluation["in_domain"]) == 2
        for one in splits.evaluation["in_domain"][:9]
    )
    total = len(splits.train) + sum(map(len, splits.evaluation.values()))
    assert total == len(world()), "every response is dealt once"


def test_the_split_of_a_prompt_does_not_depend_on_the_others() -> None:
    whole, half = (generalisation_splits(world(n), NEW, in_domain=0.3).evaluation for n in (300, 150))
    for name, part in half.items():
        assert set(part) <= set(whole[name]), name


def test_pairs_follow_gold_and_drop_ties() -> None:
    rows = [Candidate("q", name, name, gold) for name, gold in (("one", 1.0), ("two", 3.0), ("same", 3.0))]
    found = {(pair.chosen, pair.rejected, pair.strength) for pair in gold_pairs(rows)}
    assert found == {("two", "one", 2.0), ("same", "one", 2.0)}


def test_impossible_splits_are_named() -> None:
    with pytest.raises(ConfigError, match="'nobody'"):
        generalisation_splits(world(3), ["nobody"])
    with pytest.raises(DataError, match="in_domain"):
        generalisation_splits([one for one in world() if one.model in "abxy"], "xy")


def test_states_are_compared_at_one_size() -> None:
    draw = np.random.default_rng(4)
    sets = {"in_domain": draw.normal(size=(2000, 40)), "mutual_ood": draw.normal(size=(30, 40))}
    found = states_kept(sets)
    assert found.rank["in_domain"] < 31, "the rank of 2,000 rows would be near 40"
    assert abs(found.rank_change["mutual_ood"]) < 1
    norms = [np.linalg.norm(rows, axis=1) for rows in sets.values()]
    expected = np.std(norms[1]) / np.mean(norms[1]) / (np.std(norms[0]) / np.mean(norms[0]))
    assert found.dispersion_ratio["mutual_ood"] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ConfigError, match="in_domain"):
        states_kept({"train": np.ones((2, 2))})


def test_style_is_counted() -> None:
    text = "# Title\n- one\n* two\n3. three\nsome **bold** words\n```python\nx\n```\n"
    found = style([text, (Message("assistant", "plain"),)])
    assert {name: value.tolist() for name, value in found.items()} == {
        "length": [len(text), 5.0],
        "headings": [1.0, 0.0],
        "list_items": [3.0, 0.0],
        "bold": [1.0, 0.0],
        "code_blocks": [2.0, 0.0],
    }


def test_length_that_only_comes_with_quality_is_no_bias_given_gold() -> None:
    draw = np.random.default_rng(3)
    prompts = np.repeat(np.arange(400), 4)
    gold = draw.normal(size=1600)
    length = gold + draw.normal(size=1600) + 10 * draw.normal(size=400)[prompts]
    marks = length + draw.normal(size=1600)
    amounts = {"length": length, "bold": marks}
    level = 5 * draw.normal(size=400)[prompts]
    fair, greedy = (
        PromptBootstrap(prompts.tolist(), resamples=100).intervals(
            bias_metrics(level + gold + bias * length + 0.1 * draw.normal(size=1600), amounts, prompts.tolist(), gold)
        )
        for bias in (0.0, 0.05)
    )
    assert fair["length_spearman"].low > 0.5, "length follows quality"
    assert fair["length_spearman_given_gold"].low < 0.0 < fair["length_spearman_given_gold"].high
    assert greedy["length_spearman_given_gold"].low > 0.1
    assert abs(greedy["bold_spearman_given_length"].value) < 0.3 < greedy["bold_spearman"].value
    assert "length_spearman_given_length" not in fair
