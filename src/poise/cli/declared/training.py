"""Commands that make models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from poise.cli.declared.app import TRAIN, Json, command


@command(
    TRAIN,
    "poise train recipes/bt.yaml --set data.train=world/train.jsonl --out runs/bt",
    "poise train recipes/drpo_exact.yaml --set data.train=world/train.jsonl --dry-run",
    "poise train recipes/drpo_exact.yaml --set data.train=world/train.jsonl --out runs/drpo",
)
def train(
    recipe: Annotated[Path | None, typer.Argument(help="A YAML recipe; not needed with --resume.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/<name of the recipe> by default.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a key: stages.0.learning_rate=1e-3")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the interrupted run in this folder.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would do, take and cost; write nothing.")
    ] = False,
    assume: Annotated[
        list[str] | None,
        typer.Option(
            help="With --dry-run: pairs=80000,tokens=1000 (of a pair), ratings, gpus=8, tflops=989, utilisation."
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Train a reward model from a recipe; evaluate it on held-out prompts and write a report."""
    from poise.cli import train as command

    if dry_run or assume:
        command.dry(recipe, out, set_ or [], resume, assume or [], dry_run=dry_run, as_json=json_)
        return
    command.run(recipe, out, set_ or [], resume, as_json=json_)


@command(TRAIN, "poise policy recipes/policy/qrm_rloo.yaml --set rewards.0.model=runs/bt --dry-run")
def policy(
    recipe: Annotated[
        Path | None, typer.Argument(help="A YAML recipe (recipes/policy/); not needed with --resume.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/<name of the recipe> by default.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a key: rewards.0.utility=cvar:0.1")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the interrupted run in this folder.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the recipe and stop.")] = False,
    json_: Json = False,
) -> None:
    """Train a language model on a reward: supervised fine-tuning, then RLOO or GRPO, through TRL."""
    from poise.cli import policy as command

    command.run(recipe, out, set_ or [], resume, dry_run, as_json=json_)


@command(TRAIN, "poise demo --pairs 500 --out runs/demo")
def demo(
    out: Annotated[Path, typer.Option(help="Where the runs and the report go.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of the world and of the training.")] = 0,
    pairs: Annotated[int, typer.Option(help="Training pairs to simulate.")] = 4000,
    json_: Json = False,
) -> None:
    """The main job from end to end on simulated preferences, in minutes on a laptop."""
    from poise.cli import demo as command

    command.run(out, seed, pairs, as_json=json_)
