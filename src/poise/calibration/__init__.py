"""Calibration that is kept with the model: P(win) and ratings that come true as often as they say.

Fitted on held-out pairs and ratings, chosen by cross-validation, stored in the checkpoint and applied by every prediction.
"""

from __future__ import annotations

from poise.calibration.abstention import Abstention
from poise.calibration.calibration import Calibration
from poise.calibration.pairs import PairCalibration, PairMethod
from poise.calibration.ratings import ConformalInterval, RatingCalibration, RatingMethod
from poise.calibration.record import Source

__all__ = [
    "Abstention",
    "Calibration",
    "ConformalInterval",
    "PairCalibration",
    "PairMethod",
    "RatingCalibration",
    "RatingMethod",
    "Source",
]
