"""The server's log: one JSON object per line on stderr, without what users wrote unless the operator asked for it."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any, TextIO

NAME = "poise.serving"


class JsonLines(logging.Formatter):
    """A record's message as ``event``, its ``fields`` beside it; an exception by type and place, not by its text."""

    def format(self, record: logging.LogRecord) -> str:  # noqa: D102
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0]:
            line["error"] = record.exc_info[0].__name__
            line["at"] = list(_places(record.exc_info[2]))
        return json.dumps(line, ensure_ascii=False, default=str)


def _places(at: TracebackType | None) -> Iterator[str]:
    for frame in traceback.extract_tb(at)[-6:]:
        yield f"{frame.filename.rpartition('site-packages/')[2]}:{frame.lineno} {frame.name}"


def start(stream: TextIO | None = None) -> logging.Logger:
    """Send this server's and uvicorn's messages to ``stream`` (stderr) as JSON lines."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    for name in (NAME, "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    return logging.getLogger(NAME)


def say(event: str, level: int = logging.INFO, *, error: bool = False, **fields: Any) -> None:
    """One line; with ``error`` also the type and place of the exception that is being handled."""
    logging.getLogger(NAME).log(level, event, extra={"fields": fields}, exc_info=error)
