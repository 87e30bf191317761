"""Smooth calibration error: bin-free, consistent, with the bandwidth chosen by the data (Błasiok & Nakkiran 2024)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.fft import dct, dst, rfft
from scipy.sparse import csr_array

from poise.evaluation.metrics.rows import FloatArray, PairRows, ratio

CELLS = 1024
"""Cosines that are kept, enough for bandwidths of 0.002 and more."""
GRIDS = (128, 512, CELLS)
_WIDEST = 4.0  # cells per bandwidth at which a grid is fine enough
_ROWS = 64  # what fits into the processor's cache
_CLOSE = 1e-9
_REACH = 10


def smooth_ece(p: ArrayLike, y: ArrayLike, *, weights: ArrayLike | None = None, symmetric: bool = True) -> FloatArray:
    """∫|res_σ| at the bandwidth σ* where it equals σ*, for res_σ(t) = mean k_σ(t, p)(p − y), k the reflected Gaussian on [0, 1].

    Reflecting at 0 and 1 makes the cosines eigenfunctions of the kernel: smoothing multiplies the k-th cosine coefficient of
    the residual by exp(−(πkσ)²/2). ``symmetric`` adds (1−p, 1−y) for every row, which makes the residual odd about ½: its even
    cosines vanish.
    """
    rows = PairRows.of(p, y, weights)
    return _of_residuals(rows.p, rows.weights * (rows.p - rows.y), rows.weights.sum(axis=-1), symmetric)


def smooth_ece_of_draws(p: ArrayLike, labels: ArrayLike) -> FloatArray:
    """``smooth_ece`` of one ``p`` [n] with each of R sets of labels [R, n]: [R]."""
    given = np.asarray(p, dtype=np.float64)
    return _of_residuals(given, given - np.asarray(labels, dtype=np.float64), np.asarray(float(len(given))), True)


def _of_residuals(p: FloatArray, residuals: FloatArray, total: FloatArray, symmetric: bool) -> FloatArray:
    """Of weighted residuals [..., n] that belong to weights of ``total`` [...]."""
    coefficients = ratio(_cosine_sums(p, residuals), total[..., None])
    most = ratio(np.abs(residuals).sum(axis=-1), total)  # ∫|res_σ| of any σ is at most this
    if symmetric:
        coefficients[..., ::2] = 0.0
    flat, bound = coefficients.reshape(-1, CELLS + 1), most.reshape(-1).copy()
    found = np.where(np.isnan(bound), np.nan, 0.0)
    left = np.flatnonzero(bound > 0.0)
    for cells in GRIDS:
        least = 0.0 if cells == CELLS else _WIDEST / cells
        for start in range(0, len(left), _ROWS):
            part = left[start : start + _ROWS]
            found[part] = _fixed_point(flat[part, : cells + 1], least, bound[part])
        left = left[np.isnan(found[left])]
        bound[left] = np.minimum(bound[left], least)
    return np.asarray(found.reshape(most.shape))


def _fixed_point(coefficients: FloatArray, least: float, bound: FloatArray) -> FloatArray:
    """σ = ∫|res_σ| for coefficients [n, cells + 1]: [n], NaN where it is below ``least``; ``bound`` [n] > 0 is above it.

    By the secant method within a bracket (Illinois). ∫|res_σ| falls with σ, so that σ is off by no more than the two differ.
    """
    squared_frequency = (np.pi * np.arange(coefficients.shape[1])) ** 2 / 2.0

    def excess(sigma: FloatArray) -> FloatArray:
        return _mass(coefficients * np.exp(-squared_frequency * sigma[:, None] ** 2)) - sigma

    low = np.full_like(bound, least)
    above = excess(low) if least else bound.copy()
    inside = (above > 0.0) & (bound > least)
    if not inside.any():
        return np.full_like(bound, np.nan)
    coefficients, low, above, high = coefficients[inside], low[inside], above[inside], bound[inside].copy()
    below = np.minimum(excess(high), 0.0)
    sigma, off = high, below
    for _ in range(60):
        if np.abs(off).max() < _CLOSE:
            break
        sigma = (high * above - low * below) / (above - below)
        off = excess(sigma)
        up = off > 0.0
        # the end that stays loses weight, or the bracket would shrink from one side only
        low, high = np.where(up, sigma, low), np.where(up, high, sigma)
        above, below = np.where(up, off, above / 2.0), np.where(up, below / 2.0, off)
    found = np.full_like(bound, np.nan)
    found[inside] = sigma
    return found


def _cosine_sums(p: FloatArray, amounts: FloatArray) -> FloatArray:
    """Σ amounts·cos(πkp) for k = 0 … CELLS: [..., n] to [..., CELLS + 1].

    By a fast Fourier transform for points off the grid, to about ten digits: the amounts are spread on a finer grid by a Gaussian
    that is taken out again afterwards (Greengard & Lee 2004).
    """
    grid = 4 * CELLS
    width = np.pi * _REACH / (3.0 * (2 * CELLS) ** 2)
    place = p * (grid / 2)  # the circle is twice [0, 1]
    near = np.floor(place).astype(np.intp)[:, None] + np.arange(1 - _REACH, _REACH + 1)
    spread = np.exp(-(((place[:, None] - near) * (2 * np.pi / grid)) ** 2) / (4.0 * width))
    starts = np.arange(len(p) + 1) * 2 * _REACH
    matrix = csr_array((spread.ravel(), (near % grid).ravel(), starts), shape=(len(p), grid))
    on_grid = np.asarray((matrix.T @ amounts.reshape(-1, len(p)).T).T).reshape(*amounts.shape[:-1], grid)
    sharpened = np.sqrt(np.pi / width) * np.exp(width * np.arange(CELLS + 1) ** 2) / grid
    return np.asarray(rfft(on_grid, axis=-1)[..., : CELLS + 1].real * sharpened)


def _mass(coefficients: FloatArray) -> FloatArray:
    """∫|f| over [0, 1] of f(t) = c_0 + 2 Σ c_k cos(πkt), for ``coefficients`` [..., cells + 1]: [...].

    The antiderivative is a sine series; a cell in which f changes its sign is divided where it does.
    """
    cells = coefficients.shape[-1] - 1
    value = dct(coefficients, type=1, axis=-1)
    frequency = np.pi * np.arange(1, cells)
    area = np.zeros_like(value)
    area[..., 1:-1] = dst(coefficients[..., 1:-1] / frequency, type=1, axis=-1)
    area += coefficients[..., :1] * np.linspace(0.0, 1.0, cells + 1)
    left, right, whole = value[..., :-1], value[..., 1:], np.diff(area, axis=-1)
    crossed = left * right < 0.0
    share = np.where(crossed, left, 0.0) / np.where(crossed, left - right, 1.0)
    # the cubic through both ends with f as its slope
    before = share**2 * (3.0 - 2.0 * share) * whole
    before += (share * (1.0 - share) ** 2 * left - share**2 * (1.0 - share) * right) / cells
    return np.asarray(np.where(crossed, np.abs(before) + np.abs(whole - before), np.abs(whole)).sum(axis=-1))
