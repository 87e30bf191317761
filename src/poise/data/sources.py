"""Where rows come from: JSON lines (also .gz), Parquet, CSV, a saved Hugging Face dataset folder, or a hub dataset id.

A source is one string. Hub ids read ``org/name``, ``org/name:split`` or ``org/name[config]:split`` (extra ``hub``).
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow
import pyarrow.parquet

from poise.errors import DataError

SUFFIXES = (".jsonl", ".jsonl.gz", ".json.gz", ".ndjson", ".json", ".parquet", ".csv", ".csv.gz")
ANSWERS = ("chosen", "rejected", "response", "completion")
"""Columns in which an empty CSV cell is an empty text; in every other it is no value."""
BROKEN_JSON = (ValueError, RecursionError)
"""What the JSON reader raises; a plain ValueError is a number of thousands of digits."""
HUB_ID = re.compile(r"^(?P<id>[\w.-]+/[\w.-]+)(\[(?P<config>[\w.-]+)\])?(:(?P<split>[\w.\[\]%-]+))?$")
JSON_CELLS = ("votes", "attributes", "quality", "ratings", "meta", "responses", "ranks", "scale", "annotators")
TEXT_CELLS = ("prompt", *ANSWERS)
LONGEST_CELL = 2**31 - 1  # characters of a CSV cell; Python's own limit is 131,072


def read_rows(source: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row number from 1, columns) one at a time; a JSONL or CSV number is the line or record in the file.

    Raises ``DataError`` where the source as a whole cannot be read (missing, empty, truncated, of unknown kind).
    """
    hub, path = on_the_hub(source), Path(source).expanduser()
    if hub is not None:
        rows = _read_hub(hub["id"], hub["config"], hub["split"] or "train")
    else:
        rows = _read_saved_dataset(path) if path.is_dir() else _read_file(path)
    empty = True
    for numbered in rows:
        empty = False
        yield numbered
    if empty:
        raise DataError(f"{source}: the file holds no rows; give at least one preference or rating")


def on_the_hub(source: str | Path) -> re.Match[str] | None:
    """The parts of a hub dataset id, None for a file or folder that is here; ``DataError`` for what is neither."""
    if Path(source).expanduser().exists():
        return None
    hub = HUB_ID.match(str(source))
    if hub is None or str(source).endswith(SUFFIXES):
        raise DataError(f"{source}: no such file or folder; check the path (a hub dataset id reads org/name:split)")
    return hub


def _read_file(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    name = path.name.lower()
    if name.endswith(".parquet"):
        return _read_parquet(path)
    if name.endswith((".csv", ".csv.gz")):
        return _guarded(path, _read_csv)
    if name.endswith((".jsonl", ".jsonl.gz", ".ndjson", ".json", ".json.gz")):
        return _guarded(path, _read_json)
    raise DataError(f"{path}: unknown kind of file; use {', '.join(SUFFIXES)}")


def _guarded(path: Path, reader: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """Run a line reader; turn every way in which bytes can be broken into one message."""
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8-sig", newline="")
            if path.name.lower().endswith(".gz")
            else open(path, encoding="utf-8-sig", newline="") as handle
        ):
            yield from reader(path, handle)
    except UnicodeDecodeError:
        raise DataError(
            f"{path}: not UTF-8 text (line {_undecodable(path)}); save it as UTF-8 JSON lines or Parquet"
        ) from None
    except EOFError:
        raise DataError(f"{path}: the gzip file is cut off; download or compress it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: not a valid gzip file ({error}); download or compress it again") from None
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}); check the file and its permissions"
        ) from None


def _undecodable(path: Path) -> int:
    """The first line that is not UTF-8 (the decoder's own position counts from its buffer)."""
    with gzip.open(path) if path.name.lower().endswith(".gz") else open(path, "rb") as handle:
        for number, line in enumerate(handle, 1):
            try:
                line.decode("utf8")
            except UnicodeDecodeError:
                return number
    raise AssertionError(f"{path} changed while it was read")


def _read_json(path: Path, handle: IO[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    first = handle.read(1)
    while first.isspace():
        first = handle.read(1)
    handle.seek(0)
    if first == "[":
        yield from _read_json_array(path, handle)
        return
    for number, line in enumerate(handle, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except BROKEN_JSON as error:
            raise DataError(
                f"{path}: row {number} is not valid JSON ({_json_reason(error)}); mend or delete that line"
            ) from None
        if not isinstance(row, dict):
            raise DataError(f"{path}: row {number} is a JSON {type(row).__name__}; each line must be one object")
        yield number, row


def _read_json_array(path: Path, handle: IO[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        rows = json.load(handle)
    except BROKEN_JSON as error:
        raise DataError(f"{path}: not valid JSON ({_json_reason(error)}); write one JSON object per line") from None
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}: row {number} is a JSON {type(row).__name__}; each entry must be an object")
        yield number, row


def _json_reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error) if isinstance(error, json.JSONDecodeError) else "a number of too many digits"


def _read_csv(path: Path, handle: IO[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(LONGEST_CELL)
    reader, number = csv.DictReader(handle, strict=True), 0
    try:
        if twice := [name for name, count in Counter(reader.fieldnames or ()).items() if count > 1]:
            raise DataError(f"{path}: the header names the column {twice[0]!r} twice; rename or remove one")
        for number, row in enumerate(reader, 1):
            if None in row or None in row.values():
                raise DataError(
                    f"{path}: row {number} has {'more' if None in row else 'fewer'} cells than the header "
                    f"({len(reader.fieldnames or ())} columns); check the quoting"
                )
            yield number, {c: _csv_cell(c, cell) for c, cell in row.items() if cell != "" or c in ANSWERS}
    except csv.Error as error:
        raise DataError(f"{path}: row {number + 1} is not valid CSV ({error}); check the quoting") from None


def _csv_cell(column: str, cell: str) -> Any:
    """A cell that holds JSON (votes, ratings) is read as such, a text only where it is messages; the rest stays text."""
    if column not in (*JSON_CELLS, *TEXT_CELLS) or cell[:1] not in ("[", "{"):
        return cell
    try:
        value = json.loads(cell)
    except BROKEN_JSON:
        return cell
    return value if column in JSON_CELLS or _is_messages(value) else cell


def _is_messages(value: Any) -> bool:
    """An answer may be JSON itself (``[1, 2]``): only objects with role and content are messages."""
    many = value if isinstance(value, list) else [value]
    return bool(many) and all(isinstance(one, dict) and {"role", "content"} <= one.keys() for one in many)


def _read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        number = 0
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({_first_line(error)}); write it again") from None


def _read_saved_dataset(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if not ((path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists()):
        raise DataError(f"{path}: a folder, but not one written by datasets.save_to_disk; name a file in it instead")
    if (path / "dataset_dict.json").exists():
        splits = sorted(info.parent.name for info in path.glob("*/dataset_info.json")) or ["train"]
        raise DataError(
            f"{path}: holds several splits ({', '.join(splits)}); name the folder of one, e.g. {path / splits[-1]}"
        )
    datasets = _datasets()
    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:
        raise DataError(f"{path}: cannot be loaded as a saved dataset ({_first_line(error)}); save it again") from None
    return ((number, dict(row)) for number, row in enumerate(loaded, 1))


def _read_hub(name: str, config: str | None, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    datasets = _datasets()
    try:
        loaded = datasets.load_dataset(name, config, split=split)
    except Exception as error:
        raise DataError(
            f"{name}:{split}: no such file here, and the hub dataset cannot be loaded ({_first_line(error)}); "
            "check the path, the id, the split and the network"
        ) from None
    return ((number, dict(row)) for number, row in enumerate(loaded, 1))


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise DataError(
            "Hugging Face datasets need the package datasets; install it with: pip install 'poise[hub]'"
        ) from None
    return datasets


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
