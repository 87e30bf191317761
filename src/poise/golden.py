"""Fixed texts whose rewards a checkpoint records (short, multi-turn, non-ASCII, long) and is checked against.

The rewards are those before calibration: what weights and libraries make of the texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from poise.backbone import Backbone
from poise.checkpoint import GoldenScore
from poise.data.chat import Encoded
from poise.data.records import Message, Text
from poise.distributions import RewardDistribution
from poise.errors import CheckpointError

Predict = Callable[[Sequence[Encoded]], RewardDistribution]

GOLDEN_TEXTS: tuple[tuple[str, tuple[Message, ...]], ...] = (
    ("short", (Message("user", "What is 2 + 2?"), Message("assistant", "4"))),
    (
        "plain",
        (Message("user", "How do I boil an egg?"), Message("assistant", "Put it in boiling water for eight minutes.")),
    ),
    (
        "multi-turn",
        (
            Message("user", "I feel tired all the time."),
            Message("assistant", "How well do you sleep?"),
            Message("user", "Five hours a night."),
            Message("assistant", "Try to sleep seven to nine hours, and see a doctor if it does not help."),
        ),
    ),
    ("non-ascii", (Message("user", "Übersetze „Danke“ ins Japanische."), Message("assistant", "ありがとう 🙏"))),
    (
        "long",
        (Message("user", "Tell me a story. " * 40), Message("assistant", "Once upon a time there was a fox. " * 20)),
    ),
)


def golden_text(messages: tuple[Message, ...]) -> tuple[Text, Text]:
    """(prompt, response): the last message answers the others."""
    return messages[:-1], messages[-1:]


def first_parameters(reward: RewardDistribution) -> dict[str, list[float] | float]:
    """The parameters of the first belief, by name."""
    return {k: v[0].tolist() for k, v in reward.row_parameters().items()}


def is_close(found: Any, known: list[float] | float, tolerance: float) -> bool:
    """Whether a value, or each of a list, is off by at most ``tolerance`` · (1 + |known|)."""
    known = known if isinstance(known, list) else [known]
    found = found if isinstance(found, list) else [found]
    return len(found) == len(known) and all(
        a is not None and abs(a - b) <= tolerance * (1 + abs(b)) for a, b in zip(found, known, strict=True)
    )


def golden_scores(backbone: Backbone, predict: Predict) -> list[GoldenScore]:
    """What a model says about those golden texts that fit it."""
    exact = backbone.dtype == torch.float32
    found = []
    for name, messages in GOLDEN_TEXTS:
        encoded = backbone.encode([golden_text(messages)])
        if encoded[0].problem:
            continue
        reward = predict(encoded)
        found.append(
            GoldenScore(
                id=name,
                messages=[m._asdict() for m in messages],
                input_ids=list(encoded[0].ids),
                score=reward.mean[0].item(),
                params=first_parameters(reward),
                dtype=str(backbone.dtype).removeprefix("torch."),
                tolerance=1e-3 if exact else 0.05,
            )
        )
    return found


def check_golden_scores(backbone: Backbone, predict: Predict, golden: Sequence[GoldenScore], where: str) -> None:
    """Compare with what the checkpoint recorded; raises ``CheckpointError`` beyond the tolerance."""
    for known in golden:
        messages = tuple(Message(**m) for m in known.messages)
        encoded = backbone.encode([golden_text(messages)])
        if list(encoded[0].ids) != known.input_ids:
            raise CheckpointError(
                f"{where}: the golden text {known.id!r} is tokenised differently than in training; restore the tokenizer's files"
            )
        reward = predict(encoded)
        found = {"score": reward.mean[0].item()} | first_parameters(reward)
        for name, value in ({"score": known.score} | known.params).items():
            if not is_close(found.get(name), value, known.tolerance):
                raise CheckpointError(
                    f"{where}: the golden text {known.id!r} has {name} {found.get(name)}, {value} when it was saved "
                    f"(tolerance {known.tolerance:g}); weights or libraries differ"
                )
