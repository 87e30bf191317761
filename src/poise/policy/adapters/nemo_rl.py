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

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from poise.errors import ConfigError, unknown_choice
from poise.policy.adapters.rendered import RENDERED, Messages, Template, plain
from poise.policy.adapters.together import beliefs, require_every_reward
from poise.policy.scorer import FIGURES, OPTIONS, Scorer

NAME = "poise"
KNOWN = (*OPTIONS, "template")
LIKENESS = 0.8  # from here on a key is taken for one of ours, misspelt; NeMo-RL's own are less like them


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
    ``template``: the policy's tokenizer, or its name or folder. NeMo-RL's data processors put rendered prompts into the
    messages, and they are read back with it. Without, prompts are plain; one that begins like a rendered one is refused.
    A call brings the whole batch, so utilities that compare the responses to a prompt work too.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        for key in map(str, config):
            if key not in KNOWN and difflib.get_close_matches(key.lower(), KNOWN, n=1, cutoff=LIKENESS):
                raise ConfigError(unknown_choice("option of the reward", key, KNOWN))
        self._scorer = Scorer.of({name: config[name] for name in OPTIONS if name in config})
        require_every_reward(self._scorer)
        template = config.get("template")
        self._template = None if template is None else Template(template)
        self._figures: dict[str, list[float]] = {}

    def step(
        self, message_log_batch: Sequence[Sequence[Mapping[str, Any]]], metadata: Sequence[Any]
    ) -> EnvironmentReturn:
        """The reward of every conversation's last message; all end."""
        logs = [[{"role": m["role"], "content": m["content"]} for m in log] for log in message_log_batch]
        count = len(logs)
        found = beliefs(self._scorer.score([self._asked(log[:-1]) for log in logs], [log[-1:] for log in logs]))
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

    def _asked(self, said: Messages) -> Messages:
        """The conversation before the completion, as it was before a data processor rendered it."""
        contents = [message["content"] for message in said]
        if not contents or not all(isinstance(content, str) for content in contents):
            return said  # the scorer says what is wrong
        if self._template is None:
            return [message | {"content": plain(message["content"])} for message in said]
        # most processors put the whole into one message, or cut it into all; some leave a system message beside it plain
        whole = "".join(contents)
        if found := self._template.find(whole):
            return found
        if not any(map(RENDERED.match, contents[:-1])) and (found := self._template.find(contents[-1])):
            return [*said[:-1], *found]
        return self._template.messages(whole)

    def global_post_process_and_metrics(self, batch: Any) -> tuple[Any, dict[str, float]]:
        """The batch as it is, and what was believed of all completions since the last call."""
        metrics = {f"{NAME}/{name}": sum(values) / len(values) for name, values in self._figures.items() if values}
        self._figures = {}
        return batch, metrics

    def shutdown(self) -> None:
        """Nothing is left running."""
