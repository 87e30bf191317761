"""Places to write to: checked before the work, and a file is written whole or not at all."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from poise.errors import ConfigError


def check_writable(folder: Path) -> None:
    """Refuse (``ConfigError``) a folder that cannot be made or written in, before hours of work go into it."""
    existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not existing.is_dir():
        raise ConfigError(f"{folder} cannot be made: {existing} is not a folder; choose another one")
    try:
        with tempfile.TemporaryDirectory(dir=existing, prefix=".poise-"):
            pass
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written ({error.strerror}); choose another folder") from None


def check_new_folder(folder: Path) -> None:
    """As ``check_writable``; what is there already must be an empty folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists already; choose a new or empty folder")
    check_writable(folder)


def check_file(out: Path) -> None:
    """Refuse (``ConfigError``) a file that could not be written after the work is done."""
    if out.is_dir():
        raise ConfigError(f"{out} is a folder; give the name of a file in it")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"{out} cannot be written: {out.absolute().parent} is not a folder; make it first")
    check_writable(out.absolute().parent)


def settle(place: Path) -> None:
    """Wait until a file, or every file of a folder, is on disk: no rename may get there before what it names."""
    for path in [place] if place.is_file() else place.rglob("*"):
        if path.is_file():
            with path.open("rb") as handle:
                os.fsync(handle.fileno())


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A temporary file that takes the place of ``out`` when the block succeeds and vanishes when it fails."""
    temporary = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield temporary
        settle(temporary)
        temporary.replace(out)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror or error}); choose another file") from None
    finally:
        temporary.unlink(missing_ok=True)
