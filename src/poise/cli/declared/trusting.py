"""Commands about how far a model can be trusted, and whether it still fits what it sees."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from poise.cli.declared.app import TRUST, BadRows, Device, Json, command


@command(
    TRUST,
    "poise calibrate runs/drpo world/in_domain.jsonl --out calibrated",
    "poise calibrate runs/drpo world/in_domain.jsonl --abstain-error 0.1",
    "poise calibrate runs/drpo --remove",
)
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
        idle = {
            "--method": method != "auto",
            "--abstain-error": abstain_error is not None,
            "--interval": interval is not None,
            "--on": bool(on),
            "--labels": labels != "soft",
            "--include-train-prompts": include_train_prompts,
            "--bad-rows": bad_rows != "error",
            "--device": device != "auto",
        }
        named = [*(data or []), *(option for option, given in idle.items() if given)]
        command.remove(run, named, out, as_json=json_)
        return
    wishes = Wishes(method, abstain_error, interval=interval)
    options = command.Options(labels, include_train_prompts, bad_rows, device, out)
    command.run(run, data or [], on or [], wishes, options, as_json=json_)


@command(
    TRUST,
    "poise monitor runs/bt world/in_domain.jsonl",
    "poise monitor runs/bt world/in_domain.jsonl --make-reference",
)
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
