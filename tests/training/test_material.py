"""Pairs and rated responses in one batch: row numbers lead to the right features, labels and ratings."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from poise.data.batch import Targets
from poise.data.ratings import Ratings
from poise.data.records import Message, Preference, Rating
from poise.features import Features
from poise.training.material import HeadData, Material
from poise.training.recipe import parse_recipe
from poise.training.split import load_data
from tests.conftest import written

SCALES = {"depth": (0.0, 1.0), "tone": (0.0, 1.0)}


class Learner:
    """Only what a stage's material depends on."""

    needs_prompt_state = False

    def __init__(self, learns_from, attributes=()):
        self.learns_from, self.attributes = learns_from, attributes


class Pairs:
    features = Features(torch.arange(10.0)[:, None])
    pairs = torch.tensor([[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]])

    def targets(self, labels, attributes):
        label = torch.arange(5) / 4
        return replace(Targets.certain(5), label=label, attributes=torch.zeros(5, 2, len(attributes)))


class Rated:
    features = Features(100 + torch.arange(6.0)[:, None])
    ratings = Ratings.of([{"depth": (i / 5,), "tone": (1 - i / 5,)} for i in range(6)], SCALES)
    scales = SCALES


DATA = HeadData(Pairs(), rated=Rated())


def material(learner, pair_rows=range(5), rated_rows=range(6)) -> Material:
    return Material.of(learner, DATA, "soft", list(pair_rows), list(rated_rows))


def test_a_batch_of_both_leads_every_row_to_its_feature_and_label():
    made = material(Learner(("pairs", "ratings"), ("tone",)), pair_rows=[1, 3, 4], rated_rows=[2, 5])
    assert len(made) == 5
    batch, rows = made.batch(torch.tensor([4, 0, 2]))  # rated response 5, pairs 1 and 4
    features = DATA.features[rows]
    assert features.response[batch.first].flatten().tolist() == [2.0, 8.0]
    assert features.response[batch.second].flatten().tolist() == [3.0, 9.0]
    assert batch.targets.label.tolist() == [0.25, 1.0]
    assert features.response[batch.rated].flatten().tolist() == [105.0]
    assert batch.ratings.mean.flatten().tolist() == [0.0]


def test_what_a_method_does_not_learn_from_is_left_out():
    assert len(material(Learner(("pairs",)))) == 5
    only = material(Learner(("ratings",), ("depth", "tone")))
    batch, rows = only.batch(torch.tensor([3, 1]))
    features = DATA.features[rows]
    assert batch.pairs.shape == (0, 2)
    assert len(batch.targets) == 0
    assert features.response.flatten().tolist() == [103.0, 101.0]
    torch.testing.assert_close(batch.ratings.mean, torch.tensor([[0.6, 0.4], [0.2, 0.8]]))


def test_the_whole_stage_is_row_numbers_into_its_features():
    made = material(Learner(("pairs", "ratings"), ("depth",)))
    whole = made.whole()
    assert DATA.features.response[whole.rated].flatten().tolist() == [100.0, 101.0, 102.0, 103.0, 104.0, 105.0]
    assert DATA.features.response[whole.first].flatten().tolist() == [0.0, 2.0, 4.0, 6.0, 8.0]


@pytest.fixture
def files(tmp_path):

    pairs = [
        {
            "prompt": f"question {i}",
            "chosen": f"good {i}",
            "rejected": f"bad {i}",
            "attributes": {"depth": [4, 1 + i % 3]},
        }
        for i in range(60)
    ]
    rated = [{"prompt": f"question {i}", "response": f"good {i}", "ratings": {"depth": [1, 5]}} for i in range(60)]
    for name, rows in (("pairs", pairs), ("rated", rated)):
        written(tmp_path / f"{name}.jsonl", rows)
    return tmp_path


def test_ratings_of_held_out_prompts_are_never_trained_on(files):
    recipe = parse_recipe(
        {"data": {"train": str(files / "pairs.jsonl"), "ratings": str(files / "rated.jsonl")}, "method": "bt"}
    )
    split = load_data(recipe)
    held = {p.prompt for p in split.evaluation}
    assert held
    assert not held & {r.prompt for r in split.ratings}
    assert len(split.ratings) == 3 * len(split.training)  # both responses of a pair, and the file's own
    assert split.scales == {"depth": (1.0, 5.0)}


def test_plain_ratings_become_conversations_with_the_pairs():
    talk = (Message("user", "q"),)
    from poise.training.split import Split

    pair = Preference(prompt=talk, chosen=(Message("assistant", "a"),), rejected=(Message("assistant", "b"),))
    split = Split((pair,), (), (), {}, (Rating(prompt="q", response="a", ratings={"x": (1.0,)}),), {}, ())
    assert split.conversational
    assert split.as_conversations().ratings[0].prompt == talk
    assert split.as_conversations().ratings[0].response == (Message("assistant", "a"),)
