"""A reward model as a ``reward_funcs`` entry of TRL's GRPO and RLOO trainers; TRL itself is not needed.

trainer = GRPOTrainer(policy, reward_funcs=as_reward_function("runs/drpo", "cvar:0.1", empty=-3.0), ...)

Uncertainty-weighted advantages: with an ensemble and ``utility="shrinkage"`` a reward becomes m + t²/(t² + σ²)·(μ − m), where
m and t² are mean and true variance of its prompt's group and σ² is what the members disagree about it. Where nothing is known
(σ ≫ t) the group's rewards coincide and its advantages vanish. ``docs/guides/rlhf.md`` says which trainer options keep that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from poise.errors import ConfigError, DataError
from poise.policy.scorer import Empty, Scored, Scorer
from poise.policy.sources import Judge, TooLong, Weights
from poise.utility import Utility

LogMetric = Callable[[str, float], None]
LogExtra = Callable[[str, list[Any]], None]


def as_reward_function(
    model: Judge,
    utility: str | Utility = "mean",
    *,
    weights: Weights | str | None = None,
    too_long: TooLong = "error",
    empty: Empty = "error",
    name: str | None = None,
    asynchronous: bool = False,
) -> RewardFunction:
    """A callable for ``reward_funcs``: the ``utility`` of what ``model`` believes about each completion.

    ``model`` is a reward model, an ensemble, a folder, the URL of a server, or a ``Client`` of one. ``weights`` steer a
    model that knows attributes: a mapping, or the name of the dataset column that holds one for each prompt, null where
    none steer. ``too_long`` and ``empty`` as in ``Scorer``. ``name`` is what TRL calls it in metrics, by default method and
    utility; give one where two would be alike. ``asynchronous`` functions run beside each other, in threads. Prompts
    and completions are strings or messages.
    """
    column = weights if isinstance(weights, str) else None
    given = None if isinstance(weights, str) else weights
    scorer = Scorer(model, utility, weights=given, too_long=too_long, empty=empty)
    return (AsyncRewardFunction if asynchronous else RewardFunction)(scorer, name or scorer.name, column)


class RewardFunction:
    """What ``as_reward_function`` returns. Duplicates are read once, and so is a prompt that completions share.

    Logs, where the trainer takes it: ``NAME/mean``, ``/std``, ``/q05``, ``/q50``, ``/q95`` of the belief, averaged over the
    batch as metrics and one by one in the table of completions; ``NAME/unscored`` is the share without a reward.
    """

    def __init__(self, scorer: Scorer, name: str, weights_column: str | None = None) -> None:
        self.scorer = scorer
        self.weights_column = weights_column
        self.__name__ = name

    def __call__(
        self,
        *,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        log_metric: LogMetric | None = None,
        log_extra: LogExtra | None = None,
        **columns: Any,
    ) -> Any:
        """One reward per completion, in order; None only for what ``too_long`` or ``empty`` leave without one."""
        scored = self.scorer.score(prompts, completions, self._weights(columns))
        return self._logged(scored, log_metric, log_extra)

    def _weights(self, columns: dict[str, Any]) -> Sequence[Weights | None] | None:
        if self.weights_column is None:
            return None
        if self.weights_column not in columns:
            raise ConfigError(
                f"the dataset has no column {self.weights_column!r} with attribute weights (found {sorted(columns)}); add it"
            )
        return [_steering(row, self.weights_column, number) for number, row in enumerate(columns[self.weights_column])]

    def _logged(self, scored: Scored, metric: LogMetric | None, extra: LogExtra | None) -> list[float | None]:
        for figure, values in scored.figures.items():
            known = [value for value in values if value is not None]
            if metric is not None and known:
                metric(f"{self.__name__}/{figure}", sum(known) / len(known))
            if extra is not None:
                extra(f"{self.__name__}/{figure}", values)
        if metric is not None and scored.rewards:
            metric(f"{self.__name__}/unscored", scored.rewards.count(None) / len(scored.rewards))
        return scored.rewards


def _steering(row: Any, column: str, number: int) -> Weights | None:
    """A table of mappings has every key in every row, those that a row did not give as null; where all are, none steers."""
    if row is None:
        return None
    if not isinstance(row, Mapping):
        raise DataError(
            f"completion {number}: column {column!r} holds {row!r}; give a mapping of attributes to weights, or null"
        )
    return {name: weight for name, weight in row.items() if weight is not None} or None


class AsyncRewardFunction(RewardFunction):
    """The same as a coroutine that leaves its event loop free while a thread scores."""

    async def __call__(
        self,
        *,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        log_metric: LogMetric | None = None,
        log_extra: LogExtra | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """As ``RewardFunction``."""
        weights = self._weights(columns)
        scored = await asyncio.to_thread(self.scorer.score, prompts, completions, weights)
        return self._logged(scored, log_metric, log_extra)
