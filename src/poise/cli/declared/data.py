"""``poise data …``: look at data, or make some."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from poise.cli.declared.app import Device, Json, data_app


@data_app.command("check")
def data_check(
    file: Annotated[str, typer.Argument(help="Preference pairs: a file, a saved dataset or a hub id.")],
    against: Annotated[str | None, typer.Option(help="A second file: report shared prompts and pairs.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Count tokens as this backbone does (e.g. minilm).")] = None,
    max_length: Annotated[int | None, typer.Option(help="Token limit; the backbone's own by default.")] = None,
    json_: Json = False,
) -> None:
    """Report what a file holds and which rows are broken; exit code 2 where some are."""
    from poise.cli import data as command

    command.check(file, against, backbone, max_length, as_json=json_)


@data_app.command("splits")
def data_splits(
    file: Annotated[str, typer.Argument(help="Several responses per prompt, with the model behind each.")],
    out: Annotated[Path, typer.Option(help="Folder to write train.jsonl and the four splits to.")],
    new_models: Annotated[str, typer.Option(help="Models that training must not see, separated by commas.")],
    gold: Annotated[
        str | None, typer.Option(help="A scorer that says what responses are worth; else the column gold.")
    ] = None,
    new_prompts: Annotated[float, typer.Option(help="Share of the prompts that training must not see.")] = 0.1,
    in_domain: Annotated[float, typer.Option(help="Share of the known prompts to hold two responses back of.")] = 0.1,
    device: Device = "auto",
) -> None:
    """Deal responses out by prompt and model, known and new: how well does a reward model generalise.

    Train on OUT/train.jsonl, then: poise evaluate RUN --on responses:OUT
    """
    from poise.cli import data as command

    shares = {"new_prompts": new_prompts, "in_domain": in_domain}
    command.splits(file, out, new_models.split(","), gold, shares, device)


@data_app.command("simulate")
def data_simulate(
    out: Annotated[Path, typer.Option(help="Folder to write the splits, ratings and world.json to.")],
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    train_pairs: Annotated[int, typer.Option(help="Training pairs.")] = 4000,
    eval_pairs: Annotated[int, typer.Option(help="Pairs in each of the four evaluation splits.")] = 500,
    raters: Annotated[int, typer.Option(help="Votes per pair.")] = 5,
    flip_rate: Annotated[float, typer.Option(help="Share of training labels turned round.")] = 0.1,
) -> None:
    """Make a small world with known truth: pairs with votes, multi-rater ratings, four generalisation splits."""
    from poise.cli import data as command

    command.simulate_world(
        out, seed=seed, train_pairs=train_pairs, eval_pairs=eval_pairs, raters=raters, flip_rate=flip_rate
    )
