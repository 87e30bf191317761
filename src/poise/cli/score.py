"""``poise score``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from poise import processes
from poise.cli.caching import cache_of
from poise.cli.progress import counting
from poise.cli.scoring import Scoring
from poise.client import Client
from poise.errors import ConfigError
from poise.output import check_file
from poise.remote_scoring import score_by_server
from poise.scoring import Survey, check_rows, score_file
from poise.training.monitor import Terminal
from poise.utility import parse_utility


def run(folder: Path, data: str, out: Path, how: Scoring, utilities: Sequence[str]) -> None:
    """Score every response and write one Parquet row each, whole or not at all; each of ``utilities`` adds a column."""
    if out.suffix != ".parquet":
        raise ConfigError(f"{out}: scores are written as Parquet; give a file name that ends in .parquet")
    chosen = [parse_utility(spec) for spec in utilities]
    check_file(out)
    check_rows(data, how.on_bad)
    terminal = Terminal()
    if str(folder).startswith(("http:/", "https:/")):
        with Client(_address(folder)) as client:
            found = score_by_server(client, data, out, utilities=chosen, raw=how.raw, on_bad=how.on_bad)
        _report(found, out, terminal)
        return
    with processes.connection():
        model = how.model(folder)
        found = score_file(
            model,
            data,
            out,
            utilities=chosen,
            on_bad=how.on_bad,
            cache=cache_of(folder, model.backbone),
            progress=counting(terminal, "scoring"),
        )
    terminal.close()
    if processes.first():
        _report(found, out, terminal)


def _address(url: Path | str) -> str:
    """A path has lost one of the two strokes."""
    scheme, _, rest = str(url).partition(":")
    return f"{scheme}://{rest.lstrip('/')}"


def _report(found: Survey, out: Path, terminal: Terminal) -> None:
    if found.bad:
        terminal.say(f"{len(found.bad):,} left out; the first: {found.bad[0]}")
    typer.echo(f"{found.responses:,} responses scored: {out}")
