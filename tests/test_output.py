"""Files and folders appear whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
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


def test_a_folder_is_one_writers_at_a_time(tmp_path):
    folder = tmp_path / "made" / "here"
    with output.sole(folder):
        with pytest.raises(ConfigError, match="another process is writing to"), output.sole(folder):
            pass
        assert folder.exists(), "the one that came second takes nothing away"
        (folder / "file").write_text("new")
    with output.sole(folder):
        (folder / "file").unlink()
    assert not folder.exists(), "nothing was left in it"


def test_a_folder_that_its_owner_has_removed_is_nobodys(tmp_path, monkeypatch):
    opened = os.open

    def late(place, flags, *rest):
        handle = opened(place, flags, *rest)
        Path(place).rmdir()
        return handle

    monkeypatch.setattr(os, "open", late)
    with pytest.raises(ConfigError, match="another process"), output.sole(tmp_path / "gone"):
        pass


def test_the_lock_ends_with_its_process(tmp_path):
    script = f"""
import os, signal
from pathlib import Path
from poise.output import sole
with sole(Path({str(tmp_path)!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    with output.sole(tmp_path):
        pass
