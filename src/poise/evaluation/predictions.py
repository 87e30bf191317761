"""What a model said, saved per response: every measure, table and figure is computed from this file, without the model.

One Parquet row per response: which set, item and response; the text; how many tokens were read and cut; the beliefs. An
item's prompt, labels and further facts stand in the row of its first response.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from poise.distributions import RewardDistribution
from poise.errors import DataError
from poise.evaluation.belief_table import belief_columns, belief_facts, beliefs_of
from poise.evaluation.benchmark import Item
from poise.evaluation.items import item_json, item_of, text_json
from poise.output import replacing
from poise.version import __version__

SCHEMA_VERSION = 1
FILE = "predictions.parquet"
STATE = "state"


@dataclass(frozen=True)
class Scored:
    """What a scorer says about B responses: ``beliefs`` [B] about the reward and, by attribute, about ratings.

    ``tokens``, ``cut`` and ``cut_response`` [B] count what was read, and what of the prompt and the response was not.
    ``states`` [B, H] are what the head reads, where the scorer knows; they are saved of sets whose subsets are compared.
    """

    beliefs: Mapping[str, RewardDistribution]
    tokens: Sequence[int]
    cut: Sequence[int]
    cut_response: Sequence[int]
    states: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class SetFacts:
    """A set as asked for (``pairs:dev.jsonl``), and how many of its rows could not be used."""

    name: str
    left_out: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SetPredictions:
    """The items of one set with what was said about their responses, item by item."""

    facts: SetFacts
    items: tuple[Item, ...]
    scored: Scored


@dataclass(frozen=True)
class Predictions:
    """All sets of one evaluation; ``scorer`` says on what the numbers depend."""

    scorer: Mapping[str, Any]
    sets: tuple[SetPredictions, ...]


def rows_of(name: str, items: Sequence[Item], scored: Scored) -> pyarrow.Table:
    """One block of a set as a table, ready for ``write``."""
    heads = [item_json(item) if j == 0 else None for item in items for j in range(len(item.responses))]
    columns = {
        "set": pyarrow.array([name] * len(heads)),
        "item": pyarrow.array([item.id for item in items for _ in item.responses]),
        "response": pyarrow.array([j for item in items for j in range(len(item.responses))], pyarrow.int32()),
        "about": pyarrow.array(heads, pyarrow.string()),
        "text": pyarrow.array([text_json(response) for item in items for response in item.responses]),
        "tokens": pyarrow.array(scored.tokens, pyarrow.int32()),
        "cut_tokens": pyarrow.array(scored.cut, pyarrow.int32()),
        "cut_response_tokens": pyarrow.array(scored.cut_response, pyarrow.int32()),
    }
    if scored.states is not None:
        flat = pyarrow.array(scored.states.astype(np.float32).ravel())
        columns[STATE] = pyarrow.FixedSizeListArray.from_arrays(flat, scored.states.shape[1])
    table = pyarrow.table(columns | belief_columns(scored.beliefs))
    return table.replace_schema_metadata({"poise.beliefs": belief_facts(scored.beliefs)})


def merge(parts: Sequence[Path], out: Path, scorer: Mapping[str, Any], sets: Sequence[SetFacts]) -> None:
    """Join blocks, in order, into one file, whole or not at all; one block is in memory at a time."""
    schemas = [pyarrow.parquet.read_schema(part) for part in parts]
    first = next((schema for schema in schemas if STATE in schema.names), schemas[0])
    facts = {
        "poise.schema_version": str(SCHEMA_VERSION),
        "poise.version": __version__,
        "poise.scorer": json.dumps(dict(scorer)),
        "poise.sets": json.dumps([vars(one) for one in sets]),
        "poise.beliefs": first.metadata[b"poise.beliefs"],
    }
    schema = first.with_metadata(facts)
    with replacing(out) as temporary, pyarrow.parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for part in parts:
            table = pyarrow.parquet.read_table(part)
            if table.schema.metadata[b"poise.beliefs"] != first.metadata[b"poise.beliefs"]:
                raise DataError(f"{part}: its beliefs are of another kind than the first block's; score all again")
            if STATE in schema.names and STATE not in table.column_names:
                place, kind = schema.get_field_index(STATE), schema.field(STATE).type
                table = table.add_column(place, STATE, pyarrow.nulls(len(table), kind))
            writer.write_table(table.cast(schema))


def copy(path: str | Path, out: Path, utility: str | None) -> None:
    """Write what ``read`` reads to another file, whole or not at all, with another utility where one is given."""
    table = pyarrow.parquet.read_table(_file(path))
    facts = table.schema.metadata
    scorer = json.loads(facts[b"poise.scorer"]) | ({} if utility is None else {"utility": utility})
    with replacing(out) as temporary:
        named = table.replace_schema_metadata({**facts, b"poise.scorer": json.dumps(scorer)})
        pyarrow.parquet.write_table(named, temporary, compression="zstd")


def _file(path: str | Path) -> Path:
    return Path(path) / FILE if Path(path).is_dir() else Path(path)


def read(path: str | Path) -> Predictions:
    """Read what ``merge`` wrote, or the folder that holds it; raises ``DataError`` for anything else."""
    path = _file(path)
    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise DataError(
            f"{path}: cannot be read as predictions ({error}); give the file poise evaluate wrote"
        ) from None
    known = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    if "poise.sets" not in known:
        raise DataError(f"{path}: not predictions of poise evaluate; its metadata has no 'poise.sets'")
    if int(known["poise.schema_version"]) != SCHEMA_VERSION:
        raise DataError(
            f"{path}: schema version {known['poise.schema_version']}, this poise reads {SCHEMA_VERSION}; score again"
        )
    beliefs = beliefs_of(table, known["poise.beliefs"])
    names = np.array(table["set"].to_pylist())
    sets = []
    for facts in json.loads(known["poise.sets"]):
        rows = np.flatnonzero(names == facts["name"])
        part = table.take(rows)
        tokens, cut, lost = (part[name].to_pylist() for name in ("tokens", "cut_tokens", "cut_response_tokens"))
        own = {about: belief[rows] for about, belief in beliefs.items()}
        scored = Scored(own, tokens, cut, lost, _states(part))
        named = SetFacts(facts["name"], facts["left_out"], tuple(facts["notes"]))
        sets.append(SetPredictions(named, _items(part), scored))
    return Predictions(json.loads(known["poise.scorer"]), tuple(sets))


def _states(rows: pyarrow.Table) -> NDArray[np.float32] | None:
    if STATE not in rows.column_names or rows[STATE].null_count:
        return None
    column = rows[STATE].combine_chunks()
    return np.asarray(column.flatten(), dtype=np.float32).reshape(len(column), column.type.list_size)


def _items(rows: pyarrow.Table) -> tuple[Item, ...]:
    columns = zip(*(rows[name].to_pylist() for name in ("item", "about", "text")), strict=True)
    number = -1

    def of_item(row: tuple[str, str | None, str]) -> int:
        nonlocal number
        number += row[1] is not None
        return number

    groups = (list(group) for _, group in groupby(columns, of_item))
    return tuple(item_of(group[0][0], str(group[0][1]), [text for _, _, text in group]) for group in groups)
