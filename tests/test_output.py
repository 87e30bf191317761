"""Files and folders appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from poise import checkpoint, output
from poise.errors import ConfigError


@pytest.fixture
def events(monkeypatch):
    """What reaches the disk, in order: contents that were waited for, then names."""
    seen, fsync, replace, rename = [], os.fsync, Path.replace, Path.rename
    monkeypatch.setattr(os, "fsync", lambda handle: seen.append("content") or fsync(handle))
    monkeypatch.setattr(Path, "replace", lambda self, to: seen.append(f"name {to.name}") or replace(self, to))
    monkeypatch.setattr(Path, "rename", lambda self, to: seen.append(f"name {to.name}") or rename(self, to))
    return seen


def test_a_name_never_gets_to_the_disk_before_what_it_names(tmp_path, events):
    with output.replacing(tmp_path / "file") as temporary:
        temporary.write_text("new")
    assert events == ["content", "name file"]
    events.clear()
    with checkpoint.replacing(tmp_path / "folder") as temporary:
        (temporary / "inner").mkdir()
        for place in (temporary / "a", temporary / "inner" / "b"):
            place.write_text("new")
    assert events == ["content", "content", "name folder"]


def test_what_fails_leaves_what_was_there(tmp_path):
    out = tmp_path / "file"
    out.write_text("old")

    def interrupted(temporary: Path) -> None:
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), output.replacing(out) as temporary:
        interrupted(temporary)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert out.read_text() == "old"
    with pytest.raises(ConfigError, match=r"cannot be written .*; choose another file"), output.replacing(out):
        raise OSError(28, "No space left on device")
