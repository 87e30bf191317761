"""``poise train --dry-run``: what a recipe would do, for people and for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import typer

from poise.cli.show import size
from poise.report.tables import plain_table
from poise.training.forecast import Assumed, Plan, plan
from poise.training.recipe import read_recipe


def run(source: Path, overrides: Sequence[str], assume: Sequence[str], *, as_json: bool) -> None:
    """Print the plan of a recipe; nothing is written."""
    assumed = Assumed.of(assume)
    found = plan(read_recipe(source, overrides), assumed)
    if as_json:
        memory = found.memory
        totals = {"total": memory.total, "most": memory.most} if memory else {}
        typer.echo(json.dumps(asdict(found) | {"seconds": found.seconds, "memory_bytes": totals}))
    else:
        typer.echo("\n".join(told(found)))


def told(found: Plan) -> list[str]:
    """The plan as lines."""
    return [
        f"{found.name}: {found.method}, {UPDATES[found.update]}, on {found.backbone}",
        *_data(found),
        *_model(found),
        *_memory(found),
        "",
        *_stages(found),
        *_time(found),
        *(f"assumed: {one}" for one in found.assumptions),
        *(f"! {one}" for one in found.unresolved),
        "A dry run: nothing was written.",
    ]


UPDATES = {"head": "head on frozen features", "full": "all weights", "lora": "adapters"}


def _data(found: Plan) -> list[str]:
    data = found.data
    if data.training is None:
        return ["data: not known"]
    roles = {"evaluation": data.evaluation, "validation": data.validation, "watched": data.watched}
    prompts = f" over {data.prompts:,} prompts" if data.prompts else ""
    lines = [
        f"data ({data.how}): {data.training:,.0f} training pairs{prompts}"
        + "".join(f", {count:,.0f} {role}" for role, count in roles.items() if count)
        + (f", {data.ratings:,.0f} rated responses" if data.ratings else "")
        + (f"; {data.left_out:,} rows left out" if data.left_out else "")
    ]
    if data.tokens_per_pair is not None:
        lines.append(
            f"tokens: {data.tokens_per_pair:,.0f} a pair ({data.tokens_how}), at most {found.max_length:,} a text"
        )
    return lines


def _model(found: Plan) -> list[str]:
    shape = found.shape
    if shape is None:
        return ["backbone: not known"]
    head = "" if found.head is None else f", {found.head:,} in the head"
    return [
        f"parameters: {_count(shape.parameters)} in the backbone, of which {_count(shape.trained)} are trained{head}"
    ]


def _memory(found: Plan) -> list[str]:
    memory = found.memory
    if memory is None:
        return []
    each = " on each of them" if found.processes > 1 else ""
    parts = {**memory.fixed, **({} if memory.activations is None else {"activations": memory.activations})}
    told = ", ".join(f"{name} {size(bytes_)}" for name, bytes_ in parts.items())
    lines = [f"memory{each}: {size(memory.total)} ({told})"]
    if memory.activations_most is not None:
        lines.append(f"  at most {size(memory.most)}, with texts of {found.max_length:,} tokens")
    if found.feature_bytes is not None:
        lines.append(f"features: {size(found.feature_bytes)} in main memory and in the cache")
    return lines


def _stages(found: Plan) -> list[str]:
    head = ["stage", "learns from", "epochs", "batch", "steps", "learning rate", "trains", "time"]
    rows = [
        [
            one.name,
            " + ".join(_some(n, what) for n, what in ((one.pairs, "pairs"), (one.ratings, "ratings")) if n != 0),
            f"{one.epochs:g}",
            f"{one.batch_size:,}",
            "?" if one.steps is None else f"{one.steps:,}",
            f"{one.learning_rate:g} {one.schedule}",
            _count(one.trained),
            "seconds" if found.update == "head" else duration(one.seconds),
        ]
        for one in found.stages
    ]
    return [plain_table(head, rows).rstrip("\n")]


def _time(found: Plan) -> list[str]:
    reading = "features" if found.update == "head" else "evaluation and references"
    return [f"time: about {duration(found.seconds)}, of which {duration(found.reading)} for {reading}"]


def _some(count: float | None, what: str) -> str:
    return f"? {what}" if count is None else f"{count:,.0f} {what}"


def _count(number: int) -> str:
    for whole, unit in ((10**9, " billion"), (10**6, " million")):
        if number >= whole:
            return f"{number / whole:.3g}{unit}"
    return f"{number:,}"


def duration(seconds: float | None) -> str:
    """In the unit that people would choose."""
    if seconds is None:
        return "?"
    for one, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * one:
            return f"{seconds / one:.1f} {unit}"
    return f"{seconds:.0f} s"
