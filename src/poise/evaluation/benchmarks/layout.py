"""Official layouts, on the hub and on disk, read as items; a place that is not one and a garbled row are named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from poise.data.load import SHOWN, BadRow, bad_rows_error
from poise.data.named.columns import COPY, Row, need
from poise.data.records import Text, as_messages
from poise.data.rows import RowError, text
from poise.data.sources import read_rows
from poise.errors import DataError
from poise.evaluation.benchmark import Benchmark, Item

WHOLE = "a benchmark is scored whole: mend these rows or download them again"


def places(benchmark: Benchmark, source: str | Path | None, *patterns: str) -> list[str]:
    """What to read: the hub, the file itself, or of a folder the files of the first pattern that matches any."""
    get = f"{benchmark.title} needs {benchmark.layout} (from {benchmark.reference})"
    if source is None:
        if not benchmark.hub:
            raise DataError(f"{get}; it cannot be loaded from the hub: name your copy, {benchmark.name}=FOLDER")
        return list(benchmark.hub)
    path = Path(source).expanduser()
    if not path.exists():
        raise DataError(f"{source}: no such file or folder; {get}")
    if path.is_file() or (path / "dataset_info.json").exists():
        return [str(path)]
    for pattern in patterns:
        if found := sorted(str(one) for one in path.glob(pattern)):
            return found
    raise DataError(f"{source}: holds no file of that layout; {get}")


def read_items(sources: Sequence[str], make: Callable[[Row, str], Item]) -> list[Item]:
    """An item of every row of every source; ids that occur again are numbered, bad rows are named together."""
    items: list[Item] = []
    bad: list[BadRow] = []
    seen: Counter[str] = Counter()
    for source in sources:
        for number, row in read_rows(source):
            try:
                item = make(row, source)
            except RowError as error:
                bad.append(BadRow(source, number, error.problem, error.remedy))
                continue
            seen[item.id] += 1
            items.append(item if seen[item.id] == 1 else replace(item, id=f"{item.id}#{seen[item.id]}"))
    if bad:
        raise bad_rows_error(bad[:SHOWN], f"{len(bad):,} bad rows in all; {WHOLE}")
    return items


def said(row: Row, name: str) -> Text:
    """A text column."""
    return text(need(row, name), name)


def plain(row: Row, name: str) -> str:
    """A column that holds a plain string."""
    value = said(row, name)
    if not isinstance(value, str):
        raise RowError(f"{name!r} is a list, not a text", COPY)
    return value


def listed(row: Row, name: str, least: int = 1) -> list[Any]:
    """A column that holds a list of at least ``least`` entries."""
    value = need(row, name)
    if not isinstance(value, (list, tuple)) or len(value) < least:
        raise RowError(f"{name!r} is not a list of at least {least}", COPY)
    return list(value)


def answers(prompt: Text, *values: Any, name: str) -> tuple[Text, ...]:
    """Responses to a prompt: assistant messages where the prompt is messages."""
    read = [text(value, name) for value in values]
    return tuple(read) if isinstance(prompt, str) else tuple(as_messages(one, "assistant") for one in read)
