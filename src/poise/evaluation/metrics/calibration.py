"""Binned calibration: does a stated confidence of 80 % come true 80 % of the time (Guo et al. 2017; Nixon et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from poise.errors import ConfigError, unknown_choice
from poise.evaluation.metrics.rows import EqualValues, FloatArray, PairRows, ratio, scatter_sum

BINS = 15
Binning = Literal["equal_mass", "equal_width"]
_NORMAL_975 = 1.959963984540054


@dataclass(frozen=True)
class BinSums:
    """Sums of weight, p and y per bin: each [..., bins]; empty bins are 0."""

    weight: FloatArray
    p: FloatArray
    y: FloatArray


@dataclass(frozen=True)
class Reliability:
    """One reliability curve: non-empty bins in ascending p, each array [bins]; [low, high] is the 95 % Wilson interval of y."""

    p: FloatArray
    y: FloatArray
    count: FloatArray
    low: FloatArray
    high: FloatArray


def bin_sums(rows: PairRows, bins: int, binning: Binning, start: float = 0.5) -> BinSums:
    """Sum rows into ``bins`` bins over [start, 1].

    Equal values of p share a bin, placed by the middle of their mass: bins do not depend on the order of rows, and weights
    equal repeated rows.
    """
    if binning not in get_args(Binning):
        raise ConfigError(unknown_choice("binning", binning, get_args(Binning)))
    if bins < 1:
        raise ConfigError(f"bins={bins}; at least 1 bin is needed")
    groups = EqualValues.of(rows.p)
    weight, label = groups.sum(rows.weights), groups.sum(rows.weights * rows.y)
    if binning == "equal_mass":
        middle = np.cumsum(weight, axis=-1) - weight / 2.0
        position = np.nan_to_num(ratio(middle * bins, weight.sum(axis=-1, keepdims=True)))
    else:
        position = np.broadcast_to((groups.values - start) / (1.0 - start) * bins, weight.shape)
    index = np.clip(position.astype(np.intp), 0, bins - 1)
    return BinSums(*(scatter_sum(values, index, bins) for values in (weight, weight * groups.values, label)))


def _sums(
    p: ArrayLike, y: ArrayLike, weights: ArrayLike | None, bins: int, binning: Binning, symmetric: bool
) -> BinSums:
    rows = PairRows.of(p, y, weights)
    return bin_sums(rows.fold(), bins, binning) if symmetric else bin_sums(rows, bins, binning, start=0.0)


def expected_calibration_error(
    p: ArrayLike,
    y: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    bins: int = BINS,
    binning: Binning = "equal_mass",
    symmetric: bool = True,
) -> FloatArray:
    """Σ_b n_b/n·|ȳ_b − p̄_b|, over confidence in [½, 1] (``symmetric``, see ``PairRows.fold``) or over p in [0, 1].

    Biased upwards by up to about 0.4·√(bins/n) for a calibrated model. ``symmetric=False`` needs randomly ordered pairs.
    """
    sums = _sums(p, y, weights, bins, binning, symmetric)
    return ratio(np.abs(sums.y - sums.p).sum(axis=-1), sums.weight.sum(axis=-1))


def maximum_calibration_error(
    p: ArrayLike,
    y: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    bins: int = BINS,
    binning: Binning = "equal_mass",
    symmetric: bool = True,
) -> FloatArray:
    """max_b |ȳ_b − p̄_b| over the non-empty bins; dominated by noise when bins are small."""
    sums = _sums(p, y, weights, bins, binning, symmetric)
    gaps = np.nan_to_num(ratio(np.abs(sums.y - sums.p), sums.weight))
    return np.where(sums.weight.any(axis=-1), gaps.max(axis=-1), np.nan)


def reliability_curve(
    p: ArrayLike,
    y: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    bins: int = BINS,
    binning: Binning = "equal_mass",
    symmetric: bool = True,
) -> Reliability:
    """The bins behind ``expected_calibration_error``, for plotting; ``weights`` must be [n].

    The interval takes rows as independent; for soft labels it is conservative.
    """
    sums = _sums(p, y, weights, bins, binning, symmetric)
    kept = sums.weight > 0.0
    count = sums.weight[kept]
    observed = sums.y[kept] / count
    z2 = _NORMAL_975**2
    centre = (observed + z2 / (2.0 * count)) / (1.0 + z2 / count)
    inner = np.maximum(observed * (1.0 - observed), 0.0) / count + z2 / (4.0 * count**2)
    half = _NORMAL_975 / (1.0 + z2 / count) * np.sqrt(inner)
    return Reliability(
        sums.p[kept] / count, observed, count, np.maximum(centre - half, 0), np.minimum(centre + half, 1)
    )


def confidence_histogram(p: ArrayLike, *, bins: int = 20) -> NDArray[np.intp]:
    """Number of pairs per equal-width bin of confidence max(p, 1−p) over [½, 1]: [bins]."""
    folded = PairRows.of(p, p).fold()
    return np.histogram(folded.p, bins=bins, range=(0.5, 1.0))[0]
