"""What a reward server answers, with the distributions as they were on the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from poise.distributions import RewardDistribution, restore
from poise.errors import ServerError


@dataclass(frozen=True, slots=True)
class Row:
    """One response: ``score`` is the utility of its reward; what was not asked for is None."""

    score: float
    group: int = 0
    mean: float | None = None
    std: float | None = None
    quantiles: Mapping[float, float] | None = None
    epistemic: float | None = None
    num_tokens: int | None = None
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Comparison:
    """P(row i is better than row j) + ½ P(tie), both of one group."""

    group: int
    i: int
    j: int
    p_i_gt_j: float


@dataclass(frozen=True, slots=True)
class Rewards:
    """What a server says about B responses, in the order they were given."""

    model: str | None
    revision: str | None
    calibration: Mapping[str, Any] | None
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...] | None = None
    distribution: RewardDistribution | None = None

    @property
    def scores(self) -> list[float]:
        """The scores [B]."""
        return [row.score for row in self.rows]


def read(answer: Any, expected: int, url: str) -> Rewards:
    """The answer for ``expected`` responses; raises ``ServerError`` for anything else."""
    try:
        data, pairs = answer["data"], answer.get("comparisons")
        found = Rewards(
            answer.get("model"),
            answer.get("revision"),
            answer.get("calibration"),
            tuple(map(_row, data)),
            None if pairs is None else tuple(Comparison(**pair) for pair in pairs),
            _restored(answer.get("family"), data),
        )
    except (TypeError, ValueError, LookupError, AttributeError):
        found = None
    if found is None or len(found.rows) != expected:
        raise ServerError(
            f'{url}: expected {{"data": [{{"score"}}]}} with {expected} entries, got {str(answer)[:200]}; '
            "is this a reward server?"
        )
    return found


def _row(entry: Mapping[str, Any]) -> Row:
    found = entry.get("distribution") or {}
    quantiles = found.get("quantiles")
    return Row(
        score=float(entry["score"]),
        group=entry.get("group", 0),
        mean=found.get("mean"),
        std=found.get("std"),
        quantiles=None if quantiles is None else dict(zip(quantiles["levels"], quantiles["values"], strict=True)),
        epistemic=entry.get("epistemic"),
        num_tokens=entry.get("num_tokens"),
        truncated=bool(entry.get("truncated", False)),
    )


def _restored(family: Mapping[str, Any] | None, data: Sequence[Mapping[str, Any]]) -> RewardDistribution | None:
    """The rewards [B] of rows that brought their parameters, as they were on the server."""
    if family is None or not data:
        return None
    dtype = getattr(torch, family["dtype"])
    rows = [entry["distribution"]["params"] for entry in data]
    own = {name: torch.tensor([row[name] for row in rows], dtype=dtype) for name in rows[0]}
    shared = {name: torch.tensor(value, dtype=dtype) for name, value in family["shared"].items()}
    return restore(family["name"], own | shared, family["options"])


def joined(parts: Sequence[Rewards], url: str) -> Rewards:
    """The answers to several requests as one: rows and groups counted on. Raises ``ServerError`` for those of two models."""
    if not parts:
        return Rewards(None, None, None, ())
    if any((part.revision, part.calibration) != (parts[0].revision, parts[0].calibration) for part in parts):
        raise ServerError(f"{url} changed its model or calibration while it was asked; ask again")
    rows: list[Row] = []
    comparisons: list[Comparison] = []
    groups = 0
    for part in parts:
        start = len(rows)
        comparisons += [
            replace(c, group=c.group + groups, i=c.i + start, j=c.j + start) for c in part.comparisons or ()
        ]
        rows += [replace(row, group=row.group + groups) for row in part.rows]
        groups = 1 + max(row.group for row in rows)
    believed = [part.distribution for part in parts if part.distribution is not None]
    return replace(
        parts[0],
        rows=tuple(rows),
        comparisons=None if parts[0].comparisons is None else tuple(comparisons),
        distribution=RewardDistribution.concatenate(believed) if believed else None,
    )
