"""Cross-fitting: no head has seen the prompt that it judges."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from poise.curation import judge
from poise.curation.judge import cross_fit, fold_of, merged, subset
from poise.data.records import Preference
from poise.errors import ConfigError
from poise.evaluation import metrics
from poise.features import Features
from poise.methods import method_class
from poise.pairing import PairFeatures
from poise.training.recipe import parse_recipe

PROMPTS, EACH, WIDTH = 160, 3, 120


def noise_world(seed: int = 0) -> PairFeatures:
    """A label that is a coin flip per prompt, and a feature direction for every prompt: a head that has seen a prompt
    knows the label of its other pairs, one that has not can only guess.
    """
    draw = np.random.default_rng(seed)
    states, rows, records = [], [], []
    for prompt in range(PROMPTS):
        direction, sign = draw.normal(size=WIDTH), draw.choice([-1.0, 1.0])
        for number in range(EACH):
            states += [direction + draw.normal(size=WIDTH) * 0.1, -direction + draw.normal(size=WIDTH) * 0.1]
            both = [len(states) - 2, len(states) - 1]
            rows.append(both if sign > 0 else both[::-1])
            records.append(Preference(prompt=f"p{prompt}", chosen=f"a{number}", rejected=f"b{number}", row=len(rows)))
    keys = tuple(hashlib.sha256(pair.prompt.encode()).hexdigest() for pair in records)
    return PairFeatures(
        Features(torch.tensor(np.array(states)).float()), torch.tensor(rows), tuple(records), prompts=keys
    )


def recipe(**more):
    stages = [{"epochs": 8, "batch_size": 64, "learning_rate": 0.03}]
    return parse_recipe({"data": {"train": "x"}, "method": "bt", "stages": stages, **more})


def test_a_prompt_that_a_head_has_seen_would_give_its_label_away(monkeypatch):
    data = noise_world()
    honest = cross_fit(method_class("bt"), recipe(), data, 5).p
    assert metrics.accuracy(honest, np.ones(len(data))) < 0.5 + 3.3 * 0.5 / PROMPTS**0.5
    by_pair = np.arange(len(data)) % 5  # what dealing out pairs instead of prompts would do
    monkeypatch.setattr(judge, "fold_of", lambda prompts, folds: by_pair)
    assert metrics.accuracy(cross_fit(method_class("bt"), recipe(), data, 5).p, np.ones(len(data))) > 0.9


def test_no_head_is_given_a_pair_or_feature_of_the_prompts_that_it_judges(monkeypatch):
    data, seen = noise_world(), []
    train = judge.train_heads

    def watched(kind, given, material, **more):
        seen.append(material)
        return train(kind, given, material, **more)

    monkeypatch.setattr(judge, "train_heads", watched)
    cross_fit(method_class("bt"), recipe(), data, 4)
    fold = fold_of(data.prompts, 4)
    assert len(seen) == 4
    for number, material in enumerate(seen):
        own = {data.prompts[i] for i in np.flatnonzero(fold == number)}
        assert own
        assert not own & set(material.train.prompts)
        assert len(material.train) == int((fold != number).sum())
        assert len(material.train.features) == 2 * len(material.train)


def test_every_pair_is_judged_once_and_the_same_way_every_time():
    data = noise_world()
    found = cross_fit(method_class("drpo_exact"), recipe(method="drpo_exact"), data, 3)
    assert found.judged.all()
    assert found.folds == 3
    again = cross_fit(method_class("drpo_exact"), recipe(method="drpo_exact"), data, 3)
    assert np.array_equal(found.p, again.p)


def test_a_stage_that_selects_its_best_epoch_gets_validation_pairs():
    stages = [{"epochs": 3, "batch_size": 32, "select": "nll"}]
    assert cross_fit(method_class("bt"), recipe(stages=stages), noise_world(), 2).judged.all()


def test_folds_do_not_split_prompts_and_do_not_depend_on_the_other_rows():
    prompts = noise_world().prompts
    fold = fold_of(prompts, 5)
    assert len(np.unique(fold)) == 5
    assert all(len(set(fold[[i for i, p in enumerate(prompts) if p == one]])) == 1 for one in set(prompts))
    assert fold_of(prompts[7:19], 5).tolist() == fold[7:19].tolist()


def test_repeats_are_merged_before_training_as_a_run_does():
    data = noise_world()
    rows = np.array([0, 1, 0])
    twice = subset(data, rows)
    turned = PairFeatures(
        twice.features,
        torch.cat([twice.pairs[:2], twice.pairs[2:].flip(1)]),
        (*twice.preferences[:2], Preference(prompt="p0", chosen="b0", rejected="a0", row=3)),
        prompts=twice.prompts,
    )
    one = merged(turned)
    assert [pair.label for pair in one.preferences] == [0.5, 1.0]
    assert one.pairs.tolist() == turned.pairs[:2].tolist()


def test_too_few_prompts_or_folds():
    data = subset(noise_world(), np.arange(EACH))
    with pytest.raises(ConfigError, match="1 prompts leave no part"):
        cross_fit(method_class("bt"), recipe(), data, 5)
    with pytest.raises(ConfigError, match="give 2 folds"):
        cross_fit(method_class("bt"), recipe(), noise_world(), 1)
