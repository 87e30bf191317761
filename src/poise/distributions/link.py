"""From a reward difference to a preference: P(a ≻ b) = E F((r_a − r_b − θ)/temp).

F is a step (the larger reward wins), Φ (probit) or Λ (logistic). A tie threshold θ > 0 leaves room for ties:
P(tie) = 1 − P(a ≻ b) − P(b ≻ a); logistic with θ is the Rao–Kupper model. Davidson's tie model is the separate kind
``davidson``, softmax(δ/2, −δ/2, ln ν) with δ the difference over the temperature.

A calibrated link may carry a ``WinMap`` as well: comparisons apply it last, to the probability over all components
(``comparison.compare``); the functions of one Gaussian difference here leave it out.

The expectation is over a Gaussian difference D ~ N(difference, spread²); a spread of 0 is legal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from poise.distributions.numerics import LN2, LOG_ZERO, has_spread, log_ndtr, log_sum, normal_cdf, z_score
from poise.distributions.win_map import WinMap
from poise.errors import ConfigError, UnsupportedOperation, unknown_choice

LinkKind = Literal["step", "probit", "logistic", "davidson"]

# Λ(x) ≈ Σ c Φ(k x) / Σ c, |error| < 3e-9: eight normal scales, so that averaging over a Gaussian stays in closed form.
# Without the division the eight printed digits of c sum to 1 − 2e-8, and that would be the error.
_LOGISTIC_SCALES = (
    (0.00156300, 0.23934159),
    (0.02906306, 0.31041671),
    (0.13313539, 0.39804641),
    (0.27436851, 0.50982265),
    (0.31366536, 0.65208505),
    (0.19366365, 0.83162825),
    (0.05129014, 1.05980289),
    (0.00325087, 1.36512107),
)
_TOTAL = sum(c for c, _ in _LOGISTIC_SCALES)


@dataclass(frozen=True, slots=True)
class Link:
    """How a difference of two rewards becomes a probability; rewards, temperature and θ share one unit.

    ``tie_weight`` is Davidson's ν >= 0 and belongs to that kind alone, as ``tie_threshold`` θ >= 0 belongs to the others.
    """

    kind: LinkKind = "step"
    temperature: float = 1.0
    tie_threshold: float = 0.0
    tie_weight: float = 0.0
    win_map: WinMap | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(LinkKind):
            raise ConfigError(unknown_choice("link", self.kind, get_args(LinkKind)))
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"link temperature must be positive and finite, got {self.temperature}")
        if not 0 <= self.tie_threshold < math.inf or not 0 <= self.tie_weight < math.inf:
            raise ConfigError(f"tie_threshold and tie_weight must be finite and >= 0, got {self}")
        if (self.kind == "davidson" and self.tie_threshold) or (self.kind != "davidson" and self.tie_weight):
            raise ConfigError("tie_weight is for the davidson link, tie_threshold for the others; set only that one")

    @classmethod
    def restored(cls, options: Mapping[str, Any]) -> Link:
        """The link that ``options`` described, also once read from JSON."""
        given = dict(options)
        if known := given.pop("win_map", None):
            given["win_map"] = WinMap(**(known | {"knots": tuple(map(tuple, known["knots"]))}))
        return cls(**given)

    def options(self) -> dict[str, Any]:
        """Ready for JSON; a link that was never calibrated says nothing about it."""
        found = asdict(self)
        return found if self.win_map else {name: value for name, value in found.items() if name != "win_map"}

    def softened(self, temperature: float) -> Link:
        """The link of differences that count 1/temperature as much: P(difference) → P(difference/temperature)."""
        scaled = self.temperature if self.kind == "step" else self.temperature * temperature
        return replace(self, temperature=scaled, tie_threshold=self.tie_threshold * temperature)

    @property
    def is_bare(self) -> bool:
        """Whether this is the plain comparison of two numbers: a step without tie threshold."""
        return self.kind == "step" and self.tie_threshold == 0

    def win(self, difference: Tensor, spread: Tensor) -> Tensor:
        """P(a ≻ b), ties excluded."""
        if self.kind == "davidson":
            return self._davidson(difference, spread).exp()[..., 0]
        return self._cdf(difference - self.tie_threshold, spread, at_zero=0.0)

    def prob(self, difference: Tensor, spread: Tensor) -> Tensor:
        """P(a ≻ b) + ½ P(tie)."""
        if self.kind == "davidson":
            return self.log_prob(difference, spread).exp()
        if self.tie_threshold == 0:
            return self._cdf(difference, spread, at_zero=0.5)
        loses_not = self._cdf(difference + self.tie_threshold, spread, at_zero=1.0)
        return 0.5 * (self.win(difference, spread) + loses_not)

    def tie(self, difference: Tensor, spread: Tensor) -> Tensor:
        """P(tie)."""
        if self.kind == "davidson":
            return self._davidson(difference, spread).exp()[..., 2]
        loses_not = self._cdf(difference + self.tie_threshold, spread, at_zero=1.0)
        return loses_not - self.win(difference, spread)

    def log_prob(self, difference: Tensor, spread: Tensor) -> Tensor:
        """log(P(a ≻ b) + ½ P(tie)), accurate in the far tail; ``LOG_ZERO`` where the probability is exactly 0."""
        if self.kind == "davidson":
            log_win, _, log_tie = self._davidson(difference, spread).unbind(-1)
            return log_sum(torch.stack([log_win, log_tie - LN2]), 0)
        if self.tie_threshold == 0:
            return self._log_cdf(difference, spread, at_zero=0.5)
        win = self._log_cdf(difference - self.tie_threshold, spread, at_zero=0.0)
        loses_not = self._log_cdf(difference + self.tie_threshold, spread, at_zero=1.0)
        return log_sum(torch.stack([win, loses_not]), 0) - LN2

    def _cdf(self, x: Tensor, spread: Tensor, at_zero: float) -> Tensor:
        """E F((D − …)/temp); ``at_zero`` is F(0) of the step, which decides between P(>), P(>)+½P(=) and P(>=)."""
        if self.kind == "step":
            return step_normal(x, spread, at_zero)
        x, spread = x / self.temperature, spread / self.temperature
        if self.kind == "probit":
            return normal_cdf(_scaled(x, spread, 1.0))
        return logistic_normal(x, spread)

    def _log_cdf(self, x: Tensor, spread: Tensor, at_zero: float) -> Tensor:
        if self.kind == "step":
            return log_step_normal(x, spread, at_zero)
        x, spread = x / self.temperature, spread / self.temperature
        if self.kind == "probit":
            return log_ndtr(_scaled(x, spread, 1.0))
        return log_logistic_normal(x, spread)

    def _davidson(self, difference: Tensor, spread: Tensor) -> Tensor:
        """Log-probabilities (a ≻ b, b ≻ a, tie) [..., 3]."""
        if (spread > 0).any():
            raise UnsupportedOperation("the davidson link has no closed form for rewards with a spread; use logistic")
        half = difference / (2 * self.temperature)
        log_weight = math.log(self.tie_weight) if self.tie_weight > 0 else LOG_ZERO
        return torch.stack([half, -half, torch.full_like(half, log_weight)], -1).log_softmax(-1)


STEP = Link("step")
LOGISTIC = Link("logistic")


def step_normal(x: Tensor, spread: Tensor, at_zero: float) -> Tensor:
    """P(N(x, spread²) > 0); without spread 1[x > 0], and ``at_zero`` at x = 0."""
    step = torch.heaviside(x.detach(), torch.full_like(x, at_zero))
    return torch.where(has_spread(spread), normal_cdf(z_score(x, spread)), step)


def log_step_normal(x: Tensor, spread: Tensor, at_zero: float) -> Tensor:
    """The logarithm of ``step_normal``."""
    log_at_zero = math.log(at_zero) if at_zero > 0 else LOG_ZERO
    step = torch.where(x > 0, 0.0, torch.where(x < 0, LOG_ZERO, torch.full_like(x, log_at_zero)))
    return torch.where(has_spread(spread), log_ndtr(z_score(x, spread)), step)


def logistic_normal(x: Tensor, spread: Tensor) -> Tensor:
    """E Λ(N(x, spread²)) within 3e-9 for every argument; Λ(x) itself without spread."""
    mixed = torch.stack([c / _TOTAL * normal_cdf(_scaled(x, spread, k)) for c, k in _LOGISTIC_SCALES]).sum(0)
    return torch.where(spread > 0, mixed, torch.sigmoid(x))


def log_logistic_normal(x: Tensor, spread: Tensor) -> Tensor:
    """log E Λ(N(x, s²)), accurate in the far tail without quadrature.

    Λ(y) = e^y Λ(−y) and a change of measure give the exact reflection L(x, s) = x + s²/2 + L(−x − s², s). It moves every
    x < −s²/2 to an argument where the normal scale mixture has a small *relative* error.
    """
    reflect = x < -0.5 * spread * spread
    variance = torch.where(reflect, spread, 0.0).square()
    inner = torch.where(reflect, -x - variance, x)
    terms = [math.log(c / _TOTAL) + log_ndtr(_scaled(inner, spread, k)) for c, k in _LOGISTIC_SCALES]
    mixed = log_sum(torch.stack(terms), 0) + torch.where(reflect, x + 0.5 * variance, 0.0)
    return torch.where(spread > 0, mixed, logsigmoid(x))


def _scaled(x: Tensor, spread: Tensor, k: float) -> Tensor:
    """k x / √(1 + k² spread²)."""
    return k * x / torch.hypot(torch.ones_like(spread), k * spread)
