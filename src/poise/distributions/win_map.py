"""A map of win probabilities that leaves every decision alone: what calibration changes where no parameter can say it.

g(1 − p) = 1 − g(p) and g increases strictly, so ½ stays ½ and the better response stays the better one. Three steps, each
the identity by default: temper in log-odds, shrink by a lapse rate, interpolate between knots.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from poise.distributions.numerics import LN2, safe_log
from poise.errors import ConfigError

Knot = tuple[float, float]


@dataclass(frozen=True, slots=True)
class WinMap:
    """Λ(logit(p)/temperature), then (1 − lapse)·p + lapse/2, then linear between ``knots``.

    A knot (confidence, win probability) lies in (½, 1]²; the first line starts at (½, ½), the last knot has confidence 1, and
    both coordinates increase. Below ½ the map is the mirror image.
    """

    temperature: float = 1.0
    lapse: float = 0.0
    knots: tuple[Knot, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"the temperature of a win map must be positive and finite, got {self.temperature}")
        if not 0 <= self.lapse < 1:
            raise ConfigError(f"the lapse rate of a win map must lie in [0, 1), got {self.lapse}")
        line = [(0.5, 0.5), *self.knots]
        rises = all(a < b and c < d for (a, c), (b, d) in pairwise(line))
        if self.knots and not (rises and self.knots[-1][0] == 1 and self.knots[-1][1] <= 1):
            raise ConfigError(
                f"the knots of a win map must rise from (0.5, 0.5) to a confidence of 1, got {list(self.knots)}"
            )

    def prob(self, p: Tensor, back: Tensor) -> Tensor:
        """g(p) of P(a ≻ b) and P(b ≻ a) = 1 − p: near 1, p itself has lost what a temperature would bring out."""
        below_half = 0.5 - torch.finfo(p.dtype).eps  # rounding must not make a tie of a decision
        loss = self._log_loss(safe_log(torch.minimum(p, back))).exp().clamp(max=below_half)
        return torch.where(p > 0.5, 1 - loss, torch.where(p < 0.5, loss, p))

    def log_prob(self, log_p: Tensor, log_back: Tensor) -> Tensor:
        """Log g(p) from the logarithms of both, accurate in the far tail."""
        log_loss = self._log_loss(torch.minimum(log_p, log_back))
        return torch.where(log_p > log_back, torch.log1p(-log_loss.exp()), log_loss)

    def tie(self, tie: Tensor, p: Tensor, back: Tensor) -> Tensor:
        """P(tie), changed in proportion to the chance of losing: a sure tie stays one."""
        loss, mapped = torch.minimum(p, back), torch.minimum(self.prob(p, back), self.prob(back, p))
        return torch.where(loss > 0, tie * mapped / loss.clamp(min=torch.finfo(p.dtype).tiny), 0.0)

    def _log_loss(self, log_q: Tensor) -> Tensor:
        """log(1 − g(1 − q)) of q <= ½."""
        if self.temperature != 1:
            log_q = logsigmoid((log_q - torch.log1p(-log_q.exp())) / self.temperature)
        if self.lapse > 0:
            log_q = torch.logaddexp(log_q + math.log1p(-self.lapse), torch.full_like(log_q, math.log(self.lapse) - LN2))
        return safe_log(self._between_knots(log_q.exp())) if self.knots else log_q

    def _between_knots(self, q: Tensor) -> Tensor:
        """1 − (the piecewise linear map of 1 − q); differences to 1 keep small q accurate."""
        xs, ys = (
            torch.tensor([1 - knot[i] for knot in reversed(self.knots)] + [0.5], dtype=q.dtype, device=q.device)
            for i in (0, 1)
        )
        right = torch.searchsorted(xs, q.detach().contiguous()).clamp(1, len(xs) - 1)
        left = right - 1
        share = (q - xs[left]) / (xs[right] - xs[left])
        return ys[left] + share * (ys[right] - ys[left])
