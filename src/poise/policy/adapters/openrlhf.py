"""OpenRLHF: the file form of ``--reward.remote_url``.

# reward_func.py, passed as --reward.remote_url reward_func.py
from poise.policy.adapters import openrlhf
reward_func = openrlhf.reward_func("runs/drpo", "lcb:1", too_long="truncate-prompt", empty=-3.0)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from scipy.special import expit
from torch import Tensor

from poise.errors import PoiseError
from poise.policy.adapters.rendered import Template, completion_of, plain
from poise.policy.adapters.together import Together
from poise.policy.scorer import FIGURES, Scorer
from poise.policy.sources import Judge
from poise.utility import Utility

Answer = dict[str, Any]
LOGGER = logging.getLogger(__name__)


def reward_func(
    model: Judge,
    utility: str | Utility = "mean",
    *,
    template: Any = None,
    **options: Any,
) -> Callable[[Sequence[str], Sequence[str], Sequence[Any]], Answer]:
    """``f(queries, prompts, labels)`` → ``rewards``, ``scores`` in 0 … 1 and ``extra_logs``, tensors [N] with constant keys.

    ``template``: the policy's tokenizer, or its name or folder, where prompts were rendered with a chat template; they are
    read back into conversations, and its special tokens are no part of a completion's end. Without, a prompt is what the user
    said; one that begins like a rendered one is refused. ``options`` as in ``Scorer``.
    """
    together = Together(Scorer(model, utility, **options))
    bounded = together.scorer.utility.unit == "probability"
    reader = None if template is None else Template(template)
    read: Callable[[str], Any] = plain if reader is None else reader.messages
    special = () if reader is None else reader.special

    def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any]) -> Answer:
        try:
            completions = [
                completion_of(query, prompt, special) for query, prompt in zip(queries, prompts, strict=True)
            ]
            asked = [read(prompt) for prompt in prompts]
        except PoiseError as error:
            LOGGER.error("no reward: %s", error)  # OpenRLHF hides it, as in ``Together``
            raise
        found = together.score(asked, completions)
        rewards = [one.reward for one in found]
        return {
            "rewards": _column(rewards),
            "scores": _column(rewards if bounded else expit(rewards)),
            "extra_logs": {f"reward_{name}": _column(one.figures[name] for one in found) for name in FIGURES},
        }

    return reward_func


def _column(values: Any) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float32)
