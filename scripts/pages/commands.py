"""The reference of the command line, from the commands themselves."""

from __future__ import annotations

import inspect
from typing import Any

import typer

from pages.markdown import code, table


def commands_page() -> str:
    """Every command with its arguments, options and defaults."""
    from poise.cli.main import app

    found = dict(leaves(typer.main.get_command(app), "poise"))
    index = [
        [command.rich_help_panel, f"[{name}](#{name.replace(' ', '-')})", first_line(command)]
        for name, command in found.items()
    ]
    return "\n".join(
        [
            "# Command line\n",
            "Made from the commands by `scripts/docs`. Errors are one message on stderr and exit code 2; an interrupt is 130.\n",
            "`poise --install-completion` lets the shell in use (bash, zsh, fish or PowerShell) complete commands and options "
            "with the tab key from its next start on; `poise --show-completion` prints the script instead, for a start-up file.\n",
            table(["", "command", "what it does"], index),
            *(section(name, command) for name, command in found.items()),
        ]
    )


def leaves(command: Any, name: str) -> list[tuple[str, Any]]:
    """All commands below a group, by their full names, in the order of the help."""
    if not isinstance(command, typer.core.TyperGroup):
        return [(name, command)]
    return [leaf for key, below in command.commands.items() for leaf in leaves(below, f"{name} {key}")]


def section(name: str, command: Any) -> str:
    """One command: usage, text, parameters."""
    arguments = [p for p in command.params if isinstance(p, typer.core.TyperArgument)]
    options = [p for p in command.params if not isinstance(p, typer.core.TyperArgument) and p.name != "help"]
    usage = " ".join([name, *(shown_argument(p) for p in arguments), "[OPTIONS]" if options else ""]).strip()
    parts = [f"## {name}\n", f"```text\n{usage}\n```\n", prose(command.help or "")]
    if arguments:
        parts.append(table(["argument", "what it is"], [[code(p.name.upper()), plain(p.help)] for p in arguments]))
    if options:
        rows = [[", ".join(map(code, flags(p))), plain(p.help), default(p)] for p in options]
        parts.append(table(["option", "what it is", "default"], rows))
    if command.epilog:
        parts.append(prose(command.epilog))
    return "\n".join(parts)


def shown_argument(parameter: Any) -> str:
    """``DATA``, ``[DATA]`` or ``DATA…``."""
    name = parameter.name.upper() + ("…" if parameter.multiple or parameter.nargs == -1 else "")
    return name if parameter.required else f"[{name}]"


def flags(parameter: Any) -> list[str]:
    """What an option is called on the command line, the switch that turns it off included."""
    return [*parameter.opts, *parameter.secondary_opts]


def default(parameter: Any) -> str:
    """The default as one types it; required, repeatable, or none."""
    if parameter.required:
        return "required"
    value = parameter.default
    if value is None or value is False or value == []:
        return "repeatable" if parameter.multiple else ""
    return code("on" if value is True else str(value))


def prose(text: str) -> str:
    r"""Help text as Markdown; blocks marked ``\b`` keep their lines, as code below their first one."""
    shown = []
    for block in inspect.cleandoc(text).split("\n\n"):
        if block.startswith("\b"):
            heading, *lines = block.lstrip("\b\n").split("\n")
            code_lines = inspect.cleandoc("\n".join(["", *lines]))
            block = f"{heading}\n\n```sh\n{code_lines}\n```"
        shown.append(block)
    return "\n\n".join(shown) + "\n"


def plain(text: str | None) -> str:
    """Text in which nothing is taken for HTML."""
    return (text or "").replace("<", "&lt;")


def first_line(command: Any) -> str:
    """The sentence that the list of commands shows."""
    return " ".join((command.help or "").split("\n\n")[0].replace("\b", "").split())
