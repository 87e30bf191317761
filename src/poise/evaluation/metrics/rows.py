"""What every measure shares: checked rows, weighted means, folding, and sums over equal values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from poise.errors import DataError

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


SAME_DIGITS = 12


@dataclass(frozen=True)
class PairRows:
    """Checked inputs of a measure: ``p`` [n], ``y`` [n] and ``weights`` [..., n], all float64."""

    p: FloatArray
    y: FloatArray
    weights: FloatArray

    @classmethod
    def of(cls, p: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> PairRows:
        """Check ranges and lengths; raises DataError naming the first row that cannot be used."""
        probability = unit_interval("p", p)
        label = unit_interval("y", y, rows=len(probability))
        return cls(probability, label, row_weights(weights, len(probability)))

    def fold(self) -> PairRows:
        """Each pair seen from the side the model prefers: p becomes the confidence in [½, 1], y the share that agrees.

        Folding into n bins on [½, 1] equals adding (1−p, 1−y) for every row and using 2n bins on [0, 1].
        At p = ½ both sides count alike, so the agreement is ½. Confidence is rounded to ``SAME_DIGITS`` decimals: p and 1 − p differ
        in their last digits, which would part the right of equally confident rows from the wrong ones.
        """
        agreement = np.where(self.p > 0.5, self.y, np.where(self.p < 0.5, 1.0 - self.y, 0.5))
        confidence: FloatArray = np.round(np.maximum(self.p, 1.0 - self.p), SAME_DIGITS).astype(np.float64)
        return PairRows(confidence, agreement, self.weights)


def unit_interval(name: str, values: ArrayLike, rows: int | None = None) -> FloatArray:
    """``values`` as float64 [n] within [0, 1]."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise DataError(
            f"{name} has shape {list(array.shape)}; a measure needs one value per pair and at least one pair"
        )
    if rows is not None and len(array) != rows:
        raise DataError(f"{name} has {len(array)} rows but p has {rows}; both describe the same pairs")
    outside = np.flatnonzero(~((array >= 0.0) & (array <= 1.0)))
    if outside.size:
        row = int(outside[0])
        raise DataError(f"{name} must lie in [0, 1]; row {row} is {array[row]} ({outside.size} such rows)")
    return array


def row_weights(weights: ArrayLike | None, rows: int) -> FloatArray:
    """``weights`` as float64 [..., rows]; None counts every row once."""
    if weights is None:
        return np.ones(rows)
    array = np.asarray(weights, dtype=np.float64)
    if array.ndim == 0 or array.shape[-1] != rows:
        raise DataError(f"weights has shape {list(array.shape)}; its last axis must have the {rows} rows of p")
    if not np.all((array >= 0.0) & (array < np.inf)):
        raise DataError("weights must be finite and not negative")
    return array


def mean(values: FloatArray, weights: FloatArray) -> FloatArray:
    """Weighted mean of ``values`` [n] under ``weights`` [..., n]: [...]; NaN where the weights sum to 0."""
    return ratio(np.asarray(weights @ values), weights.sum(axis=-1))


def ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Elementwise quotient that is NaN, silently, where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(denominator == 0.0, np.nan, numerator / denominator))


def scatter_sum(values: FloatArray, index: NDArray[np.intp], cells: int) -> FloatArray:
    """Sum ``values`` [..., n] into the cells named by ``index`` [n] or [..., n]: [..., cells]."""
    leading = values.shape[:-1]
    resamples = int(np.prod(leading))
    flat = index.reshape(-1, values.shape[-1]) + np.arange(resamples)[:, None] * cells
    sums = np.bincount(flat.ravel(), values.ravel(), minlength=resamples * cells)
    return np.asarray(sums, dtype=np.float64).reshape(*leading, cells)


@dataclass(frozen=True)
class EqualValues:
    """Rows grouped by equal value, ascending: rows that a model cannot tell apart are never ordered against each other."""

    values: FloatArray
    order: NDArray[np.intp]
    starts: NDArray[np.intp]

    @classmethod
    def of(cls, values: FloatArray) -> EqualValues:
        """Group ``values`` [n] into U distinct ones."""
        order = np.argsort(values, kind="stable")
        ordered = values[order]
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        return cls(ordered[starts], order, starts)

    def sum(self, rows: FloatArray) -> FloatArray:
        """Sum ``rows`` [..., n] within each group: [..., U]."""
        return np.asarray(np.add.reduceat(rows[..., self.order], self.starts, axis=-1))

    def spread(self, values: FloatArray) -> FloatArray:
        """Give every row the value of its group: ``values`` [..., U] to [..., n]."""
        rows = np.empty((*values.shape[:-1], len(self.order)))
        rows[..., self.order] = np.repeat(values, np.diff(self.starts, append=len(self.order)), axis=-1)
        return rows
