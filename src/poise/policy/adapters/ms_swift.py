"""ms-swift: an outcome reward model for GRPO.

# plugin.py, passed as --external_plugins plugin.py --reward_funcs poise
from swift.rewards import orms
from poise.policy.adapters import ms_swift
orms["poise"] = ms_swift.orm("runs/drpo", "lcb:1", empty=-3.0)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from poise.errors import DataError
from poise.policy.scorer import Scorer
from poise.policy.sources import Judge
from poise.utility import Utility


def orm(model: Judge, utility: str | Utility = "mean", **options: Any) -> type[OutcomeReward]:
    """A class to be put into ``orms``, named for the logs; ``options`` as in ``Scorer``. The model is loaded once."""
    scorer = Scorer(model, utility, **options)
    return type(scorer.name, (OutcomeReward,), {"scorer": scorer})


class OutcomeReward:
    """What ms-swift's ``ORM`` is, without importing it."""

    scorer: Scorer

    def __init__(self, args: Any = None, **options: Any) -> None:
        self.args = args

    def __call__(
        self, completions: Sequence[str], messages: Sequence[Sequence[dict[str, Any]]], **columns: Any
    ) -> list[float | None]:
        """One reward each; ``messages`` are the conversations, the completion last. None counts as not applicable."""
        for number, (completion, said) in enumerate(zip(completions, messages, strict=True)):
            if said[-1].get("role") != "assistant" or said[-1].get("content") != completion:
                raise DataError(f"completion {number} is not the last of its messages; it must be an assistant's text")
        prompts = [[{"role": m["role"], "content": m["content"]} for m in said[:-1]] for said in messages]
        return self.scorer.score(prompts, completions).rewards
