"""The reference of recipes, from the dataclasses that read them."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Union

from pages.markdown import code, table

WORDS = {float: "number", int: "whole number", bool: "true or false", str: "text", Any: "anything"}


def configuration_page() -> str:
    """Every key of a recipe, of each method, of a policy recipe and of a server."""
    from poise.backbone import BackboneConfig
    from poise.methods import METHODS
    from poise.policy import recipe as policy
    from poise.serving.settings import Settings
    from poise.training import recipe

    training = [
        ("data", recipe.DataConfig),
        ("backbone", BackboneConfig),
        ("stages", recipe.Stage),
        ("training", recipe.TrainingConfig),
        ("training.lora", recipe.LoraOptions),
    ]
    policies = [
        ("prompts", policy.PromptConfig),
        ("rewards", policy.RewardConfig),
        ("supervised", policy.SupervisedConfig),
        ("reinforce", policy.ReinforceConfig),
        ("evaluation", policy.EvaluationConfig),
    ]
    return "\n".join(
        [
            "# Configuration\n",
            "Made from the code by `scripts/docs`. A recipe is one YAML file; any key can be set from the command line:",
            "`--set stages.0.learning_rate=1e-3`. Unknown keys are errors that name the nearest valid one, and everything",
            "is checked before anything is loaded. A run folder keeps the recipe with all defaults written out.\n",
            "## A training recipe\n",
            section(None, recipe.Recipe),
            *(section(f"### {place}", cls) for place, cls in training),
            "## Methods\n",
            "`method` is a name, or a mapping of `name` and the options below; a stage's own `method` overrides them.\n",
            *(section(f"### {method.name}", method.Config) for method in METHODS),
            "## A policy recipe\n",
            "For [poise policy](cli.md#poise-policy).\n",
            section(None, policy.PolicyRecipe),
            *(section(f"### {place}", cls) for place, cls in policies),
            "## A server\n",
            "Options of [poise serve](cli.md#poise-serve), and of `poise.serving` in Python.\n",
            section(None, Settings),
        ]
    )


def section(heading: str | None, cls: type) -> str:
    """A dataclass: its text, then one row per key."""
    hints = typing.get_type_hints(cls)
    rows = [[code(f.name), shown_type(hints[f.name]), shown_default(f)] for f in dataclasses.fields(cls)]
    head = [f"{heading}\n"] if heading else []
    return "\n".join([*head, f"{inspect.getdoc(cls)}\n", table(["key", "type", "default"], rows)])


def shown_type(kind: Any) -> str:
    """A type in the words of the error messages."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if a is type(None) else shown_type(a) for a in arguments)
    if origin is Literal:
        return ", ".join(code(str(a)) for a in arguments)
    if origin is tuple:
        return f"list of {shown_type(arguments[0])}"
    if origin in (dict, Mapping):
        return "mapping"
    return WORDS.get(kind) or "mapping"


def shown_default(field: dataclasses.Field[Any]) -> str:
    """A default as YAML writes it; its own section for nested keys."""
    if field.default_factory is not dataclasses.MISSING:
        made = field.default_factory()
        return "" if dataclasses.is_dataclass(made) else shown_value(made)
    return "required" if field.default is dataclasses.MISSING else shown_value(field.default)


def shown_value(value: Any) -> str:
    """``null``, ``true``, ``[a, b]``, ``""``; nothing for what is described elsewhere."""
    if isinstance(value, tuple) and any(dataclasses.is_dataclass(v) for v in value):
        return "one stage"
    if isinstance(value, (tuple, list)):
        return code(f"[{', '.join(map(str, value))}]")
    words = {"None": "null", "True": "true", "False": "false", "": '""'}
    return code(words.get(str(value), str(value)))
