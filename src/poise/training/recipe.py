"""A recipe: one YAML file that says everything a training run depends on. Checked whole before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from poise.backbone import BackboneConfig
from poise.errors import ConfigError
from poise.evaluation.sets import parse_sets
from poise.methods import method_class
from poise.training.schema import build, plain


@dataclass(frozen=True)
class DataConfig:
    """Where the preferences and ratings come from and how they are split.

    ``train`` and ``evaluate`` are files, folders or hub ids of preference pairs; ``ratings`` those of rated responses, for
    methods that learn from them (rated responses to held-out prompts are left out). Without ``evaluate`` a share of the
    prompts (``evaluate_fraction``, by prompt hash) is held out. Where a stage selects its best epoch,
    ``validation_fraction`` of the training prompts is set aside for that, so that the reported numbers stay untouched.
    ``watch`` names further sets (name → files) whose metrics are logged while training.
    ``labels``: ``soft`` trains on the share of votes where there are votes, ``hard`` on the side most people prefer.
    ``duplicates``: ``merge`` makes one pair of equal ones (in either
    order) with the share of their labels, ``keep`` leaves them.
    """

    train: tuple[str, ...]
    evaluate: tuple[str, ...] = ()
    watch: Mapping[str, Any] = field(default_factory=dict)
    ratings: tuple[str, ...] = ()
    evaluate_fraction: float = 0.2
    validation_fraction: float = 0.1
    labels: Literal["soft", "hard"] = "soft"
    duplicates: Literal["merge", "keep"] = "merge"
    bad_rows: Literal["error", "drop"] = "error"
    overlap: Literal["error", "drop", "keep"] = "drop"

    def __post_init__(self) -> None:
        if not self.train:
            raise ConfigError("train is empty; name at least one file or dataset")
        for name, files in self.watch.items():
            if name in ("eval", "validation") or not files or not all(isinstance(f, str) for f in _listed(files)):
                raise ConfigError(f"watch.{name} is {files!r}; give a name of its own and one file or a list of them")
        for name in ("evaluate_fraction", "validation_fraction"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")

    @property
    def watched(self) -> dict[str, tuple[str, ...]]:
        """``watch`` with every set as a tuple of files."""
        return {str(name): tuple(_listed(files)) for name, files in self.watch.items()}


@dataclass(frozen=True)
class Stage:
    """One training run over (a share of) the training prompts; a later stage starts from the weights of the former.

    ``method`` overrides options of the method for this stage. ``share`` is the part of the training prompts it sees:
    stages take their shares one after the other, so shares that add up to 1 are disjoint. ``batch_size`` counts pairs.
    ``select`` is the metric on the validation pairs by which the best epoch is kept ("none" keeps the last);
    ``patience`` stops after so many epochs without a better one. ``curate`` thins out the easy pairs until those the
    previous stage is unsure or wrong about are half (data/difficulty.py); what it is wrong about is mostly mislabelled
    where labels are noisy, and can be dropped or flipped.
    """

    name: str = "train"
    method: Mapping[str, Any] = field(default_factory=dict)
    share: float = 1.0
    epochs: float = 5.0
    batch_size: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.0
    warmup: float = 0.05
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    select: Literal["none", "accuracy", "nll", "brier", "ece"] = "none"
    patience: int | None = None
    curate: Literal["no", "keep_hard", "drop_hard", "flip_hard"] = "no"

    def __post_init__(self) -> None:
        positive = {"epochs": self.epochs, "batch_size": self.batch_size, "learning_rate": self.learning_rate}
        for name, value in positive.items():
            if not (value > 0 and math.isfinite(value)):
                raise ConfigError(f"{name} is {value}; it must be positive")
        if self.weight_decay < 0:
            raise ConfigError(f"weight_decay is {self.weight_decay}; it must not be negative")
        if not 0 < self.share <= 1:
            raise ConfigError(f"share is {self.share}; it must lie in (0, 1]")
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"warmup is {self.warmup}; give the share of steps, in [0, 1)")
        if self.patience is not None and (self.patience < 1 or self.select == "none"):
            raise ConfigError(
                f"patience is {self.patience} with select={self.select}; give 1 epoch or more and a metric to watch"
            )

    def steps(self, items: float) -> int:
        """How many steps are taken over so many items; those that an epoch has left over make a smaller one."""
        return math.ceil(self.epochs * math.ceil(items / self.batch_size))


@dataclass(frozen=True)
class LoraOptions:
    """Low-rank adapters: ``rank``, ``alpha``, ``dropout`` and the names of the layers that get one."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ("all-linear",)

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 <= self.dropout < 1 or not self.target_modules:
            raise ConfigError("lora needs rank ≥ 1, dropout in [0, 1) and at least one of target_modules")


@dataclass(frozen=True)
class TrainingConfig:
    """What is trained, and how steps are carried out.

    ``update``: ``head`` on frozen features, which are computed once; ``full`` fine-tunes the backbone with it; ``lora``
    trains adapters that are merged at the end. The rest is for the latter two. ``layout`` of a micro-batch: ``tree``
    (decoders) reads what the responses to one prompt share once, ``packed`` puts all texts into one row, ``padded`` suits
    any model and alone drops attention weights where the backbone's configuration has such a dropout; ``auto`` takes the
    best that is exact for the model. A stage's ``batch_size`` is divided among
    ``accumulation`` micro-batches and the processes. ``loss_over``: with ``step`` they change nothing, whatever the loss
    makes of a batch, but accumulation reads every text once more, without gradient. ``micro`` saves that: the loss is the
    mean of the micro-batches' own, so that means over a batch (BSR, standardisation, masked labels) see a micro-batch only.
    ``arguments``: any other field of transformers' TrainingArguments.

    ``benchmarks`` are evaluation sets as ``poise evaluate --on`` takes them, whose headline is logged at the end of every stage
    and, through the backbone, after every ``benchmark_every`` steps. Prompts of benchmarks stay in the training data.
    """

    update: Literal["head", "full", "lora"] = "head"
    layout: Literal["auto", "tree", "packed", "padded"] = "auto"
    accumulation: int = 1
    loss_over: Literal["step", "micro"] = "step"
    lora: LoraOptions = field(default_factory=LoraOptions)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    benchmarks: tuple[str, ...] = ()
    benchmark_every: int | None = None

    def __post_init__(self) -> None:
        if self.benchmarks:
            parse_sets(self.benchmarks)
        if self.benchmark_every is not None and (self.benchmark_every < 1 or self.update == "head"):
            raise ConfigError(
                f"benchmark_every is {self.benchmark_every}; give a number of steps, and update: full or lora (heads are "
                "measured at the end of each stage)"
            )
        if self.accumulation < 1:
            raise ConfigError(f"accumulation is {self.accumulation}; it must be at least 1")
        if self.update == "head" and self.arguments:
            raise ConfigError("arguments are for training through the backbone; set update to full or lora")


@dataclass(frozen=True)
class MethodChoice:
    """The method's name and its validated options."""

    name: str
    options: Any


@dataclass(frozen=True)
class Recipe:
    """Everything a run depends on. ``seed`` decides initialisation, order and sampling; ``name`` names the run folder."""

    data: DataConfig
    method: MethodChoice
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    stages: tuple[Stage, ...] = field(default_factory=lambda: (Stage(),))
    training: TrainingConfig = field(default_factory=TrainingConfig)
    name: str = "run"
    seed: int = 0
    cache: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed is {self.seed}; it must lie between 0 and 2^63")
        if self.name.strip(". ") == "" or not self.name.isprintable() or {*"/\\"} & {*self.name}:
            raise ConfigError(f"name is {self.name!r}; give one that can name a folder")

    def stage_options(self, stage: Stage) -> Any:
        """The method's options in one stage: the common ones with the stage's own on top."""
        return build(type(self.method.options), plain(self.method.options) | dict(stage.method), "stages.method")

    def for_data(self, rated: Sequence[str]) -> Recipe:
        """With the method's options completed by the names of the attributes that the data has ratings of."""
        options = method_class(self.method.name).for_data(self.method.options, rated)
        return replace(self, method=MethodChoice(self.method.name, options))

    def to_dict(self) -> dict[str, Any]:
        """The whole recipe, defaults included, as YAML can hold it."""
        full = plain(self)
        full["method"] = {"name": self.method.name, **plain(self.method.options)}
        return dict(full)


def parse_recipe(given: Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """A mapping (with ``a.b.0.c=value`` overrides on top) → a recipe. Raises ``ConfigError`` for anything unmeant."""
    if not isinstance(given, Mapping):
        raise ConfigError("the recipe is not a mapping; write keys such as data:, backbone:, method:")
    tree = copied(given)
    _fill_stages(tree, overrides)
    for override in overrides:
        set_value(tree, override)
    for key in ("data", "method"):
        if key not in tree:
            raise ConfigError(f"{key} is missing from the recipe; add it")
    data = tree["data"]
    for key in ("train", "evaluate", "ratings"):
        if isinstance(data, dict) and isinstance(data.get(key), str):
            data[key] = [data[key]]
    if isinstance(tree.get("backbone"), str):
        tree["backbone"] = {"name": tree["backbone"]}
    choice = tree.pop("method")
    if isinstance(choice, str):
        choice = {"name": choice}
    if not isinstance(choice, dict) or not isinstance(choice.get("name"), str):
        raise ConfigError("method has no name; write method: {name: bt}")
    options = {k: v for k, v in choice.items() if k != "name"}
    method = MethodChoice(choice["name"], build(method_class(choice["name"]).Config, options, "method"))
    recipe = replace(build(Recipe, tree | {"method": {"name": method.name, "options": None}}), method=method)
    if not recipe.stages:
        raise ConfigError("stages is empty; give at least one stage or leave it out")
    if sum(s.share for s in recipe.stages) > 1 + 1e-9 and any(s.share < 1 for s in recipe.stages):
        raise ConfigError("the shares of the stages add up to more than 1; give shares that fit, or 1 for every stage")
    if recipe.stages[0].curate != "no":
        raise ConfigError(
            "stages.0 is the first stage, but curate asks what a previous one says; put a stage before it"
        )
    for number, stage in enumerate(recipe.stages):
        options = build(type(method.options), plain(method.options) | dict(stage.method), f"stages.{number}.method")
        if number == 0 and method_class(method.name)(options, hidden_size=1).needs_previous:
            raise ConfigError(
                f"stages.0 is the first stage, but the options of method {method.name!r} ask for a previous one; "
                "put a stage before it, or change them"
            )
    return recipe


def _listed(files: Any) -> list[Any]:
    """One file as a list of one."""
    return [files] if isinstance(files, str) or not isinstance(files, Sequence) else list(files)


def _fill_stages(tree: dict[str, Any], overrides: Sequence[str]) -> None:
    """A recipe without stages gets its method's own, before ``stages.0.…`` overrides can reach into them."""
    named = [o.partition("=")[2].strip() for o in overrides if o.partition("=")[0] in ("method", "method.name")]
    choice = tree.get("method")
    name = named[-1] if named else choice.get("name") if isinstance(choice, dict) else choice
    if tree.get("stages") is None and isinstance(name, str):
        tree["stages"] = [copied(stage) for stage in method_class(name).default_stages]


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a YAML recipe file; data paths in it are taken as written (relative to the working folder)."""
    try:
        text = Path(path).read_text(encoding="utf8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file; give a YAML recipe") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a recipe file") from None
    given = parse_yaml(text, str(path))
    if given is None:
        raise ConfigError(f"{path}: the recipe is empty; it needs at least data: and method:")
    try:
        return parse_recipe(given, overrides)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def set_value(tree: Any, override: str) -> None:
    """Apply ``stages.0.learning_rate=1e-5`` in place."""
    place, equals, value = override.partition("=")
    if not equals or not place:
        raise ConfigError(f"--set {override!r} has no key and value; write key.key=value, e.g. stages.0.epochs=3")
    parsed = parse_yaml(value, f"--set {override!r}")
    *path, last = place.split(".")
    for i, key in enumerate(path):
        inside = ".".join(path[: i + 1])
        if isinstance(tree, list):
            tree = _item(tree, key, inside)
        elif isinstance(tree, dict):
            if isinstance(tree.get(key), str) and key in ("backbone", "method"):
                tree[key] = {"name": tree[key]}
            if tree.get(key) is None:
                tree[key] = [{}] if key == "stages" else {}
            tree = tree[key]
        else:
            raise ConfigError(f"--set {override!r}: {inside!r} does not exist; what holds it is a single value")
    if isinstance(tree, list):
        _item(tree, last, place)
        tree[int(last)] = parsed
    elif isinstance(tree, dict):
        tree[last] = parsed
    else:
        raise ConfigError(f"--set {override!r}: {place!r} does not exist; what holds it is a single value")


def parse_yaml(text: str, where: str) -> Any:
    """Parsed YAML; ``where`` opens the message about what is wrong with it."""
    try:
        given = yaml.safe_load(text)
        copied(given)  # endless where an alias holds itself
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{where}: not valid YAML{line} ({reason}); mend it there") from None
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply; write a recipe without self-reference") from None
    except ValueError as error:  # a date or number that does not exist
        raise ConfigError(f"{where}: not valid YAML ({error}); put the value in quotes") from None
    return given


def _item(items: list[Any], key: str, where: str) -> Any:
    if not key.isdecimal() or int(key) >= len(items):
        allowed = f"choose from 0 to {len(items) - 1}" if items else "the list is empty"
        raise ConfigError(f"--set {where}: there is no such entry; {allowed}")
    return items[int(key)]


def copied(value: Any) -> Any:
    """Mappings and lists all the way down, free to be changed."""
    if isinstance(value, Mapping):
        return {k: copied(v) for k, v in value.items()}
    return [copied(v) for v in value] if isinstance(value, (list, tuple)) else value
