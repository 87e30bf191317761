"""``poise demo``: simulated people → four reward models → one report, and a reloaded model in use."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from poise import run as runs
from poise.cli.progress import working
from poise.data.load import load_preferences
from poise.data.simulate import WorldConfig, simulate, write
from poise.errors import ConfigError
from poise.evaluation.preferences import remarkable_pairs
from poise.methods.bandit import Bandit
from poise.model import RewardModel
from poise.output import check_new_folder
from poise.report import summary_page, tables
from poise.report.extras import missing_packages

METHODS: Mapping[str, Mapping[str, Any]] = {
    "bt": {"method": {"name": "bt", "initial": "zero"}},
    "bt+bsr": {"method": {"name": "bt", "initial": "zero", "regulariser": "bsr"}},
    "drpo-zero": {"method": "drpo", "stages": Bandit.default_stages[:1]},
    "drpo-refine": {"method": "drpo", "stages": Bandit.default_stages},
}
SHOWN = ("accuracy", "nll", "ece")


def run(out: Path, seed: int, pairs: int, *, as_json: bool) -> None:
    """Simulate, train and evaluate the four, write the comparison, reload one and use it."""
    config = WorldConfig(seed=seed, train_pairs=pairs)
    check_new_folder(out)
    if missing := missing_packages():
        raise ConfigError(missing)
    started = time.monotonic()
    with working(f"remove {out} and start again; the features computed so far are in the cache") as terminal:
        terminal.say(f"simulating {pairs:,} preference pairs with known truth …")
        write(simulate(config), out / "world")
        finished = {}
        for name, choice in METHODS.items():
            terminal.say(f"training {name} …")
            data = {"train": str(out / "world" / "train.jsonl"), "evaluate": str(out / "world" / "in_domain.jsonl")}
            recipe = {"name": name, "seed": seed, "data": data, "backbone": "minilm", **choice}
            finished[name] = runs.train(recipe, out / name, reporter=terminal)
        page = out / "report.html"
        page.write_text(_comparison(list(finished.values())), encoding="utf8")
    if as_json:
        results = {name: json.loads(one.result.to_json()) for name, one in finished.items()}
        typer.echo(json.dumps({"report": str(page), "results": results}))
        return
    _show_use(out)
    rows = [[n, *(tables.value_with_bounds(r.result.metrics[k]) for k in SHOWN)] for n, r in finished.items()]
    baseline = finished["bt"].result.baselines["longer_wins"]
    rows.append(["longer wins", tables.value_with_bounds(baseline), "", ""])
    typer.echo("\n" + tables.plain_table(["", "accuracy ↑", "NLL ↓", "ECE ↓"], rows))
    typer.echo(f"report: {page}   ({time.monotonic() - started:.0f} s)")


def _comparison(finished: Sequence[runs.Run]) -> str:
    """One page over all runs, with the same example pairs seen by each."""
    rows = remarkable_pairs(finished[-1].predictions, each=1)
    records = [replace(run.record, examples=run.examples(rows)) for run in finished]
    return summary_page(records, "poise demo")


def _show_use(out: Path) -> None:
    """Load a trained model from its folder and ask it about one pair that it has never seen."""
    pair = load_preferences(out / "world" / "mutual_disjoint.jsonl").records[0]
    model = RewardModel.load(out / "drpo-refine")
    belief = model.predict(pair.prompt, [pair.chosen, pair.rejected])
    typer.echo("\nreloaded drpo-refine, asked about two answers to a new prompt of a new domain:")
    for name, response, i in (("a", pair.chosen, 0), ("b", pair.rejected, 1)):
        text = response if isinstance(response, str) else response[-1].content
        typer.echo(f"  {name}  reward {belief.mean[i]:+.2f} ± {belief.std[i]:.2f}   {text[:90]}")
    typer.echo(f"  P(a ≻ b) = {belief[:1].prob_greater(belief[1:])[0]:.2f}")
