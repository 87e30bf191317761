"""MinHash against brute force, and what repeats and contamination are."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.curation.duplicates import candidates, jaccard, shingles, words
from poise.curation.repeats import contaminated, repeated
from poise.data.records import Message, Preference

VOCABULARY = [
    "the",
    "a",
    "fox",
    "dog",
    "runs",
    "sleeps",
    "over",
    "under",
    "quick",
    "lazy",
    "brown",
    "red",
    "house",
    "tree",
    "today",
    "never",
]


def brute_force(text: str) -> set[tuple[str, ...]]:
    row = words(text)
    padded = row + [""] * (3 - len(row))
    return {tuple(padded[i : i + 3]) for i in range(len(padded) - 2)}


@given(*[st.lists(st.sampled_from(VOCABULARY[:4]), min_size=1, max_size=12).map(" ".join)] * 2)
def test_jaccard_is_that_of_sets_of_word_triples(first, second):
    one, two = brute_force(first), brute_force(second)
    assert jaccard(shingles([first]), shingles([second])) == pytest.approx(len(one & two) / len(one | two))


def corpus(seed: int) -> list[str]:
    """Random texts, and for each some with a few words changed."""
    draw = random.Random(seed)
    texts = [draw.choices(VOCABULARY, k=draw.randint(20, 60)) for _ in range(40)]
    for text in list(texts):
        for changes in (1, 2, 5):
            changed = list(text)
            for place in draw.sample(range(len(text)), changes):
                changed[place] = draw.choice(VOCABULARY)
            texts.append(changed)
    draw.shuffle(texts)
    return [" ".join(text) for text in texts]


@pytest.mark.parametrize("seed", range(5))
def test_all_near_duplicates_are_found(seed):
    sets = [shingles([text]) for text in corpus(seed)]
    found = {(i, j) for i, j in candidates(sets) if jaccard(sets[i], sets[j]) >= 0.8}
    plain = [brute_force(text) for text in corpus(seed)]
    expected = {
        (j, i)
        for i, j in itertools.combinations(range(len(plain)), 2)
        if len(plain[i] & plain[j]) / len(plain[i] | plain[j]) >= 0.8
    }
    assert len(expected) > 20
    assert found == expected


def pair(prompt: str, chosen: str, rejected: str, row: int = 1, **more) -> Preference:
    return Preference(prompt=prompt, chosen=chosen, rejected=rejected, row=row, source="data", **more)


LONG = " ".join(VOCABULARY * 2)


def test_repeats_are_found_in_either_order_and_say_which_way():
    first = pair("Tell me of a fox.", LONG, "No.", 1)
    same, turned = replace(first, row=2), replace(first, row=3, chosen="No.", rejected=LONG)
    nearly = replace(first, row=4, chosen=LONG.replace("today", "tonight", 1))
    other_prompt = replace(first, row=5, prompt="Please write something about houses and trees.")
    found = repeated([first, same, turned, nearly, other_prompt], 0.7, {})
    assert set(found) == {1, 2, 3}
    assert found[1].reason == "repeats row 1, labelled the same way"
    assert found[2].reason == "repeats row 1, labelled the other way"
    assert found[3].reason.startswith("nearly repeats (similarity 0.8")
    assert "the same way" in found[3].reason
    turned_by_label = replace(first, row=6, p_chosen=0.1)
    assert "the other way" in repeated([first, turned_by_label], 0.8, {})[1].reason


def test_a_chain_of_likes_does_not_remove_what_repeats_nothing_that_stays():
    first = pair("Tell me of a fox.", LONG, "No.", 1)
    middle = replace(first, chosen=" ".join(VOCABULARY * 2 + ["x", "y", "z", "w"]), row=2)
    last = replace(first, chosen=" ".join(VOCABULARY * 2 + ["x", "y", "z", "w"] + list("abcdefgh")), row=3)
    alike = [jaccard(*(shingles([p.chosen, p.rejected]) for p in both)) for both in ((first, middle), (first, last))]
    assert alike[0] > 0.7 > alike[1]
    assert set(repeated([first, middle, last], 0.7, {})) == {1}


def test_contamination_by_first_question_and_by_nearly_the_same_prompt():
    held = [pair("What is the capital of France, and since when has it been so? Tell me now.", "Paris.", "Rome.", 7)]
    said = (Message("user", held[0].prompt.upper()), Message("assistant", "Hm."), Message("user", "And?"))
    deeper = replace(held[0], prompt=said, chosen=(Message("assistant", "x"),), rejected=(Message("assistant", "y"),))
    nearly = replace(held[0], prompt="What is the capital of France, and since when has it been so? Tell me, please.")
    other = replace(held[0], prompt="What is the capital of Italy?")
    found = contaminated([deeper, nearly, other], held, 0.6)
    assert set(found) == {0, 1}
    assert found[0].reason == "its prompt is in row 7 of data"
    assert "nearly that of row 7" in found[1].reason
    assert set(contaminated([deeper, nearly, other], held, 0.99)) == {0}


def test_scripts_without_spaces_are_compared_by_character():
    one, two = "今天天气很好我们去公园散步吧", "今天天气很好我们去公园跑步吧"
    assert 0.4 < jaccard(shingles([one]), shingles([two])) < 1
