"""Rated responses → texts and ratings: what is kept, what is left out by name, and what is refused."""

from __future__ import annotations

import pytest

from poise.data.records import Message, Rating
from poise.errors import DataError
from poise.rated import encode_ratings, rated_features
from tests.conftest import TEMPLATE, tiny_decoder

SCALES = {"clarity": (1.0, 5.0)}


def rating(prompt: str, response: str, row: int, role: str = "user", **given: tuple[float, ...]) -> Rating:
    prompts = (Message(role, prompt), Message("user", prompt))[role == "user" :]
    return Rating(prompt=prompts, response=(Message("assistant", response),), ratings=given, row=row, source="r.jsonl")


def test_rows_keep_their_ratings_and_those_of_one_prompt_their_key():
    rows = [
        rating("why", "fox", 1, clarity=(5,)),
        rating("how", "egg", 2, tone=(1,)),
        rating("why", "sea", 3, clarity=(1, 2)),
    ]
    found = rated_features(tiny_decoder(), rows, SCALES)
    assert [record.row for record in found.records] == [1, 3]
    assert found.ratings.mean.flatten().tolist() == [1.0, 0.125]
    assert len(found) == len(found.features) == 2
    assert [str(bad) for bad in found.dropped] == ["r.jsonl: row 2: no rating of clarity; rate it or remove the row"]
    texts = encode_ratings(tiny_decoder(), [*rows, rating("when", "egg", 4, clarity=(3,))], SCALES)
    assert texts.keys == (0, 0, 1)


def test_over_long_responses_are_named_or_refused_as_configured():
    rows = [rating("q", "the fox " * 80, 1, clarity=(5,)), rating("q", "egg", 2, clarity=(5,))]
    (dropped,) = encode_ratings(tiny_decoder(max_length=48), rows, SCALES).dropped
    assert dropped.row == 1
    with pytest.raises(DataError, match=r"row 1: .*longer than max_length 48; raise backbone.max_length"):
        encode_ratings(tiny_decoder(max_length=48, truncate="error"), rows, SCALES)
    with pytest.raises(DataError, match=r"no usable rated response is left; the first of 1 problems: r.jsonl: row 1"):
        encode_ratings(tiny_decoder(max_length=48), rows[:1], SCALES)


def test_a_row_whose_roles_the_template_refuses_is_never_left_out_silently():
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE
    rows = [rating("q", "egg", 1, clarity=(5,)), rating("q", "fox", 7, role="system", clarity=(5,))]
    with pytest.raises(DataError, match=r"r.jsonl: row 7: .*no system.*; mend the rows"):
        encode_ratings(tiny_decoder(strict), rows, SCALES)
