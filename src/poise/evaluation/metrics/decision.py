"""Is the preferred response the one that people prefer: accuracy, its tie policy, and the ceiling that split votes leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from poise.errors import ConfigError, DataError, unknown_choice
from poise.evaluation.metrics.rows import BoolArray, FloatArray, PairRows, mean, row_weights, unit_interval

TiePolicy = Literal["half", "zero", "one"]
"""What an undecided pair earns. Part of the number: RewardBench uses "zero", an honest coin is "half" (the default)."""

_TIE_CREDIT = {"half": 0.5, "zero": 0.0, "one": 1.0}


def undecided(p: FloatArray, tie: ArrayLike | None = None) -> BoolArray:
    """Rows where the model states no preference: p = ½ exactly, or a tie with certainty (``tie`` = 1).

    A tie *probability* below 1 does not make a row undecided: p already holds half of it.
    """
    even: BoolArray = p == 0.5
    return even if tie is None else even | (unit_interval("tie", tie, rows=len(p)) == 1.0)


def directed(y: FloatArray) -> BoolArray:
    """Rows whose label names a winner; y = ½ does not and has no part in accuracy."""
    return np.not_equal(y, 0.5)


def decision_credit(p: FloatArray, y: FloatArray, tie: ArrayLike | None, tie_policy: TiePolicy) -> FloatArray:
    """1 where p and y lie on the same side of ½, 0 where not, the policy's credit where the model is undecided: [n]."""
    if tie_policy not in get_args(TiePolicy):
        raise ConfigError(unknown_choice("tie policy", tie_policy, get_args(TiePolicy)))
    return np.where(undecided(p, tie), _TIE_CREDIT[tie_policy], ((p > 0.5) == (y > 0.5)).astype(np.float64))


def accuracy(
    p: ArrayLike,
    y: ArrayLike,
    tie: ArrayLike | None = None,
    *,
    weights: ArrayLike | None = None,
    tie_policy: TiePolicy = "half",
) -> FloatArray:
    """Share of directed pairs (y ≠ ½) in which the model prefers the majority's response."""
    rows = PairRows.of(p, y, weights)
    credit = decision_credit(rows.p, rows.y, tie, tie_policy)
    return mean(credit, rows.weights * directed(rows.y))


def accuracy_gap(
    p: ArrayLike,
    y: ArrayLike,
    difference: ArrayLike,
    tie: ArrayLike | None = None,
    *,
    weights: ArrayLike | None = None,
) -> FloatArray:
    """Accuracy where the preferred response has more of something (length), less accuracy where it has less.

    ``difference`` [n] is the first response's amount minus the second's; above 0, the model follows the amount more than people.
    """
    rows = PairRows.of(p, y, weights)
    credit = decision_credit(rows.p, rows.y, tie, "half")
    amount = np.asarray(difference, dtype=np.float64)
    if amount.shape != credit.shape:
        raise DataError(f"difference has shape {list(amount.shape)} but p has {len(credit)} rows")
    toward = amount * np.sign(rows.y - 0.5)
    return mean(credit, rows.weights * (toward > 0.0)) - mean(credit, rows.weights * (toward < 0.0))


def choice_accuracy(
    scores: Sequence[ArrayLike],
    right: Sequence[ArrayLike],
    *,
    weights: ArrayLike | None = None,
    tie_policy: Literal["share", "loss"] = "share",
) -> FloatArray:
    """Share of n sets in which the highest of ``scores[i]`` [k] is one marked 1 in ``right[i]`` [k].

    Of several highest, ``share`` credits the part that is right, 1/k for one of k (RewardBench 2); ``loss`` needs all of them
    right (RMB). For pairs, "share" is the policy "half" and "loss" is "zero".
    """
    if tie_policy not in ("share", "loss"):
        raise ConfigError(unknown_choice("tie policy", tie_policy, ("share", "loss")))
    credit = np.empty(len(scores))
    for row, (given, marked) in enumerate(zip(scores, right, strict=True)):
        values = np.asarray(given, dtype=np.float64)
        part = np.asarray(marked, dtype=np.float64)[values == values.max()].mean()
        credit[row] = part if tie_policy == "share" else float(part == 1.0)
    return mean(credit, row_weights(weights, len(credit)))


def soft_accuracy(
    p: ArrayLike, y: ArrayLike, tie: ArrayLike | None = None, *, weights: ArrayLike | None = None
) -> FloatArray:
    """Share of single votes that the model's decision matches; undecided pairs match half. At most ``label_ceiling``."""
    rows = PairRows.of(p, y, weights)
    first = np.where(undecided(rows.p, tie), 0.5, (rows.p > 0.5).astype(np.float64))
    return mean(rows.y * first + (1.0 - rows.y) * (1.0 - first), rows.weights)


def label_ceiling(y: ArrayLike, *, weights: ArrayLike | None = None) -> FloatArray:
    """Soft accuracy of always siding with the majority: mean max(y, 1−y), optimistic when a pair has few votes."""
    rows = PairRows.of(y, y, weights)
    return mean(np.maximum(rows.y, 1.0 - rows.y), rows.weights)


def tie_rate(p: ArrayLike, tie: ArrayLike | None = None, *, weights: ArrayLike | None = None) -> FloatArray:
    """Share of pairs on which the model is undecided: report it beside every accuracy."""
    rows = PairRows.of(p, p, weights)
    return mean(undecided(rows.p, tie).astype(np.float64), rows.weights)
