"""A model's calibration as one thing, kept in its checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from pydantic import Field
from torch import Tensor

from poise.calibration.abstention import Abstention
from poise.calibration.pairs import PairCalibration
from poise.calibration.ratings import RatingCalibration
from poise.calibration.record import Stored
from poise.distributions import RewardDistribution
from poise.errors import ConfigError, unknown_choice


class Calibration(Stored):
    """Changes what P(win), spread and quantiles say, and never the order of a pair.

    ``pairs`` is for the reward, ``ratings`` for what raters would say by attribute; ``abstention`` is a threshold on
    calibrated confidence, where one was asked for.
    """

    pairs: PairCalibration | None = None
    ratings: dict[str, RatingCalibration] = Field(default={})
    abstention: Abstention | None = None

    @property
    def sha256(self) -> str:
        """Of everything in it: on this, too, a calibrated number depends."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def apply(self, reward: RewardDistribution) -> RewardDistribution:
        """The calibrated reward [B]."""
        return self.pairs.apply(reward) if self.pairs else reward

    def apply_ratings(self, beliefs: Mapping[str, RewardDistribution]) -> dict[str, RewardDistribution]:
        """Calibrated beliefs [B] by attribute, on the scale of the training data; unknown attributes are left as they are."""
        known = self.ratings
        return {name: known[name].apply(belief) if name in known else belief for name, belief in beliefs.items()}

    def answers(self, p: Tensor) -> Tensor:
        """Which pairs [P] are answered, by their calibrated win probabilities. ConfigError where no threshold was stored."""
        if self.abstention is None:
            raise ConfigError("this calibration holds no threshold; make one with poise calibrate --abstain-error 0.1")
        return self.abstention.answers(p)

    def interval(self, attribute: str, belief: RewardDistribution) -> tuple[Tensor, Tensor]:
        """(low, high) [B] of a calibrated ``belief`` about an attribute. ConfigError where no interval was stored."""
        stored = {name: one.interval for name, one in self.ratings.items() if one.interval is not None}
        if not stored:
            raise ConfigError("this calibration holds no interval; make one with poise calibrate --interval 0.9")
        if attribute not in stored:
            raise ConfigError(unknown_choice("attribute", attribute, stored))
        found: tuple[Tensor, Tensor] = stored[attribute].of(belief)
        return found
