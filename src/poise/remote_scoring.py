"""Whole files of responses → a Parquet file of rewards, as ``scoring`` writes it, with a server in the model's place."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import torch

from poise.client import Client, Rewards
from poise.client.protocol import TooLarge
from poise.data.load import BadRow, Candidate, bad_rows_error, iter_candidates
from poise.data.records import Text
from poise.errors import DataError, ServerError
from poise.evaluation.belief_table import REWARD, belief_columns, belief_facts
from poise.output import check_file, replacing, sole
from poise.scoring import GROUP, Progress, Survey, groups_of
from poise.utility import Utility

GROUPS = 256
SERVED, REFUSED = (b"poise.model", b"poise.revision", b"poise.calibration"), "poise.refused"
Group = Sequence[Candidate]


def score_by_server(
    client: Client,
    source: str,
    out: Path,
    *,
    utilities: Sequence[Utility] = (),
    raw: bool = False,
    on_bad: str = "error",
    progress: Progress | None = None,
) -> Survey:
    """Have every response of ``source`` scored into ``out``, whole or not at all, in the order of the file.

    The distributions come over the wire, and utilities are computed here. What an interrupted call has had scored is kept
    beside ``out`` and not asked for again. Raises ``ServerError`` where the server fails, and ``DataError`` with the rows of a
    block that it refuses, unless ``on_bad`` is ``drop``.
    """
    check_file(out, source)
    bad: list[BadRow] = []
    total = sum(1 for _ in iter_candidates(source, bad))
    if bad and on_bad == "error":
        raise bad_rows_error(bad)
    parts = out.with_name(f".{out.name}.parts")
    written: list[Path] = []
    done = 0
    with sole(parts):
        for groups in _blocks(source, []):
            path = parts / f"{len(written):06d}-{_digest(client, groups, raw, utilities)}.parquet"
            if not path.exists() or (on_bad == "error" and _refused(pyarrow.parquet.read_schema(path), source)):
                table = _block(client, groups, raw, utilities)
                if on_bad == "error" and (refused := _refused(table.schema, source)):
                    raise bad_rows_error(refused)
                with replacing(path) as temporary:
                    pyarrow.parquet.write_table(table, temporary)
            written.append(path)
            bad += _refused(pyarrow.parquet.read_schema(path), source)
            done += sum(len(group) for group in groups)
            if progress is not None:
                progress(done, total)
        found = _join(
            written, out, f"{source}: no response was scored" + (f"; the first problem: {bad[0]}" if bad else "")
        )
    return Survey(found, tuple(bad))


def _block(client: Client, groups: Sequence[Group], raw: bool, utilities: Sequence[Utility]) -> pyarrow.Table:
    """What the server says about one block; what it refused stands in the metadata."""
    refused: list[tuple[int, str, str]] = []
    said = [_table(kept, one, utilities) for kept, one in _asked(client, groups, raw, refused)]
    _require_one_model([one.schema for one in said])
    table = pyarrow.concat_tables(said) if said else pyarrow.table({})
    return table.replace_schema_metadata({**(table.schema.metadata or {}), REFUSED: json.dumps(refused)})


def _refused(part: pyarrow.Schema, source: str) -> list[BadRow]:
    return [BadRow(source, *one) for one in json.loads(part.metadata[REFUSED.encode()])]


def _require_one_model(parts: Sequence[pyarrow.Schema]) -> None:
    if any(one.metadata.get(name) != parts[0].metadata.get(name) for one in parts for name in SERVED):
        raise ServerError("the server changed its model or calibration while it was asked; run the command again")


def _join(parts: Sequence[Path], out: Path, nothing: str) -> int:
    """One file of all parts in order, and how many responses it holds."""
    there = [part for part in parts if pyarrow.parquet.read_schema(part).names]
    if not there:
        _remove(parts)
        raise DataError(nothing)
    schemas = [pyarrow.parquet.read_schema(part) for part in there]
    try:
        _require_one_model(schemas)
    except ServerError:
        _remove(parts)
        raise
    schema = schemas[0]
    facts = {name: value for name, value in schema.metadata.items() if name != REFUSED.encode()}
    found = 0
    with replacing(out) as temporary, pyarrow.parquet.ParquetWriter(temporary, schema.with_metadata(facts)) as writer:
        for part in there:
            table = pyarrow.parquet.read_table(part).replace_schema_metadata(facts)
            writer.write_table(table)
            found += len(table)
    _remove(parts)
    return found


def _remove(parts: Sequence[Path]) -> None:
    for part in parts:
        shutil.rmtree(part.parent, ignore_errors=True)


def _digest(client: Client, groups: Sequence[Group], raw: bool, utilities: Sequence[Utility]) -> str:
    """What a part depends on: who was asked, for what, and the texts."""
    digest = hashlib.blake2b(
        repr((client.url, client.model, raw, [one.spec for one in utilities])).encode(), digest_size=8
    )
    for one in (one for group in groups for one in group):
        digest.update(repr((one.row, one.part, one.prompt, one.response)).encode("utf8", "surrogatepass"))
    return digest.hexdigest()


def _blocks(source: str, bad: list[BadRow]) -> Iterator[list[Group]]:
    block: list[Group] = []
    for group in groups_of(iter_candidates(source, bad)):
        block.append(group)
        if len(block) == GROUPS:
            yield block
            block = []
    if block:
        yield block


def _asked(
    client: Client, groups: Sequence[Group], raw: bool, refused: list[tuple[int, str, str]]
) -> Iterator[tuple[Sequence[Group], Rewards]]:
    """What the server says; groups that it refuses are found by halving and left out: their rows, problems and remedies."""
    inputs = [{"prompt": _plain(g[0].prompt), "responses": [_plain(one.response) for one in g]} for g in groups]
    try:
        said = client.rewards_of(inputs, include=["params"], raw=raw, truncation="left")
    except DataError as error:
        if isinstance(error, ServerError) and not isinstance(error, TooLarge):
            raise
        if len(groups) == 1:
            refused += [(one.row, f"{one.part}: {error}", "shorten it or remove the row") for one in groups[0]]
            return
        middle = len(groups) // 2
        for half in (groups[:middle], groups[middle:]):
            yield from _asked(client, half, raw, refused)
    else:
        yield groups, said


def _table(groups: Sequence[Group], said: Rewards, utilities: Sequence[Utility]) -> pyarrow.Table:
    reward = said.distribution
    if reward is None:
        raise ServerError("the server gave scores without their distributions; give the address of a poise server")
    members = [one for group in groups for one in group]
    group = torch.tensor([group[0].row for group in groups for _ in group])
    columns = {
        "row": pyarrow.array([one.row for one in members]),
        "part": pyarrow.array([one.part for one in members]),
        GROUP: pyarrow.array(group.numpy()),
        **{utility.spec: pyarrow.array(utility(reward, group).numpy()) for utility in utilities},
        **belief_columns({REWARD: reward}),
        "tokens": pyarrow.array([row.num_tokens for row in said.rows]),
        "truncated": pyarrow.array([row.truncated for row in said.rows]),
    }
    served = said.model or "", said.revision or "", json.dumps(said.calibration, sort_keys=True)
    facts = {**dict(zip(SERVED, served, strict=True)), b"poise.beliefs": belief_facts({REWARD: reward})}
    return pyarrow.table(columns).replace_schema_metadata(facts)


def _plain(text: Text) -> Any:
    return text if isinstance(text, str) else [message._asdict() for message in text]
