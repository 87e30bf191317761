"""What a claim is, what a study measures for it, and how the verdict follows from the figures.

A study measures figures on one seed; a claim says on which side of a limit it puts them. It holds where every 95 % t-interval
over the seeds lies wholly on the claimed side; nothing else decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import scipy.stats

HOLDS, FAILS, UNTESTABLE = "holds", "does not hold", "not testable here"
Figures = Mapping[str, float]


@dataclass(frozen=True)
class Setting:
    """What a study is run with: its seed, where trained decoders leave their figures, and whether only to see that it runs."""

    seed: int = 0
    runs: Path = Path("runs/claims")
    smoke: bool = False

    def size(self, full: int, smoke: int) -> int:
        """A size of the study."""
        return smoke if self.smoke else full


def interval(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half the width of the 95 % t-interval); NaN width for a single value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, float("nan")
    spread = float(np.std(values, ddof=1))
    half = float(scipy.stats.t.ppf(0.975, len(values) - 1)) * spread / len(values) ** 0.5 if spread else 0.0
    return mean, half


def shown(values: Sequence[float]) -> str:
    """Mean ± half the interval, with as many digits as the interval has."""
    mean, half = interval(values)
    if np.isnan(half):
        return f"{mean:.4g}"
    if half == 0:
        return f"{mean:.4g} on every seed"
    digits = max(0, 1 - int(np.floor(np.log10(half))))
    return f"{mean:.{digits}f} ± {half:.{digits}f}" if digits < 7 else f"{mean:.2e} ± {half:.1e}"


@dataclass(frozen=True)
class Check:
    """The side of ``limit`` on which a figure, one value per seed, is put.

    ``every``: an identity, which each value must satisfy, not their mean.
    """

    figure: str
    side: Literal["above", "below"]
    limit: float
    every: bool = False

    def met(self, values: Sequence[float]) -> bool:
        """Whether the whole interval lies on the claimed side; a single seed decides by its value alone."""
        if self.every:
            return all(v > self.limit if self.side == "above" else v < self.limit for v in values)
        mean, half = interval(values)
        half = 0.0 if np.isnan(half) else half
        return mean - half > self.limit if self.side == "above" else mean + half < self.limit

    def open(self, values: Sequence[float]) -> bool:
        """Whether the interval holds the limit: more seeds might decide it."""
        mean, half = interval(values)
        return not self.every and not np.isnan(half) and abs(mean - self.limit) <= half

    def seeds_to_decide(self, values: Sequence[float]) -> float:
        """How many seeds would part this mean from the limit if it stayed and they went on to vary so; inf from a million on."""
        distance, spread = abs(float(np.mean(values)) - self.limit), float(np.std(values, ddof=1))
        many = np.unique(np.geomspace(2, 10**6, 2000).astype(int))
        enough = many[scipy.stats.t.ppf(0.975, many - 1) * spread / many**0.5 < distance]
        return float(enough[0]) if len(enough) else float("inf")

    def text(self, values: Sequence[float]) -> str:
        """What was measured."""
        if not self.every:
            return shown(values)
        most, word = (max(values), "at most") if self.side == "below" else (min(values), "at least")
        return f"{word} {most:.3g}"

    @property
    def threshold(self) -> str:
        """The limit in words."""
        return f"{self.side} {self.limit:g}" + (" on every seed" if self.every else "")


@dataclass(frozen=True)
class Reason:
    """A sentence about why a claim comes out as it does, and the further measurement that must bear it out."""

    sentence: str
    check: Check


@dataclass(frozen=True)
class Claim:
    """A published claim in one sentence, the study that measures it, and the checks that decide it.

    ``expected`` is what the derivations of the methods let one expect beforehand. ``refutes``: the checks state the contrary
    of the claim, which holds only where one of them lies wholly on the other side. ``untestable`` says why nothing here can decide it.
    """

    id: str
    says: str
    expected: str
    study: Callable[[Setting], Figures]
    checks: Sequence[Check]
    reasons: Sequence[Reason] = ()
    refutes: bool = False
    untestable: str = ""

    def verdict(self, figures: Mapping[str, Sequence[float]]) -> str:
        """holds, does not hold, or not testable here."""
        if self.untestable:
            return UNTESTABLE
        if not self.refutes:
            return HOLDS if all(c.met(figures[c.figure]) for c in self.checks) else FAILS
        contrary = [c.met(figures[c.figure]) or c.open(figures[c.figure]) for c in self.checks]
        return FAILS if all(contrary) else HOLDS
