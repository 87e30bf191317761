"""Long work on a terminal: a bar that is always taken away again, and an interrupt that says how to go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from poise import processes
from poise.cli.interrupted import Interrupted
from poise.training.monitor import Terminal

FEATURES = "the same command goes on; the features computed so far are in the cache"
BLOCKS = "the same command goes on with what is missing"


@contextmanager
def working(go_on: str | Callable[[], str]) -> Iterator[Terminal]:
    """A terminal for the block; Ctrl-C in it ends the command with ``go_on``, what to do next."""
    terminal = Terminal()
    try:
        yield terminal
    except KeyboardInterrupt:
        raise Interrupted(go_on if isinstance(go_on, str) else go_on()) from None
    finally:
        terminal.close()


def counting(terminal: Terminal, what: str) -> Callable[[int, int], None]:
    """To be called with (done, total), the total known when work begins; of several processes the first shows its share."""
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
