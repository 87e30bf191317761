"""``poise compare``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import typer

from poise.cli.progress import counting, working
from poise.errors import ConfigError
from poise.evaluation.compare import compare
from poise.evaluation.predictions import read
from poise.evaluation.suite import measure
from poise.output import check_file, replacing
from poise.report import tables
from poise.report.suite import comparison_rows, suite_page


def run(evaluations: Sequence[Path], out: Path | None, resamples: int, *, as_json: bool) -> None:
    """Every further evaluation against the first, set by set, on the rows that both scored."""
    if len(evaluations) < 2:
        raise ConfigError(
            "a comparison needs two evaluations or more; give the folders that poise evaluate --out wrote"
        )
    if out is not None:
        check_file(out)
    predictions = [read(path) for path in evaluations]
    with working("nothing was written; the same command starts anew") as terminal:
        found = compare(predictions, resamples=resamples, progress=counting(terminal, "comparing"))
        if out is not None:
            progress = counting(terminal, "measuring")
            results = [measure(one, resamples=resamples, progress=progress) for one in predictions]
            with replacing(out) as temporary:
                page = suite_page(results, comparison_rows(found), found.verdict)
                temporary.write_text(page, encoding="utf8")
    if as_json:
        typer.echo(json.dumps(found.model_dump(mode="json"), indent=2))
        return
    header, *rows = comparison_rows(found)
    typer.echo(tables.plain_table(header, rows) + "\n" + found.verdict)
