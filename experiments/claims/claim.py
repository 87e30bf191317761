"""What a claim is, what a study reports on it, and how the verdict follows from the figures.

A study measures numbers, one value per seed, and says on which side of a limit the claim puts them. A claim holds where
every 95 % t-interval over the seeds lies wholly on the claimed side; nothing else decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import scipy.stats

HOLDS, FAILS, UNTESTABLE = "holds", "does not hold", "not testable here"


@dataclass(frozen=True)
class Check:
    """One measured figure (a value per seed) and the side of ``limit`` on which the claim puts it.

    ``every``: an identity, which each value must satisfy, not their mean.
    """

    figure: str
    values: Sequence[float]
    side: Literal["above", "below"]
    limit: float
    every: bool = False

    @cached_property
    def mean(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(self.values))

    @cached_property
    def half(self) -> float:
        """Half the width of the 95 % t-interval over the seeds; 0 where they all agree."""
        if self.every:
            return float("nan")
        spread = float(np.std(self.values, ddof=1)) if len(self.values) > 1 else float("nan")
        if spread == 0:
            return 0.0
        return float(scipy.stats.t.ppf(0.975, len(self.values) - 1)) * spread / len(self.values) ** 0.5

    @property
    def met(self) -> bool:
        """Whether the whole interval lies on the claimed side; a single seed decides by its value alone."""
        if self.every:
            return all(v > self.limit if self.side == "above" else v < self.limit for v in self.values)
        half = 0.0 if np.isnan(self.half) else self.half
        return self.mean - half > self.limit if self.side == "above" else self.mean + half < self.limit

    @property
    def open(self) -> bool:
        """Whether the interval holds the limit: more seeds might decide it."""
        return not np.isnan(self.half) and abs(self.mean - self.limit) <= self.half

    def __str__(self) -> str:
        interval = "" if np.isnan(self.half) else f" ± {self.half:.3g}"
        shown = f"at most {max(self.values):.3g}" if self.every else f"{self.mean:.4g}{interval}"
        mark = "met" if self.met else "open" if self.open else "not met"
        return f"{self.figure} {shown} ({self.side} {self.limit:g}: {mark})"


@dataclass(frozen=True)
class Finding:
    """What a study found: the figures that decide, others worth knowing, and why it came out so.

    ``refutes``: the checks state the contrary of the claim, so meeting them is its failure. ``untestable`` says why
    nothing here can decide it.
    """

    checks: Sequence[Check] = ()
    also: Mapping[str, Sequence[float]] = field(default_factory=dict)
    why: str = ""
    refutes: bool = False
    untestable: bool = False

    @property
    def verdict(self) -> str:
        """holds, does not hold, or not testable here."""
        if self.untestable:
            return UNTESTABLE
        return HOLDS if all(check.met for check in self.checks) != self.refutes else FAILS


@dataclass(frozen=True)
class Setting:
    """What a study is run with: its seeds, where trained decoders leave their figures, and whether only to see that it runs."""

    seeds: int = 5
    runs: Path = Path("runs/claims")
    smoke: bool = False

    def size(self, full: int, smoke: int) -> int:
        """A size of the study."""
        return smoke if self.smoke else full


@dataclass(frozen=True)
class Claim:
    """A published claim in one sentence, the test with its threshold, and the study that decides it.

    ``expected`` is what the derivations of the method pages let one expect before any measurement.
    """

    id: str
    says: str
    test: str
    expected: str
    study: Callable[[Setting], Finding]
