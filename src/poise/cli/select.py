"""``poise select``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from poise.cli.caching import cache_of
from poise.cli.choices import on_bad, one_of
from poise.cli.progress import FEATURES, working
from poise.curation.candidates import Pool, pool_of, read_pairs
from poise.curation.select import ACQUISITIONS, Selection, select
from poise.curation.write import check_outs, preference_row, write_rows
from poise.data.load import load_preferences
from poise.data.records import Preference
from poise.errors import ConfigError
from poise.model import RewardModel
from poise.model_folder import run_of
from poise.run_folder import RECIPE
from poise.training.recipe import read_recipe
from poise.training.split import load_data

AFRESH = "none"


def run(
    folder: Path,
    candidates: str,
    out: Path,
    *,
    budget: int,
    how: str,
    per_prompt: int | None,
    labelled: str | None,
    seed: int,
    bad_rows: str,
    device: str,
    as_json: bool,
) -> None:
    """Write the pairs to label next, best first."""
    one_of("way to select (--by)", how, ACQUISITIONS)
    on_bad(bad_rows)
    for name, value in (("--budget", budget), ("--per-prompt", per_prompt)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}; give at least 1")
    check_outs((out,), (candidates, *([labelled] if labelled else [])))
    pairs = read_pairs(candidates, bad_rows)
    known = _labelled(folder, labelled)
    with working(FEATURES) as terminal:
        model = RewardModel.load(folder, device=device)
        pool = pool_of(model, pairs, known, cache=cache_of(folder, model.backbone), reporter=terminal)
    chosen = select(pool.difference, pool.prompts, pool.posterior, budget, how=how, per_prompt=per_prompt, seed=seed)
    write_rows([_row(pool, chosen, rank, how) for rank in range(len(chosen.pairs))], out)
    prompts = len({pool.prompts[i] for i in chosen.pairs})
    facts = {"out": str(out), "chosen": len(chosen.pairs), "candidates": len(pool.pairs), "prompts": prompts}
    typer.echo(
        json.dumps(facts | {"by": how, "labelled": pool.labels})
        if as_json
        else f"{len(chosen.pairs):,} of {len(pool.pairs):,} candidate pairs over {prompts:,} prompts, by {how} after "
        f"{pool.labels:,} labelled pairs: {out}"
    )


def _labelled(folder: Path, labelled: str | None) -> list[Preference]:
    """The labels that are there: of the file, or the training pairs of the run."""
    if labelled == AFRESH:
        return []
    if labelled is not None:
        return list(load_preferences(labelled).records)
    recipe = run_of(folder) / RECIPE
    if not recipe.exists():
        raise ConfigError(
            f"{folder} has no recipe that says what is labelled already; name the file with --labelled, or --labelled {AFRESH}"
        )
    return list(load_data(read_recipe(recipe)).training)


def _row(pool: Pool, chosen: Selection, rank: int, how: str) -> dict[str, Any]:
    """One pair to label: with a column ``ranks`` ([1, 2] where the first is better) the loader reads it."""
    number = chosen.pairs[rank]
    columns = preference_row(pool.pairs[number])
    p = pool.posterior.prob_first(pool.difference[number : number + 1])
    return {
        "rank": rank + 1,
        "prompt": columns["prompt"],
        "responses": [columns["chosen"], columns["rejected"]],
        "p_first": round(float(p[0]), 6),
        "gain": chosen.gain[rank],
        "by": how,
        "source_row": pool.pairs[number].row,
    }
