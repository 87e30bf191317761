"""The contract of everything that scores responses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from poise.data.chat import Encoded
from poise.data.records import Text
from poise.distributions import Link, Point, RewardDistribution
from poise.errors import DataError
from poise.evaluation.predictions import Scored

Texts = Sequence[tuple[Text, Text]]


class Scorer(ABC):
    """Scores (prompt, response) texts. ``facts`` say on what its numbers depend, and stand beside them."""

    facts: Mapping[str, Any]

    @abstractmethod
    def score(self, texts: Texts) -> Scored:
        """What is believed about every response, in order."""


def scored(beliefs: Mapping[str, RewardDistribution], encoded: Sequence[Encoded]) -> Scored:
    """Beliefs with the counts of what was read."""
    cut, lost = ([getattr(one, name) for one in encoded] for name in ("cut", "cut_response"))
    return Scored(beliefs, [len(one.ids) for one in encoded], cut, lost)


def point(scores: ArrayLike, where: str) -> Point:
    """Bare scores [B] as rewards under the Bradley–Terry link; raises ``DataError`` for what is no finite number."""
    try:
        values = np.asarray(scores, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where} gave scores that are no numbers ({error}); give one per response") from None
    if values.ndim != 1 or not np.isfinite(values).all():
        raise DataError(
            f"{where} gave scores of the shape {list(values.shape)}, or not finite; give one finite number per response"
        )
    return Point(torch.from_numpy(values), Link("logistic"))
