"""What is logged beyond the loss terms: figures of a step, and of held-out pairs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from poise.data.batch import Batch
from poise.distributions import RewardDistribution
from poise.evaluation import metrics
from poise.features import Features
from poise.methods import Method


def held_out(reward: RewardDistribution, pairs: Tensor, label: Tensor) -> dict[str, float]:
    """Cheap metrics without intervals, for curves and selection: rewards [N], row numbers [P, 2] and labels [P]."""
    first, second = (reward[pairs[:, side]].to(torch.float64) for side in (0, 1))
    p, y = first.prob_greater(second).numpy(), label.double().numpy()
    return {
        "accuracy": float(metrics.accuracy(p, y, None)),
        "nll": float(metrics.nll(p, y)),
        "brier": float(metrics.brier(p, y)),
        "ece": float(metrics.expected_calibration_error(p, y)),
    }


@torch.no_grad()
def diagnostics(
    method: Method[Any, Any], output: Any, batch: Batch, features: Features | None = None
) -> dict[str, float]:
    """``reward_std``, the spread of the rewards' means over the batch, the method's own figures, and those of ``features``.

    Frozen features never change: leave them out there. What is not finite is left out.
    """
    found = {"reward_std": output.reward.mean.std(correction=0).item(), **method.diagnostics(output, batch)}
    if features is not None:
        states = features.response.detach().double().cpu().numpy()
        found["hidden/norm_dispersion"] = metrics.norm_dispersion(states)
        found["hidden/effective_rank"] = metrics.effective_rank(states)
    return {name: value for name, value in found.items() if math.isfinite(value)}
