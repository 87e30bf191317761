"""Commands about data: look at it, make some, mend it, choose what to label next."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from poise.cli.declared.app import DATA, BadRows, Device, Json, Raw, app, command, data_app

app.add_typer(data_app, name="data", rich_help_panel=DATA)


@command(
    DATA,
    "poise data check world/train.jsonl --against world/in_domain.jsonl",
    "poise data check world/train.jsonl --backbone minilm",
    name="check",
    within=data_app,
)
def data_check(
    file: Annotated[str, typer.Argument(help="Preference pairs: a file, a saved dataset or a hub id.")],
    against: Annotated[str | None, typer.Option(help="A second file: report shared prompts and pairs.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Count tokens as this backbone does (e.g. minilm).")] = None,
    max_length: Annotated[int | None, typer.Option(help="Token limit; the backbone's own by default.")] = None,
    json_: Json = False,
) -> None:
    """Report what a file holds and which rows are broken; exit code 2 where some are."""
    from poise.cli import data as command

    command.check(file, against, backbone, max_length, as_json=json_)


@command(
    DATA,
    "poise data splits responses.jsonl --new-models gpt-4,llama-3 --out splits",
    name="splits",
    within=data_app,
)
def data_splits(
    file: Annotated[str, typer.Argument(help="Several responses per prompt, with the model behind each.")],
    out: Annotated[Path, typer.Option(help="Folder to write train.jsonl and the four splits to.")],
    new_models: Annotated[str, typer.Option(help="Models that training must not see, separated by commas.")],
    gold: Annotated[
        str | None, typer.Option(help="A scorer that says what responses are worth; else the column gold.")
    ] = None,
    new_prompts: Annotated[float, typer.Option(help="Share of the prompts that training must not see.")] = 0.1,
    in_domain: Annotated[float, typer.Option(help="Share of the known prompts to hold two responses back of.")] = 0.1,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Deal responses out by prompt and model, known and new: how well does a reward model generalise.

    Train on OUT/train.jsonl, then: poise evaluate RUN --on responses:OUT
    """
    from poise.cli import data as command

    shares = {"new_prompts": new_prompts, "in_domain": in_domain}
    command.splits(file, out, new_models.split(","), gold, shares, device, as_json=json_)


@command(DATA, "poise data simulate --out world", name="simulate", within=data_app)
def data_simulate(
    out: Annotated[Path, typer.Option(help="Folder to write the splits, ratings and world.json to.")],
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    train_pairs: Annotated[int, typer.Option(help="Training pairs.")] = 4000,
    eval_pairs: Annotated[int, typer.Option(help="Pairs in each of the four evaluation splits.")] = 500,
    raters: Annotated[int, typer.Option(help="Votes per pair.")] = 5,
    flip_rate: Annotated[float, typer.Option(help="Share of training labels turned round.")] = 0.1,
    json_: Json = False,
) -> None:
    """Make a small world with known truth: pairs with votes, multi-rater ratings, four generalisation splits."""
    from poise.cli import data as command

    sizes = {"train_pairs": train_pairs, "eval_pairs": eval_pairs, "raters": raters}
    command.simulate_world(out, {"seed": seed, **sizes, "flip_rate": flip_rate}, as_json=json_)


@command(
    DATA,
    "poise curate runs/bt world/train.jsonl --out curated.jsonl --mislabels drop",
    "poise curate runs/bt world/train.jsonl --out checked.jsonl --mislabels review --queue queue.jsonl",
)
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


@command(DATA, "poise select runs/bt world/prompt_disjoint.jsonl --budget 20 --out to_label.jsonl")
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
    json_: Json = False,
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
        as_json=json_,
    )
