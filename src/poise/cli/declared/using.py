"""Commands that put a model to use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from poise.cli.declared.app import TRUST, USE, BadRows, Device, Json, Raw, command


@command(
    USE,
    "poise best-of-n runs/drpo world/in_domain.jsonl --out best.jsonl --utility cvar:0.1",
    "poise best-of-n --from scores.parquet --out best.parquet --min-p-best 0.6",
    name="best-of-n",
)
def best_of_n(
    out: Annotated[Path, typer.Option(help="The .jsonl or .parquet file to write.")],
    run: Annotated[Path | None, typer.Argument(help="A run or checkpoint folder; not needed with --from.")] = None,
    data: Annotated[str | None, typer.Argument(help="Rows with prompt and responses; or one response a row.")] = None,
    utility: Annotated[
        str, typer.Option(help="What to maximise: mean, shrinkage, cvar:0.1, entropic:1, lcb:1 …")
    ] = "mean",
    n: Annotated[int | None, typer.Option(help="Choose among the first N responses to each prompt.")] = None,
    min_p_best: Annotated[float, typer.Option(help="Abstain where P(best) of the choice is lower.")] = 0.0,
    stop_at: Annotated[
        float | None, typer.Option(help="Report how many responses it takes to be as sure of the choice.")
    ] = None,
    cost: Annotated[
        float | None, typer.Option(help="The same, until one more is expected to gain less than this utility.")
    ] = None,
    wins: Annotated[bool, typer.Option(help="Write the win matrices.")] = True,
    from_: Annotated[Path | None, typer.Option("--from", help="What poise score or evaluate saved; no model.")] = None,
    bad_rows: BadRows = "error",
    device: Device = "auto",
    raw: Raw = False,
    json_: Json = False,
) -> None:
    """Choose the best of several responses to each prompt, and say how sure that is.

    One line per prompt: the choice, the utility of each response, P(best), the win matrix, and whether to abstain.
    """
    from poise.cli import best_of_n as command
    from poise.cli.scoring import Scoring

    selection = command.selected(utility, n, min_p_best, stop_at, cost, wins=wins)
    if from_ is not None:
        idle = {"--bad-rows": bad_rows != "error", "--device": device != "auto", "--raw": raw}
        named = [*(str(one) for one in (run, data) if one), *(option for option, given in idle.items() if given)]
        command.again(from_, out, selection, named, as_json=json_)
    else:
        command.run(run, data, out, selection, Scoring.of(bad_rows, device, raw), as_json=json_)


@command(USE, "poise serve runs/bt --port 8000", "poise serve careful=runs/drpo --utility cvar:0.1")
def serve(
    models: Annotated[list[str], typer.Argument(help="Run or checkpoint folders; NAME=FOLDER gives a name.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is everywhere.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    utility: Annotated[str, typer.Option(help="What a score is unless a request says otherwise: cvar:0.1.")] = "mean",
    raw: Annotated[bool, typer.Option("--raw", help="Leave the models' calibration out.")] = False,
    api_key_file: Annotated[Path | None, typer.Option(help="Requests must bear the key in this file.")] = None,
    round_tokens: Annotated[int | None, typer.Option(help="Tokens scored together.")] = None,
    waiting_tokens: Annotated[int | None, typer.Option(help="Tokens that may wait; beyond that, 503.")] = None,
    requests: Annotated[int | None, typer.Option(help="Requests that may be under way; beyond that, 503.")] = None,
    body_bytes: Annotated[int | None, typer.Option(help="The largest request.")] = None,
    request_seconds: Annotated[float | None, typer.Option(help="The longest a request may take.")] = None,
    drain_seconds: Annotated[float | None, typer.Option(help="How long SIGTERM waits for answers.")] = None,
    log_texts: Annotated[bool, typer.Option("--log-texts", help="Put what is scored into the log.")] = False,
    device: Device = "auto",
) -> None:
    """Serve reward models over HTTP, with the routes of vLLM, OpenAI, OpenRLHF, TEI and LLaMA-Factory.

    The key may also stand in the environment as POISE_API_KEY.
    """
    from poise.cli import serve as command

    command.run(
        models,
        command.Place(host, port, device, raw),
        api_key_file,
        os.environ.get("POISE_API_KEY"),
        utility=utility,
        round_tokens=round_tokens,
        waiting_tokens=waiting_tokens,
        requests=requests,
        body_bytes=body_bytes,
        request_seconds=request_seconds,
        drain_seconds=drain_seconds,
        log_texts=log_texts,
    )


@command(USE, "poise export runs/bt --out exported --form poise")
def export(
    run: Annotated[Path, typer.Argument(help="A run or checkpoint folder.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    form: Annotated[
        str, typer.Option(help="scalar (one output), params (the raw parameters), both, or poise (for poise itself).")
    ] = "scalar",
    push: Annotated[str | None, typer.Option(help="Also upload to this repository of the hub.")] = None,
    public: Annotated[bool, typer.Option(help="Make a new repository public; private otherwise.")] = False,
    license_: Annotated[str | None, typer.Option("--license", help="For the model card: apache-2.0, mit, …")] = None,
    json_: Json = False,
) -> None:
    """Write a plain ...ForSequenceClassification folder for engines and transformers, with golden scores and a model card."""
    from poise.cli import export as command

    command.run(run, out, form, push, public=public, license=license_, as_json=json_)


@command(TRUST, "poise verify runs/bt", "poise verify exported --json")
def verify(
    target: Annotated[str, typer.Argument(help="A run, a checkpoint, an exported folder, or http://... of a server.")],
    golden: Annotated[Path | None, typer.Option(help="The folder whose golden scores a server is held to.")] = None,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Score the golden texts again: exit code 0 where all agree, 1 where one is off, 2 where it cannot be told."""
    from poise.cli import verify as command

    command.run(target, golden, device, as_json=json_)
