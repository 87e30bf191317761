"""How far P(win) is from shares of human votes, and how far it would be if it were right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from poise.data.records import Preference

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BINS = 15


def against_votes(p: FloatArray, share: FloatArray, groups: IntArray, pairs: Sequence[Preference]) -> dict[str, float]:
    """How far P(win) is from shares of votes, and how far it would be if it were right.

    ``gap``: ECE of p against shares. ``gap_floor``: its 95 % quantile where p is calibrated by construction: residuals of the
    shares from their isotonic regression, with random signs by prompt, put onto p. ``halves``: the same distance between the
    shares of two random halves of the voters. ``rmse`` of p against shares, ``rmse_floor`` from the binomial variance of a
    share of that many votes.
    """
    draw = np.random.default_rng(0)
    floor = floors(p, share, groups)
    counts = np.array([[v.chosen + v.tie / 2, v.total] for v in (pair.votes for pair in pairs) if v is not None])
    halves = [gap_of_halves(p, pairs, draw) for _ in range(5)]
    noise = share * (1 - share) / np.maximum(counts[:, 1] - 1, 1)
    return {
        "gap": gap(p, share),
        "gap_floor": float(np.quantile(floor, 0.95)),
        "halves": float(np.mean(halves)),
        "rmse": float(np.sqrt(np.mean((p - share) ** 2))),
        "rmse_floor": float(np.sqrt(np.mean(noise))),
    }


def floors(p: FloatArray, share: FloatArray, groups: IntArray, draws: int = 200) -> FloatArray:
    """Distances [draws] of shares from a P(win) that is right by construction."""
    right, prompt = pair_map(p, share), np.unique(groups, return_inverse=True)[1]
    residuals = np.zeros((BINS, prompt.max() + 1))  # of all pairs of a bin and a prompt, whose signs go together
    bins = binned(right)
    np.add.at(residuals, (bins, prompt), np.where(right >= 0.5, 1.0, -1.0) * (share - right))
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (residuals.shape[1], draws))
    return np.asarray(np.abs(residuals @ signs).sum(0) / len(p))


def pair_map(p: FloatArray, share: FloatArray) -> FloatArray:
    """The isotonic regression of shares on p, seen from both sides."""
    both, shares = np.concatenate([p, 1 - p]), np.concatenate([share, 1 - share])
    order = np.argsort(both, kind="stable")
    fitted = np.empty_like(both)
    fitted[order] = isotonic_regression(shares[order]).x
    return fitted[: len(p)]


def gap(p: FloatArray, share: FloatArray) -> float:
    """ECE against shares that noise may have put outside [0, 1]: Σ_b n_b/n·|mean p − mean share|, in bins of equal mass."""
    toward = np.where(p >= 0.5, 1.0, -1.0) * (p - share)
    return float(np.abs(np.bincount(binned(p), toward)).sum() / len(p))


def binned(p: FloatArray) -> IntArray:
    """The bin [P] of every pair by confidence."""
    bins = np.empty(len(p), dtype=np.int64)
    for number, rows in enumerate(np.array_split(np.argsort(np.abs(p - 0.5), kind="stable"), BINS)):
        bins[rows] = number
    return bins


def gap_of_halves(p: FloatArray, pairs: Sequence[Preference], draw: np.random.Generator) -> float:
    """The distance in the same bins between shares of two random halves of the voters of each pair."""
    votes = [pair.votes for pair in pairs if pair.votes is not None]
    chosen, rejected, tie = np.array([[int(v.chosen), int(v.rejected), int(v.tie)] for v in votes]).T
    size = (chosen + rejected + tie) // 2
    ties = draw.hypergeometric(tie, chosen + rejected, size)
    wins = draw.hypergeometric(chosen, rejected, size - ties)
    one = (wins + ties / 2) / size
    two = (chosen - wins + (tie - ties) / 2) / (chosen + rejected + tie - size)
    toward = np.where(p >= 0.5, 1.0, -1.0) * (one - two)
    return float(np.abs(np.bincount(binned(p), toward)).sum() / len(p))
