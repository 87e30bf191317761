"""The commands and the Python that documents show, with what says why some of them are not run.

A fence is preceded by ``<!-- not run: REASON -->`` where nothing of it can run on a bare machine, or by
``<!-- not run (TEXT): REASON -->`` where that is so for the commands that contain TEXT. Everything else is run as written.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs" / "guides").glob("*.md")))
SHELLS = ("sh", "bash", "console", "shell")
PROGRAMS = ("poise", "python", "make", "pip", "git", "curl", "torchrun", "accelerate")

_FENCE = re.compile(r"((?:^[ \t]*<!-- not run.*?-->\s*\n)*)^[ \t]*```(\w*)[^\n]*\n(.*?)^[ \t]*```[ \t]*$", re.M | re.S)
_MARK = re.compile(r"<!-- not run(?: \((.*?)\))?: (.*?) -->", re.S)


@dataclass(frozen=True)
class Block:
    """One fence: ``marks`` are (text or "", reason)."""

    page: str
    line: int
    language: str
    text: str
    marks: tuple[tuple[str, str], ...]

    def reason(self, text: str) -> str | None:
        """Why ``text`` of this block is not run; None where it is."""
        return next((reason for part, reason in self.marks if part in text), None)

    @property
    def shell(self) -> bool:
        """Whether this is what one types into a terminal; a fence without a language may be a drawing."""
        words = [line.split()[0] for line in self.text.splitlines() if line.split() and not line.startswith("#")]
        return self.language in SHELLS or (self.language == "" and bool(words) and words[0] in PROGRAMS)


@dataclass(frozen=True)
class Command:
    """One command as written, comments apart; ``reason`` says why it is not run."""

    page: str
    line: int
    text: str
    reason: str | None

    @property
    def words(self) -> list[str]:
        """As a shell would split it."""
        return shlex.split(self.text, comments=True)

    @property
    def server(self) -> bool:
        """Whether it answers until it is stopped."""
        return self.words[:2] == ["poise", "serve"] and "--help" not in self.words


def blocks(page: str) -> list[Block]:
    """Every fence of a page."""
    text = (ROOT / page).read_text(encoding="utf8")
    return [
        Block(page, text.count("\n", 0, found.start(3)), found[2], found[3], tuple(_MARK.findall(found[1])))
        for found in _FENCE.finditer(text)
    ]


def commands(page: str) -> list[Command]:
    """Every command of a page, in order."""
    return [
        Command(page, block.line + offset, text, block.reason(text))
        for block in blocks(page)
        if block.shell
        for offset, text in _split(block.text)
    ]


def programs(page: str) -> list[Block]:
    """The Python of a page, in order; the blocks of a page follow each other as the cells of a notebook do."""
    return [block for block in blocks(page) if block.language == "python"]


def _split(text: str) -> Iterator[tuple[int, str]]:
    """(line, command) of a shell text: a command goes on after a backslash and within quotes."""
    begun, start = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        begun, start = (begun + "\n" + line, start) if begun else (line, number)
        if line.endswith("\\") or not _whole(begun):
            continue
        if shlex.split(begun, comments=True):
            yield start, begun.strip()
        begun = ""
    assert not begun, f"a command that does not end: {begun}"


def _whole(command: str) -> bool:
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return False
    return True
