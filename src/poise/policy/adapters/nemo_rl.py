"""NeMo-RL: an environment that ends after one turn with the reward of the conversation.

# poise_environment.py, on the Python path
import ray
from poise.policy.adapters.nemo_rl import RewardEnvironment
PoiseEnvironment = ray.remote(RewardEnvironment)

# in the launching script, before training; then env.poise.model=runs/drpo in its configuration
ACTOR_ENVIRONMENT_REGISTRY["poise_environment.PoiseEnvironment"] = PY_EXECUTABLES.SYSTEM
register_env("poise", "poise_environment.PoiseEnvironment")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from poise.policy.adapters.together import beliefs, require_every_reward
from poise.policy.scorer import FIGURES, OPTIONS, Scorer

NAME = "poise"


class EnvironmentReturn(NamedTuple):
    """NeMo-RL's own, field by field; it is unpacked in this order."""

    observations: list[dict[str, str]]
    metadata: list[Any]
    next_stop_strings: list[Any]
    rewards: Tensor
    terminateds: Tensor
    answers: list[str | None]


class RewardEnvironment:
    """What NeMo-RL's ``EnvironmentInterface`` is, without importing it.

    ``config`` holds ``model`` (a folder, or the URL of a server), the options of ``Scorer``, and what NeMo-RL itself reads.
    A call brings the whole batch, so utilities that compare the responses to a prompt work too.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._scorer = Scorer.of({name: config[name] for name in OPTIONS if name in config})
        require_every_reward(self._scorer)
        self._figures: dict[str, list[float]] = {}

    def step(
        self, message_log_batch: Sequence[Sequence[Mapping[str, Any]]], metadata: Sequence[Any]
    ) -> EnvironmentReturn:
        """The reward of every conversation's last message; all end."""
        logs = [[{"role": m["role"], "content": m["content"]} for m in log] for log in message_log_batch]
        count = len(logs)
        found = beliefs(self._scorer.score([log[:-1] for log in logs], [log[-1:] for log in logs]))
        for name in FIGURES:
            self._figures.setdefault(name, []).extend(one.figures[name] for one in found)
        return EnvironmentReturn(
            observations=[{"role": "environment", "content": f"reward: {one.reward}"} for one in found],
            metadata=[None] * count,
            next_stop_strings=[None] * count,
            rewards=torch.tensor([one.reward for one in found], dtype=torch.float32),
            terminateds=torch.ones(count, dtype=torch.bool),
            answers=[log[-1]["content"] for log in logs],
        )

    def global_post_process_and_metrics(self, batch: Any) -> tuple[Any, dict[str, float]]:
        """The batch as it is, and what was believed of all completions since the last call."""
        metrics = {f"{NAME}/{name}": sum(values) / len(values) for name, values in self._figures.items() if values}
        self._figures = {}
        return batch, metrics

    def shutdown(self) -> None:
        """Nothing is left running."""
