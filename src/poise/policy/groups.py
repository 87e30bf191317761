"""Rewards that were saved, as the groups that best-of-n chooses from: the responses to one prompt at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
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
from poise.evaluation.benchmark import Item
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
    """From what ``poise evaluate`` wrote; where items have one response each (``_rivals``), the parts are the items."""
    for one in predictions.read(path).sets:
        if REWARD not in one.scored.beliefs:
            raise DataError(f"{path}: {one.facts.name} has no reward, only ratings; choose among rewards")
        start, reward = 0, one.scored.beliefs[REWARD]
        for items in _rivals(one.items):
            first, responses = items[0], [response for item in items for response in item.responses]
            alone = len(first.responses) == 1
            parts = [item.id for item in items] if alone else [f"responses[{i}]" for i in range(len(responses))]
            own = reward[start : start + len(responses)]
            yield Group({"set": one.facts.name, "item": first.id}, (), parts, own, (first.prompt, responses))
            start += len(responses)


def _rivals(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Items that compete with each other, as ``scoring.groups_of`` has it of rows."""

    def rival(numbered: tuple[int, Item]) -> object:
        number, item = numbered
        return number if len(item.responses) > 1 else (item.prompt,)

    for _, same in groupby(enumerate(items), rival):
        yield [item for _, item in same]
