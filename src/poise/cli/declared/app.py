"""The two groups of commands, and the options that several share."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    name="poise",
    help="Reward models that return a distribution instead of a number.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(
    help="Look at preference data, or make some with known truth.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(data_app, name="data")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
BadRows = Annotated[str, typer.Option(help="error, or drop: leave out what cannot be used.")]
Raw = Annotated[bool, typer.Option("--raw", help="Leave out the calibration that is kept with the model.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
