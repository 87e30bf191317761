"""``poise train``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import typer

from poise import processes
from poise import run as runs
from poise.cli.progress import FEATURES, working
from poise.cli.show import result_table
from poise.errors import ConfigError
from poise.run_folder import RECIPE, REPORT, check_folder
from poise.training.recipe import read_recipe


def run(recipe: Path | None, out: Path | None, overrides: Sequence[str], resume: Path | None, *, as_json: bool) -> None:
    """Train or resume, then print the held-out result."""
    if (recipe is None) == (resume is None):
        raise ConfigError(
            f"{'neither' if recipe is None else 'both'} a recipe {'nor' if recipe is None else 'and'} --resume; "
            "give a recipe to start a run, or --resume FOLDER to continue one"
        )
    if resume is not None:
        if overrides or out is not None:
            raise ConfigError(f"{resume}: --resume continues a run as it was; leave out --set and --out")
        source, folder = resume / RECIPE, resume
        if not source.exists():
            raise ConfigError(f"{resume} holds no run to resume (no {RECIPE}); give the folder of an interrupted run")
    else:
        assert recipe is not None
        source = recipe
        folder = out or Path("runs") / read_recipe(recipe, overrides).name

    def go_on() -> str:
        if (folder / RECIPE).exists():
            return f"continue with: poise train --resume {folder}"
        return f"training had not begun: {FEATURES}"

    with working(go_on) as terminal:
        finished = runs.train(read_recipe(source, overrides), folder, resume=resume is not None, reporter=terminal)
    if not processes.first():
        return
    if as_json:
        typer.echo(json.dumps({"run": str(folder), "result": json.loads(finished.result.to_json())}))
        return
    typer.echo(result_table({finished.record.name: finished.result}))
    report = folder / REPORT
    typer.echo(f"report: {report}" if report.exists() else f"run: {folder}")


def dry(
    recipe: Path | None,
    out: Path | None,
    overrides: Sequence[str],
    resume: Path | None,
    assume: Sequence[str],
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Print what a run would do."""
    from poise.cli import dry_run as command

    if not dry_run:
        raise ConfigError(f"--assume {assume[0]} is for --dry-run; add it, or leave --assume out")
    if recipe is None or resume is not None:
        raise ConfigError("--dry-run is about a recipe that has not begun; name one, and leave --resume out")
    if out is not None:
        check_folder(out, read_recipe(recipe, overrides), resume=False)
    command.run(recipe, overrides, assume, as_json=as_json)
