"""Commands that score and measure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from poise.cli.declared.app import MEASURE, BadRows, Device, Json, Raw, command


@command(
    MEASURE,
    "poise evaluate runs/bt world/mutual_disjoint.jsonl --out evaluations/bt",
    "poise evaluate runs/bt --on pairs:world/in_domain.jsonl,ratings:world/ratings_in_domain.jsonl --json",
    "poise evaluate --from evaluations/bt --utility lcb:1",
)
def evaluate(
    model: Annotated[str | None, typer.Argument(help="A run, a checkpoint, or anything else that scores.")] = None,
    data: Annotated[str | None, typer.Argument(help="Preference pairs; short for --on pairs:DATA.")] = None,
    on: Annotated[
        list[str] | None,
        typer.Option(help="Benchmarks, pairs:FILE, ratings:FILE, responses:FILE or FOLDER; BENCHMARK=FOLDER."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for predictions, result and report.")] = None,
    from_: Annotated[Path | None, typer.Option("--from", help="Measure saved predictions; no model.")] = None,
    utility: Annotated[
        str | None, typer.Option(help="The number that benchmarks compare: mean (default), cvar:0.1, lcb:1, …")
    ] = None,
    gold: Annotated[
        str | None, typer.Option(help="A scorer that says what each response of responses:… is worth.")
    ] = None,
    labels: Annotated[str, typer.Option(help="soft (share of votes) or hard (majority).")] = "soft",
    include_train_prompts: Annotated[
        bool, typer.Option(help="Also count rows whose prompt the run was trained on.")
    ] = False,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples of the prompts.")] = 1000,
    raw: Raw = False,
    bad_rows: BadRows = "error",
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Evaluate a scorer on benchmarks, pairs and ratings, each figure with an interval.

    MODEL is a run or checkpoint, a plain ...ForSequenceClassification folder or hub id, judge:MODEL (a language model's own
    ratings), FILE.py:FUNCTION, or http://... of a server.
    """
    from poise.cli import evaluate as command

    sets = [*([f"pairs:{data}"] if data else []), *(on or [])]
    if from_ is not None:
        settled = {
            "--labels": labels != "soft",
            "--include-train-prompts": include_train_prompts,
            "--raw": raw,
            "--bad-rows": bad_rows != "error",
            "--device": device != "auto",
        }
        named = [model, *sets, gold, *(option for option, given in settled.items() if given)]
        command.again(from_, out, resamples, utility, named, as_json=json_)
    else:
        chosen = utility or "mean"
        options = command.Options(labels, include_train_prompts, bad_rows, device, resamples, raw, chosen, gold)
        command.run(model, sets, out, options, as_json=json_)


@command(MEASURE, "poise compare evaluations/bt evaluations/drpo --out compared.html")
def compare(
    evaluations: Annotated[list[Path], typer.Argument(help="Two or more folders that poise evaluate --out wrote.")],
    out: Annotated[Path | None, typer.Option(help="Write an HTML page that compares them.")] = None,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples of the prompts.")] = 1000,
    json_: Json = False,
) -> None:
    """Compare scorers on the same rows: paired differences with intervals, and which of them mean nothing."""
    from poise.cli import compare as command

    command.run(evaluations, out, resamples, as_json=json_)


@command(
    MEASURE,
    "poise score runs/bt world/in_domain.jsonl --out scores.parquet",
    "poise score runs/drpo world/in_domain.jsonl --out careful.parquet --utility cvar:0.1 --utility lcb:1",
)
def score(
    run: Annotated[Path, typer.Argument(help="A run or checkpoint folder, or http://... of a server.")],
    data: Annotated[str, typer.Argument(help="Rows with prompt and response(s), or pairs.")],
    out: Annotated[Path, typer.Option(help="The Parquet file to write.")],
    utility: Annotated[
        list[str] | None, typer.Option(help="Add a column: mean, lcb:1, cvar:0.1, entropic:1, shrinkage, … Repeatable.")
    ] = None,
    raw: Raw = False,
    bad_rows: BadRows = "error",
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Score every response of a file: moments, parameters, quantiles and utilities, one Parquet row each."""
    from poise.cli import score as command
    from poise.cli.scoring import Scoring

    command.run(run, data, out, Scoring.of(bad_rows, device, raw), utility or [], as_json=json_)
