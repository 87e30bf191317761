"""Places to write to: checked before the work, and a file is written whole or not at all."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from poise.errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


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


def check_file(out: Path, *taken: str | Path) -> None:
    """Refuse (``ConfigError``) a file that could not be written after the work, or is ``taken``: a source of data, an output."""
    if out.is_dir():
        raise ConfigError(f"{out} is a folder; give the name of a file in it")
    parts = (part for one in taken for part in (str(one), str(one).partition("@")[2]))  # named:NAME@FILE
    if os.path.realpath(out) in (os.path.realpath(os.path.expanduser(part)) for part in parts):
        raise ConfigError(f"{out} is named twice, or is the data itself; give every file a name of its own")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"{out} cannot be written: {out.absolute().parent} is not a folder; make it first")
    check_writable(out.absolute().parent)


@contextmanager
def sole(folder: Path) -> Iterator[None]:
    """Make a folder and keep whoever else asks for it out of it, for the block; an empty one is taken away again.

    Raises ``ConfigError`` where another process has it. The lock ends with the process, killed or not; where the system or
    the file system has none (Windows, some network disks) nobody is kept out.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY) if fcntl else None
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made ({error.strerror}); choose another folder") from None
    try:
        if handle is not None and not _locked(handle, folder):
            raise ConfigError(f"another process is writing to {folder}; wait for it, or choose another place")
        try:
            yield
        finally:
            with suppress(OSError):  # it has been filled
                folder.rmdir()
    finally:
        if handle is not None:
            os.close(handle)


def _locked(handle: int, folder: Path) -> bool:
    """Whether the open folder is now this process's alone; not one that its former owner has removed meanwhile."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks here
        return True
    return folder.exists() and os.path.samestat(os.fstat(handle), folder.stat())


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
