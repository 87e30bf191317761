"""A model that is served: its name, its reader, its queue, and how a round of jobs is scored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from poise.data.chat import Encoded
from poise.errors import ConfigError, DataError, PoiseError
from poise.features import Features
from poise.model import RewardModel
from poise.model_folder import run_of
from poise.reading import batch_tokens, why_padded
from poise.serving.batching import Batcher, Job
from poise.serving.belief import GroupReading, Question, read
from poise.serving.metrics import Metrics
from poise.serving.settings import Settings
from poise.serving.texts import TextReader
from poise.utility import Utility, parse_utility

BATCHES_WAITING = 32
PARAMS = "params"
T = TypeVar("T")


class UnknownModel(PoiseError):
    """A model that is not served here."""


class Hosted:
    """One model with its reading thread and its scoring thread.

    ``path`` is where it came from, by which it may also be asked for. Answers are those of ``model.predict``.
    """

    def __init__(self, name: str, path: str, model: RewardModel, settings: Settings, metrics: Metrics) -> None:
        self.name, self.path, self.model = name, path, model
        self.reader = TextReader(model)
        self.facts = model.facts()
        self.revision = f"{self.facts['head_sha256'][:12]}-{self.facts['fingerprint'][:12]}"
        self.metrics = metrics
        self._uncalibrated = model.raw() if model.calibration else model
        self._reading = ThreadPoolExecutor(1, "poise-reading")
        shares, budget = why_padded(model.backbone) is None, settings.round_tokens or batch_tokens(model.backbone)
        limit = settings.waiting_tokens or BATCHES_WAITING * model.backbone.tokens_per_batch
        self.batcher = Batcher(self._score, budget=budget, limit=limit, shares=shares, observe=self._observe)

    @property
    def calibration(self) -> dict[str, str] | None:
        """What is said about it in every answer."""
        known = self.model.calibration
        if known is None:
            return None
        return {"id": known.sha256[:16], "method": known.pairs.method if known.pairs else "ratings"}

    def description(self) -> dict[str, Any]:
        """What is served: for ``/info`` and for the log's first lines."""
        blank = torch.zeros(1, self.model.backbone.hidden_size)
        reward = self.model.predict_features(Features(blank, blank))
        names = [
            name if tensor.ndim == 1 else f"{name}[{number}]"
            for name, tensor in reward.row_parameters().items()
            for number in range(tensor[0].numel())
        ]
        return {
            "name": self.name,
            "path": self.path,
            "revision": self.revision,
            "family": reward.family,
            "param_names": names,
            "attributes": list(self.model.method.attributes),
            "calibration": self.calibration,
            "round_tokens": self.batcher.budget,
            "waiting_tokens": self.batcher.limit,
            "backbone_revision": self.facts["revision"],
            **{name: fact for name, fact in self.facts.items() if name != "revision"},
        }

    async def encode(self, work: Callable[[TextReader], T]) -> T:
        """Run ``work`` on this model's reader, in the reader's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._reading, work, self.reader)

    async def score(
        self, groups: Sequence[Sequence[Encoded]], question: Question, priority: int = 0
    ) -> list[GroupReading]:
        """What is believed about groups of encoded responses."""
        found: list[GroupReading] = await self.batcher.submit(groups, question, priority)
        self.metrics.scored(self.name, [row for group in groups for row in group], self.reader.rendered)
        return found

    async def close(self) -> None:
        """Score what waits, then stop."""
        await self.batcher.close()
        self._reading.shutdown(wait=False)

    @torch.inference_mode()
    def _score(self, jobs: Sequence[Job]) -> list[GroupReading]:
        features = self.model.features([row for job in jobs for row in job.rows])
        members: dict[Question, list[int]] = {}
        for number, job in enumerate(jobs):
            members.setdefault(job.question, []).append(number)  # type: ignore[arg-type]
        if len(members) == 1:
            return self._answers(features, jobs, jobs[0].question)  # type: ignore[arg-type]
        starts = [0]
        for job in jobs:
            starts.append(starts[-1] + len(job.rows))
        found: list[Any] = [None] * len(jobs)
        for question, numbers in members.items():
            rows = torch.tensor([row for n in numbers for row in range(starts[n], starts[n + 1])])
            answers = self._answers(features[rows], [jobs[n] for n in numbers], question)
            for number, answer in zip(numbers, answers, strict=True):
                found[number] = answer
        return found

    def _answers(self, features: Features, jobs: Sequence[Job], question: Question) -> list[GroupReading]:
        model = self._uncalibrated if question.raw else self.model
        weights = None if question.weights is None else dict(question.weights)
        reward = model.predict_features(features, weights=weights)
        return read(reward, [len(job.rows) for job in jobs], question)

    def _observe(self, jobs: int, tokens: int, seconds: float) -> None:
        self.metrics.round(self.name, jobs, tokens, seconds)


class Asked(NamedTuple):
    """What a request means by its model's name: which one, a utility, and whether all its parameters are wanted."""

    hosted: Hosted
    utility: Utility
    values: bool


class House:
    """The models of a server by name; the first is the one that is meant where none is named."""

    def __init__(self, hosted: Sequence[Hosted], utility: str) -> None:
        names = [one.name for one in hosted]
        twice = {name for name in names if names.count(name) > 1}
        if twice or not names:
            raise ConfigError(f"every model needs a name of its own, got {names}; write NAME=FOLDER")
        self.models = tuple(hosted)
        self.utility = parse_utility(utility)

    def find(self, name: str | None, utility: str | None = None) -> Asked:
        """By name or path; ``NAME:params`` asks for all parameters, ``NAME:cvar:0.1`` for another utility.

        Raises ``UnknownModel``, or ``ConfigError`` for an unknown utility.
        """
        wanted = parse_utility(utility) if utility else self.utility
        if not name:
            return Asked(self.models[0], wanted, False)
        for one in self.models:
            if name in (one.name, one.path):
                return Asked(one, wanted, False)
        for one in self.models:
            for known in (one.name, one.path):
                rest = name.removeprefix(f"{known}:")
                if rest == PARAMS:
                    return Asked(one, wanted, True)
                if rest != name:
                    return Asked(one, parse_utility(rest), False)
        served = ", ".join(one.name for one in self.models)
        raise UnknownModel(f"the model {name!r} is not served here; choose from {served}")


def load(specs: Sequence[str], settings: Settings, metrics: Metrics, *, device: str, raw: bool) -> list[Hosted]:
    """Load ``FOLDER`` or ``NAME=FOLDER``; golden scores are checked (``CheckpointError`` where they are not met)."""
    found = []
    for spec in specs:
        name, equals, folder = spec.partition("=")
        if not equals or Path(spec).exists():
            name, folder = "", spec
        model = RewardModel.load(folder, device=device, raw=raw)
        found.append(Hosted(name or _short_name(folder), folder, model, settings, metrics))
    return found


def _short_name(folder: str) -> str:
    """The run's name: a checkpoint folder is called as the run that holds it."""
    name = run_of(folder).name
    if not name:
        raise DataError(f"{folder!r} has no name; write NAME={folder}")
    return name
