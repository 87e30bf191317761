"""A policy's completions → rewards for training: utility of the belief, and a decided answer for what cannot be read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from poise.data import rows
from poise.data.records import Text
from poise.distributions import RewardDistribution
from poise.errors import ConfigError, DataError, unknown_choice
from poise.policy.sources import Judge, TooLong, Weights, source_of
from poise.utility import ReferenceUtility, Utility, parse_utility

LEVELS = (0.05, 0.5, 0.95)
FIGURES = ("mean", "std", *(f"q{100 * level:02.0f}" for level in LEVELS))
OPTIONS = ("model", "utility", "weights", "too_long", "empty")
Empty = Literal["error", "none"] | float


@dataclass(frozen=True)
class Scored:
    """Of B completions: ``rewards``, and by name of ``FIGURES`` what is believed; None where nothing was scored."""

    rewards: list[float | None]
    figures: dict[str, list[float | None]]


class Scorer:
    """Scores completions with whatever ``sources.Judge`` lists; from any thread.

    ``too_long``: ``error``; ``truncate-prompt``, the prompt's far end, never the response; ``none``, no reward. ``empty``,
    of a completion without text: ``error``, ``none``, or the reward that it is to have. Raises ``ConfigError`` at once
    for a utility or weights that the model cannot serve.
    """

    def __init__(
        self,
        model: Judge,
        utility: str | Utility = "mean",
        *,
        weights: Weights | None = None,
        too_long: TooLong = "error",
        empty: Empty = "error",
    ) -> None:
        self.utility = parse_utility(utility)
        self.weights, self.too_long, self.empty = weights, too_long, empty
        choices = ("error", "truncate-prompt", "none")
        if too_long not in choices:
            raise ConfigError(unknown_choice("too_long", too_long, choices))
        if empty not in ("error", "none") and not (isinstance(empty, (int, float)) and math.isfinite(empty)):
            raise ConfigError(
                f"empty is {empty!r}; choose error, none, or the reward of an empty completion, as in -3.0"
            )
        if isinstance(self.utility, ReferenceUtility) and self.utility.grouped:
            raise ConfigError(
                "references with prompt numbers cannot be matched to a policy's prompts; give some for all"
            )
        self.source = source_of(model)
        self.utility(self.source.probe(weights), torch.zeros(2, dtype=torch.long))

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Scorer:
        """From a configuration's keys; ``ConfigError`` for one that is none of ours, or without a model."""
        for key in options:
            if key not in OPTIONS:
                raise ConfigError(unknown_choice("option of the reward", key, OPTIONS))
        if "model" not in options:
            raise ConfigError("no reward model is named; set model to a run or checkpoint folder, or to a server's URL")
        return cls(**options)

    @property
    def name(self) -> str:
        """Method and utility, as metrics are named: ``drpo_cvar:0.1``."""
        return f"{self.source.name}_{self.utility.spec}"

    def score(
        self, prompts: Sequence[Any], completions: Sequence[Any], weights: Sequence[Weights | None] | None = None
    ) -> Scored:
        """Strings or messages in, one reward each out; ``weights`` are those of each completion, None where none steer.

        Utilities that compare the responses to a prompt compare those of equal weights.
        Whatever cannot be scored raises: None stands only for what ``too_long`` and ``empty`` say.
        """
        if len(prompts) != len(completions):
            raise DataError(f"{len(prompts)} prompts for {len(completions)} completions; give one prompt for each")
        if weights is not None and len(weights) != len(completions):
            raise DataError(f"{len(weights)} weights for {len(completions)} completions; give one mapping for each")
        texts = [_text(p, c, i) for i, (p, c) in enumerate(zip(prompts, completions, strict=True))]
        rewards: list[float | None] = [None] * len(texts)
        figures: dict[str, list[float | None]] = {name: [None] * len(texts) for name in FIGURES}
        kept = []
        for number, (_, completion) in enumerate(texts):
            if _is_empty(completion):
                rewards[number] = self._of_empty(number)
            else:
                kept.append(number)
        for numbers, reward in self._read(texts, kept, weights):
            known: dict[Text, int] = {}
            groups = torch.tensor([known.setdefault(texts[i][0], len(known)) for i in numbers])
            _fill(rewards, numbers, self._finite(self.utility(reward, groups), numbers))
            for name, values in zip(FIGURES, _figures(reward), strict=True):
                _fill(figures[name], numbers, values)
        return Scored(rewards, figures)

    def _of_empty(self, number: int) -> float | None:
        if self.empty == "error":
            raise DataError(
                f"completion {number} is empty; choose empty='none' (no reward, no advantage) or the reward that saying "
                "nothing shall have, as in empty=-3.0"
            )
        return None if isinstance(self.empty, str) else float(self.empty)

    def _finite(self, utilities: Tensor, numbers: Sequence[int]) -> list[float]:
        for number, fine in zip(numbers, torch.isfinite(utilities).tolist(), strict=True):
            if not fine:
                raise DataError(f"completion {number} has no finite {self.utility.spec}; choose a milder utility")
        found: list[float] = utilities.tolist()
        return found

    def _read(
        self, texts: Sequence[tuple[Text, Text]], kept: Sequence[int], weights: Sequence[Weights | None] | None
    ) -> Iterator[tuple[Sequence[int], RewardDistribution]]:
        """The numbers of the texts that were scored, and their rewards: texts of equal weights together.

        Other weights make another reward, and only the unsteered one is calibrated: there is no order between them.
        """
        parts: dict[Any, tuple[Weights | None, list[int]]] = {}
        for number in kept:
            given = self.weights if weights is None else weights[number]
            key = None if given is None else tuple(sorted(given.items()))
            parts.setdefault(key, (given, []))[1].append(number)
        for given, own in parts.values():
            found = self.source.read({number: texts[number] for number in own}, self.too_long, given)
            if found.reward is not None:
                yield found.numbers, found.reward


def _text(prompt: Any, completion: Any, number: int) -> tuple[Text, Text]:
    try:
        return rows.text(prompt, "prompt"), rows.text(completion, "completion")
    except rows.RowError as error:
        raise DataError(f"completion {number}: {error}") from None


def _is_empty(text: Text) -> bool:
    return not (text if isinstance(text, str) else "".join(message.content for message in text)).strip()


def _figures(reward: RewardDistribution) -> list[list[float]]:
    quantiles = reward.quantile(torch.tensor(LEVELS))
    found: list[list[float]] = torch.stack([reward.mean, reward.std, *quantiles.unbind(-1)]).tolist()
    return found


def _fill(into: list[float | None], numbers: Sequence[int], values: Sequence[float]) -> None:
    for number, value in zip(numbers, values, strict=True):
        into[number] = value
