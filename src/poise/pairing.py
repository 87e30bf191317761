"""Preferences → encoded texts, features and row numbers: what training and evaluation read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from poise.backbone import Backbone
from poise.data.batch import Targets
from poise.data.chat import Encoded
from poise.data.load import BadRow, require_readable
from poise.data.records import Preference, Text
from poise.data.splits import prompt_key
from poise.errors import DataError
from poise.extraction import Progress, extract
from poise.feature_cache import FeatureCache
from poise.features import Features


class Pairs:
    """What encoded pairs and their features have in common: the records."""

    preferences: tuple[Preference, ...]

    def __len__(self) -> int:
        return len(self.preferences)

    @property
    def records(self) -> tuple[Preference, ...]:
        """The pairs, under the name that all kinds of material share."""
        return self.preferences

    def targets(self, labels: str = "soft", attributes: Sequence[str] = ()) -> Targets:
        """What people said about the pairs, with the ratings of the named attributes."""
        return Targets.of(self.preferences, labels, attributes)


@dataclass(frozen=True)
class PairTexts(Pairs):
    """P pairs over N distinct encoded responses: ``pairs`` [P, 2] are row numbers into ``texts`` [N].

    ``keys`` [N] number the prompts: texts with equal keys answer the same one. ``preferences`` are the records that were
    kept, in order, ``prompts`` [P] their split keys; ``dropped`` says which were not kept and why.
    """

    texts: tuple[Encoded, ...]
    keys: tuple[int, ...]
    pairs: Tensor
    preferences: tuple[Preference, ...]
    prompts: tuple[str, ...]
    dropped: tuple[BadRow, ...] = ()

    @property
    def truncated(self) -> int:
        """Number of responses whose prompt was cut."""
        return sum(text.cut > 0 for text in self.texts)


@dataclass(frozen=True)
class PairFeatures(Pairs):
    """P pairs over N distinct responses: ``pairs`` [P, 2] are row numbers into ``features`` [N, H]; else as ``PairTexts``."""

    features: Features
    pairs: Tensor
    preferences: tuple[Preference, ...]
    dropped: tuple[BadRow, ...] = ()
    truncated: int = 0
    prompts: tuple[str, ...] = ()


def encode_pairs(backbone: Backbone, preferences: Sequence[Preference]) -> PairTexts:
    """Encode and check. Pairs that do not fit, or are equal once encoded, are dropped and named.

    Raises ``DataError`` where the chat template refuses a pair's roles, for over-long pairs where the backbone's
    ``truncate`` is ``error``, and where no pair is left.
    """
    texts = list(dict.fromkeys(t for p in preferences for t in ((p.prompt, p.chosen), (p.prompt, p.rejected))))
    encoded = dict(zip(texts, backbone.encode(texts), strict=True))
    kept, dropped = _usable(preferences, encoded)
    require_readable(dropped, backbone.config.truncate)
    if not kept:
        first = f"; the first of {len(dropped)} problems: {dropped[0]}" if dropped else ""
        raise DataError(f"no usable pair is left{first}")
    used = list(dict.fromkeys(t for p in kept for t in ((p.prompt, p.chosen), (p.prompt, p.rejected))))
    number = {text: i for i, text in enumerate(used)}
    prompts: dict[Text, int] = {}
    return PairTexts(
        texts=tuple(encoded[text] for text in used),
        keys=tuple(prompts.setdefault(prompt, len(prompts)) for prompt, _ in used),
        pairs=torch.tensor([[number[p.prompt, p.chosen], number[p.prompt, p.rejected]] for p in kept]),
        preferences=tuple(kept),
        prompts=tuple(prompt_key(p.prompt) for p in kept),
        dropped=tuple(dropped),
    )


def pair_features(
    backbone: Backbone,
    preferences: Sequence[Preference],
    cache: FeatureCache | None = None,
    *,
    prompt_states: bool = False,
    progress: Progress | None = None,
) -> PairFeatures:
    """``encode_pairs``, then features of every distinct response."""
    found = encode_pairs(backbone, preferences)
    return PairFeatures(
        features=extract(backbone, found.texts, cache, prompt_states=prompt_states, progress=progress),
        pairs=found.pairs,
        preferences=found.preferences,
        dropped=found.dropped,
        truncated=found.truncated,
        prompts=found.prompts,
    )


def _usable(
    preferences: Sequence[Preference], encoded: dict[tuple[Text, Text], Encoded]
) -> tuple[list[Preference], list[BadRow]]:
    kept, dropped = [], []
    for pair in preferences:
        chosen, rejected = encoded[pair.prompt, pair.chosen], encoded[pair.prompt, pair.rejected]
        broken = next(((s, e) for s, e in (("chosen", chosen), ("rejected", rejected)) if e.problem), None)
        if broken:
            side, text = broken
            dropped.append(BadRow(pair.source, pair.row, f"{side}: {text.problem}", text.remedy))
        elif chosen.ids == rejected.ids:
            dropped.append(
                BadRow(pair.source, pair.row, "chosen and rejected are identical once encoded", "remove the row")
            )
        else:
            kept.append(pair)
    return kept, dropped
