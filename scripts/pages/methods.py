"""The overview of methods and recipes, from ``METHODS`` and the recipe files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from pages.markdown import code, table


def methods_page(recipes: Path) -> str:
    """One row per method and one per shipped training recipe."""
    import torch

    from poise.features import Features
    from poise.methods import METHODS

    overview = []
    for method in METHODS:
        plain = method.for_data(method.Config(), ("rated",))
        reward = method(plain, hidden_size=4).eval()(Features(torch.zeros(2, 4), torch.zeros(2, 4))).reward
        learns = " and ".join(dict.fromkeys(kind for stage in stages_of(method) for kind in stage))
        page = f"[{code(method.name)}](methods/{method.name}.md)"
        overview.append([page, method.reference, reward.family, learns])
    return "\n".join(
        [
            "# Methods\n",
            "Made from the code by `scripts/docs`. Each name leads to formulas, forms and what is known about them. Options are in",
            "the [configuration](reference/configuration.md#methods); which method to take when is answered by",
            "[a study with known truth](results/which_method.md), what of the papers' claims holds by [another](results/claims.md).\n",
            table(["method", "reference", "reward distribution", "learns from"], overview),
            "## Recipes\n",
            table(["recipe", "method", "what it is"], recipe_rows(recipes, [method.name for method in METHODS])),
        ]
    )


def recipe_rows(folder: Path, order: list[str]) -> list[list[str]]:
    """Training recipes in the order of their methods."""
    from poise.training.recipe import read_recipe

    named = {path: read_recipe(path).method.name for path in training_recipes(folder)}
    return [
        [f"[{title(path, folder)}](reference/recipes.md#{anchor(path, folder)})", code(named[path]), headline(path)]
        for path in sorted(named, key=lambda path: (order.index(named[path]), path))
    ]


def recipes_page(folder: Path) -> str:
    """Every recipe as it is shipped."""
    training = training_recipes(folder)
    policies = sorted(set(folder.rglob("*.yaml")) - set(training))
    parts = ["# Recipes\n", "The files of `recipes/`, put here by `scripts/docs`.\n"]
    for heading, paths in (("Reward models", training), ("Policies", policies)):
        parts.append(f"## {heading}\n")
        for path in paths:
            text = path.read_text(encoding="utf8").rstrip()
            parts.append(f"### {title(path, folder)}\n\n```yaml\n{text}\n```\n")
    return "\n".join(parts)


def training_recipes(folder: Path) -> list[Path]:
    """Those of reward models; the others stand in ``policy/``."""
    return sorted(path for path in folder.rglob("*.yaml") if "policy" not in path.relative_to(folder).parts)


def title(path: Path, folder: Path) -> str:
    """``bt``, ``policy/qrm_rloo``."""
    return str(path.relative_to(folder).with_suffix(""))


def anchor(path: Path, folder: Path) -> str:
    """What the site and GitHub make of the title."""
    return "".join(c for c in title(path, folder).lower() if c.isalnum() or c in "_-")


def stages_of(method: Any) -> list[tuple[str, ...]]:
    """What each default stage of a method learns from."""
    plain = method.for_data(method.Config(), ("rated",))
    stages = [dataclasses.replace(plain, **stage.get("method", {})) for stage in method.default_stages]
    return [method(config, hidden_size=4).learns_from for config in stages]


def headline(path: Path) -> str:
    """The comment at the head of a recipe, as one line."""
    lines = []
    for line in path.read_text(encoding="utf8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)
