"""Calibrated win probabilities: what a stored calibration does to a reward."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from poise.calibration.record import Source, Stored
from poise.distributions import Gaussian, Link, Point, RewardDistribution, WinMap

PairMethod = Literal["none", "temperature", "isotonic"]


class PairCalibration(Stored):
    """By ``temperature`` first; a reward that cannot say it in its own parameters is mapped with ``lapse``; then by ``knots``.

    ``scores``: cross-validated negative log likelihood of every candidate, in nat per pair.
    """

    method: PairMethod
    temperature: Annotated[float, Field(gt=0)] = 1.0
    lapse: Annotated[float, Field(ge=0, lt=1)] = 0.0
    knots: tuple[tuple[float, float], ...] = ()
    scores: dict[str, float] = Field(default={})
    source: Source | None = None

    def apply(self, reward: RewardDistribution) -> RewardDistribution:
        """The reward as P(win) should have it; whoever wins with more than ½ still does, and ties are ties."""
        if self.method == "none":
            return reward
        softened = softened_exactly(reward, self.temperature)
        if softened is None:
            return _mapped(reward, WinMap(self.temperature, self.lapse, self.knots))
        return _mapped(softened, WinMap(knots=self.knots)) if self.knots else softened


def softened_exactly(reward: RewardDistribution, temperature: float) -> RewardDistribution | None:
    """The reward whose every comparison is that of a margin divided by ``temperature``, where its family has one.

    A Gaussian's std and a link's scale are multiplied: means, order and the coherence of std, samples and P(win) stay. For
    other families no parameter does that without moving a median past another, and for bare points nothing does.
    """
    if isinstance(reward, Gaussian):
        return Gaussian(reward.mean, reward.std * temperature, reward.link.softened(temperature), validate=False)
    if isinstance(reward, Point) and reward.link.kind != "step":
        return reward.with_link(reward.link.softened(temperature))
    return None


def _mapped(reward: RewardDistribution, win_map: WinMap) -> RewardDistribution:
    link: Link = replace(reward.link, win_map=win_map)
    return reward.with_link(link)
