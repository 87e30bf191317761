"""What is watched of scored responses: reward, uncertainty, length, and confidence where they come in pairs."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from poise.data.records import text_length
from poise.distributions import RewardDistribution
from poise.evaluation.metrics.rows import FloatArray
from poise.model import RewardModel
from poise.pairing import PairFeatures


@dataclass(frozen=True)
class Observed:
    """One number a row: ``values`` [n], and the prompt of each row. Rows of one prompt resemble each other."""

    values: FloatArray
    prompts: Sequence[Hashable]


def observe(
    reward: RewardDistribution, lengths: Sequence[int], prompts: Sequence[Hashable], pairs: torch.Tensor | None = None
) -> dict[str, Observed]:
    """The measures of B scored responses; ``lengths`` in characters, ``pairs`` [P, 2] row numbers of those that compete.

    ``uncertainty`` is the standard deviation (left out where rewards are points), ``confidence`` |2 P(first ≻ second) − 1|.
    """
    reward = reward.to(torch.float64)
    std = reward.std.cpu().numpy()
    found = {
        "reward": Observed(reward.mean.cpu().numpy(), prompts),
        **({"uncertainty": Observed(std, prompts)} if std.any() else {}),
        "length": Observed(np.asarray(lengths, dtype=np.float64), prompts),
    }
    if pairs is not None and len(pairs):
        p = reward[pairs[:, 0]].prob_greater(reward[pairs[:, 1]]).cpu().numpy()
        found["confidence"] = Observed(np.abs(2 * p - 1), [prompts[i] for i in pairs[:, 0].tolist()])
    return found


@torch.inference_mode()
def observe_pairs(model: RewardModel, data: PairFeatures) -> dict[str, Observed]:
    """The measures of both responses of every pair, without the model's calibration: that may be changed later."""
    rows = data.pairs.flatten()
    reward = model.raw().predict_features(data.features)[rows]
    lengths = [text_length(text) for pair in data.preferences for text in (pair.chosen, pair.rejected)]
    prompts = [prompt for prompt in data.prompts for _ in range(2)]
    return observe(reward, lengths, prompts, torch.arange(len(rows)).view(-1, 2))
