"""Choosing among candidates by what they lose on prompts that they have not seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from poise.calibration.evidence import IntArray, fold_numbers

FOLDS = 5
FloatArray = NDArray[np.float64]


class Evidence(Protocol):
    """Rows that can be taken apart by prompt."""

    @property
    def groups(self) -> IntArray:
        """The prompt [n] of every row, as a number."""

    def __len__(self) -> int:
        """Number of rows."""

    def __getitem__(self, rows: IntArray) -> Self:
        """Some of the rows."""


E = TypeVar("E", bound=Evidence)
C = TypeVar("C")


@dataclass(frozen=True)
class Choice(Generic[C]):
    """The chosen method with its fit to everything, and the mean held-out losses of all.

    ``held_out`` are its fits to all but one fold; ``fold`` [n] says which of them has not seen a row.
    """

    method: str
    fitted: C
    scores: dict[str, float]
    held_out: tuple[C, ...]
    fold: IntArray


def choose(
    candidates: Mapping[str, Callable[[E], C]],
    losses: Callable[[C, E], FloatArray],
    evidence: E,
    wanted: str | None = None,
) -> Choice[C]:
    """Of ``candidates``, the simplest first, the one ``wanted`` or else that with the smallest loss on unseen prompts."""
    fold = fold_numbers(evidence.groups, FOLDS)
    rows = [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(FOLDS)]
    fits = {name: tuple(fit(evidence[kept]) for kept, _ in rows) for name, fit in candidates.items()}
    lost: dict[str, FloatArray] = {}
    for name, fitted in fits.items():
        lost[name] = np.zeros(len(evidence))
        for one, (_, held) in zip(fitted, rows, strict=True):
            lost[name][held] = losses(one, evidence[held])
    scores = {name: float(values.mean()) for name, values in lost.items()}
    best = wanted or min(scores, key=lambda name: scores[name])
    return Choice(best, candidates[best](evidence), scores, fits[best], fold)
