"""Has the distribution of what a model says moved? Kolmogorov–Smirnov and Wasserstein-1 against the reference.

Responses to one prompt resemble each other, so the test counts them as the fewer independent ones they are worth. A test
on many rows finds what does not matter: drift is what is both significant and of some size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy.stats

from poise.errors import ConfigError, DataError
from poise.evaluation.compare import holm
from poise.monitoring.observe import Observed
from poise.monitoring.reference import Reference, Sketch, sketch


@dataclass(frozen=True)
class MeasureDrift:
    """One measure then and now. ``shift`` of the mean and ``w1`` are in standard deviations of the reference; ``ks`` is
    the largest difference of the distribution functions; ``p_holm`` is corrected for the number of measures.
    """

    measure: str
    reference_mean: float
    mean: float
    shift: float
    w1: float
    ks: float
    p: float
    p_holm: float
    drifted: bool


@dataclass(frozen=True)
class DriftReport:
    """All measures; ``effective_rows`` is how many independent rows the data are worth at most."""

    source: str
    reference: str
    rows: int
    prompts: int
    effective_rows: float
    alpha: float
    least: float
    measures: tuple[MeasureDrift, ...]

    @property
    def drifted(self) -> tuple[str, ...]:
        """The measures that have moved."""
        return tuple(one.measure for one in self.measures if one.drifted)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"drift": bool(self.drifted), "drifted": list(self.drifted), **asdict(self)}


def compare(
    reference: Reference, now: Mapping[str, Observed], source: str, *, alpha: float = 0.01, least: float = 0.1
) -> DriftReport:
    """Every measure that both have. A measure has drifted where its corrected p is below ``alpha`` and its W1 is at least
    ``least`` standard deviations. ConfigError for an alpha outside (0, 1); DataError where there is nothing to compare.
    """
    if not 0 < alpha < 1:
        raise ConfigError(f"alpha is {alpha}; the error rate of the test must lie between 0 and 1")
    if not least >= 0:
        raise ConfigError(f"the least effect is {least}; give 0 or more standard deviations")
    shared = [name for name in reference.measures if name in now and len(now[name].values)]
    if not shared:
        raise DataError(f"{source}: nothing of it can be compared with the reference; give responses to score")
    sketches = {name: sketch(now[name]) for name in shared}
    tests = {name: _test(reference.measures[name], sketches[name]) for name in shared}
    corrected = holm([p for _, p in tests.values()])
    found = []
    for name, p_holm in zip(shared, corrected, strict=True):
        (ks, p), then, later = tests[name], reference.measures[name], sketches[name]
        means = (float(np.mean(then.values)), float(np.mean(later.values)))
        scale = float(np.std(then.values)) or float(np.std(later.values)) or 1.0
        w1 = float(scipy.stats.wasserstein_distance(then.values, later.values)) / scale
        drifted = p_holm < alpha and w1 >= least
        found.append(MeasureDrift(name, *means, (means[1] - means[0]) / scale, w1, ks, p, p_holm, drifted))
    return DriftReport(
        source=source,
        reference=reference.source,
        rows=max(len(now[name].values) for name in shared),
        prompts=max(one.prompts for one in sketches.values()),
        effective_rows=max(one.effective for one in sketches.values()),
        alpha=alpha,
        least=least,
        measures=tuple(found),
    )


def _test(first: Sketch, second: Sketch) -> tuple[float, float]:
    """(D, p) of the two-sample Kolmogorov–Smirnov test; what sketching may have blurred counts for the null."""
    one, two = np.asarray(first.values), np.asarray(second.values)
    grid = np.union1d(one, two)
    below = [np.searchsorted(values, grid, side="right") / len(values) for values in (one, two)]
    distance = float(np.abs(below[0] - below[1]).max())
    rows = first.effective * second.effective / (first.effective + second.effective)
    p = scipy.stats.kstwo.sf(max(0.0, distance - first.blur - second.blur), max(1, round(rows)))
    return distance, float(np.clip(p, 0.0, 1.0))
