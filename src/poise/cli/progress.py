"""The bar of work that tells its total only when it begins."""

from __future__ import annotations

from collections.abc import Callable

from poise import processes
from poise.training.monitor import Terminal


def counting(terminal: Terminal, what: str) -> Callable[[int, int], None]:
    """To be called with (done, total); of several processes the first shows its share."""
    started = False

    def advance(done: int, total: int) -> None:
        nonlocal started
        if not processes.first():
            return
        if not started:
            terminal.begin(what, total)
        started = True
        terminal.advance(done)

    return advance
