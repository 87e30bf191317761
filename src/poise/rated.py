"""Rated responses → encoded texts, features and ratings: what attribute heads train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from poise.backbone import Backbone
from poise.data.chat import Encoded
from poise.data.load import BadRow, require_readable
from poise.data.ratings import Ratings, Scales
from poise.data.records import Rating, Text
from poise.data.splits import prompt_key
from poise.errors import DataError
from poise.extraction import Progress, extract
from poise.feature_cache import FeatureCache
from poise.features import Features


@dataclass(frozen=True)
class RatedTexts:
    """R rated responses: ``texts`` [R], ``ratings`` [R, A, J] with one column per entry of ``scales``.

    ``keys`` [R] number the prompts: texts with equal keys answer the same one. ``records`` are those that were kept, in
    order, ``prompts`` [R] their split keys; ``dropped`` says which were not kept and why.
    """

    texts: tuple[Encoded, ...]
    keys: tuple[int, ...]
    ratings: Ratings
    scales: Scales
    records: tuple[Rating, ...]
    prompts: tuple[str, ...]
    dropped: tuple[BadRow, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    @property
    def truncated(self) -> int:
        """Number of responses whose prompt was cut."""
        return sum(text.cut > 0 for text in self.texts)


@dataclass(frozen=True)
class RatedFeatures:
    """R rated responses: ``features`` [R, H]; else as ``RatedTexts``."""

    features: Features
    ratings: Ratings
    scales: Scales
    records: tuple[Rating, ...]
    prompts: tuple[str, ...]
    dropped: tuple[BadRow, ...] = ()
    truncated: int = 0

    def __len__(self) -> int:
        return len(self.records)


def encode_ratings(backbone: Backbone, records: Sequence[Rating], scales: Scales) -> RatedTexts:
    """Encode and check. Responses that do not fit, or are rated on nothing in ``scales``, are dropped and named.

    Raises ``DataError`` where the chat template refuses a text's roles, for over-long texts where the backbone's
    ``truncate`` is ``error``, and where none is left.
    """
    encoded = backbone.encode([(r.prompt, r.response) for r in records])
    kept, dropped = [], []
    for number, (record, text) in enumerate(zip(records, encoded, strict=True)):
        if text.problem:
            dropped.append(BadRow(record.source, record.row, text.problem, text.remedy))
        elif not any(record.ratings.get(name) for name in scales):
            wanted = ", ".join(scales)
            dropped.append(BadRow(record.source, record.row, f"no rating of {wanted}", "rate it or remove the row"))
        else:
            kept.append(number)
    require_readable(dropped, backbone.config.truncate)
    if not kept:
        first = f"; the first of {len(dropped)} problems: {dropped[0]}" if dropped else ""
        raise DataError(f"no usable rated response is left{first}")
    used = tuple(records[i] for i in kept)
    prompts: dict[Text, int] = {}
    return RatedTexts(
        texts=tuple(encoded[i] for i in kept),
        keys=tuple(prompts.setdefault(r.prompt, len(prompts)) for r in used),
        ratings=Ratings.of([r.ratings for r in used], scales),
        scales=scales,
        records=used,
        prompts=tuple(prompt_key(r.prompt) for r in used),
        dropped=tuple(dropped),
    )


def rated_features(
    backbone: Backbone,
    records: Sequence[Rating],
    scales: Scales,
    cache: FeatureCache | None = None,
    *,
    prompt_states: bool = False,
    progress: Progress | None = None,
) -> RatedFeatures:
    """``encode_ratings``, then features."""
    found = encode_ratings(backbone, records, scales)
    return RatedFeatures(
        features=extract(backbone, found.texts, cache, prompt_states=prompt_states, progress=progress),
        ratings=found.ratings,
        scales=found.scales,
        records=found.records,
        prompts=found.prompts,
        dropped=found.dropped,
        truncated=found.truncated,
    )
