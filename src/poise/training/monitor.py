"""What a run says while it goes: ``metrics.jsonl``, one line per logged step, and a progress bar on a terminal."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from poise.output import replacing

LINE_SECONDS = 60.0


class Reporter(Protocol):
    """Where progress goes. ``advance`` is called with how much of ``begin``'s total is done."""

    def begin(self, what: str, total: int) -> None:
        """A new piece of work of ``total`` units."""

    def advance(self, done: int) -> None:
        """``done`` of the units are finished."""

    def say(self, text: str) -> None:
        """One line for the reader."""


class Silent:
    """Reports nothing."""

    def begin(self, what: str, total: int) -> None: ...  # noqa: D102

    def advance(self, done: int) -> None: ...  # noqa: D102

    def say(self, text: str) -> None: ...  # noqa: D102


class Bars:
    """The progress of another reporter without its words."""

    def __init__(self, reporter: Reporter) -> None:
        self.begin, self.advance = reporter.begin, reporter.advance

    def say(self, text: str) -> None: ...  # noqa: D102


class Terminal:
    """A bar with an estimate of the time left on standard error; where that is no terminal, a line every minute."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._lines: Lines | None = None

    def begin(self, what: str, total: int) -> None:  # noqa: D102
        self.close()
        if total <= 0:
            return
        if not self.console.is_terminal:
            self._lines = Lines(what, total)
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=self.console, transient=True)
        self._progress.start()
        self._task = self._progress.add_task(what, total=total)

    def advance(self, done: int) -> None:  # noqa: D102
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done)
        elif self._lines is not None and (line := self._lines.due(done)):
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:  # noqa: D102
        self.close()
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Take the bar off the screen."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        self._lines = None


class Lines:
    """Progress for a log file: what is done, and how long the rest will take at the pace so far."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total = what, total
        self.started = self.said = time.monotonic()
        self.first: int | None = None

    def due(self, done: int) -> str | None:
        """The line to print, where a minute has passed since the last; resumed work began above 0."""
        now = time.monotonic()
        self.first = done if self.first is None else self.first
        if now - self.said < LINE_SECONDS or done <= self.first:
            return None
        self.said = now
        minutes = (now - self.started) * (self.total - done) / (done - self.first) / 60
        return f"{self.what}: {done:,} of {self.total:,}, about {minutes:,.0f} min left"


class MetricsLog:
    """Appends one JSON object per line; on resume, lines that a killed run wrote after its last saved state are cut."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, **values: Any) -> None:
        """Append one line; numbers that are not finite become null."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        with self.path.open("a", encoding="utf8") as handle:
            handle.write(json.dumps(clean) + "\n")

    def cut_after(self, stage_number: int, step: int) -> None:
        """Keep only the lines up to a stage's step."""
        if not self.path.exists():
            return
        kept = [line for line in self.read() if (line["stage_number"], line["step"]) <= (stage_number, step)]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        with replacing(self.path) as temporary:
            temporary.write_text(text, encoding="utf8")

    def holds(self, stage_number: int, step: int, prefix: str) -> bool:
        """Whether a stage's step has a line with a key that begins so."""
        lines = self.read() if self.path.exists() else []
        mine = (line for line in lines if (line["stage_number"], line["step"]) == (stage_number, step))
        return any(key.startswith(prefix) for line in mine for key in line)

    def read(self) -> list[dict[str, Any]]:
        """All complete lines."""
        lines = []
        for line in self.path.read_text(encoding="utf8").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:  # the last line of a killed process
                break
        return lines
