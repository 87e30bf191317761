"""What a recipe would do, without doing it: data read where they are here, the backbone known by its shape, no weights.

Nothing is kept on disk and no data are downloaded; of a model on the hub only its configuration is asked for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from poise.backbone import DEFAULT_MAX_LENGTH, computes_bf16, device_of, dtype_of, quiet
from poise.errors import BackboneError
from poise.fingerprint import text_settings
from poise.methods import method_class
from poise.training.finetune import training_arguments
from poise.training.forecast import estimate
from poise.training.forecast.data import Known, known_data
from poise.training.forecast.estimate import Assumed, Memory
from poise.training.forecast.shape import MODEL_ID, Shape, settings_of, shape_of
from poise.training.recipe import Recipe

BILLIONS = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)[bB](?![a-zA-Z])")


@dataclass(frozen=True)
class StagePlan:
    """One stage: how much it learns from, in how many steps, and for how long; None where it cannot be told."""

    name: str
    pairs: float | None
    ratings: float | None
    steps: int | None
    epochs: float
    batch_size: int
    learning_rate: float
    schedule: str
    trained: int
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """A dry run's findings. ``trained`` counts weights of the backbone, ``head`` those of the head; bytes and seconds.

    ``rate``: floating point operations per second that the time is reckoned with, over all ``processes``; ``reading``:
    seconds for passes without training (features, evaluation, what a stage believes). ``assumptions`` and ``unresolved``
    say what the figures rest on and what is missing.
    """

    name: str
    method: str
    backbone: str
    update: str
    data: Known
    shape: Shape | None
    head: int | None
    max_length: int
    processes: int
    memory: Memory | None
    feature_bytes: float | None
    rate: float | None
    reading: float | None
    stages: tuple[StagePlan, ...]
    assumptions: tuple[str, ...]
    unresolved: tuple[str, ...]

    @property
    def seconds(self) -> float | None:
        """All stages and everything that is read for them."""
        parts = [self.reading, *(stage.seconds for stage in self.stages)]
        return None if any(part is None for part in parts) else sum(part for part in parts if part is not None)


def plan(recipe: Recipe, assumed: Assumed | None = None) -> Plan:
    """Resolve a recipe as a run would, and reckon. Raises as the run would for what is wrong with recipe or local data."""
    assumed = assumed or Assumed()
    if recipe.training.update != "head":
        with quiet():
            for stage in recipe.stages:
                training_arguments(recipe, stage, Path("run"), evaluates=True, devices=assumed.processes)
    elsewhere = assumed.gpus is not None or assumed.tflops is not None
    bf16 = recipe.backbone.dtype in ("auto", "bfloat16") if elsewhere else computes_bf16(recipe.backbone)
    settings, shape, unresolved = _backbone(recipe, bf16)
    data, completed, missing = known_data(recipe, settings, assumed)
    limit = _limit(recipe, settings)
    head = _heads(completed, shape)
    rate, rates = _rate(recipe, assumed, bf16)
    reckoned = _Reckoned(completed, data, shape, rate)
    stages = tuple(reckoned.stage(number, head) for number in range(len(completed.stages)))
    memory = None if shape is None else _memory(completed, data, shape, head, assumed, limit, bf16)
    width = 0 if shape is None else shape.hidden_size
    texts = None if data.training is None else 2 * (data.training + (data.evaluation or 0)) + (data.ratings or 0)
    return Plan(
        name=recipe.name,
        method=recipe.method.name,
        backbone=recipe.backbone.name,
        update=recipe.training.update,
        data=data,
        shape=shape,
        head=None if head is None else max(head),
        max_length=limit,
        processes=assumed.processes,
        memory=memory,
        feature_bytes=texts * width * 4.0 if texts and width and recipe.training.update == "head" else None,
        rate=rate,
        reading=reckoned.reading(),
        stages=stages,
        assumptions=(*data.assumptions, rates),
        unresolved=(*unresolved, *missing),
    )


def _backbone(recipe: Recipe, bf16: bool) -> tuple[Any, Shape | None, list[str]]:
    """(configuration, shape, what could not be resolved); from its name alone, a model has no more than a size."""
    name = recipe.backbone.name
    try:
        settings = settings_of(recipe.backbone)
    except BackboneError as error:
        if Path(name).exists() or not MODEL_ID.match(name):
            raise
        said = BILLIONS.findall(name.rpartition("/")[2])
        why = f"backbone {name}: its configuration is neither here nor could it be had from the hub ({error})"
        if not said:
            return None, None, [why]
        size = round(float(said[-1]) * 1e9)
        trained = size if recipe.training.update == "full" else 0
        shape = Shape("unknown", 0, True, size, 0, trained)
        return None, shape, [f"{why}; taken as {said[-1]} billion weights, as its name says, activations not counted"]
    return settings, shape_of(settings, recipe, bf16), []


def _limit(recipe: Recipe, settings: Any) -> int:
    """Tokens of a text at most, as far as the tokenizer does not say less."""
    positions = None if settings is None else getattr(text_settings(settings), "max_position_embeddings", None)
    return recipe.backbone.max_length or min(positions or DEFAULT_MAX_LENGTH, DEFAULT_MAX_LENGTH)


def _heads(recipe: Recipe, shape: Shape | None) -> list[int] | None:
    """Weights of the head that each stage trains."""
    if shape is None or not shape.hidden_size:
        return None
    kind = method_class(recipe.method.name)
    made = [kind(recipe.stage_options(stage), shape.hidden_size) for stage in recipe.stages]
    return [sum(p.numel() for name, p in one.named_parameters() if one.trainable(name)) for one in made]


def _rate(recipe: Recipe, assumed: Assumed, bf16: bool) -> tuple[float | None, str]:
    """(operations a second, what that rests on)."""
    share = f"{assumed.utilisation:.0%} of"
    if assumed.tflops is not None:
        rate = assumed.tflops * 1e12
        told = f"{assumed.tflops:g} TFLOP/s a device, as given"
    elif assumed.gpus is not None and not torch.cuda.is_available():
        return None, "no time: there is no GPU here to measure; give its rate, --assume tflops=…"
    else:
        device = device_of(recipe.backbone.device)
        dtype = torch.bfloat16 if bf16 else dtype_of(recipe.backbone.dtype, device)
        if recipe.training.update != "head" and not bf16:
            dtype = torch.float32
        rate = estimate.measured_rate(device, dtype)
        told = f"{rate / 1e12:.3g} TFLOP/s of a {str(dtype).removeprefix('torch.')} matrix product measured on this {device.type}"
    return rate * assumed.processes * assumed.utilisation, f"time: {share} {told}, {assumed.processes} at once"


def _memory(
    recipe: Recipe, data: Known, shape: Shape, head: Sequence[int] | None, assumed: Assumed, limit: int, bf16: bool
) -> Memory:
    update, dtype = recipe.training.update, recipe.backbone.dtype
    methods = [method_class(recipe.method.name)(recipe.stage_options(s), hidden_size=1) for s in recipe.stages]
    output = shape.embedding if methods[0].rating_tokens and shape.causal and not shape.tied else 0
    if update == "head":
        size = 2 if (bf16 if dtype == "auto" else dtype != "float32") else 4
        return Memory({"weights": (shape.parameters + output) * size}, None, None)
    texts = max(
        stage.batch_size * (2 if "pairs" in method.learns_from else 1)
        for stage, method in zip(recipe.stages, methods, strict=True)
    ) / (recipe.training.accumulation * assumed.processes)
    most = texts * limit
    expected = most if data.tokens_per_pair is None else min(most, texts * data.tokens_per_pair / 2)
    found = estimate.training_memory(
        shape, max(head or [0]), dtype, recipe.training, assumed.processes, (expected, most)
    )
    kept = {"language-model head": output * estimate.bytes_of_weight(dtype)} if output else {}
    return replace(found, fixed=found.fixed | kept)


@dataclass(frozen=True)
class _Reckoned:
    """Steps and seconds of one recipe."""

    recipe: Recipe
    data: Known
    shape: Shape | None
    rate: float | None

    def stage(self, number: int, heads: Sequence[int] | None) -> StagePlan:
        """What one stage does."""
        stage, recipe = self.recipe.stages[number], self.recipe
        options = recipe.stage_options(stage)
        method = method_class(recipe.method.name)(options, hidden_size=1)
        pairs = self.data.of_stage(number, stage) if "pairs" in method.learns_from else 0.0
        ratings = self.data.ratings_of_stage(stage) if "ratings" in method.learns_from else 0.0
        items = None if pairs is None or ratings is None else pairs + ratings
        trained = (self.shape.trained if self.shape else 0) + (heads[number] if heads else 0)
        return StagePlan(
            name=stage.name,
            pairs=pairs,
            ratings=ratings,
            steps=None if items is None else stage.steps(items),
            epochs=stage.epochs,
            batch_size=stage.batch_size,
            learning_rate=stage.learning_rate,
            schedule=stage.schedule,
            trained=trained,
            seconds=self._seconds(pairs, ratings, stage.epochs),
        )

    def _seconds(self, pairs: float | None, ratings: float | None, epochs: float) -> float | None:
        """Of the steps of a stage; heads on frozen features take next to none."""
        if self.recipe.training.update == "head":
            return 0.0
        known = self.data.tokens_per_pair
        if self.shape is None or self.rate is None or known is None or pairs is None or ratings is None:
            return None
        tokens = known * (pairs + ratings / 2) * epochs
        return tokens * estimate.operations_per_token(self.shape, self.recipe.training) / self.rate

    def reading(self) -> float | None:
        """Seconds of passes without training: features or evaluation, and what the former stage believes."""
        data, known = self.data, self.data.tokens_per_pair
        if self.shape is None or self.rate is None or known is None or data.training is None:
            return None
        held = (data.evaluation or 0) + (data.validation or 0) + (data.watched or 0)
        rated = (data.ratings or 0) / 2
        if self.recipe.training.update == "head":
            pairs = data.training + held + rated
        else:
            kind = method_class(self.recipe.method.name)
            asks = sum(
                stage.curate != "no" or kind(self.recipe.stage_options(stage), hidden_size=1).needs_reference
                for stage in self.recipe.stages
            )
            passes = 1 + sum(math.ceil(stage.epochs) for stage in self.recipe.stages)
            pairs = asks * (data.training + rated) + passes * held
        return pairs * known * estimate.reading_per_token(self.shape) / self.rate
