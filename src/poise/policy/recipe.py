"""A policy recipe: one YAML file for supervised fine-tuning and reinforcement learning, checked whole before anything is loaded."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import constants

from poise.errors import ConfigError
from poise.policy.scorer import Empty
from poise.policy.sources import TooLong
from poise.training.recipe import LoraOptions, copied, parse_yaml, set_value
from poise.training.schema import build, plain
from poise.utility import parse_utility

Algorithm = Literal["rloo", "grpo"]
OURS = {  # what the recipe says elsewhere, or poise decides
    "output_dir": "poise policy --out",
    "run_name": "name",
    "seed": "seed",
    "disable_tqdm": "nothing, poise draws the bar",
    "resume_from_checkpoint": "poise policy --resume",
    "reward_weights": "rewards.N.weight",
    "do_train": "nothing, it is done",
    "push_to_hub": "nothing, a finished policy is an ordinary folder",
}


@dataclass(frozen=True)
class PromptConfig:
    """Prompts to practise on: files, folders or hub ids of rows with ``prompt``, or of preference pairs.

    A share ``evaluate_fraction`` of them (by hash) is held out, or ``evaluate`` names others. ``max_tokens``
    leaves longer prompts out and says how many.
    """

    train: tuple[str, ...]
    evaluate: tuple[str, ...] = ()
    evaluate_fraction: float = 0.05
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if not self.train:
            raise ConfigError("train is empty; name at least one file or dataset")
        if not 0 < self.evaluate_fraction < 1:
            raise ConfigError(f"evaluate_fraction is {self.evaluate_fraction}; it must lie between 0 and 1")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ConfigError(f"max_tokens is {self.max_tokens}; give 1 or more, or leave it out")


@dataclass(frozen=True)
class RewardConfig:
    """A reward model (folder or URL), what is maximised of its belief, and its weight among several."""

    model: str
    utility: str = "mean"
    weight: float = 1.0
    name: str | None = None
    too_long: TooLong = "error"
    empty: Empty = "error"

    def __post_init__(self) -> None:
        parse_utility(self.utility)


@dataclass(frozen=True)
class SupervisedConfig:
    """Fine-tuning on written responses: rows with ``prompt`` and ``completion`` or ``response``, or pairs (the chosen one).

    ``arguments``: any field of TRL's SFTConfig.
    """

    data: tuple[str, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.data:
            raise ConfigError("data is empty; name at least one file or dataset, or leave supervised out")


@dataclass(frozen=True)
class ReinforceConfig:
    """Reinforcement learning from the rewards. ``arguments``: any field of TRL's RLOOConfig or GRPOConfig."""

    algorithm: Algorithm = "rloo"
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationConfig:
    """At the end the policy and its reference answer ``prompts`` held-out prompts, ``batch_size`` at a time."""

    prompts: int = 256
    batch_size: int = 16

    def __post_init__(self) -> None:
        for name in ("prompts", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True)
class PolicyRecipe:
    """Everything a policy depends on.

    ``policy`` is the language model (folder or hub id); with ``lora`` (null: all weights) adapters are trained and merged
    after each stage, so that the reference of reinforcement learning is the fine-tuned policy. ``gold`` only evaluates.
    """

    policy: str
    prompts: PromptConfig
    rewards: tuple[RewardConfig, ...]
    supervised: SupervisedConfig | None = None
    reinforce: ReinforceConfig = field(default_factory=ReinforceConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    gold: RewardConfig | None = None
    lora: LoraOptions | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    name: str = "policy"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.rewards:
            raise ConfigError("rewards is empty; name at least one reward model")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed is {self.seed}; it must lie between 0 and 2^32")

    def to_dict(self) -> dict[str, Any]:
        """The whole recipe, defaults included, as YAML can hold it."""
        return dict(plain(self))


def parse_policy_recipe(given: Any, overrides: Sequence[str] = ()) -> PolicyRecipe:
    """A mapping (with ``a.b.0.c=value`` overrides on top) → a recipe; TRL's own checks of its arguments included."""
    if not isinstance(given, Mapping):
        raise ConfigError("the recipe is not a mapping; write keys such as policy:, prompts:, rewards:")
    tree = copied(given)
    for override in overrides:
        set_value(tree, override)
    for place, keys in (("prompts", ("train", "evaluate")), ("supervised", ("data",))):
        for key in keys:
            if isinstance(tree.get(place), dict) and isinstance(tree[place].get(key), str):
                tree[place][key] = [tree[place][key]]
    recipe = build(PolicyRecipe, tree)
    if recipe.supervised is not None:
        trl_arguments("sft", recipe.supervised.arguments, "supervised.arguments", Path("unused"), recipe)
    trl_arguments(recipe.reinforce.algorithm, recipe.reinforce.arguments, "reinforce.arguments", Path("unused"), recipe)
    return recipe


def read_policy_recipe(path: str | Path, overrides: Sequence[str] = ()) -> PolicyRecipe:
    """Read a YAML file; paths in it are taken as written (relative to the working folder)."""
    try:
        text = Path(path).read_text(encoding="utf8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise ConfigError(f"{path}: cannot be read ({reason}); give the path of a YAML recipe") from None
    try:
        return parse_policy_recipe(parse_yaml(text, "the recipe"), overrides)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def required(module: str) -> Any:
    """Import one of the extra ``policy``; TRL without its report of every trainer to its makers, unless the user asks for it."""
    try:
        found = importlib.import_module(module)
    except ImportError:
        raise ConfigError(
            f"a policy needs {module}, which is not installed; run: pip install 'poise[policy]'"
        ) from None
    # the environment says so since poise was imported, but the hub's client may have looked before
    if os.environ.get("HF_HUB_DISABLE_TELEMETRY") == "1":
        constants.HF_HUB_DISABLE_TELEMETRY = True
    return found


def trl_arguments(
    kind: Literal["sft", "rloo", "grpo"], given: Mapping[str, Any], where: str, out: Path, recipe: PolicyRecipe
) -> Any:
    """TRL's configuration of one stage; ``ConfigError`` names the field that it does not know or accept."""
    trl = required("trl")
    cls = {"sft": trl.SFTConfig, "rloo": trl.RLOOConfig, "grpo": trl.GRPOConfig}[kind]
    known = [f.name for f in dataclasses.fields(cls) if f.init]
    for key in given:
        if key in OURS:
            raise ConfigError(f"{where}.{key} is not set here; use {OURS[key]}")
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(f"unknown key '{where}.{key}'; {hint}it must be a field of TRL's {cls.__name__}")
    # TRL itself would ask for bfloat16 everywhere, and refuse to be configured on a processor
    bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported() and not given.get("fp16")
    defaults: dict[str, Any] = {"bf16": bf16, "report_to": "none", "save_total_limit": 1, "logging_steps": 1}
    decided = {"output_dir": str(out), "run_name": recipe.name, "seed": recipe.seed, "disable_tqdm": True}
    if kind != "sft":
        decided["reward_weights"] = [reward.weight for reward in recipe.rewards]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return cls(**(defaults | _numbers(cls, given) | decided))
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"{where}: TRL's {cls.__name__} refuses it ({reason}); change that field") from None


def _numbers(cls: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers written as text (YAML 1.1 reads 1e-5 so) as numbers, where the field has a number as its default."""
    defaults = {f.name: f.default for f in dataclasses.fields(cls)}
    found = dict(given)
    for name, value in given.items():
        if isinstance(value, str) and isinstance(defaults[name], (int, float)):
            try:
                found[name] = float(value)
            except ValueError:
                kind = type(defaults[name]).__name__
                raise ConfigError(f"{name} is {value!r} (text); TRL's {cls.__name__} has a {kind} there") from None
    return found
