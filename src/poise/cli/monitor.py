"""``poise monitor``."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import typer

from poise.cli.caching import cache_of
from poise.cli.choices import on_bad
from poise.cli.progress import FEATURES, counting, working
from poise.data.load import BadRow, Candidate, bad_rows_error, iter_candidates
from poise.data.records import text_length
from poise.data.splits import prompt_key
from poise.errors import ConfigError, DataError
from poise.feature_cache import FeatureCache
from poise.model import RewardModel
from poise.model_folder import checkpoint_in
from poise.monitoring import (
    DriftReport,
    Observed,
    compare,
    observe,
    read_reference,
    reference_of,
    write_reference,
)
from poise.report import tables
from poise.scoring import encoded_candidates
from poise.training.monitor import Terminal

DRIFT = 1


def run(
    folder: Path, data: str, *, bad_rows: str, device: str, alpha: float, least: float, make: bool, as_json: bool
) -> None:
    """Compare with the reference, or ``make`` one of this data; exit code 1 where something has drifted."""
    on_bad(bad_rows)
    if not 0 < alpha < 1 or not least >= 0:
        raise ConfigError(f"--alpha {alpha} --least {least}; alpha must lie between 0 and 1, and least be 0 or more")
    candidates, bad = _read(data, bad_rows)
    where = checkpoint_in(folder)
    with working(FEATURES) as terminal:
        model = RewardModel.load(folder, device=device)
        reference = None if make else read_reference(where, model)
        unfit = bad if bad_rows == "drop" else None
        now = _observed(model, cache_of(folder, model.backbone), candidates, unfit, data, terminal)
    if bad:
        typer.echo(f"{len(bad):,} left out; the first: {bad[0]}", err=True)
    if reference is None:
        write_reference(where, reference_of(model, now, data))
        rows = len(now["reward"].values)
        typer.echo(
            json.dumps({"reference": str(where), "rows": rows})
            if as_json
            else f"reference of {rows:,} responses written to {where}"
        )
        return
    found = compare(reference, now, data, alpha=alpha, least=least)
    typer.echo(json.dumps(found.to_dict()) if as_json else _described(found))
    if found.drifted:
        raise typer.Exit(DRIFT)


def _read(data: str, bad_rows: str) -> tuple[list[Candidate], list[BadRow]]:
    bad: list[BadRow] = []
    candidates = list(iter_candidates(data, bad))
    if bad and bad_rows == "error":
        raise bad_rows_error(bad)
    if not candidates:
        raise DataError(f"{data}: no row holds a response to score; " + (str(bad[0]) if bad else "check the file"))
    return candidates, bad


def _observed(
    model: RewardModel,
    cache: FeatureCache,
    candidates: list[Candidate],
    bad: list[BadRow] | None,
    source: str,
    terminal: Terminal,
) -> dict[str, Observed]:
    """What the model says about the candidates, pairs where a row is one; those that do not fit go to ``bad``."""
    fit, unfit = encoded_candidates(model, candidates, source)
    if unfit and bad is None:
        raise bad_rows_error(unfit)
    if bad is not None:
        bad += unfit
    if not fit:
        raise DataError(f"{source}: no response fits the model; the first: {unfit[0]}")
    features = model.features([encoded for _, encoded in fit], cache, counting(terminal, "features"))
    terminal.close()
    kept = [candidate for candidate, _ in fit]
    place = {(one.row, one.part): n for n, one in enumerate(kept)}
    pairs = [
        (n, place[row, "rejected"])
        for (row, part), n in place.items()
        if part == "chosen" and (row, "rejected") in place
    ]
    with torch.inference_mode():
        reward = model.raw().predict_features(features)
    return observe(
        reward,
        [text_length(one.response) for one in kept],
        [prompt_key(one.prompt) for one in kept],
        torch.tensor(pairs).view(-1, 2),
    )


def _described(found: DriftReport) -> str:
    header = ["", "reference", "now", "shift/sd", "W1/sd", "KS", "p", "corrected", ""]
    rows = [
        [
            one.measure,
            *(
                tables.number(value)
                for value in (one.reference_mean, one.mean, one.shift, one.w1, one.ks, one.p, one.p_holm)
            ),
            "drifted" if one.drifted else "",
        ]
        for one in found.measures
    ]
    verdict = f"Drift in {', '.join(found.drifted)}." if found.drifted else "No drift."
    return (
        f"{found.source}: {found.rows:,} rows, {found.prompts:,} prompts (worth {found.effective_rows:,.0f} independent rows)\n"
        f"reference: {found.reference}\n\n{tables.plain_table(header, rows, numeric=range(1, 8))}\n"
        f"{verdict} Drift is p < {found.alpha:g} after Holm's correction and W1 of at least {found.least:g} sd."
    )
