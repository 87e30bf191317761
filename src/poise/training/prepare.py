"""From a recipe and its records to what a training loop takes: features or encoded texts, checked before any work."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from poise import processes
from poise.backbone import Backbone
from poise.data.batch import Targets
from poise.data.records import Preference, Rating
from poise.data.splits import prompt_key, prompt_number, shares
from poise.errors import ConfigError, PoiseError
from poise.extraction import extract
from poise.feature_cache import FeatureCache, default_cache
from poise.methods import Method, method_class
from poise.pairing import PairFeatures, PairTexts, encode_pairs, pair_features
from poise.rated import RatedFeatures, RatedTexts, encode_ratings, rated_features
from poise.training.benchmarks import BenchmarkTexts, load_benchmarks
from poise.training.material import HeadData, TextData
from poise.training.monitor import Bars, Reporter
from poise.training.recipe import Recipe
from poise.training.split import Split

OFF_GRID_ROWS = 512


def methods(recipe: Recipe) -> list[Method[Any, Any]]:
    """The method of each stage, without its weights."""
    return [method_class(recipe.method.name)(recipe.stage_options(s), hidden_size=1) for s in recipe.stages]


def check_packages(recipe: Recipe) -> None:
    """Refuse (``ConfigError``) to train through the backbone without the packages of the extra ``train``."""
    needed = {"head": (), "full": ("accelerate",), "lora": ("accelerate", "peft")}[recipe.training.update]
    for package in needed:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"training.update={recipe.training.update} needs {package}, which is not installed; "
                "run: pip install 'poise[train]'"
            )


def check_stages(recipe: Recipe, training: Sequence[Preference]) -> None:
    """Refuse (``ConfigError``) a stage that gets no pair, or pairs that its loss cannot learn from, before any work."""
    parts = shares([prompt_key(p.prompt) for p in training], [s.share for s in recipe.stages])
    for stage, part in zip(recipe.stages, parts, strict=True):
        if not part:
            raise ConfigError(
                f"stage {stage.name!r} gets no pair of {len(training)}; raise its share or give more prompts"
            )
        method = method_class(recipe.method.name)(recipe.stage_options(stage), hidden_size=1)
        if "pairs" in method.learns_from:
            targets = Targets.of([training[i] for i in part], recipe.data.labels, method.attributes)
            method.check_targets(targets)


def notes(recipe: Recipe, pairs: PairTexts | PairFeatures) -> tuple[str, ...]:
    """What the method finds odd about the training pairs."""
    method = methods(recipe)[0]
    targets = pairs.targets(recipe.data.labels, method.attributes)
    return method.notes(targets) + margin_note(method, targets)


def margin_note(method: Method[Any, Any], targets: Targets) -> tuple[str, ...]:
    """That the pairs have margins which the method does not read, if so."""
    given = int((~targets.margin.isnan()).sum())
    if method.reads_margin or not given:
        return ()
    return (f"{given:,} pairs have a margin, which method {method.name!r} does not read",)


def head_data(backbone: Backbone, split: Split, recipe: Recipe, reporter: Reporter) -> HeadData:
    """Features of everything that the recipe's method trains on and is watched by."""
    folder = Path(recipe.cache).expanduser() if recipe.cache else default_cache()
    cache = FeatureCache(folder, backbone.fingerprint(), backbone.hidden_size)
    stages = methods(recipe)
    states, tokens = stages[0].needs_prompt_state, stages[0].rating_tokens
    token_rows = backbone.token_rows(tokens) if tokens else None  # refused before the features are computed

    def pairs(records: Sequence[Preference], what: str) -> PairFeatures:
        made = pair_features(
            backbone, records, cache, prompt_states=states, progress=progress_of(reporter, f"features: {what}")
        )
        reporter.say(f"{what}: {len(made):,} pairs, {len(set(made.prompts)):,} prompts{_left_out(made)}")
        return made

    def rated() -> RatedFeatures | None:
        wanted = {name: split.scales[name] for method in stages for name in method.attributes}
        if not any("ratings" in method.learns_from for method in stages):
            return None
        progress = progress_of(reporter, "features: rated responses")
        made = rated_features(backbone, split.ratings, wanted, cache, prompt_states=states, progress=progress)
        reporter.say(f"rated responses: {len(made):,}, rated on {', '.join(wanted)}{_left_out(made)}")
        return made

    def benchmarks() -> tuple[BenchmarkTexts, ...]:
        return tuple(
            replace(
                one,
                features=extract(
                    backbone,
                    one.texts,
                    cache,
                    prompt_states=states,
                    progress=progress_of(reporter, f"features: {one.label}"),
                ),
            )
            for one in _benchmarks(backbone, split, recipe, reporter)
        )

    return HeadData(
        train=pairs(split.training, "training pairs"),
        evaluate=pairs(split.evaluation, "evaluation pairs"),
        validate=pairs(split.validation, "validation pairs") if split.validation else None,
        rated=rated(),
        watched={name: pairs(part, f"{name} pairs") for name, part in split.watched.items()},
        token_rows=token_rows,
        benchmarks=benchmarks() if processes.first() else (),
    )


def share_features(backbone: Backbone, split: Split, recipe: Recipe, reporter: Reporter) -> None:
    """Each process computes the features of its share into the cache, where ``head_data`` of the first finds them all.

    A share that is of no use alone (it may be empty) is left to the first, which also says what is wrong with the data.
    """
    if processes.connected():
        with suppress(PoiseError):
            head_data(backbone, split.share(processes.number(), processes.count()), recipe, Bars(reporter))
        processes.wait()


def text_data(backbone: Backbone, split: Split, recipe: Recipe, reporter: Reporter) -> TextData:
    """Encoded texts of everything that the recipe's method trains on and is watched by."""
    stages = methods(recipe)
    wanted = {name: split.scales[name] for method in stages for name in method.attributes}
    rated = any("ratings" in method.learns_from for method in stages)

    def pairs(records: Sequence[Preference], what: str) -> PairTexts:
        made = encode_pairs(backbone, records)
        reporter.say(f"{what}: {len(made):,} pairs, {len(set(made.prompts)):,} prompts{_left_out(made)}")
        return made

    return TextData(
        train=pairs(split.training, "training pairs"),
        evaluate=pairs(split.evaluation, "evaluation pairs"),
        validate=pairs(split.validation, "validation pairs") if split.validation else None,
        rated=encode_ratings(backbone, split.ratings, wanted) if rated else None,
        watched={name: pairs(part, f"{name} pairs") for name, part in split.watched.items()},
        benchmarks=_benchmarks(backbone, split, recipe, reporter),
    )


def _benchmarks(backbone: Backbone, split: Split, recipe: Recipe, reporter: Reporter) -> tuple[BenchmarkTexts, ...]:
    records: list[Preference | Rating] = [*split.training, *split.ratings]
    known = {prompt_number(record.prompt) for record in records} if recipe.training.benchmarks else set()
    return load_benchmarks(backbone, recipe, known, conversational=split.conversational, reporter=reporter)


def off_grid_mass(backbone: Backbone, recipe: Recipe, data: HeadData, reporter: Reporter) -> float | None:
    """How likely the language model would answer something else than a rating, over some training responses."""
    tokens = methods(recipe)[0].rating_tokens
    if not tokens or not backbone.causal:
        return None
    states = data.features.response[:: -(-len(data.features) // OFF_GRID_ROWS)]
    mass = backbone.off_grid_mass(states, tokens).mean().item()
    reporter.say(f"rating tokens: the model gives {mass:.1%} to answers other than {tokens[0]} … {tokens[-1]}")
    return mass


def _left_out(made: PairTexts | PairFeatures | RatedTexts | RatedFeatures) -> str:
    note = f", {made.truncated} responses with a cut prompt" if made.truncated else ""
    return note + (f", {len(made.dropped)} left out (first: {made.dropped[0]})" if made.dropped else "")


def progress_of(reporter: Reporter, what: str) -> Any:
    """A progress callback of feature extraction that shows on a reporter."""

    def report(done: int, total: int) -> None:
        if done == 0:
            reporter.begin(what, total)
        reporter.advance(done)

    return report
