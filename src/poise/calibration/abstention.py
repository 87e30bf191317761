"""When to leave a pair unanswered: a threshold on confidence with a guaranteed error rate among what is answered."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from poise.calibration.record import Source, Stored


class Abstention(Stored):
    """Pairs with max(p, 1 − p) >= ``threshold`` are answered; None: no threshold kept the error rate, so none is.

    With probability ``1 - delta`` over the draw of the calibration prompts, at most the share ``error`` of the answered pairs
    of new prompts of the same kind is answered wrongly. On calibration: ``answered`` of all pairs, ``observed`` error.
    """

    error: Annotated[float, Field(gt=0, lt=1)]
    delta: Annotated[float, Field(gt=0, lt=1)]
    threshold: Annotated[float, Field(ge=0.5, le=1)] | None
    answered: float
    observed: float | None = None
    source: Source | None = None

    def answers(self, p: Tensor) -> Tensor:
        """Which of the pairs with calibrated win probabilities ``p`` [P] are answered."""
        if self.threshold is None:
            return torch.zeros_like(p, dtype=torch.bool)
        return torch.maximum(p, 1 - p) >= self.threshold
