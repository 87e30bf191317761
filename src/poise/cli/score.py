"""``poise score``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import typer

from poise import processes
from poise.cli.caching import cache_of
from poise.cli.progress import BLOCKS, counting, working
from poise.cli.scoring import Scoring
from poise.client import Client
from poise.errors import ConfigError
from poise.output import check_file
from poise.remote_scoring import score_by_server
from poise.scoring import Survey, check_rows, score_file
from poise.utility import parse_utility


def run(folder: Path, data: str, out: Path, how: Scoring, utilities: Sequence[str], *, as_json: bool = False) -> None:
    """Score every response and write one Parquet row each, whole or not at all; each of ``utilities`` adds a column."""
    if out.suffix != ".parquet":
        raise ConfigError(f"{out}: scores are written as Parquet; give a file name that ends in .parquet")
    chosen = [parse_utility(spec) for spec in utilities]
    check_file(out, data)
    check_rows(data, how.on_bad)
    with working(BLOCKS) as terminal:
        progress = counting(terminal, "scoring")
        if str(folder).startswith(("http:/", "https:/")):
            with Client(_address(folder)) as client:
                found = score_by_server(
                    client, data, out, utilities=chosen, raw=how.raw, on_bad=how.on_bad, progress=progress
                )
        else:
            with processes.connection():
                model = how.model(folder)
                cache = cache_of(folder, model.backbone)
                found = score_file(
                    model, data, out, utilities=chosen, on_bad=how.on_bad, cache=cache, progress=progress
                )
    if processes.first():
        _report(found, out, as_json=as_json)


def _address(url: Path | str) -> str:
    """A path has lost one of the two strokes."""
    scheme, _, rest = str(url).partition(":")
    return f"{scheme}://{rest.lstrip('/')}"


def _report(found: Survey, out: Path, *, as_json: bool) -> None:
    if found.bad:
        typer.echo(f"{len(found.bad):,} left out; the first: {found.bad[0]}", err=True)
    if as_json:
        typer.echo(json.dumps({"out": str(out), "responses": found.responses, "left_out": len(found.bad)}))
    else:
        typer.echo(f"{found.responses:,} responses scored: {out}")
