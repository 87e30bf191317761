"""The two groups of commands, how their help is laid out, and the options that several share."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

TRAIN, MEASURE, TRUST, USE, DATA, ABOUT = "Train", "Measure", "Trust", "Use", "Data", "This installation"
HEADINGS = (TRAIN, MEASURE, TRUST, USE, DATA, ABOUT)
Command = TypeVar("Command", bound=Callable[..., Any])
WHOLE = 400
"""Characters of a summary that help shows; none is longer."""


class Headed(TyperGroup):
    """A group whose commands stand under ``HEADINGS``, under each in the order in which they are declared."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        declared: list[Any] = list(self.commands.values())
        ordered = sorted(declared, key=lambda command: HEADINGS.index(command.rich_help_panel))
        self.commands = {command.name: command for command in ordered}

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """One section per heading (typer's own need rich markup), every summary whole."""
        for heading, names in groupby(self.commands, self._heading):
            with formatter.section(heading):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(WHOLE)) for name in names])

    def _heading(self, name: str) -> str:
        command: Any = self.commands[name]
        return str(command.rich_help_panel)


app = typer.Typer(
    name="poise",
    cls=Headed,
    help="Reward models that return a distribution instead of a number.",
    epilog="poise COMMAND --help shows the options of a command, with examples.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(
    cls=Headed,
    help="Look at preference data, or make some with known truth.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def command(
    group: str, *examples: str, name: str | None = None, within: typer.Typer = app
) -> Callable[[Command], Command]:
    """Declares a command under a heading of help, with examples that run as written after ``poise data simulate --out world``."""
    lines = "\n".join(f"  {example}" for example in examples)
    return within.command(name, rich_help_panel=group, epilog=f"\b\nExamples:\n{lines}")


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
BadRows = Annotated[str, typer.Option(help="error, or drop: leave out what cannot be used.")]
Raw = Annotated[bool, typer.Option("--raw", help="Leave out the calibration that is kept with the model.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
