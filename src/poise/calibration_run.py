"""Calibrating a model: sets of pairs and ratings in, a calibrated model and an account of it out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import Field

from poise.calibration import Abstention, Calibration, PairCalibration, RatingCalibration, Source
from poise.calibration.choice import Choice
from poise.calibration.conformal import DELTA, disagreement, fit_abstention, fit_interval
from poise.calibration.evidence import IntArray, PairEvidence, RatingEvidence, fold_numbers
from poise.calibration.fit_pairs import METHODS as PAIR_METHODS
from poise.calibration.fit_pairs import fit_pairs, win_probabilities
from poise.calibration.fit_ratings import METHODS as RATING_METHODS
from poise.calibration.fit_ratings import fit_ratings
from poise.data.splits import prompt_key
from poise.distributions import RewardDistribution
from poise.errors import ConfigError, DataError, unknown_choice
from poise.evaluation import metrics
from poise.evaluation.bootstrap import Interval, Metric, PromptBootstrap
from poise.evaluation.items import flat_texts
from poise.evaluation.metrics.rows import FloatArray
from poise.evaluation.predictions import SetPredictions
from poise.evaluation.result import Record
from poise.evaluation.scalars import SetPairs
from poise.evaluation.sets import EvaluationSet, kind_of
from poise.extraction import Progress
from poise.feature_cache import FeatureCache
from poise.model import RewardModel
from poise.scorers import Own

RESAMPLES = 200


@dataclass(frozen=True)
class Wishes:
    """What to fit: ``method`` by name or ``auto``; a threshold for ``abstain_error`` at ``1 - delta``; ``interval`` coverage."""

    method: str = "auto"
    abstain_error: float | None = None
    delta: float = DELTA
    interval: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("abstain-error", self.abstain_error), ("delta", self.delta), ("interval", self.interval)):
            if value is not None and not 0 < value < 1:
                raise ConfigError(f"{name} is {value}; it must lie between 0 and 1")
        if self.method not in (known := ("auto", *dict.fromkeys((*PAIR_METHODS, *RATING_METHODS)))):
            raise ConfigError(unknown_choice("calibration method", self.method, known))

    @property
    def for_pairs(self) -> str:
        """``method``, where it is one for pairs."""
        return self.method if self.method in PAIR_METHODS else "auto"

    @property
    def for_ratings(self) -> str:
        """``method``, where it is one for ratings."""
        return self.method if self.method in RATING_METHODS else "auto"


class PairReport(Record):
    """Before and after, each figure with its interval by prompt; after is held out: every pair by a fit to other prompts.

    ``changed``: pairs whose decision the calibration changed, which is none.
    """

    rows: int
    prompts: int
    method: str
    scores: dict[str, float]
    before: dict[str, Interval]
    after: dict[str, Interval]
    changed: int


class RatingReport(Record):
    """One attribute: cross-validated CRPS of every candidate, in units of the ratings."""

    attribute: str
    rows: int
    prompts: int
    method: str
    scores: dict[str, float]


class Elsewhere(Record):
    """The finished calibration on another set. ``answered`` and ``error``: of a stored threshold; ``coverage`` of intervals."""

    name: str
    before: dict[str, Interval] = Field(default={})
    after: dict[str, Interval] = Field(default={})
    answered: float | None = None
    error: float | None = None
    coverage: dict[str, float] = Field(default={})


class CalibrationReport(Record):
    """What was fitted, chosen and found."""

    pairs: PairReport | None = None
    ratings: list[RatingReport] = Field(default=[])
    calibration: Calibration
    elsewhere: list[Elsewhere] = Field(default=[])
    notes: list[str] = Field(default=[])


@dataclass(frozen=True)
class Calibrated:
    """A model with its new calibration, and the account."""

    model: RewardModel
    report: CalibrationReport


def calibrate(
    model: RewardModel,
    sets: Sequence[EvaluationSet],
    wishes: Wishes = Wishes(),
    *,
    elsewhere: Sequence[EvaluationSet] = (),
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
) -> Calibrated:
    """Fit a calibration to sets of pairs and ratings, replacing any there is, and say how it does ``elsewhere``.

    The sets must not share prompts with the model's training. With a threshold or an interval to guarantee, half of the
    prompts are kept for that and the fit is to the other half. Raises ``DataError`` for too little data, and ``ConfigError``
    where a wish has nothing to be fitted to.
    """
    kinds = [kind_of(one.facts.name) for one in sets]
    _check(wishes, "pairs" in kinds, "ratings" in kinds, model)
    raw = Own(model.raw(), "model", cache, progress)
    predictions = [_predicted(raw, one) for one in sets]
    pairs = [one for one in predictions if kind_of(one.facts.name) == "pairs"]
    ratings = [one for one in predictions if kind_of(one.facts.name) == "ratings"]
    found: dict[str, Any] = {"notes": [f"{one.facts.name}: {note}" for one in sets for note in one.facts.notes]}
    calibration = Calibration()
    if pairs:
        choice, evidence, abstention = _of_pairs(pairs, wishes)
        calibration = Calibration(pairs=choice.fitted, abstention=abstention)
        found["pairs"] = _pair_report(choice, evidence)
    rated: dict[str, RatingCalibration] = {}
    for name in model.scales if ratings else ():
        known = _rating_evidence(name, ratings, model.scales[name])
        if known is not None:
            about, rated[name] = _of_ratings(*known, wishes)
            found.setdefault("ratings", []).append(_rating_report(name, about, known[0]))
    if ratings and not rated:
        given = sorted({name for one in ratings for item in one.items for name in item.meta["ratings"]})
        raise DataError(
            f"the ratings are of {', '.join(given)}, and this model predicts {', '.join(model.scales)}; rename them, or give others"
        )
    calibration = calibration.model_copy(update={"ratings": rated})
    found["elsewhere"] = [_elsewhere(calibration, _predicted(raw, one), model) for one in elsewhere]
    return Calibrated(model.raw().calibrated(calibration), CalibrationReport(calibration=calibration, **found))


def _check(wishes: Wishes, pairs: bool, ratings: bool, model: RewardModel) -> None:
    if not pairs and not ratings:
        raise ConfigError("there is nothing to calibrate on; give preference pairs or ratings:FILE")
    if ratings and not model.scales:
        raise ConfigError(
            f"this {model.method.name} model predicts no ratings; give preference pairs, or a model that learnt ratings"
        )
    known = ["auto", *dict.fromkeys((*(PAIR_METHODS if pairs else ()), *(RATING_METHODS if ratings else ())))]
    if wishes.method not in known:
        raise ConfigError(
            f"{wishes.method} is for {'ratings' if pairs else 'pairs'}, and there are none; give some, or choose from "
            f"{', '.join(known)}"
        )
    if wishes.abstain_error is not None and not pairs:
        raise ConfigError("a threshold for abstain-error is found on preference pairs; give a file of them")
    if wishes.interval is not None and not ratings:
        raise ConfigError("an interval is found on ratings; give ratings:FILE")


def _predicted(scorer: Own, one: EvaluationSet) -> SetPredictions:
    return SetPredictions(one.facts, one.items, scorer.score(flat_texts(one.items)))


# ── pairs


def _pair_evidence(sets: Sequence[SetPredictions]) -> tuple[PairEvidence, list[object]]:
    """Every pair of every set, and the records that the beliefs are about."""
    pairs = [SetPairs.of(one) for one in sets]
    records: list[object] = []
    for one, known in zip(sets, pairs, strict=True):
        for (i, a, b), label in zip(known.rows, known.label.tolist(), strict=True):
            item = one.items[i]
            records.append((item.prompt, item.responses[a], item.responses[b], label))
    first, second = (
        RewardDistribution.concatenate([getattr(one, side) for one in pairs]) for side in ("better", "worse")
    )
    labels = np.concatenate([one.label for one in pairs]).tolist()
    prompts = [key for one, known in zip(sets, pairs, strict=True) for key in known.prompts(one.items)]
    return PairEvidence.of(first, second, labels, prompts), records


def _of_pairs(
    sets: Sequence[SetPredictions], wishes: Wishes
) -> tuple[Choice[PairCalibration], PairEvidence, Abstention | None]:
    """The choice, the evidence it was fitted to, and a threshold from the rest where one is wished for."""
    evidence, records = _pair_evidence(sets)
    if wishes.abstain_error is None:
        choice = fit_pairs(evidence, wishes.for_pairs)
        return _with_source(choice, _source(records, evidence.groups)), evidence, None
    fitting, testing = _halves(evidence.groups)
    seen, rest = evidence[fitting], evidence[testing]
    choice = fit_pairs(seen, wishes.for_pairs)
    p = win_probabilities(choice.fitted, rest)
    abstention = fit_abstention(p, rest.label.numpy(), rest.groups, wishes.abstain_error, wishes.delta)
    known = _source([records[i] for i in testing], rest.groups)
    choice = _with_source(choice, _source([records[i] for i in fitting], seen.groups))
    return choice, seen, abstention.model_copy(update={"source": known})


def _pair_report(choice: Choice[PairCalibration], evidence: PairEvidence) -> PairReport:
    raw = win_probabilities(PairCalibration(method="none"), evidence)
    held_out, final = np.empty_like(raw), win_probabilities(choice.fitted, evidence)
    for number, fitted in enumerate(choice.held_out):
        rows = np.flatnonzero(choice.fold == number)
        held_out[rows] = win_probabilities(fitted, evidence[rows])
    label = evidence.label.numpy()
    bootstrap = PromptBootstrap(evidence.groups.tolist(), resamples=RESAMPLES)
    return PairReport(
        rows=len(evidence),
        prompts=bootstrap.prompts,
        method=choice.method,
        scores=choice.scores,
        before=bootstrap.intervals(_measures(raw, label), centred=("ece",)),
        after=bootstrap.intervals(_measures(held_out, label), centred=("ece",)),
        changed=int(np.sum(np.sign(final - 0.5) != np.sign(raw - 0.5))),
    )


def _measures(p: FloatArray, y: FloatArray) -> dict[str, Metric]:
    return {
        "nll": partial(metrics.nll, p, y),
        "ece": partial(metrics.expected_calibration_error, p, y),
        "accuracy": partial(metrics.accuracy, p, y),
    }


# ── ratings


def _rating_evidence(
    name: str, sets: Sequence[SetPredictions], scale: tuple[float, float]
) -> tuple[RatingEvidence, list[object]] | None:
    """Beliefs about one attribute beside its ratings, on the scale of the model's training; None where nobody rated it."""
    beliefs, ratings, prompts = [], [], []
    records: list[object] = []
    for one in sets:
        rows = [i for i, item in enumerate(one.items) if item.meta["ratings"].get(name)]
        if rows:
            beliefs.append(one.scored.beliefs[name][torch.tensor(rows)])
        for item in (one.items[i] for i in rows):
            ratings.append(_on_scale(item.meta["ratings"][name], item.meta.get("scale"), scale))
            prompts.append(prompt_key(item.prompt))
            records.append((item.prompt, item.responses[0], name, ratings[-1]))
    if not beliefs:
        return None
    return RatingEvidence.of(RewardDistribution.concatenate(beliefs), ratings, prompts), records


def _on_scale(given: Sequence[float], stated: Sequence[float] | None, trained: tuple[float, float]) -> list[float]:
    """Ratings on the scale of training; unstated, they are taken to be on it."""
    if not stated:
        return [float(one) for one in given]
    factor = (trained[1] - trained[0]) / (stated[1] - stated[0])
    return [trained[0] + factor * (one - stated[0]) for one in given]


def _of_ratings(
    evidence: RatingEvidence, records: Sequence[object], wishes: Wishes
) -> tuple[Choice[RatingCalibration], RatingCalibration]:
    if wishes.interval is None:
        choice = _with_source(fit_ratings(evidence, wishes.for_ratings), _source(records, evidence.groups))
        return choice, choice.fitted
    fitting, testing = _halves(evidence.groups)
    choice = fit_ratings(evidence[fitting], wishes.for_ratings)
    rest = evidence[testing]
    known = _source([records[i] for i in testing], rest.groups)
    interval = fit_interval(choice.fitted, rest, wishes.interval).model_copy(update={"source": known})
    source = _source([records[i] for i in fitting], evidence[fitting].groups)
    choice = _with_source(choice, source)
    return choice, choice.fitted.model_copy(update={"interval": interval})


def _rating_report(name: str, choice: Choice[RatingCalibration], evidence: RatingEvidence) -> RatingReport:
    return RatingReport(
        attribute=name,
        rows=len(evidence),
        prompts=len(np.unique(evidence.groups)),
        method=choice.method,
        scores=choice.scores,
    )


# ── both


def _halves(groups: IntArray) -> tuple[IntArray, IntArray]:
    """Rows of two halves of the prompts."""
    half = fold_numbers(groups, 2)
    return np.flatnonzero(half == 0), np.flatnonzero(half == 1)


def _source(records: Sequence[object], groups: IntArray) -> Source:
    return Source.of(records, len(np.unique(groups)))


C = TypeVar("C", PairCalibration, RatingCalibration)


def _with_source(choice: Choice[C], source: Source) -> Choice[C]:
    fitted = choice.fitted.model_copy(update={"scores": choice.scores, "source": source})
    return replace(choice, fitted=fitted)


def _elsewhere(calibration: Calibration, one: SetPredictions, model: RewardModel) -> Elsewhere:
    if kind_of(one.facts.name) == "ratings":
        return Elsewhere(name=one.facts.name, coverage=dict(_coverage(calibration, one, model)))
    evidence, _ = _pair_evidence([one])
    label = evidence.label.numpy()
    bootstrap = PromptBootstrap(evidence.groups.tolist(), resamples=RESAMPLES)
    raw, p = (
        win_probabilities(known, evidence)
        for known in (PairCalibration(method="none"), calibration.pairs or PairCalibration(method="none"))
    )
    found: dict[str, Any] = {}
    if calibration.abstention is not None:
        answered = calibration.answers(torch.from_numpy(p)).numpy()
        found["answered"] = float(answered.mean())
        if answered.any():
            found["error"] = float(disagreement(p, label)[answered].mean())
    return Elsewhere(
        name=one.facts.name,
        before=bootstrap.intervals(_measures(raw, label), centred=("ece",)),
        after=bootstrap.intervals(_measures(p, label), centred=("ece",)),
        **found,
    )


def _coverage(calibration: Calibration, one: SetPredictions, model: RewardModel) -> Iterator[tuple[str, float]]:
    """The share of ratings that the stored interval of each attribute covers, every response counting once."""
    for name, known in calibration.ratings.items():
        found = _rating_evidence(name, [one], model.scales[name])
        if known.interval is None or found is None:
            continue
        evidence = found[0]
        low, high = known.interval.of(evidence.each(known.apply(evidence.belief)))
        inside = (evidence.value >= low) & (evidence.value <= high)
        yield name, float((inside * evidence.weights).sum() / len(evidence))
