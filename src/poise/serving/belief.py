"""Reward distributions of a batch → what requests asked to know, row by row, ready for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from poise.distributions import Categorical, Mixture, RewardDistribution, win_matrix
from poise.utility import Utility


@dataclass(frozen=True)
class Question:
    """What is wanted; equal questions of one round are answered by one computation.

    ``values``: also all parameters of a row as one list [K]. ``weights`` steer the attributes; ``raw`` is uncalibrated.
    """

    utility: Utility
    include: frozenset[str] = frozenset()
    levels: tuple[float, ...] = ()
    weights: tuple[tuple[str, float], ...] | None = None
    raw: bool = False
    values: bool = False


class Reading(NamedTuple):
    """What is said about one response."""

    score: float
    distribution: dict[str, Any]
    epistemic: float | None
    values: list[float] | None


class GroupReading(NamedTuple):
    """What is said about the responses to one prompt; ``wins`` [n, n] and the family's shared part where asked for."""

    rows: list[Reading]
    wins: list[list[float]] | None
    family: dict[str, Any] | None


def read(reward: RewardDistribution, sizes: Sequence[int], question: Question) -> list[GroupReading]:
    """Answer for rewards [B] that belong to groups of so many rows, in this order."""
    groups = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    scores = question.utility(reward, groups).tolist()
    columns = _columns(reward, question)
    epistemic: Sequence[float | None] = [None] * len(scores)
    if isinstance(reward, Mixture) and reward.members > 1:
        epistemic = reward.split().between.sqrt().tolist()
    values = flat(reward).tolist() if question.values else [None] * len(scores)
    fixed = {"family": reward.family, "support": _support(reward)}
    rows = [
        Reading(score, fixed | dict(zip(columns, cells, strict=True)), unsure, numbers)
        for score, unsure, numbers, *cells in zip(scores, epistemic, values, *columns.values(), strict=True)
    ]
    family = family_facts(reward) if "params" in question.include else None
    found, start = [], 0
    for size in sizes:
        wins = win_matrix(reward[start : start + size]).tolist() if "prob_better" in question.include else None
        found.append(GroupReading(rows[start : start + size], wins, family))
        start += size
    return found


def _columns(reward: RewardDistribution, question: Question) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    if "mean" in question.include:
        columns["mean"] = reward.mean.tolist()
    if "std" in question.include:
        columns["std"] = reward.std.tolist()
    if "quantiles" in question.include:
        levels = list(question.levels)
        found = reward.quantile(torch.tensor(levels, dtype=torch.float64)).tolist()
        columns["quantiles"] = [{"levels": levels, "values": values} for values in found]
    if "params" in question.include:
        own = {name: tensor.tolist() for name, tensor in reward.row_parameters().items()}
        columns["params"] = [dict(zip(own, row, strict=True)) for row in zip(*own.values(), strict=True)]
    return columns


def flat(reward: RewardDistribution) -> Tensor:
    """All parameters of every row in their order, [B, K]."""
    return torch.cat([tensor.reshape(len(reward), -1) for tensor in reward.row_parameters().values()], 1)


def family_facts(reward: RewardDistribution) -> dict[str, Any]:
    """Name, precision and what all rows share: with the parameters of the rows, enough to restore them."""
    own = reward.row_parameters()
    return {
        "name": reward.family,
        "dtype": str(reward.dtype).removeprefix("torch."),
        "shared": {name: tensor.tolist() for name, tensor in reward.parameters().items() if name not in own},
        "options": reward.options(),
    }


def _support(reward: RewardDistribution) -> list[float] | None:
    """The lowest and the highest possible reward, where the family has them."""
    return [reward.support[0].item(), reward.support[-1].item()] if isinstance(reward, Categorical) else None
