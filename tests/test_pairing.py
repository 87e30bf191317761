"""Preferences → row numbers: what is kept, what is left out, and by which name."""

from __future__ import annotations

import pytest
import torch
from tokenizers import normalizers

from poise.data.records import Message, Preference
from poise.errors import DataError
from poise.pairing import pair_features
from tests.conftest import TEMPLATE, tiny_decoder, tiny_encoder


def pair(prompt: str, chosen: str, rejected: str, row: int = 0) -> Preference:
    return Preference(
        prompt=(Message("user", prompt),),
        chosen=(Message("assistant", chosen),),
        rejected=(Message("assistant", rejected),),
        row=row,
        source="pairs.jsonl",
    )


def test_each_response_stands_once_and_pairs_are_its_row_numbers():
    pairs = [pair("why", "fox", "egg", 1), pair("why", "egg", "sea", 2), pair("how", "fox", "egg", 3)]
    data = pair_features(tiny_decoder(), pairs)
    assert data.pairs.tolist() == [[0, 1], [1, 2], [3, 4]]
    assert len(data.features) == 5
    assert len(data) == 3
    assert data.preferences == tuple(pairs)
    assert len(set(data.prompts)) == 2
    assert (data.truncated, data.dropped) == (0, ())
    assert torch.equal(data.targets().label, torch.ones(3))


def test_pairs_that_are_identical_once_encoded_are_left_out_by_name():
    """Both texts differ, but the tokenizer does not see it: a label on them teaches nothing."""
    backbone = tiny_encoder()
    backbone.tokenizer._tokenizer.normalizer = normalizers.Lowercase()
    data = pair_features(backbone, [pair("q", "egg", "fox", 4), pair("q", "FOX", "fox", 7)])
    assert [p.row for p in data.preferences] == [4]
    (dropped,) = data.dropped
    assert (dropped.source, dropped.row) == ("pairs.jsonl", 7)
    assert "identical once encoded" in dropped.problem
    assert str(dropped).startswith("pairs.jsonl: row 7: ")
    assert len(data.features) == 2


def test_over_long_pairs_are_counted_named_or_refused_as_configured():
    long, short = "the fox " * 80, "the fox"
    pairs = [pair(long, "egg", "sea", 1), pair(short, long, "sea", 2), pair(short, "egg", "sea", 3)]
    data = pair_features(tiny_decoder(max_length=48), pairs)
    assert [p.row for p in data.preferences] == [1, 3]
    assert data.truncated == 2
    (dropped,) = data.dropped
    assert dropped.row == 2
    assert "chosen: the response alone" in dropped.problem
    data = pair_features(tiny_decoder(max_length=48, truncate="drop"), pairs)
    assert [p.row for p in data.preferences] == [3]
    assert [d.row for d in data.dropped] == [1, 2]
    with pytest.raises(DataError, match=r"row 1: chosen: .*longer than max_length 48; raise backbone.max_length"):
        pair_features(tiny_decoder(max_length=48, truncate="error"), pairs)


def test_a_row_whose_roles_the_template_refuses_is_named():
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE
    wrong = Preference(
        prompt=(Message("system", "x"), Message("user", "y")),
        chosen=(Message("assistant", "a"),),
        rejected=(Message("assistant", "b"),),
        row=12,
        source="pairs.jsonl",
    )
    with pytest.raises(DataError, match=r"pairs.jsonl: row 12: .*refuses the roles .*no system.*; mend the rows"):
        pair_features(tiny_decoder(strict), [pair("q", "egg", "fox"), wrong])


def test_nothing_left_is_an_error_that_says_why():
    with pytest.raises(DataError, match=r"no usable pair is left; the first of 1 problems: pairs.jsonl: row 5"):
        pair_features(tiny_decoder(max_length=16), [pair("q", "the fox " * 80, "egg", 5)])
    with pytest.raises(DataError, match="no usable pair is left"):
        pair_features(tiny_decoder(), [])
