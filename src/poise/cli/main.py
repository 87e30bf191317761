"""``poise``: reward models that return a distribution. Commands import what they need inside themselves."""

from __future__ import annotations

import os
import sys
import time
from typing import Annotated, NoReturn

import typer

from poise.cli.declared import about, data, measuring, training, trusting, using
from poise.cli.declared.app import app
from poise.cli.interrupted import Interrupted
from poise.errors import PoiseError

SILENT_SECONDS = 3.0
INTERRUPTED = 130
COMMANDS = (training, measuring, trusting, using, data, about)
"""Importing a module declares its commands."""


@app.callback(invoke_without_command=True)
def common(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Options of poise itself."""
    if version:
        from poise.version import __version__

        typer.echo(f"poise {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line: errors of poise and of the system are one message and exit code 2, an interrupt is 130."""
    # the tokenizer's threads and a later fork would only earn a warning
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    # what matplotlib keeps about fonts belongs into poise's own cache: see feature_cache.default_cache
    cache = os.environ.get("POISE_CACHE") or os.path.expanduser("~/.cache/poise")
    os.environ.setdefault("MPLCONFIGDIR", os.path.join(cache, "matplotlib"))
    try:
        app()
    except PoiseError as error:
        _fail(f"error: {error}", 2)
    except Interrupted as how:
        _fail(f"interrupted; {how}", INTERRUPTED)
    except SystemExit as stop:  # typer makes this of Ctrl-C, without a word
        if stop.code == INTERRUPTED:
            _fail("interrupted", INTERRUPTED)
        raise
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _fail(f"error: {place}{error.strerror or error}; check the path, its permissions and the disk", 2)


def _fail(message: str, code: int) -> NoReturn:
    """Of several processes only the first speaks, and first: the launcher ends all as soon as one has ended."""
    if os.environ.get("RANK", "0") != "0" and "WORLD_SIZE" in os.environ:
        time.sleep(SILENT_SECONDS)
    else:
        print(message, file=sys.stderr)
    sys.exit(code)
