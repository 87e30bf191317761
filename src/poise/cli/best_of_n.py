"""``poise best-of-n``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import typer

from poise import processes
from poise.cli.caching import cache_of
from poise.cli.progress import BLOCKS, counting, working
from poise.cli.scoring import Scoring
from poise.errors import ConfigError
from poise.policy.selection import Selection, Summary, check_out, select_from_file, select_from_scores
from poise.scoring import check_rows
from poise.utility import parse_utility


def selected(
    utility: str, n: int | None, min_p_best: float, stop_at: float | None, cost: float | None, *, wins: bool
) -> Selection:
    """The options of the command line as one."""
    return Selection(parse_utility(utility), n, min_p_best, stop_at, cost, wins)


def run(folder: Path | None, data: str | None, out: Path, selection: Selection, how: Scoring, *, as_json: bool) -> None:
    """Score the responses of a file and write what was chosen for each prompt, whole or not at all."""
    if folder is None or data is None:
        raise ConfigError(
            "a model or a file of responses is missing; give both, or --from with what poise score or evaluate saved"
        )
    check_out(out, data)
    check_rows(data, how.on_bad)
    with working(BLOCKS) as terminal, processes.connection():
        model = how.model(folder)
        cache = cache_of(folder, model.backbone)
        progress = counting(terminal, "scoring")
        found = select_from_file(model, data, out, selection, on_bad=how.on_bad, cache=cache, progress=progress)
    if processes.first():
        _report(found, out, selection, as_json=as_json)


def again(scores: Path, out: Path, selection: Selection, named: Sequence[str], *, as_json: bool) -> None:
    """The same from saved rewards, without a model; what is ``named`` beside them has no say in it."""
    if named:
        raise ConfigError(
            f"--from {scores} chooses among what was scored and needs neither a model nor a file of responses; "
            f"leave out {', '.join(named)}"
        )
    _report(select_from_scores(scores, out, selection), out, selection, as_json=as_json)


def _report(found: Summary, out: Path, selection: Selection, *, as_json: bool) -> None:
    figures = found.figures()
    if as_json:
        typer.echo(json.dumps({"out": str(out), "selection": selection.utility.spec} | figures))
        return
    typer.echo(
        f"{found.prompts:,} choices among {found.responses:,} responses: {out}\n"
        f"{selection.utility.spec} {figures['utility']:.3f}, of a response at random {figures['utility_at_random']:.3f}; "
        f"P(best) of the choice {figures['p_best']:.2f}"
    )
    if selection.min_p_best:
        typer.echo(f"abstained {found.abstained:,} times: P(best) below {selection.min_p_best:g}")
    if found.needed:
        typer.echo(
            f"{found.needed:,} responses would have been enough: {1 - found.needed / found.responses:.0%} less, the same choice "
            f"for {figures['same_choice']:.1%} of the prompts, {figures['utility_lost']:.3g} of {selection.utility.spec} lost"
        )
