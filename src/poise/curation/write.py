"""Curated data as files in TRL's columns: what stays, what was left out and why, what people should look at."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from poise.curation.decide import Decision
from poise.data.load import BadRow
from poise.data.records import Preference
from poise.errors import ConfigError, DataError
from poise.evaluation.items import plain
from poise.output import check_file, replacing

SUFFIXES = (".jsonl", ".parquet")
OPTIONAL = ("votes", "p_chosen", "strength", "margin", "attributes", "quality", "annotator", "subset", "meta")


def check_outs(outs: Iterable[Path | None], inputs: Iterable[str], suffixes: tuple[str, ...] = SUFFIXES) -> None:
    """Refuse (``ConfigError``) files of a kind that is not written, twice the same, an input, or in no writable place."""
    taken: list[str | Path] = list(inputs)
    for out in outs:
        if out is None:
            continue
        if out.suffix not in suffixes:
            raise ConfigError(
                f"{out}: not a kind of file that is written here; give a name that ends in {' or '.join(suffixes)}"
            )
        check_file(out, *taken)
        taken.append(out)


def curated_row(one: Decision) -> dict[str, Any]:
    """A pair as it goes on, and what was said about it. ``p_chosen`` is a label, which training reads; what the model
    believes is ``model_p_chosen``, of the pair as written.
    """
    turned = one.written.chosen != one.pair.chosen
    return preference_row(one.written) | {
        "model_p_chosen": _number(1 - one.p if turned else one.p),
        "confidence": _number(one.confidence),
        "doubt": _number(one.doubt),
        "information": _number(one.information),
        "group": one.group,
        "disputed": one.disputed,
        "action": one.action,
        "reason": one.reason,
        "source": one.pair.source,
        "source_row": one.pair.row,
    }


def bad_row(bad: BadRow) -> dict[str, Any]:
    """A row that could not be read as a pair, by its place."""
    reason = f"unusable: {bad.problem}; {bad.remedy}"
    return {"action": "drop", "reason": reason, "source": bad.source, "source_row": bad.row}


def preference_row(pair: Preference) -> dict[str, Any]:
    """The columns that the loader reads back to the same pair, without the empty ones."""
    row: dict[str, Any] = {name: plain(getattr(pair, name)) for name in ("prompt", "chosen", "rejected")}
    row |= {name: getattr(pair, name) for name in OPTIONAL}
    row["votes"] = None if pair.votes is None else asdict(pair.votes)
    row["tie"] = pair.tie or None
    row["attributes"] = {name: list(both) for name, both in pair.attributes.items()} or None
    row["quality"] = list(pair.quality) if any(pair.quality) else None
    row["meta"] = dict(pair.meta) or None
    return {name: value for name, value in row.items() if value is not None}


def write_rows(rows: list[dict[str, Any]], out: Path) -> None:
    """As JSON lines or Parquet, by the suffix of ``out``, whole or not at all."""
    with replacing(out) as temporary:
        if out.suffix == ".parquet":
            pyarrow.parquet.write_table(_table(rows, out), temporary)
        else:
            with temporary.open("w", encoding="utf8") as handle:
                handle.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _table(rows: list[dict[str, Any]], out: Path) -> pyarrow.Table:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    # what nests differently from row to row has no type of column: as text, readers skip it
    flat = [{k: json.dumps(v, ensure_ascii=False) if k == "meta" else v for k, v in row.items()} for row in rows]
    try:
        return pyarrow.table({name: [row.get(name) for row in flat] for name in columns})
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{out}: the rows do not fit into columns of one type ({reason}), as where plain and conversational rows mix; "
            "write a .jsonl file"
        ) from None


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
