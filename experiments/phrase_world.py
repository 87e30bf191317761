"""The simulated world in phrases: texts that a tiny language model can write, and a gold reader for whatever it writes.

The world's responses are built from about a thousand phrases (openings, frames, facts, advice, fillers, closings), so a
tokenizer whose words are these phrases turns a response into some 25 tokens, and English comes out of any sequence of them.
The gold reader takes the levels from the text as ``poise.data.simulate.wording`` has put them in. For what the world writes
it gives the world's own utility; what no one in the world would write (a repeated or broken sentence, a missing opening or
closing, more than a response has) is a fault, and each fault costs every reader ``FAULT``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np
from tokenizers import AddedToken, Tokenizer, models
from transformers import PreTrainedTokenizerFast

from poise.data.records import Preference, Rating
from poise.data.simulate import WorldConfig, phrases
from poise.data.simulate.answers import Answer, write_answers
from poise.data.simulate.domains import TRAINING_DOMAINS, Area, domain
from poise.data.simulate.judgements import judge_pairs, rate
from poise.data.simulate.prompts import Prompt
from poise.data.simulate.raters import GROUPS, Floats, Group, group_shares, utilities
from poise.data.simulate.responders import TRAINING_RESPONDERS

FAULT = 0.5
FACTS, ADVICE, FILLERS = 4, 2, 4  # of one response
CONFIG = WorldConfig(multi_turn_share=0.0)


class Piece(NamedTuple):
    """One phrase: what kind it is, and what it says (a tone, or for facts the area and whether it is right)."""

    kind: str
    tone: int = 0
    area: tuple[str, int] | None = None


@dataclass(frozen=True)
class Reading:
    """What the gold reader finds in one response."""

    levels: tuple[float, float, float, float, float]
    faults: int


@cache
def pieces() -> dict[str, Piece]:
    """Every phrase in lower case."""
    found: dict[str, Piece] = {}
    for kind, table in (("opening", phrases.OPENINGS), ("closing", phrases.CLOSINGS)):
        found |= {text: Piece(kind, tone) for tone, texts in table.items() for text in texts}
    found |= {text: Piece("neutral") for text in phrases.NEUTRAL}
    found |= {text: Piece("filler beginning") for text in phrases.FILLER_BEGINNINGS}
    found |= {text: Piece("filler ending") for text in phrases.FILLER_ENDINGS}
    for frame in (*phrases.OFF_TOPIC, *phrases.PLAIN, *phrases.SOUND, *phrases.SHAKY):
        found[frame.removesuffix("{fact}.").strip()] = Piece("fact frame")
    for frame in (*phrases.SAFE, *phrases.RISKY):
        found[frame.removesuffix("{advice}.").strip()] = Piece("advice frame")
    for frame in phrases.ON_TOPIC:
        before, _, after = frame.removesuffix("{fact}.").partition("{topic}")
        found |= {before.strip(): Piece("topic frame"), after.strip(): Piece("topic link")}
    advice = list(phrases.GENERAL_ADVICE)
    for place, area in areas().items():
        found |= {topic: Piece("topic", area=place) for topic in area.topics}
        found |= {f"{fact[wrong]}.": Piece("fact", 1 - wrong, place) for fact in area.facts for wrong in (0, 1)}
        advice += area.advice
    found |= {f"{pair[bad]}.": Piece("advice", 1 - 2 * bad) for pair in advice for bad in (0, 1)}
    return {text.lower(): piece for text, piece in found.items() if text}


@cache
def areas() -> dict[tuple[str, int], Area]:
    """The areas of the training domains by (domain, number)."""
    return {(name, i): area for name in TRAINING_DOMAINS for i, area in enumerate(domain(name).areas)}


@cache
def prompts() -> dict[str, Prompt]:
    """One prompt per topic: the topic alone is the question."""
    return {
        topic.lower(): Prompt(name, area, topic, topic.lower())
        for (name, _), area in areas().items()
        for topic in area.topics
    }


def phrase_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer whose words are the phrases; ``<unk>`` stands for any other stretch of text."""
    words = ["<unk>", "<pad>", "<eos>", "1", *pieces()]  # a backbone's tokenizer must know something of "a b c 1 2 3"
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.add_tokens([AddedToken(text, lstrip=True, normalized=False) for text in words[3:]])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="<eos>",
        model_input_names=["input_ids", "attention_mask"],
        padding_side="left",
    )


class World:
    """Written answers, people's judgements of them, and the gold reader."""

    def __init__(self, per_topic: int, seed: int) -> None:
        asked = [prompt for prompt in prompts().values() for _ in range(per_topic)]
        draw = np.random.default_rng([seed, 0])
        self.answers = write_answers(
            [asked[i] for i in draw.permutation(len(asked))], TRAINING_RESPONDERS, CONFIG, draw
        )
        self._seed = seed

    def pairs(self, count: int) -> list[Preference]:
        """The first ``count`` judged pairs, the prompts as topics and all in lower case."""
        config = WorldConfig(multi_turn_share=0.0, train_pairs=count)
        judged = judge_pairs(self.answers, config, "train", np.random.default_rng([self._seed, 1]))
        return [_lower(pair) for pair in judged]

    def ratings(self) -> list[Rating]:
        """Every answer rated overall and per attribute."""
        return [_lower_rating(r) for r in rate(self.answers, CONFIG, "train", np.random.default_rng([self._seed, 2]))]


def read(topic: str, tokens: Sequence[str]) -> Reading:
    """The levels and faults of a response to ``topic`` given as phrases."""
    known, prompt = pieces(), prompts()[topic]
    sentences = list(_sentences([known.get(token, Piece("unknown")) for token in tokens], tokens, topic))
    kinds = [kind for kind, *_ in sentences]
    faults = kinds.count("broken") + (kinds[:1] != ["opening"]) + (kinds[-1:] != ["closing"])
    faults += kinds[1:].count("opening") + kinds[:-1].count("closing")
    told: dict[str, list[Piece]] = {"fact": [], "advice": [], "filler": []}
    said = Counter[str]()
    for kind, piece, words in sentences:
        if kind in told:
            repeated = any(said[word] for word in words)
            said.update(words)
            faults += repeated
            if not repeated:
                told[kind].append(piece)
    for kind, most in (("fact", FACTS), ("advice", ADVICE), ("filler", FILLERS)):
        faults += max(0, len(told[kind]) - most)
    facts = told["fact"]
    share = max(FACTS, len(facts))
    relevant = sum(areas()[piece.area] is prompt.area for piece in facts if piece.area is not None)
    manners = sum(piece.tone for place, (kind, piece, _) in enumerate(sentences) if kind == _expected(place, sentences))
    return Reading(
        (
            relevant / share,
            sum(piece.tone for piece in facts) / share,
            _tone(sum(piece.tone for piece in told["advice"])),
            _tone(manners),
            min(len(told["filler"]), FILLERS) / FILLERS,
        ),
        faults,
    )


def gold(topics: Sequence[str], readings: Sequence[Reading], groups: Sequence[Group] = GROUPS) -> tuple[Floats, Floats]:
    """(utility of each group of raters [B, groups], their shares [B, groups])."""
    levels = np.array([reading.levels for reading in readings])
    faults = np.array([reading.faults for reading in readings], dtype=np.float64)
    shares = np.array([group_shares(prompts()[topic].domain) for topic in topics])
    return utilities(levels, groups) - FAULT * faults[:, None], shares


def _sentences(row: Sequence[Piece], tokens: Sequence[str], topic: str) -> Iterator[tuple[str, Piece, tuple[str, ...]]]:
    """(kind, what it says, its words that must not come again), sentence by sentence; a stray phrase is a broken one."""
    forms = {
        ("topic frame", "topic", "topic link", "fact"): "fact",
        ("fact frame", "fact"): "fact",
        ("advice frame", "advice"): "advice",
        ("filler beginning", "filler ending"): "filler",
        ("fact",): "fact",
        ("advice",): "advice",
        ("neutral",): "advice",
        ("opening",): "opening",
        ("closing",): "closing",
    }
    at = 0
    while at < len(row):
        form = next((f for f in forms if tuple(piece.kind for piece in row[at : at + len(f)]) == f), None)
        if form is None or (form[0] == "topic frame" and tokens[at + 1] != topic):
            yield "broken", row[at], ()
            at += 1
            continue
        last = at + len(form)
        yield forms[form], row[last - 1], tuple(tokens[at:last]) if forms[form] == "filler" else (tokens[last - 1],)
        at = last


def _expected(place: int, sentences: Sequence[object]) -> str:
    """The kind of sentence whose manners count at this place."""
    return "opening" if place == 0 else "closing" if place == len(sentences) - 1 else ""


def _tone(total: int) -> float:
    return (min(2, max(-2, total)) + 2) / 4


def text_of(answer: Answer) -> str:
    """An answer as the policy and the reward models read it."""
    return answer.text.lower()


def _lower(pair: Preference) -> Preference:
    return replace(pair, **{name: _plain(getattr(pair, name)) for name in ("prompt", "chosen", "rejected")})


def _lower_rating(rating: Rating) -> Rating:
    return replace(rating, prompt=_plain(rating.prompt), response=_plain(rating.response))


def _plain(text: object) -> str:
    assert isinstance(text, tuple)
    return str(text[0].content).lower()
