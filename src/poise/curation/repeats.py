"""What is wrong with a pair whatever a model says: it is in the evaluation data, or it is there already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from poise.curation.duplicates import Hashes, candidates, jaccard, shingles
from poise.data.records import Preference, Text
from poise.data.splits import prompt_key


class Finding(NamedTuple):
    """Why a pair is left out: which rule, and in words."""

    kind: str
    reason: str


def contaminated(pairs: Sequence[Preference], against: Sequence[Preference], near: float) -> dict[int, Finding]:
    """Pairs whose prompt occurs in ``against``: the same first question, or a prompt with a similarity of ``near``."""
    theirs = {prompt_key(pair.prompt): pair for pair in reversed(against)}
    found = {
        i: Finding("contaminated", f"its prompt is in row {theirs[key].row} of {theirs[key].source}")
        for i, pair in enumerate(pairs)
        if (key := prompt_key(pair.prompt)) in theirs
    }
    mine = list(dict.fromkeys(pair.prompt for i, pair in enumerate(pairs) if i not in found))
    others = {pair.prompt: pair for pair in reversed(against)}
    sets = [shingles([text]) for text in (*others, *mine)]
    known = list(others.values())
    alike: dict[Text, tuple[float, Preference]] = {}
    for later, earlier in candidates(sets):
        if earlier < len(known) <= later and (how := jaccard(sets[later], sets[earlier])) >= near:
            prompt = mine[later - len(known)]
            alike[prompt] = max(alike.get(prompt, (0.0, known[earlier])), (how, known[earlier]), key=lambda one: one[0])
    return found | {
        i: Finding(
            "contaminated",
            f"its prompt is nearly that of row {alike[pair.prompt][1].row} of {alike[pair.prompt][1].source} "
            f"(similarity {alike[pair.prompt][0]:.2f})",
        )
        for i, pair in enumerate(pairs)
        if i not in found and pair.prompt in alike
    }


def repeated(pairs: Sequence[Preference], near: float, out: Mapping[int, Finding]) -> dict[int, Finding]:
    """Pairs that repeat an earlier one which stays: prompts alike, and responses alike in either order.

    Alike is a similarity of ``near`` or more of the shingles of the prompts, and of those of both responses together.
    """
    prompts = {text: shingles([text]) for text in {pair.prompt for pair in pairs}}
    responses = [shingles([pair.chosen, pair.rejected]) for pair in pairs]
    # shares of a union lie between those of its parts: no pair with both above ``near`` is missed
    whole = [_tagged(prompts[pair.prompt], both) for pair, both in zip(pairs, responses, strict=True)]
    found: dict[int, Finding] = {}
    for later, earlier in candidates(whole):
        if later in out or later in found or earlier in out or earlier in found:
            continue
        first, second = pairs[earlier], pairs[later]
        how = min(jaccard(responses[later], responses[earlier]), jaccard(prompts[first.prompt], prompts[second.prompt]))
        if how >= near:
            found[later] = Finding("repeated", _repeat(first, second, how))
    return found


def _tagged(prompt: Hashes, responses: Hashes) -> Hashes:
    """Both sets apart in one."""
    return np.concatenate([prompt ^ prompt.dtype.type(0x5BD1E995C0FFEE11), responses])


def _repeat(first: Preference, second: Preference, how: float) -> str:
    same = {first.chosen, first.rejected} == {second.chosen, second.rejected} and first.prompt == second.prompt
    word = "repeats" if same else f"nearly repeats (similarity {how:.2f})"
    return f"{word} row {first.row}, labelled {'the other way' if _turned(first, second) else 'the same way'}"


def _turned(first: Preference, second: Preference) -> bool:
    """Whether two pairs of nearly the same responses prefer different ones."""
    texts = [shingles([text]) for text in (first.chosen, first.rejected, second.chosen, second.rejected)]
    straight = jaccard(texts[0], texts[2]) + jaccard(texts[1], texts[3])
    crossed = jaccard(texts[0], texts[3]) + jaccard(texts[1], texts[2])
    return (straight < crossed) != ((first.label < 0.5) != (second.label < 0.5))
