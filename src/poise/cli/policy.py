"""``poise policy``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import typer

from poise import processes
from poise.cli.progress import working
from poise.errors import ConfigError
from poise.policy.recipe import read_policy_recipe
from poise.policy.train import EVALUATION, RECIPE, train_policy
from poise.report.tables import markdown_table


def run(
    recipe: Path | None,
    out: Path | None,
    overrides: Sequence[str],
    resume: Path | None,
    dry_run: bool,
    *,
    as_json: bool,
) -> None:
    """Train or resume a policy, then print what it is worth; ``dry_run`` only checks the recipe."""
    if (recipe is None) == (resume is None):
        raise ConfigError("give a recipe to start a run, or --resume FOLDER to continue one; not both, not neither")
    if resume is not None and (overrides or out is not None or dry_run):
        raise ConfigError(f"{resume}: --resume continues a run as it was; leave out --set, --out and --dry-run")
    source = recipe if resume is None else resume / RECIPE
    assert source is not None
    if resume is not None and not source.exists():
        raise ConfigError(f"{resume} holds no run to resume (no {RECIPE}); give the folder of an interrupted run")
    checked = read_policy_recipe(source, overrides)
    folder = resume or out or Path("runs") / checked.name
    if dry_run:
        sound = {"recipe": str(recipe), "sound": True, "run": str(folder)}
        typer.echo(json.dumps(sound) if as_json else f"{recipe}: the recipe is sound; it would write to {folder}")
        return

    def go_on() -> str:
        begun = (folder / RECIPE).exists()
        return f"continue with: poise policy --resume {folder}" if begun else "nothing was written; start anew"

    with working(go_on) as terminal:
        finished = train_policy(checked, folder, resume=resume is not None, reporter=terminal)
    if not processes.first():
        return
    if as_json:
        typer.echo(json.dumps({"run": str(folder), "evaluation": finished.evaluation}))
        return
    shown = ("mean", "std", "q05", "q50", "q95")
    rows = [
        [f"{who}: {name}", *(f"{figures[key]:.3f}" for key in shown)]
        for who in ("reference", "policy")
        for name, figures in finished.evaluation[who]["rewards"].items()
    ]
    typer.echo(markdown_table(["reward on held-out prompts", *shown], rows))
    kl = finished.evaluation["policy"]["kl"]
    typer.echo(f"KL from the reference: {kl['mean']:.2f} ± {kl['standard_error']:.2f} nat an answer")
    typer.echo(f"policy: {finished.policy} (figures: {folder / EVALUATION})")
