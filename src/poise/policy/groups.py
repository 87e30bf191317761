"""Rewards that were saved, as the groups that best-of-n chooses from: the responses to one prompt at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import pyarrow.parquet

from poise.data.load import Candidate, iter_candidates
from poise.data.records import Text
from poise.distributions import RewardDistribution
from poise.errors import DataError
from poise.evaluation import predictions
from poise.evaluation.belief_table import REWARD, beliefs_of
from poise.scoring import GROUP, groups_of

REMEDY = "give a file that poise score or poise evaluate wrote"


class Group(NamedTuple):
    """The responses to one prompt: where they stand (``rows`` of the file, if it has any) and what they say, if that is known.

    ``texts`` are the prompt and the responses.
    """

    place: dict[str, Any]
    rows: Sequence[int]
    parts: Sequence[str]
    reward: RewardDistribution
    texts: tuple[Text, Sequence[Text]] | None = None


def saved_groups(saved: Path) -> Iterator[Group]:
    """Of a file that ``poise score`` or ``poise evaluate`` wrote, or the folder of an evaluation; else ``DataError``."""
    path = saved / predictions.FILE if saved.is_dir() else saved
    try:
        known = pyarrow.parquet.read_schema(path).metadata or {}
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise DataError(f"{path}: cannot be read as saved rewards ({error}); {REMEDY}") from None
    if b"poise.sets" in known:
        return groups_of_predictions(path)
    if b"poise.beliefs" not in known:
        raise DataError(f"{path}: holds no rewards; {REMEDY}")
    return groups_of_scores(path)


def groups_of_scores(path: Path) -> Iterator[Group]:
    """From what ``poise score`` wrote, row group by row group; a group that is cut off is finished with the next one."""
    file, rest = pyarrow.parquet.ParquetFile(path), None
    facts = file.schema_arrow.metadata[b"poise.beliefs"].decode()
    column = GROUP if GROUP in file.schema_arrow.names else "row"
    for number in range(file.num_row_groups):
        table = file.read_row_group(number)
        table = table if rest is None else pyarrow.concat_tables([rest, table])
        last = number == file.num_row_groups - 1
        keys = table[column].to_pylist()
        ends = [i for i in range(1, len(keys)) if keys[i] != keys[i - 1]] + [len(keys)] * last
        reward = beliefs_of(table, facts)[REWARD]
        rows, parts = table["row"].to_pylist(), table["part"].to_pylist()
        for start, end in zip([0, *ends], ends, strict=False):
            yield Group({GROUP: keys[start]}, rows[start:end], parts[start:end], reward[start:end])
        rest = table.slice(ends[-1] if ends else 0)


def with_texts(groups: Iterator[Group], source: str) -> Iterator[Group]:
    """The texts of the file that was scored; it may hold groups of which nothing could be."""
    texts = groups_of(iter_candidates(source, []))
    for group in groups:
        said: dict[tuple[int, str], Candidate] = {}
        while (group.rows[0], group.parts[0]) not in said:
            said = {(one.row, one.part): one for one in next(texts)}
        own = [said[key] for key in zip(group.rows, group.parts, strict=True)]
        yield group._replace(texts=(own[0].prompt, [one.response for one in own]))


def groups_of_predictions(path: Path) -> Iterator[Group]:
    """From what ``poise evaluate`` wrote, item by item."""
    for one in predictions.read(path).sets:
        if REWARD not in one.scored.beliefs:
            raise DataError(f"{path}: {one.facts.name} has no reward, only ratings; choose among rewards")
        start, reward = 0, one.scored.beliefs[REWARD]
        for item in one.items:
            own = reward[start : start + len(item.responses)]
            parts = [f"responses[{i}]" for i in range(len(own))]
            place = {"set": one.facts.name, "item": item.id}
            yield Group(place, (), parts, own, (item.prompt, item.responses))
            start += len(own)
