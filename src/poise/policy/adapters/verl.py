"""veRL: a reward manager, which is given the prompt, and a ``compute_score`` for data that holds it.

reward.reward_manager.source=importlib
reward.reward_manager.name=RewardManager
reward.reward_manager.module.path=pkg://poise.policy.adapters.verl
+reward.poise.model=runs/drpo  +reward.poise.utility=lcb:1  +reward.poise.empty=-3.0
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from poise.errors import ConfigError
from poise.policy.adapters.together import Belief, Together
from poise.policy.scorer import Scorer

_OPENED: dict[str, Together] = {}
_OPENING = threading.Lock()


def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: Mapping[str, Any] | None = None, **options: Any
) -> dict[str, float]:
    """``{"score", "reward_mean", "reward_std", …}`` of one completion; the prompt is ``extra_info["prompt"]``.

    ``options`` come from ``reward.custom_reward_function.reward_kwargs``: ``model``, and those of ``Scorer``. veRL calls
    this in threads, which are scored together. What veRL adds for engines of its own (``reward_router_address``,
    ``reward_model_tokenizer``) is not needed.
    """
    if not extra_info or "prompt" not in extra_info:
        raise ConfigError("compute_score is not given the prompt: put it into extra_info, or use the RewardManager")
    options = {
        name: value for name, value in options.items() if not name.startswith(("reward_router", "reward_model_"))
    }
    belief = _opened(options).score([_listed(extra_info["prompt"])], [solution_str])[0]
    return {"score": belief.reward} | _extras(belief)


class RewardManager:
    """What veRL's ``RewardManagerBase`` is, without importing veRL; one sample a call, scored together.

    ``config.reward.poise`` holds ``model`` (a folder, or the URL of a server) and the options of ``Scorer``.
    """

    def __init__(
        self,
        config: Any,
        tokenizer: Any,
        compute_score: Callable[..., Any] | None = None,
        reward_router_address: str | None = None,
        reward_model_tokenizer: Any = None,
    ) -> None:
        options = config["reward"].get("poise")
        if not options:
            raise ConfigError("veRL's configuration names no reward model; add +reward.poise.model=FOLDER_OR_URL")
        self.config, self.tokenizer, self.compute_score = config, tokenizer, compute_score
        self._together = _opened(dict(options))

    async def run_single(self, data: Any) -> dict[str, Any]:
        """``{"reward_score", "reward_extra_info"}`` of the last sequence, the same keys every time."""
        item = data[-1:][0]
        ids = item.batch["responses"]
        length = int(item.batch["attention_mask"][-ids.shape[-1] :].sum())
        completion = await asyncio.to_thread(self.tokenizer.decode, ids[:length], skip_special_tokens=True)
        belief = await self._together.score_one(_listed(item.non_tensor_batch["raw_prompt"]), completion)
        return {"reward_score": belief.reward, "reward_extra_info": _extras(belief)}

    @classmethod
    def assemble_rm_scores(cls, data: Any, scores: Sequence[float]) -> Tensor:
        """The scores at the last token of each response: [B, T] of zeros elsewhere."""
        responses = data.batch["responses"]
        lengths = data.batch["attention_mask"][:, data.batch["prompts"].shape[1] :].sum(1)
        found = torch.zeros_like(responses, dtype=torch.float32)
        # an empty response has no token of its own: its first place, not its last, which would be another's
        found[torch.arange(len(found)), (lengths - 1).clamp(min=0)] = torch.tensor(scores, dtype=torch.float32)
        return found


def _opened(options: Mapping[str, Any]) -> Together:
    """One scorer for equal options, however many managers and calls there are in this process."""
    known = json.dumps(dict(options), sort_keys=True, default=str)
    with _OPENING:
        if known not in _OPENED:
            _OPENED[known] = Together(Scorer.of(options))
        return _OPENED[known]


def _extras(belief: Belief) -> dict[str, float]:
    return {f"reward_{name}": value for name, value in belief.figures.items()}


def _listed(prompt: Any) -> Any:
    """A string, or messages as they come: in an array."""
    return prompt if isinstance(prompt, str) else [dict(message) for message in prompt]
