"""Paired cluster bootstrap by prompt: pairs of one prompt share its difficulty, so prompts are drawn, not pairs.

A resample is a vector of integer weights (how often each prompt was drawn). All metrics, and all models compared, see the
same resamples, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.stats import t as t_distribution

from poise.errors import ConfigError, DataError
from poise.evaluation.metrics.rows import FloatArray

_CHUNK_VALUES = 1_000_000


@dataclass(frozen=True)
class Interval:
    """A value and the 95 % interval it is known to."""

    value: float
    low: float
    high: float


class Metric(Protocol):
    """A measure with its rows already bound, as ``functools.partial(accuracy, p, y)``: weights [R, n] to values [R]."""

    def __call__(self, *, weights: FloatArray) -> FloatArray:
        """Evaluate every resample."""


class PromptBootstrap:
    """Resamples of n rows that carry the group keys ``prompts`` [n]; percentile intervals at ``level``."""

    def __init__(
        self, prompts: Sequence[Hashable], *, resamples: int = 1000, seed: int = 0, level: float = 0.95
    ) -> None:
        if resamples < 1 or not 0.0 < level < 1.0:
            raise ConfigError(f"resamples={resamples}, level={level}; resamples must be at least 1 and level in (0, 1)")
        if not len(prompts):
            raise DataError("no rows to resample; the evaluation set is empty")
        numbers: dict[Hashable, int] = {}
        self._prompt = np.array([numbers.setdefault(key, len(numbers)) for key in prompts])
        self.prompts, self.resamples, self.seed, self.level = len(numbers), resamples, seed, level

    def weights(self) -> Iterator[FloatArray]:
        """The resamples, [r, n] at a time; the same ones on every call."""
        generator = np.random.default_rng(self.seed)
        size = max(1, _CHUNK_VALUES // len(self._prompt))
        for start in range(0, self.resamples, size):
            rows = min(size, self.resamples - start)
            drawn = (
                generator.integers(self.prompts, size=(rows, self.prompts)) + np.arange(rows)[:, None] * self.prompts
            )
            counts = np.bincount(drawn.ravel(), minlength=rows * self.prompts).reshape(rows, self.prompts)
            yield counts.astype(np.float64)[:, self._prompt]

    def intervals(self, metrics: Mapping[str, Metric], *, centred: Collection[str] = ()) -> dict[str, Interval]:
        """Every metric on all rows with its percentile interval; one that is undefined on the rows is left out.

        ``centred`` names metrics that are absolute errors, which noise can only raise. A resample holds more noise than the
        data, so their percentiles lie too high, often above the value itself; they are moved so that their median is the value,
        and cut at 0.
        """
        ones = np.ones((1, len(self._prompt)))
        values = {name: float(metric(weights=ones)[0]) for name, metric in metrics.items()}
        defined = {name: metrics[name] for name, value in values.items() if np.isfinite(value)}
        drawn: dict[str, list[FloatArray]] = {name: [] for name in defined}
        for weights in self.weights():
            for name, metric in defined.items():
                drawn[name].append(metric(weights=weights))
        return {
            name: self._interval(values[name], np.concatenate(chunks), name in centred)
            for name, chunks in drawn.items()
        }

    def joint_intervals(self, figures: Callable[[FloatArray], Mapping[str, FloatArray]]) -> dict[str, Interval]:
        """Intervals of figures that one call computes together: weights [R, n] to [R] each, undefined ones left out."""
        return {name: interval for name, (interval, _) in self.tested(figures).items()}

    def tested(self, figures: Callable[[FloatArray], Mapping[str, FloatArray]]) -> dict[str, tuple[Interval, float]]:
        """``joint_intervals`` with the two-sided p-value of each figure being 0: a t-test with the bootstrap's standard error.

        Shares of resamples would not do: a thousand of them cannot tell a p-value below .002, and a correction for a
        hundred comparisons asks for .0005.
        """
        ones = np.ones((1, len(self._prompt)))
        values = {name: float(value[0]) for name, value in figures(ones).items() if np.isfinite(value[0])}
        chunks = [figures(weights) for weights in self.weights()]
        drawn = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in values}
        return {
            name: (self._interval(value, drawn[name], False), _p_value(value, drawn[name], self.prompts))
            for name, value in values.items()
        }

    def _interval(self, value: float, drawn: FloatArray, centred: bool) -> Interval:
        kept = drawn[np.isfinite(drawn)]
        if not kept.size:
            return Interval(value, value, value)
        tail = 50.0 * (1.0 - self.level)
        low, median, high = np.percentile(kept, [tail, 50.0, 100.0 - tail])
        if centred:
            low, high = max(0.0, low + value - median), high + value - median
        return Interval(value, float(low), float(high))


def _p_value(value: float, drawn: FloatArray, prompts: int) -> float:
    kept = drawn[np.isfinite(drawn)]
    error = float(kept.std(ddof=1)) if kept.size > 1 else 0.0
    if value == 0.0 or prompts < 2:
        return 1.0
    if error == 0.0:  # the same in every resample: no sample tells more than that
        return 2.0 / (1 + kept.size)
    return float(2.0 * t_distribution.sf(abs(value) / error, prompts - 1))
