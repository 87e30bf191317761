"""What ``poise data check`` counts, on a file written by hand and on real ones."""

from __future__ import annotations

import json

import pytest

from poise.data.chat import ChatEncoder
from poise.data.check import check, describe
from tests.conftest import tiny_tokenizer


def write(path, rows) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf8")
    return str(path)


@pytest.fixture
def by_hand(tmp_path) -> str:
    talk = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yes?"},
        {"role": "user", "content": "why"},
    ]
    return write(
        tmp_path / "pairs.jsonl",
        [
            {"prompt": "q1", "chosen": "longer", "rejected": "short", "subset": "x"},
            {"prompt": "Q1 ", "chosen": "same", "rejected": "size", "subset": "x"},
            {"prompt": "q1", "chosen": "short", "rejected": "longer", "subset": "y"},
            {"prompt": "q1", "chosen": "longer", "rejected": "short"},
            {"prompt": "q2", "chosen": "tie", "rejected": "it", "tie": True},
            {"prompt": "q2", "chosen": "ab", "rejected": "abc", "votes": [1, 3]},
            {"prompt": talk, "chosen": "because", "rejected": "no"},
            {"prompt": "q3", "chosen": "equal", "rejected": "equal"},
            {"prompt": "q3", "chosen": "", "rejected": "no"},
        ],
    )


def test_counts_by_hand(by_hand):
    report = check(by_hand)
    assert (report.rows, report.usable, len(report.bad)) == (9, 7, 2)
    assert [b.row for b in report.bad] == [8, 9]
    assert report.prompts == 3, "q1 and 'Q1 ' are one prompt"
    assert (report.conversational, report.multi_turn) == (1, 1)
    assert (report.with_votes, report.ties) == (1, 1)
    assert report.repeated == 2, "four rows of longer/short hold one pair twice more"
    assert report.contradicted == 1
    # won by the longer: rows 1, 4, 6 (the majority prefers abc), 7; equal: row 2; lost: row 3; the tie does not count
    assert report.longer_wins == pytest.approx((4 + 0.5) / 6)
    assert report.characters == (5.0, 4.0)
    assert report.subsets == {"x": 2, "y": 1}


def test_token_lengths_and_rows_that_become_identical(tmp_path):
    source = write(
        tmp_path / "pairs.jsonl",
        [
            {"prompt": "the fox " * 40, "chosen": " egg", "rejected": " water"},
            {"prompt": "the fox", "chosen": " says hello", "rejected": " water " * 60},
            {"prompt": "the fox", "chosen": " egg", "rejected": " egg<eos>"},
        ],
    )
    told: list[tuple[int, int]] = []
    encoder = ChatEncoder(tiny_tokenizer(encoder=False), 32)
    report = check(source, encoder, progress=lambda *counts: told.append(counts)).lengths
    assert told == [(report.responses, report.responses)]
    assert (report.responses, report.over, report.lost) == (6, 2, 1)
    assert report.max_length == 32
    assert report.longest > 80, "the length before anything was cut"
    assert len(report.same_once_encoded) == 1
    assert "identical once encoded" in "\n".join(
        describe(check(source, ChatEncoder(tiny_tokenizer(encoder=False), 32)))
    )


def test_overlap_by_prompt_and_by_pair(tmp_path, by_hand):
    other = write(
        tmp_path / "other.jsonl",
        [
            {"prompt": "q1", "chosen": "short", "rejected": "longer"},
            {"prompt": "q2", "chosen": "new", "rejected": "old"},
            {"prompt": "q9", "chosen": "new", "rejected": "old"},
        ],
    )
    report = check(by_hand, against=other)
    assert (report.overlap_prompts, report.overlap_pairs) == (2, 1), "either direction is the same pair"
    assert check(by_hand).overlap_prompts is None


def test_the_text_names_bad_rows_and_remedies(by_hand):
    report = check(by_hand)
    lines = "\n".join(describe(report))
    assert "9 rows, 7 usable pairs, 3 prompts" in lines
    assert "broken rows    2" in lines
    for bad in report.bad:
        assert f"row {bad.row}: {bad.problem}; {bad.remedy}" in lines


def test_a_file_without_a_usable_row_is_still_described(tmp_path):
    report = check(write(tmp_path / "bad.jsonl", [{"prompt": "q", "chosen": "a"}]))
    assert (report.usable, report.longer_wins, report.characters) == (0, 0.5, (0.0, 0.0))
    assert "form           none" in "\n".join(describe(report))


@pytest.mark.parametrize(
    ("name", "longer", "equal", "distinct", "rows", "both_ways"),
    [
        ("hh_harmless_test", 0.444, 0.005, 2308, 2308, 0),
        ("hh_helpful_test", 0.595, 0.006, 2348, 2348, 0),
        ("pku_saferlhf_5k", 0.437, 0.004, 3446, 5135, 144),
        # 128 pairs have both orders of the columns; in 7 more the votes of two rows point in opposite directions
        ("rag_crowd", 0.619, 0.000, 975, 1352, 128 + 7),
    ],
)
def test_known_facts_of_real_files(shared_data, name, longer, equal, distinct, rows, both_ways):
    """Section 6.1 of the data folder's README."""
    report = check(str(shared_data / "pairs" / f"{name}.jsonl.gz"))
    assert report.rows == rows
    assert report.usable == rows - len(report.bad)
    assert report.usable - report.repeated == distinct
    assert report.contradicted == both_ways
    if name != "rag_crowd":  # there, "chosen" is not always what most people chose
        assert report.longer_wins == pytest.approx(longer + equal / 2, abs=0.001)
