"""Does a scorer rank the models behind the responses as people do: measures over models, made from single battles.

A model's score is its win rate over all of its battles, ties half, with a normal 95 % interval. Separability, agreement and Brier
score are those of Arena-Hard (Li et al. 2024), which has bootstrapped Bradley–Terry ratings in the place of win rates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from poise.evaluation.metrics.rows import FloatArray, ratio, row_weights, scatter_sum

SEPARATE = 1.959963984540054
FEWEST_MODELS, FEWEST_OPPONENTS = 3, 3


@dataclass(frozen=True)
class Battles:
    """n battles between the models number ``first`` [n] and ``second`` [n]; ``outcome`` [n]: 1 the first won, ½ a tie, 0."""

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    models: int

    def win_rates(self, outcome: ArrayLike, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The win rate of each model and its standard error, [..., M] each; NaN for a model without two battles."""
        won = np.asarray(outcome, dtype=np.float64)
        met, total, squares = (
            scatter_sum(weights * values, self.first, self.models)
            + scatter_sum(weights * others, self.second, self.models)
            for values, others in ((np.ones_like(won), np.ones_like(won)), (won, 1.0 - won), (won**2, (1.0 - won) ** 2))
        )
        rate = ratio(total, met)
        variance = np.maximum(ratio(squares, met) - rate**2, 0.0)
        return rate, np.sqrt(ratio(variance, np.maximum(met - 1.0, 0.0)))

    def matrix(self, outcome: ArrayLike, weights: FloatArray) -> FloatArray:
        """Win rate of each model against each other, [..., M, M]; NaN where they did not meet."""
        won, cells = np.asarray(outcome, dtype=np.float64), self.models**2
        there, back = (i * self.models + j for i, j in ((self.first, self.second), (self.second, self.first)))
        total = scatter_sum(weights * won, there, cells) + scatter_sum(weights * (1.0 - won), back, cells)
        met = scatter_sum(weights, there, cells) + scatter_sum(weights, back, cells)
        return ratio(total, met).reshape(*weights.shape[:-1], self.models, self.models)


def model_ranking(
    battles: Battles, scorer: ArrayLike, people: ArrayLike, *, weights: ArrayLike | None = None
) -> dict[str, FloatArray]:
    """Outcomes [n] by a scorer against those by people, each measure [...]; empty with fewer than three models.

    ``row_pearson``: mean over models of the correlation of their win rates against each opponent. ``kendall`` (τ-b) and
    ``spearman`` of the models' scores. ``separability``: share of pairs of models whose intervals by the scorer do not overlap.
    ``agreement``: mean over pairs of models of 1 where both sides separate them alike, −1 where differently, else 0.
    ``brier``: of the scorer's probability, Φ of the difference over its error, that the one people rank higher is higher.
    """
    if battles.models < FEWEST_MODELS:
        return {}
    weight = row_weights(weights, len(battles.first))
    (mine, my_error), (theirs, their_error) = (battles.win_rates(given, weight) for given in (scorer, people))
    upper = np.triu_indices(battles.models, 1)
    gaps = [_gap(rate, *upper) for rate in (mine, theirs)]
    errors = [np.sqrt(_pairs(error**2, *upper)) for error in (my_error, their_error)]
    apart = [
        np.sign(gap) * (np.abs(gap) > SEPARATE * _pairs(error, *upper))
        for gap, error in zip(gaps, (my_error, their_error), strict=True)
    ]
    order = [np.sign(gap) for gap in gaps]
    moved = ratio(gaps[0], errors[0])
    chance = np.where(errors[0] > 0.0, ndtr(np.nan_to_num(moved)), (order[0] + 1.0) / 2.0)
    defined = np.isfinite(mine + theirs + my_error + their_error).all(axis=-1)
    found = {
        "row_pearson": _row_pearson(battles.matrix(scorer, weight), battles.matrix(people, weight)),
        "kendall": ratio((order[0] * order[1]).sum(-1), np.sqrt(np.abs(order[0]).sum(-1) * np.abs(order[1]).sum(-1))),
        "spearman": _pearson(_ranks(mine), _ranks(theirs), np.ones_like(mine, dtype=bool)),
        "separability": np.abs(apart[0]).mean(-1),
        "agreement": (apart[0] * apart[1]).mean(-1),
        "brier": ((chance - (order[1] + 1.0) / 2.0) ** 2).mean(-1),
    }
    return {name: np.where(defined, value, np.nan) for name, value in found.items()}


def _gap(values: FloatArray, first: NDArray[np.intp], second: NDArray[np.intp]) -> FloatArray:
    return np.asarray(values[..., first] - values[..., second])


def _pairs(values: FloatArray, first: NDArray[np.intp], second: NDArray[np.intp]) -> FloatArray:
    """Sums over both models of each pair."""
    return np.asarray(values[..., first] + values[..., second])


def _ranks(values: FloatArray) -> FloatArray:
    """Wins less losses against the others along the last axis: twice the mid-ranks, around 0."""
    return np.asarray(np.sign(values[..., :, None] - values[..., None, :]).sum(-1))


def _row_pearson(first: FloatArray, second: FloatArray) -> FloatArray:
    met = np.isfinite(first) & np.isfinite(second)
    found = _pearson(np.nan_to_num(first), np.nan_to_num(second), met)
    counted = np.isfinite(found) & (met.sum(-1) >= FEWEST_OPPONENTS)
    return ratio(np.where(counted, found, 0.0).sum(-1), counted.sum(-1).astype(np.float64))


def _pearson(first: FloatArray, second: FloatArray, among: NDArray[np.bool_]) -> FloatArray:
    """Correlation along the last axis over the entries ``among``; NaN where a side is constant."""
    count = among.sum(-1, keepdims=True).astype(np.float64)
    one, two = (
        np.where(among, values - ratio((values * among).sum(-1, keepdims=True), count), 0.0)
        for values in (first, second)
    )
    size = np.sqrt((one**2).sum(-1) * (two**2).sum(-1))
    return ratio((one * two).sum(-1), np.where(size > 1e-12, size, 0.0))
