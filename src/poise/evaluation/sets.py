"""What to evaluate on, by specification: a benchmark, pairs, ratings or responses with gold scores, all as items to be scored."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from poise.data.batch import Targets
from poise.data.load import BadRow, OnBad, load_preferences, load_ratings
from poise.data.merge import merge_duplicates
from poise.data.records import Preference, Text, text_length
from poise.data.splits import prompt_number
from poise.errors import ConfigError, DataError, unknown_choice
from poise.evaluation.belief_table import REWARD
from poise.evaluation.benchmark import Benchmark, Item
from poise.evaluation.benchmarks import benchmark, benchmark_names
from poise.evaluation.gold import GOLD_ORDER, GoldOrder, gold_of, load_responses, with_gold
from poise.evaluation.predictions import Predictions, SetFacts

Rules = Benchmark | GoldOrder
Kind = Literal["benchmark", "pairs", "ratings", "responses"]
FILES: tuple[Kind, ...] = ("pairs", "ratings", "responses")
FORMS = ("pairs:FILE", "ratings:FILE", "responses:FILE")


@dataclass(frozen=True)
class EvaluationSet:
    """The items of one set, ready to be scored."""

    facts: SetFacts
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Reading:
    """How files are read: ``labels`` soft or hard; ``on_bad`` rows; items whose ``prompt_number`` is ``known`` are left out.

    A benchmark is never shortened: there, known prompts are only counted.
    """

    labels: str = "soft"
    on_bad: OnBad = "error"
    known: Collection[int] = ()


def kind_of(name: str) -> Kind:
    """What a specification names."""
    return next((kind for kind in FILES if name.startswith(f"{kind}:")), "benchmark")


def rules_of(name: str) -> Rules | None:
    """What makes the official figures of a set; None for pairs and ratings, which have none."""
    kind = kind_of(name)
    if kind == "responses":
        return GOLD_ORDER
    return benchmark(name) if kind == "benchmark" else None


def parse_sets(specs: Sequence[str]) -> list[str]:
    """The specifications of ``--on``, which may hold several separated by commas. Raises ``ConfigError``."""
    names = [part.strip() for spec in specs for part in spec.split(",") if part.strip()]
    called = [name.partition("=")[0] if kind_of(name) == "benchmark" else name for name in names]
    for name in called:
        if kind_of(name) == "benchmark" and name not in (known := benchmark_names()):
            raise ConfigError(unknown_choice("evaluation set", name, [*known, *FORMS]))
    if not names:
        raise ConfigError(f"nothing to evaluate on; name a benchmark or {', '.join(FORMS)} with --on")
    if len(set(called)) < len(called):  # a benchmark's copies too: predictions know it by its name
        raise ConfigError("an evaluation set is named twice; name each once")
    return names


def load_set(name: str, reading: Reading = Reading()) -> EvaluationSet:
    """Read one set; ``BENCHMARK=PLACE`` reads the official layout from a file or folder instead of the hub."""
    kind = kind_of(name)
    if kind != "benchmark":
        return {"pairs": _pairs, "ratings": _ratings, "responses": _responses}[kind](name, reading)
    bare, _, place = name.partition("=")
    items = tuple(benchmark(bare).load(place or None))
    seen = sum(prompt_number(item.prompt) in reading.known for item in items)
    notes = [f"{seen:,} of {len(items):,} prompts were trained on"] if seen else []
    if missing := benchmark(bare).notes(items):
        notes.append(f"not the official set, so its figures stand beside no published number: {'; '.join(missing)}")
    return EvaluationSet(SetFacts(bare, 0, tuple(notes)), items)


def _pairs(name: str, reading: Reading) -> EvaluationSet:
    source = name.removeprefix("pairs:")
    loaded = load_preferences(source, reading.on_bad)
    pairs = merge_duplicates(loaded.records)
    fresh = [pair for pair in pairs if prompt_number(pair.prompt) not in reading.known]
    facts = _facts(name, len(pairs), len(fresh), loaded.bad)
    labels = Targets.of(fresh, reading.labels).label.double().tolist()
    return EvaluationSet(facts, tuple(_pair(pair, label) for pair, label in zip(fresh, labels, strict=True)))


def _pair(pair: Preference, label: float) -> Item:
    return Item(f"row {pair.row}", pair.prompt, (pair.chosen, pair.rejected), ((0, 1),), {"p_better": label})


def _ratings(name: str, reading: Reading) -> EvaluationSet:
    loaded = load_ratings(name.removeprefix("ratings:"), reading.on_bad)
    fresh = [one for one in loaded.records if prompt_number(one.prompt) not in reading.known]
    facts = _facts(name, len(loaded.records), len(fresh), loaded.bad)
    return EvaluationSet(
        facts,
        tuple(
            Item(
                f"row {one.row}",
                one.prompt,
                (one.response,),
                (),
                {"ratings": {attribute: list(given) for attribute, given in one.ratings.items()}, "scale": one.scale},
            )
            for one in fresh
        ),
    )


def _responses(name: str, reading: Reading) -> EvaluationSet:
    items, bad = load_responses(name.removeprefix("responses:"), reading.on_bad)
    seen = sum(prompt_number(item.prompt) in reading.known for item in items)
    notes = (f"{seen:,} of {len(items):,} prompts were trained on",) if seen else ()
    return EvaluationSet(SetFacts(name, len(bad), notes), items)


def judged_by(one: EvaluationSet, gold: Predictions) -> EvaluationSet:
    """The set with gold scores from another scorer's predictions of it."""
    theirs = next(given for given in gold.sets if given.facts.name == one.facts.name)
    if [item.responses for item in theirs.items] != [item.responses for item in one.items]:
        raise DataError(f"{one.facts.name}: the gold scores are of other responses; remove them and score again")
    scores = theirs.scored.beliefs[REWARD].mean.double().numpy()
    notes = (*one.facts.notes, f"gold scores by {gold.scorer['name']}")
    return EvaluationSet(replace(one.facts, notes=notes), with_gold(one.items, scores))


def check_gold(one: EvaluationSet) -> None:
    """Raises ``DataError`` for a set of responses of which one has no gold score."""
    for item in one.items if kind_of(one.facts.name) == "responses" else ():
        if gold_of(item) is None:
            raise DataError(
                f"{one.facts.name}: {item.id} has a response without a gold score; give the column gold, or name a scorer with "
                "--gold"
            )


def _facts(name: str, read: int, fresh: int, bad: Sequence[BadRow]) -> SetFacts:
    if not fresh:
        raise DataError(f"{name}: every prompt was trained on; add --include-train-prompts to evaluate on them")
    notes = (f"{read - fresh:,} of {read:,} left out: their prompts were trained on",) if fresh < read else ()
    return SetFacts(name, len(bad), notes)


def lengths(items: Sequence[Item]) -> list[list[int]]:
    """Characters of every response, item by item."""
    texts: list[Sequence[Text]] = [item.responses for item in items]
    return [[text_length(text) for text in responses] for responses in texts]
