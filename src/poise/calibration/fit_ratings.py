"""Fitting predicted rating distributions to ratings: shift and scale, or conformalised quantiles."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from poise.calibration.choice import FOLDS, Choice, choose
from poise.calibration.conformal import conformal_quantile, rating_masses
from poise.calibration.evidence import RatingEvidence
from poise.calibration.ratings import RatingCalibration, RatingMethod, affine, conformal_levels
from poise.distributions import Categorical
from poise.errors import ConfigError, DataError, unknown_choice

FloatArray = NDArray[np.float64]
QUANTILES = 19  # 5 %, 10 %, …, 95 %
LOG_SPREADS = (math.log(1e-3), math.log(1e3))
METHODS: tuple[RatingMethod, ...] = ("none", "affine", "conformal")  # the simplest first


def fit_ratings(evidence: RatingEvidence, method: str = "auto") -> Choice[RatingCalibration]:
    """``method`` or, with ``auto``, the best by cross-validated CRPS; all that the data is enough for are scored."""
    if method != "auto" and method not in METHODS:
        raise ConfigError(unknown_choice("calibration method", method, ["auto", *METHODS]))
    fits: dict[str, Callable[[RatingEvidence], RatingCalibration]] = {
        "none": lambda _: RatingCalibration(method="none"),
        "affine": fit_affine,
        "conformal": fit_conformal,
    }
    prompts = len(np.unique(evidence.groups))
    needed = math.ceil(QUANTILES * FOLDS / (FOLDS - 1)) + FOLDS  # in every fold, whatever the sizes
    if prompts < needed and method == "conformal":
        raise DataError(f"conformalised quantiles need ratings of at least {needed} prompts, got {prompts}; give more")
    if prompts < needed:
        del fits["conformal"]
    wanted = fits if method == "auto" else {"none": fits["none"], method: fits[method]}
    return choose(wanted, crps_rows, evidence, None if method == "auto" else method)


def crps_rows(calibration: RatingCalibration, evidence: RatingEvidence) -> FloatArray:
    """Mean CRPS over the ratings of each response [n], in units of the ratings."""
    scores = evidence.each(calibration.apply(evidence.belief)).crps(evidence.value) * evidence.weights
    return np.asarray(np.bincount(evidence.row, scores.numpy(), minlength=len(evidence)), dtype=np.float64)


def fit_affine(evidence: RatingEvidence) -> RatingCalibration:
    """Shift, slope and spread of the smallest CRPS."""
    levels = isinstance(evidence.belief, Categorical)

    def calibration(parameters: FloatArray) -> RatingCalibration:
        shift, slope, log_spread = parameters.tolist()
        return RatingCalibration(method="affine", shift=shift, slope=slope, spread=math.exp(log_spread))

    def loss(parameters: FloatArray) -> float:
        shift, slope, log_spread = parameters.tolist()
        belief = affine(evidence.belief, shift, slope, math.exp(log_spread))
        return float((evidence.each(belief).crps(evidence.value) * evidence.weights).sum() / len(evidence))

    start = [0.0, 0.0, 0.0] if levels else [*_line(evidence), 0.0]
    bounds = [(0.0, 0.0) if levels else (None, None), (None, None) if levels else (1e-6, None), LOG_SPREADS]
    return calibration(minimize(loss, start, method="L-BFGS-B", bounds=bounds).x)


def _line(evidence: RatingEvidence) -> tuple[float, float]:
    """(shift, slope) of the regression of ratings on predicted means, from where the search starts."""
    means = evidence.belief.mean[torch.from_numpy(evidence.row)].numpy()
    weights, values = evidence.weights.numpy(), evidence.value.numpy()
    centre, level = np.average(means, weights=weights), np.average(values, weights=weights)
    variance = np.average(np.square(means - centre), weights=weights)
    if not variance > 0:
        return float(level - centre), 1.0
    slope = max(float(np.average((means - centre) * (values - level), weights=weights) / variance), 1e-3)
    return float(level - slope * centre), slope


def fit_conformal(evidence: RatingEvidence) -> RatingCalibration:
    """Every quantile moved to where it covers: P(x <= upper quantile) >= level and P(x >= lower one) >= 1 − level.

    For a rating of a new prompt, if prompts are exchangeable, whatever the belief (Romano, Patterson & Candès 2019, with one
    side at a time); ratings of one prompt share its mass (Lee, Barber & Willett 2023).
    """
    levels = conformal_levels(QUANTILES)
    values = evidence.belief.quantile(levels)[torch.from_numpy(evidence.row)]
    residuals = (evidence.value.unsqueeze(-1) - values).numpy()
    mass = rating_masses(evidence)
    offsets = []
    for k, level in enumerate(levels.tolist()):
        upper = level >= 0.5
        found = conformal_quantile(residuals[:, k] if upper else -residuals[:, k], mass, level if upper else 1 - level)
        offsets.append(found if upper else -found)
    return RatingCalibration(method="conformal", offsets=tuple(offsets))
