"""The resumable state of head training on disk: one safetensors file, replaced atomically."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from poise.errors import CheckpointError
from poise.output import replacing

SAME_SECONDS = 1.0
"""Signals that arrive within this time are one."""


@dataclass
class TrainState:
    """Where training stands: ``step`` steps of stage ``stage`` are done; tensors by name, small facts in ``facts``."""

    stage: int
    step: int
    tensors: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under one prefix, without it."""
        return {k.removeprefix(prefix + "/"): v for k, v in self.tensors.items() if k.startswith(prefix + "/")}

    def put(self, prefix: str, tensors: dict[str, Tensor]) -> None:
        """Add tensors under a prefix."""
        self.tensors |= {f"{prefix}/{k}": v.detach().clone().contiguous() for k, v in tensors.items()}


def write_state(path: Path, state: TrainState) -> None:
    """Write whole or not at all."""
    header = {"poise": json.dumps({"stage": state.stage, "step": state.step, "facts": state.facts})}
    with replacing(path) as temporary:
        temporary.write_bytes(save(state.tensors, metadata=header))


def read_state(path: Path) -> TrainState | None:
    """The saved state, or None where there is none. Raises ``CheckpointError`` where it is damaged."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["poise"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 — no mapping
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the saved state cannot be read ({error}); delete it to start anew") from None
    return TrainState(header["stage"], header["step"], tensors, header["facts"])


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's per-parameter tensors, named ``index/name``."""
    found = optimizer.state_dict()["state"]
    return {f"{i}/{name}": torch.as_tensor(value) for i, entry in found.items() for name, value in entry.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The reverse of ``optimizer_tensors``."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, entry = name.partition("/")
        state.setdefault(int(index), {})[entry] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], bool]]:
    """Let a step finish before Ctrl-C or SIGTERM ends the run, so that what is saved is a whole step.

    Yields a function that says whether one arrived; what came too late to be asked about is raised at the end. A second
    one interrupts at once, unless it comes with the first: of a Ctrl-C, a process under a launcher hears from the terminal
    and from the launcher. Outside the main thread, where signals cannot be caught, nothing is deferred; what the process has
    been told to ignore, as a shell tells what it runs in the background, stays ignored.
    """
    arrived: list[float] = []
    told = False

    def heard() -> bool:
        nonlocal told
        told = bool(arrived)
        return told

    def note(number: int, frame: FrameType | None) -> None:
        arrived.append(time.monotonic())
        if arrived[-1] - arrived[0] > SAME_SECONDS:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    heeded = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in heeded}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if arrived and not told:
        raise KeyboardInterrupt
