"""Where the rewards of a policy's texts come from: a model or an ensemble in this process, or a reward server."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias
from weakref import WeakKeyDictionary

import torch

from poise.backbone import Backbone
from poise.client import Client, Options
from poise.data import rows
from poise.data.chat import SHORTEN, ChatEncoder, Encoded
from poise.data.records import Message, Text
from poise.distributions import RewardDistribution
from poise.ensemble import Ensemble
from poise.errors import ConfigError, DataError, ServerError
from poise.features import Features
from poise.model import RewardModel

TooLong = Literal["error", "truncate-prompt", "none"]
Weights = Mapping[str, float]
Texts: TypeAlias = Mapping[int, tuple[Text, Text]]
"""(prompt, response) by the number that an error calls it."""
Judge: TypeAlias = RewardModel | Ensemble | Client | str | Path
"""A model, an ensemble, a run or checkpoint folder, the URL of a server, or a client of one (with a key, a model's name)."""
ON_SERVER: dict[TooLong, Literal["error", "left", "right"]] = {
    "error": "error",
    "truncate-prompt": "left",
    "none": "right",
}

_DESKS: WeakKeyDictionary[Backbone, _Desk] = WeakKeyDictionary()
_DESKS_LOCK = threading.Lock()


class Found(NamedTuple):
    """The rewards [n] of those texts, by their numbers, that could be read."""

    numbers: list[int]
    reward: RewardDistribution | None


class Source(Protocol):
    """Reads texts; may be called from several threads."""

    name: str

    def read(self, texts: Texts, too_long: TooLong, weights: Weights | None) -> Found:
        """Rewards of texts; leaves out what is too long only where ``too_long`` is ``none``."""
        ...

    def probe(self, weights: Weights | None) -> RewardDistribution:
        """Two rewards of the kind that ``read`` gives; raises as it would."""
        ...


def opened(model: Judge) -> RewardModel | Ensemble | Client:
    """What ``model`` stands for; raises where it cannot be loaded."""
    if isinstance(model, str) and model.startswith(("http://", "https://")):
        return Client(model)
    return RewardModel.load(model) if isinstance(model, (str, Path)) else model


def source_of(model: Judge) -> Source:
    """A source of the rewards of what ``model`` stands for."""
    found = opened(model)
    return Server(found) if isinstance(found, Client) else Models(found)


class Models:
    """A reward model, or the members of an ensemble, in this process. A backbone is used by one thread at a time."""

    def __init__(self, model: RewardModel | Ensemble) -> None:
        self._model = model
        self._members = model.models if isinstance(model, Ensemble) else (model,)
        self.name = "ensemble" if isinstance(model, Ensemble) else model.method.name
        self._readers = [_Reader(member) for member in self._members]

    def read(self, texts: Texts, too_long: TooLong, weights: Weights | None) -> Found:  # noqa: D102
        encoded = [reader.encode(texts, too_long) for reader in self._readers]
        fit = [not any(row.problem for row in rows) for rows in zip(*encoded, strict=True)]
        if not any(fit):
            return Found([], None)
        kept = [list(compress(rows, fit)) for rows in encoded]
        members = zip(self._readers, kept, strict=True)
        reward = self._joined([reader.rewards(rows, weights) for reader, rows in members])
        return Found(list(compress(texts, fit)), reward)

    def probe(self, weights: Weights | None) -> RewardDistribution:  # noqa: D102
        if weights is not None and isinstance(self._model, Ensemble):
            raise ConfigError(
                "the members of an ensemble are not steered by weights; leave them out, or give one model"
            )
        blanks = [torch.zeros(2, member.backbone.hidden_size) for member in self._members]
        members = zip(self._members, blanks, strict=True)
        return self._joined([m.predict_features(Features(blank, blank), weights=weights) for m, blank in members])

    def _joined(self, rewards: list[RewardDistribution]) -> RewardDistribution:
        return self._model.joined(rewards) if isinstance(self._model, Ensemble) else rewards[0]


class _Desk:
    """Where one thread at a time reads with a backbone. The last batch stays open: several functions of a trainer, of one
    model or of heads on one backbone, are asked about the same texts one after the other."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._read: tuple[Any, Features] | None = None

    def features(self, model: RewardModel, encoded: Sequence[Encoded]) -> Features:
        """Of the texts, read anew unless they were the last and no weight of the backbone has been changed since."""
        with self.lock:
            weights = tuple(parameter._version for parameter in model.backbone.model.parameters())
            key = [(row.ids, row.prompt_length) for row in encoded], model.method.needs_prompt_state, weights
            if self._read is None or self._read[0] != key:
                self._read = key, model.features(encoded)
            return self._read[1]


class _Reader:
    """One model's way of reading: its encoder with the caller's choice of what happens to texts that are too long."""

    def __init__(self, model: RewardModel) -> None:
        known = model.backbone.encoder
        self._model = model
        self._strict = ChatEncoder(known.tokenizer, known.max_length, "error", known.instruction)
        self._cutting = ChatEncoder(known.tokenizer, known.max_length, "prompt", known.instruction)
        with _DESKS_LOCK:
            self._desk = _DESKS.setdefault(model.backbone, _Desk())

    def encode(self, texts: Texts, too_long: TooLong) -> list[Encoded]:
        """Token ids; with ``none``, a text that is too long keeps its problem. Every other problem is a ``DataError``."""
        encoder = self._cutting if too_long == "truncate-prompt" else self._strict
        with self._desk.lock:  # tokenizers are not for several threads
            found = encoder.encode_many([self._meant(*text, number) for number, text in texts.items()])
        for number, row in zip(texts, found, strict=True):
            if row.problem and row.remedy != SHORTEN:
                raise DataError(f"completion {number}: {row.problem}; {row.remedy}")
            if row.problem and too_long != "none":
                raise DataError(
                    f"completion {number}: {row.problem}; make the policy's completions shorter, or choose too_long='none'"
                )
        return found

    def rewards(self, encoded: Sequence[Encoded], weights: Weights | None) -> RewardDistribution:
        return self._model.predict_features(self._desk.features(self._model, encoded), weights=weights)

    def _meant(self, prompt: Text, response: Text, number: int) -> tuple[Text, Text]:
        if self._model.conversational and isinstance(prompt, str):
            prompt = (Message("user", prompt),)
        try:
            return rows.aligned(prompt, response, response_name="completion")
        except rows.RowError as error:
            raise DataError(f"completion {number}: {error}") from None


class Server:
    """A reward server; its distributions come whole, so that utilities and figures are those of a model in this process."""

    def __init__(self, client: Client) -> None:
        self.name = client.model or "server"
        self._client = client

    def read(self, texts: Texts, too_long: TooLong, weights: Weights | None) -> Found:  # noqa: D102
        options: Options = {"include": ["params"], "truncation": ON_SERVER[too_long]}
        if weights is not None:
            options["weights"] = weights
        prompts, responses = ([text[side] for text in texts.values()] for side in (0, 1))
        said = self._client.rewards(prompts, responses, **options)
        if said.distribution is None:
            raise ServerError(
                f"{self._client.url} gives scores alone, and rewards are read off distributions; name a poise server"
            )
        fit = torch.tensor([not (too_long == "none" and row.truncated) for row in said.rows])
        if not fit.any():
            return Found([], None)
        return Found(list(compress(texts, fit)), said.distribution[fit])

    def probe(self, weights: Weights | None) -> RewardDistribution:  # noqa: D102
        found = self.read(dict(enumerate([("What is 2 + 2?", "4"), ("What is 2 + 2?", "5")])), "error", weights)
        assert found.reward is not None
        return found.reward
