"""Commands about how far a model can be trusted, and what its doubts say about the data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from poise.cli.declared.app import BadRows, Device, Json, Raw, app


@app.command()
def calibrate(
    run: Annotated[Path, typer.Argument(help="A run or checkpoint folder.")],
    data: Annotated[list[str] | None, typer.Argument(help="Held-out pairs: FILE; ratings: ratings:FILE.")] = None,
    method: Annotated[
        str, typer.Option(help="auto, none; for pairs temperature, isotonic; for ratings affine, conformal.")
    ] = "auto",
    abstain_error: Annotated[
        float | None,
        typer.Option(help="Find when to answer so that at most this share is wrong; uses half of the pairs."),
    ] = None,
    interval: Annotated[
        float | None, typer.Option(help="Find rating intervals that cover this share; uses half of the ratings.")
    ] = None,
    on: Annotated[list[str] | None, typer.Option(help="Also report on another FILE, to see what shift does.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write a calibrated copy; the checkpoint itself by default.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the calibration away.")] = False,
    labels: Annotated[str, typer.Option(help="soft (share of votes) or hard (majority).")] = "soft",
    include_train_prompts: Annotated[
        bool, typer.Option(help="Also use rows whose prompt the run was trained on.")
    ] = False,
    bad_rows: BadRows = "error",
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Make P(win) and predicted ratings come true as often as they say, and keep that with the model.

    What is better stays better. Everything that scores with the model uses the calibration, unless told --raw.
    """
    from poise.calibration_run import Wishes
    from poise.cli import calibrate as command

    if remove:
        command.remove(run, data or [], out)
        return
    wishes = Wishes(method, abstain_error, interval=interval)
    options = command.Options(labels, include_train_prompts, bad_rows, device, out)
    command.run(run, data or [], on or [], wishes, options, as_json=json_)


@app.command()
def curate(
    run: Annotated[Path, typer.Argument(help="A run or checkpoint folder: who judges.")],
    data: Annotated[str, typer.Argument(help="Preference pairs: a file, a saved dataset or a hub id.")],
    out: Annotated[Path, typer.Option(help="The curated pairs: FILE.jsonl or FILE.parquet.")],
    mislabels: Annotated[
        str, typer.Option(help="Labels that look wrong: keep, drop, flip, soft (the model's P as label) or review.")
    ] = "keep",
    doubt: Annotated[float, typer.Option(help="How likely a label must be wrong for that.")] = 0.8,
    boundary: Annotated[float, typer.Option(help="Confidence |2P-1| below which a pair is a boundary pair.")] = 0.2,
    disputed: Annotated[str, typer.Option(help="Pairs where a belief has two peaks: keep, drop or review.")] = "keep",
    mix: Annotated[
        str | None, typer.Option(help="Shares of easy, boundary and hard pairs: 0.3,0.6,0.1; or drpo: half easy.")
    ] = None,
    repeats: Annotated[str, typer.Option(help="drop, or keep pairs that repeat an earlier one.")] = "drop",
    near: Annotated[
        float, typer.Option(help="Similarity from which texts are repeats (Jaccard of word triples).")
    ] = 0.8,
    against: Annotated[
        list[str] | None, typer.Option(help="Evaluation pairs: leave out what has a prompt of theirs.")
    ] = None,
    cross_fit: Annotated[
        int | None,
        typer.Option(help="Train K heads that judge what they have not seen; 0 never. By default where needed."),
    ] = None,
    queue: Annotated[Path | None, typer.Option(help="Also write what people should look at, best first.")] = None,
    queue_size: Annotated[int, typer.Option(help="Pairs in the queue.")] = 500,
    dropped: Annotated[
        Path | None, typer.Option(help="What is left out, with reasons; OUT.dropped by default.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="A .html or .md file; beside OUT by default.")] = None,
    seed: Annotated[int, typer.Option(help="Decides which pairs a mix leaves out.")] = 0,
    raw: Raw = False,
    bad_rows: BadRows = "drop",
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Curate pairs by what a model doubts: wrong labels, repeats, contamination, the mix of easy and hard.

    No model judges prompts it was trained on. Every row is in OUT or, with a reason, in the file of what was left out.
    """
    from poise.cli import curate as command
    from poise.curation.curate import Search

    outs = command.Outs(out, dropped, queue, report, queue_size)
    rules = command.rules_of(mislabels, doubt, boundary, disputed, mix, seed)
    search = Search(repeats, near, tuple(against or ()), cross_fit)  # type: ignore[arg-type]
    command.run(run, data, outs, rules, search, bad_rows=bad_rows, device=device, raw=raw, as_json=json_)


@app.command()
def select(
    run: Annotated[Path, typer.Argument(help="A run or checkpoint folder: its backbone and its training pairs.")],
    candidates: Annotated[str, typer.Argument(help="Rows with prompt and responses; labels are not read.")],
    budget: Annotated[int, typer.Option(help="How many pairs to have labelled.")],
    out: Annotated[Path, typer.Option(help="The pairs to label, best first: FILE.jsonl or FILE.parquet.")],
    by: Annotated[str, typer.Option(help="variance, bald, uncertainty or random.")] = "variance",
    per_prompt: Annotated[int | None, typer.Option(help="At most so many pairs of one prompt.")] = None,
    labelled: Annotated[
        str | None, typer.Option(help="Pairs labelled so far, or none; the run's training pairs by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides what random takes.")] = 0,
    bad_rows: BadRows = "error",
    device: Device = "auto",
) -> None:
    """Choose the pairs to have labelled next, so that few labels teach much."""
    from poise.cli import select as command

    command.run(
        run,
        candidates,
        out,
        budget=budget,
        how=by,
        per_prompt=per_prompt,
        labelled=labelled,
        seed=seed,
        bad_rows=bad_rows,
        device=device,
    )


@app.command()
def monitor(
    run: Annotated[Path, typer.Argument(help="A run or checkpoint folder.")],
    data: Annotated[str, typer.Argument(help="What it scores now: rows with prompt and response(s), or pairs.")],
    alpha: Annotated[float, typer.Option(help="Error rate of the test, for all measures together.")] = 0.01,
    least: Annotated[float, typer.Option(help="Smallest drift that matters: W1 in standard deviations.")] = 0.1,
    make_reference: Annotated[
        bool, typer.Option("--make-reference", help="Make DATA what later data are compared with.")
    ] = False,
    bad_rows: BadRows = "error",
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Compare rewards, uncertainty and lengths with those at training: exit code 0 without drift, 1 with, 2 where it cannot be told."""
    from poise.cli import monitor as command

    command.run(
        run,
        data,
        bad_rows=bad_rows,
        device=device,
        alpha=alpha,
        least=least,
        make=make_reference,
        as_json=json_,
    )
