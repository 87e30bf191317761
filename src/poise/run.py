"""A run: recipe in, folder out. Data → features or texts → stages → checkpoint → evaluation → report.

What the folder holds stands in ``run_folder.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from poise import processes
from poise.backbone import Backbone, quiet, trainable
from poise.data.load import as_conversation
from poise.data.records import Preference
from poise.evaluation.preferences import PairPredictions, evaluate_predictions, predict_pairs, remarkable_pairs
from poise.evaluation.result import EvaluationResult
from poise.feature_cache import FeatureCache
from poise.methods import Method, method_class
from poise.model import RewardModel
from poise.model_folder import CHECKPOINT
from poise.monitoring import observe_pairs, reference_of, write_reference
from poise.output import sole
from poise.pairing import PairFeatures, PairTexts, pair_features
from poise.report import Example, RunRecord, render
from poise.report.examples import example
from poise.report.extras import missing_packages
from poise.run_folder import (
    ENVIRONMENT,
    METRICS,
    RECIPE,
    REPORT,
    RESULT,
    check_folder,
    clear_state,
    start,
)
from poise.training import prepare
from poise.training.finetune import finetune, training_arguments
from poise.training.heads import train_heads
from poise.training.material import TextData
from poise.training.monitor import MetricsLog, Reporter, Silent
from poise.training.prepare import progress_of
from poise.training.recipe import Recipe, parse_recipe, read_recipe
from poise.training.split import Split, load_data

__all__ = ["Run", "evaluate", "train"]


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, the trained model, the held-out pairs with what it said about them, and the report's data."""

    folder: Path
    model: RewardModel
    result: EvaluationResult
    record: RunRecord
    pairs: PairFeatures
    predictions: PairPredictions

    def examples(self, rows: Sequence[tuple[str, int]]) -> list[Example]:
        """Titled rows of the held-out pairs, ready for a report."""
        said = self.predictions
        return [
            example(title, self.pairs.preferences[i], said.first[i], said.second[i], float(said.p[i]))
            for title, i in rows
        ]


def train(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> Run:
    """Train, evaluate and report. ``recipe`` is a YAML path, a mapping or a ``Recipe``; ``out`` is the run folder.

    Nothing is written before recipe, data and backbone have been read. An interrupted run keeps its state;
    ``resume=True`` continues it to the same weights as an uninterrupted one. Under a launcher all processes call this;
    the first writes and evaluates, and all return the same.
    """
    with processes.connection(), ExitStack() as claim:
        given = (reporter or Silent()) if processes.first() else Silent()
        begun, backbone = processes.agreed(lambda: _begun(_recipe(recipe), Path(out), resume, given))
        processes.once(lambda: claim.enter_context(sole(begun.folder)))
        whole = begun.recipe.training.update != "head"
        if whole:
            made = _through_backbone(begun, backbone)
        else:
            prepare.share_features(backbone, begun.split, begun.completed, given)
            made = processes.once(lambda: _on_features(begun, backbone))
        scales = {name: begun.split.scales[name] for name in made.method.attributes}
        conversational = begun.split.conversational
        model = RewardModel(backbone, made.method, conversational=conversational, scales=scales, own_backbone=whole)
        result, record, held, predictions = processes.once(lambda: _finish(begun, model, made))
        return Run(begun.folder, model, result, record, held, predictions)


def _begun(recipe: Recipe, folder: Path, resume: bool, reporter: Reporter) -> tuple[_Begun, Backbone]:
    """Recipe, data and backbone, read and checked."""
    check_folder(folder, recipe, resume)
    prepare.check_packages(recipe)
    if missing := missing_packages():
        reporter.say(f"there will be no report.html: {missing}")
    split = load_data(recipe)
    if split.conversational:
        split = split.as_conversations()
    begun = _Begun(folder, recipe, recipe.for_data(tuple(split.scales)), split, resume, reporter)
    prepare.check_stages(begun.completed, split.training)
    tokens = prepare.methods(begun.completed)[0].rating_tokens
    through = recipe.training.update != "head"
    with quiet():
        for stage in recipe.stages if through else ():  # a later one must not be refused hours after the first
            training_arguments(recipe, stage, folder, evaluates=True)
    return begun, Backbone.load(trainable(recipe.backbone) if through else recipe.backbone, tokens)


@dataclass(frozen=True)
class _Begun:
    """A run whose recipe and records have been read; ``completed`` has the method's options that the data decides."""

    folder: Path
    recipe: Recipe
    completed: Recipe
    split: Split
    resume: bool
    reporter: Reporter


class _Made(NamedTuple):
    """A trained method, the pairs it was trained on, and features of the held-out pairs where they are known."""

    method: Method[Any, Any]
    train: PairTexts | PairFeatures
    held: PairFeatures | None


def _on_features(run: _Begun, backbone: Backbone) -> _Made:
    """Train the head on features that are computed once."""
    data = prepare.head_data(backbone, run.split, run.completed, run.reporter)
    assert data.train is not None
    _check_encoded(run, data.train)
    start(run.folder, run.recipe, data, run.resume, prepare.off_grid_mass(backbone, run.completed, data, run.reporter))
    method = method_class(run.recipe.method.name)
    trained = train_heads(method, run.completed, data, folder=run.folder, reporter=run.reporter)
    return _Made(trained, data.train, data.evaluate)


def _through_backbone(run: _Begun, backbone: Backbone) -> _Made:
    """Train backbone and head together."""

    def encoded() -> tuple[TextData, PairTexts, Tensor | None]:
        data = prepare.text_data(backbone, run.split, run.completed, run.reporter)
        assert data.train is not None
        _check_encoded(run, data.train)
        tokens = prepare.methods(run.completed)[0].rating_tokens
        return data, data.train, backbone.token_rows(tokens) if tokens else None

    data, pairs, rows = processes.agreed(encoded)
    processes.once(lambda: start(run.folder, run.recipe, data, run.resume))
    method = finetune(backbone, run.completed, data, folder=run.folder, reporter=run.reporter, token_rows=rows)
    return _Made(method, pairs, None)


def _check_encoded(run: _Begun, pairs: PairTexts | PairFeatures) -> None:
    """The stages once more, as encoding may have left pairs out; and what the method finds odd about the rest."""
    prepare.check_stages(run.completed, pairs.preferences)
    for note in prepare.notes(run.completed, pairs):
        run.reporter.say(note)


def evaluate(
    model: RewardModel,
    preferences: Sequence[Preference],
    *,
    source: str,
    dropped: int = 0,
    labels: str = "soft",
    reporter: Reporter | None = None,
    cache: FeatureCache | None = None,
) -> tuple[EvaluationResult, PairFeatures, PairPredictions]:
    """A model on preference pairs: the result, and the features and predictions it was made from."""
    reporter = reporter or Silent()
    if model.conversational:
        preferences = [as_conversation(p) for p in preferences]
    data = pair_features(
        model.backbone,
        preferences,
        cache,
        prompt_states=model.method.needs_prompt_state,
        progress=progress_of(reporter, "features: evaluation pairs"),
    )
    predictions = predict_pairs(model, data, labels)
    return evaluate_predictions(model, data, predictions, source=source, dropped=dropped), data, predictions


def _recipe(given: Recipe | Mapping[str, Any] | str | Path) -> Recipe:
    if isinstance(given, Recipe):
        return given
    return read_recipe(given) if isinstance(given, (str, Path)) else parse_recipe(given)


class _Finished(NamedTuple):
    """What a run knows in the end, beside its model."""

    result: EvaluationResult
    record: RunRecord
    held: PairFeatures
    predictions: PairPredictions


def _finish(run: _Begun, model: RewardModel, made: _Made) -> _Finished:
    """Save, evaluate and report."""
    folder, recipe, dropped, train = run.folder, run.recipe, run.split.bad, made.train
    model.save(folder / CHECKPOINT)
    held = made.held or pair_features(
        model.backbone, run.split.evaluation, prompt_states=model.method.needs_prompt_state
    )
    predictions = predict_pairs(model, held, recipe.data.labels)
    source = ", ".join(recipe.data.evaluate or recipe.data.train)
    write_reference(folder / CHECKPOINT, reference_of(model, observe_pairs(model, held), source))
    # bad rows of the training files belong to no split; those of evaluation files would have been evaluated
    missing = sum(bad.source in recipe.data.evaluate for bad in dropped)
    result = evaluate_predictions(model, held, predictions, source=source, dropped=missing, seed=recipe.seed)
    result.save(folder / RESULT)
    environment = json.loads((folder / ENVIRONMENT).read_text(encoding="utf8"))
    left_out = [*dropped, *train.dropped, *held.dropped]
    record = RunRecord(
        name=recipe.name,
        method=recipe.method.name,
        result=result,
        metrics=MetricsLog(folder / METRICS).read(),
        recipe_yaml=(folder / RECIPE).read_text(encoding="utf8"),
        versions=environment["versions"],
        seeds=environment["seeds"],
        notes=[f"{len(train):,} training pairs over {len(set(train.prompts)):,} prompts"]
        + list(prepare.notes(run.completed, train))
        + [f"left out: {bad}" for bad in left_out[:20]],
    )
    done = Run(folder, model, result, record, held, predictions)
    done = replace(done, record=replace(record, examples=done.examples(remarkable_pairs(predictions))))
    if not missing_packages():
        (folder / REPORT).write_text(render(done.record), encoding="utf8")
    clear_state(folder)
    return _Finished(result, done.record, held, predictions)
