"""Single completions from many threads or coroutines, scored together: one thread takes whatever has gathered.

Nothing waits for company: the first is scored at once, those that come meanwhile are the next batch.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from poise.errors import ConfigError
from poise.policy.scorer import FIGURES, Scored, Scorer

MOST = 64  # completions of a batch: those of the next one wait no longer than this takes
LOGGER = logging.getLogger(__name__)


class Belief(NamedTuple):
    """Of one completion: its reward, and by name of ``FIGURES`` what is believed; an ``empty`` one is believed to be that."""

    reward: float
    figures: dict[str, float]


class _Asked(NamedTuple):
    prompt: Any
    completion: Any
    answer: Future[Belief]


class Together:
    """Answers with one belief per completion, as frameworks want it that know no missing reward.

    Raises ``ConfigError`` for a scorer that leaves completions without a reward, and for utilities that look at all
    responses to a prompt: these do not come together.
    """

    def __init__(self, scorer: Scorer) -> None:
        if scorer.utility.grouped:
            raise ConfigError(
                f"{scorer.utility.spec} looks at all responses to a prompt, and here they come one by one"
            )
        require_every_reward(scorer)
        self.scorer = scorer
        self._waiting: queue.SimpleQueue[_Asked] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="poise-rewards", daemon=True).start()

    def score(self, prompts: Sequence[Any], completions: Sequence[Any]) -> list[Belief]:
        """Blocks until all are scored; raises what scoring raised, after logging it."""
        return [answer.result() for answer in self._ask(prompts, completions)]

    async def score_one(self, prompt: Any, completion: Any) -> Belief:
        """The same for one, without blocking the event loop."""
        return await asyncio.wrap_future(self._ask([prompt], [completion])[0])

    def _ask(self, prompts: Sequence[Any], completions: Sequence[Any]) -> list[Future[Belief]]:
        asked = [_Asked(p, c, Future()) for p, c in zip(prompts, completions, strict=True)]
        for one in asked:
            self._waiting.put(one)
        return [one.answer for one in asked]

    def _work(self) -> None:
        while True:
            batch = [self._waiting.get()]
            while len(batch) < MOST and not self._waiting.empty():
                batch.append(self._waiting.get())
            self._answer([one for one in batch if one.answer.set_running_or_notify_cancel()])

    def _answer(self, batch: Sequence[_Asked]) -> None:
        try:
            scored = self.scorer.score([one.prompt for one in batch], [one.completion for one in batch])
        except Exception as error:  # whatever scoring raises belongs to who asked, not to this thread
            if len(batch) == 1:
                LOGGER.error("no reward: %s", error)  # frameworks hide it: OpenRLHF goes on without a reward
                batch[0].answer.set_exception(error)
                return
            for one in batch:  # one by one, so that only the culprit fails
                self._answer([one])
            return
        for one, belief in zip(batch, beliefs(scored), strict=True):
            one.answer.set_result(belief)


def require_every_reward(scorer: Scorer) -> None:
    """ConfigError where ``none`` would leave completions without a reward."""
    for option in ("too_long", "empty"):
        if getattr(scorer, option) == "none":
            raise ConfigError(
                f"{option} is 'none', but this framework needs a reward for every completion; choose another"
            )


def beliefs(scored: Scored) -> list[Belief]:
    """Row by row, every key in every row; a completion that was given its reward is believed to be certain."""
    found = []
    for number, reward in enumerate(scored.rewards):
        assert reward is not None
        certain = {name: 0.0 if name == "std" else reward for name in FIGURES}
        said = {name: scored.figures[name][number] for name in FIGURES}
        found.append(Belief(reward, {name: certain[name] if v is None else v for name, v in said.items()}))
    return found
