"""Fitting win probabilities to votes: temperature, then isotonic regression of what it leaves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression, minimize, minimize_scalar
from torch import Tensor

from poise.calibration.choice import Choice, choose
from poise.calibration.evidence import PairEvidence
from poise.calibration.pairs import PairCalibration, PairMethod, softened_exactly
from poise.distributions import WinMap
from poise.errors import ConfigError, unknown_choice

FloatArray = NDArray[np.float64]
LOG_TEMPERATURES = (math.log(1e-4), math.log(1e4))
LAPSES = (1e-6, 0.9)
LOG_SMALLEST = math.log(1e-12)  # as in a reported likelihood: one confident error is not infinitely bad
PSEUDO_PAIRS = 10.0
METHODS: tuple[PairMethod, ...] = ("none", "temperature", "isotonic")  # the simplest first


def fit_pairs(evidence: PairEvidence, method: str = "auto") -> Choice[PairCalibration]:
    """``method`` or, with ``auto``, the best by cross-validated negative log likelihood; all are scored."""
    if method != "auto" and method not in METHODS:
        raise ConfigError(unknown_choice("calibration method", method, ["auto", *METHODS]))
    fits: dict[str, Callable[[PairEvidence], PairCalibration]] = {
        "none": lambda _: PairCalibration(method="none"),
        "temperature": fit_temperature,
        "isotonic": fit_isotonic,
    }
    wanted = fits if method == "auto" else {"none": fits["none"], method: fits[method]}
    return choose(wanted, nll_rows, evidence, None if method == "auto" else method)


def log_wins(calibration: PairCalibration, evidence: PairEvidence) -> tuple[Tensor, Tensor]:
    """(log P(first wins), log P(second wins)) [P] under a calibration, ties half."""
    first, second = calibration.apply(evidence.first), calibration.apply(evidence.second)
    return first.log_prob_greater(second), second.log_prob_greater(first)


def win_probabilities(calibration: PairCalibration, evidence: PairEvidence) -> FloatArray:
    """P(first wins) [P] under a calibration, ties half."""
    p: FloatArray = calibration.apply(evidence.first).prob_greater(calibration.apply(evidence.second)).numpy()
    return p


def nll_rows(calibration: PairCalibration, evidence: PairEvidence) -> FloatArray:
    """−[y ln p + (1−y) ln(1−p)] [P]."""
    win, lose = (part.clamp(min=LOG_SMALLEST) for part in log_wins(calibration, evidence))
    rows: FloatArray = -(evidence.label * win + (1 - evidence.label) * lose).numpy()
    return rows


def fit_temperature(evidence: PairEvidence) -> PairCalibration:
    """The temperature (and lapse rate, where no parameter can say it) of the highest likelihood.

    Labels are smoothed as Platt did, (n·y + 1)/(n + 2): without it, pairs that are all ordered right ask for temperature 0.
    The negative log likelihood is convex in 1/temperature where the link is log-concave, so a bounded search finds it.
    """
    label = (len(evidence) * evidence.label + 1) / (len(evidence) + 2)

    def loss(win: Tensor, lose: Tensor) -> float:
        win, lose = win.clamp(min=LOG_SMALLEST), lose.clamp(min=LOG_SMALLEST)
        return -float((label * win + (1 - label) * lose).mean())

    if softened_exactly(evidence.first, 1.0) is not None:

        def of_temperature(log_temperature: float) -> float:
            return loss(*log_wins(_tempered(log_temperature), evidence))

        found = minimize_scalar(of_temperature, bounds=LOG_TEMPERATURES, method="bounded", options={"xatol": 1e-7})
        return _tempered(found.x)
    win, lose = log_wins(PairCalibration(method="none"), evidence)

    def of_both(parameters: FloatArray) -> float:
        known = _tempered(*parameters)
        win_map = WinMap(known.temperature, known.lapse)
        return loss(win_map.log_prob(win, lose), win_map.log_prob(lose, win))

    bounds = (LOG_TEMPERATURES, tuple(math.log(lapse) for lapse in LAPSES))
    starts = ([0.0, math.log(0.05)], [0.0, math.log(1e-3)])
    fits = [minimize(of_both, start, method="L-BFGS-B", bounds=bounds) for start in starts]
    return _tempered(*min(fits, key=lambda fit: float(fit.fun)).x)


def _tempered(log_temperature: float, log_lapse: float = -math.inf) -> PairCalibration:
    return PairCalibration(method="temperature", temperature=math.exp(log_temperature), lapse=math.exp(log_lapse))


def fit_isotonic(evidence: PairEvidence) -> PairCalibration:
    """Isotonic regression of the labels on the tempered probabilities."""
    tempered = fit_temperature(evidence)
    knots = isotonic_knots(win_probabilities(tempered, evidence), evidence.label.numpy())
    return tempered.model_copy(update={"method": "isotonic", "knots": knots})


def isotonic_knots(p: FloatArray, y: FloatArray) -> tuple[tuple[float, float], ...]:
    """Knots of the symmetric isotonic regression of shares ``y`` [n] on ``p`` [n], made strictly increasing.

    By symmetry it is that of agreement on confidence, cut off at ½. Each level set stands at its mean confidence with lines
    between them (centred isotonic regression, Oron & Flournoy 2017), and is drawn towards the diagonal by ``PSEUDO_PAIRS``
    pairs, so that no level is certain.
    """
    decided = p != 0.5
    confidence, agrees = np.maximum(p, 1 - p)[decided], np.where(p > 0.5, y, 1 - y)[decided]
    if not len(confidence):
        return ()
    at, level, count = level_sets(confidence, agrees, np.ones(len(confidence)))
    # the weight of PSEUDO_PAIRS at the diagonal, and never certain where the diagonal is
    level = (level * count + PSEUDO_PAIRS * np.minimum(at, 1 - 1 / (2 * len(p)))) / (count + PSEUDO_PAIRS)
    at, level, _ = level_sets(at, level, count + PSEUDO_PAIRS)
    above = (level > 0.5) & (at > 0.5)
    knots = list(zip(at[above].tolist(), level[above].tolist(), strict=True))
    if knots and knots[-1][0] < 1:
        last = knots[-1][1]
        knots.append((1.0, last + END_SLOPE * (1 - last)))
    return tuple(knots)


END_SLOPE = 0.05  # beyond the last level set it is flat, but not quite: order is kept


def level_sets(x: FloatArray, y: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(mean x, value, weight) of the level sets of the isotonic regression of ``y`` on ``x``, ascending; equal x are one."""
    values, where = np.unique(x, return_inverse=True)
    mass = np.bincount(where, weights)
    fitted = isotonic_regression(np.bincount(where, weights * y) / mass, weights=mass)
    starts: Sequence[int] = fitted.blocks[:-1]
    count = np.add.reduceat(mass, starts)
    return np.add.reduceat(mass * values, starts) / count, fitted.x[starts], count
