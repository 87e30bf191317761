"""Whole files of responses → a Parquet file of rewards, as ``scoring`` writes it, with a server in the model's place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import torch

from poise.client import Client, Rewards
from poise.data.load import BadRow, Candidate, bad_rows_error, iter_candidates
from poise.data.records import Text
from poise.errors import DataError, ServerError
from poise.evaluation.belief_table import REWARD, belief_columns, belief_facts
from poise.output import check_file, replacing
from poise.scoring import GROUP, Survey, groups_of
from poise.utility import Utility

GROUPS = 256
Group = Sequence[Candidate]


def score_by_server(
    client: Client,
    source: str,
    out: Path,
    *,
    utilities: Sequence[Utility] = (),
    raw: bool = False,
    on_bad: str = "error",
) -> Survey:
    """Have every response of ``source`` scored into ``out``, whole or not at all, in the order of the file.

    The distributions come over the wire, and utilities are computed here. Raises ``ServerError`` where the server fails, and
    ``DataError`` for rows that it refuses, unless ``on_bad`` is ``drop``.
    """
    check_file(out)
    bad: list[BadRow] = []
    found = 0
    writer: pyarrow.parquet.ParquetWriter | None = None
    with replacing(out) as temporary:
        try:
            for groups in _blocks(source, bad):
                for kept, said in _asked(client, groups, source, raw, bad if on_bad == "drop" else None):
                    table = _table(kept, said, utilities)
                    writer = writer or pyarrow.parquet.ParquetWriter(temporary, table.schema)
                    writer.write_table(table)
                    found += len(said.rows)
        finally:
            if writer is not None:
                writer.close()
        if bad and on_bad == "error":
            raise bad_rows_error(bad)
        if not found:
            raise DataError(f"{source}: no response was scored" + (f"; the first problem: {bad[0]}" if bad else ""))
    return Survey(found, tuple(bad))


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
    client: Client, groups: Sequence[Group], source: str, raw: bool, bad: list[BadRow] | None
) -> Iterator[tuple[Sequence[Group], Rewards]]:
    """What the server says; with ``bad``, groups that it refuses are found by halving, and left out."""
    inputs = [{"prompt": _plain(g[0].prompt), "responses": [_plain(one.response) for one in g]} for g in groups]
    try:
        said = client.rewards_of(inputs, include=["params"], raw=raw, truncation="left")
    except ServerError:
        raise
    except DataError as error:
        if bad is None:
            place = groups[0][0].row if len(groups) == 1 else f"{groups[0][0].row} … {groups[-1][-1].row}"
            raise DataError(f"{source}, rows {place}: {error}") from None
        if len(groups) == 1:
            bad += [
                BadRow(source, one.row, f"{one.part}: {error}", "shorten it or remove the row") for one in groups[0]
            ]
            return
        middle = len(groups) // 2
        for half in (groups[:middle], groups[middle:]):
            yield from _asked(client, half, source, raw, bad)
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
    facts = {
        "poise.model": said.model or "",
        "poise.revision": said.revision or "",
        "poise.beliefs": belief_facts({REWARD: reward}),
    }
    return pyarrow.table(columns).replace_schema_metadata(facts)


def _plain(text: Text) -> Any:
    return text if isinstance(text, str) else [message._asdict() for message in text]
