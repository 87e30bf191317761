"""What a recipe's data section means: records read, merged, and dealt out to training, validation and evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from poise.data.load import BadRow, as_conversation, load_preferences, load_ratings
from poise.data.merge import merge_duplicates, without_prompts
from poise.data.ratings import Scales, ratings_of_pairs, scales_of
from poise.data.records import Preference, Rating
from poise.data.splits import prompt_key, split_by_prompt
from poise.errors import DataError
from poise.training.recipe import DataConfig, Recipe

T = TypeVar("T")


@dataclass(frozen=True)
class Split:
    """Pairs by role, disjoint by prompt; ``validation`` is empty where no stage selects by it, ``watched`` are further sets.

    ``ratings`` are rated responses to train on, none of them to a held-out prompt, with the ``scales`` of their
    attributes. ``bad`` rows were left out.
    """

    training: tuple[Preference, ...]
    evaluation: tuple[Preference, ...]
    validation: tuple[Preference, ...]
    watched: Mapping[str, tuple[Preference, ...]]
    ratings: tuple[Rating, ...]
    scales: Scales
    bad: tuple[BadRow, ...]

    @property
    def conversational(self) -> bool:
        """Whether any training text is a conversation: then plain rows among them are single turns."""
        prompts = [p.prompt for p in self.training] + [r.prompt for r in self.ratings]
        return any(not isinstance(prompt, str) for prompt in prompts)

    def share(self, number: int, count: int) -> Split:
        """The part of everything that falls to one of ``count`` processes."""

        def own(rows: tuple[T, ...]) -> tuple[T, ...]:
            return rows[len(rows) * number // count : len(rows) * (number + 1) // count]

        return replace(
            self,
            training=own(self.training),
            evaluation=own(self.evaluation),
            validation=own(self.validation),
            watched={name: own(part) for name, part in self.watched.items()},
            ratings=own(self.ratings),
        )

    def as_conversations(self) -> Split:
        """Every text as messages."""
        training, evaluation, validation = (
            tuple(map(as_conversation, part)) for part in (self.training, self.evaluation, self.validation)
        )
        return replace(
            self,
            training=training,
            evaluation=evaluation,
            validation=validation,
            watched={name: tuple(map(as_conversation, part)) for name, part in self.watched.items()},
            ratings=tuple(map(as_conversation, self.ratings)),
        )


def load_data(recipe: Recipe) -> Split:
    """Read, merge and split as the recipe says."""
    config = recipe.data
    loaded = load_preferences(config.train, config.bad_rows)
    training, evaluation, bad = _evaluation(config, loaded.records, loaded.bad)
    watched = {name: load_preferences(files, config.bad_rows).records for name, files in config.watched.items()}
    for part in watched.values() if config.overlap != "keep" else ():
        training = without_prompts(training, part)
    selects = any(stage.select != "none" for stage in recipe.stages)
    validation: tuple[Preference, ...] = ()
    if selects:
        training, validation = split_by_prompt(training, config.validation_fraction, salt="validation")
    for name, part in (("training", training), ("evaluation", evaluation), ("validation", validation)):
        if not part and (selects or name != "validation"):
            raise DataError(
                f"{', '.join(config.train)}: no {name} pair is left after the split by prompt; "
                "give more prompts, or evaluation data of their own"
            )
    held = [pair for part in (evaluation, validation, *watched.values()) for pair in part]
    ratings, more_bad = _ratings(config, training, held)
    return Split(training, evaluation, validation, watched, ratings, scales_of(ratings), bad + more_bad)


def _evaluation(
    config: DataConfig, training: tuple[Preference, ...], bad: tuple[BadRow, ...]
) -> tuple[tuple[Preference, ...], tuple[Preference, ...], tuple[BadRow, ...]]:
    """(training pairs, evaluation pairs, bad rows): evaluation from its own files or held out by prompt."""
    if config.duplicates == "merge":
        training = merge_duplicates(training)
    if not config.evaluate:
        return (*split_by_prompt(training, config.evaluate_fraction), bad)
    held = load_preferences(config.evaluate, config.bad_rows)
    evaluation = merge_duplicates(held.records) if config.duplicates == "merge" else held.records
    clean = without_prompts(training, evaluation)
    if (config.overlap != "keep" and not clean) or (config.overlap == "error" and len(clean) < len(training)):
        raise DataError(
            f"{', '.join(config.train)}: {len(training) - len(clean)} of {len(training)} pairs have prompts of the "
            f"evaluation data ({', '.join(config.evaluate)}); "
            + ("set data.overlap=drop to train without them" if clean else "give other training or evaluation data")
        )
    return training if config.overlap == "keep" else clean, evaluation, bad + held.bad


def _ratings(
    config: DataConfig, training: Sequence[Preference], held: Sequence[Preference]
) -> tuple[tuple[Rating, ...], tuple[BadRow, ...]]:
    """Rated responses of the recipe's files and those that the training pairs carry; held-out prompts are left out."""
    records: list[Rating] = ratings_of_pairs(training)
    bad: tuple[BadRow, ...] = ()
    for source in config.ratings:
        loaded = load_ratings(source, config.bad_rows)
        records.extend(loaded.records)
        bad += loaded.bad
    taken = {prompt_key(p.prompt) for p in held}
    return tuple(r for r in records if prompt_key(r.prompt) not in taken), bad
