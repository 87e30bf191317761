"""From saved predictions of pairs to an ``EvaluationResult``: every number of a report comes from here."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from poise.errors import DataError
from poise.evaluation import metrics
from poise.evaluation.bootstrap import Interval, Metric, PromptBootstrap
from poise.evaluation.metrics.rows import FloatArray, PairRows
from poise.evaluation.metrics.smooth import smooth_ece_of_draws
from poise.evaluation.result import CurvePoint, EvaluationData, EvaluationResult, ReliabilityBin

ABSOLUTE_ERRORS = frozenset({"ece", "mce", "smooth_ece", "brier_reliability", "brier_resolution"})
BUDGETS = tuple(step / 20 for step in range(20))


@dataclass(frozen=True)
class JudgedPairs:
    """P pairs with what a model and people say about them.

    ``p`` [P] is P(first ≻ second) with half ties, ``y`` [P] the share that prefers the first, ``tie`` [P] the tie
    probability or None, ``prompts`` [P] the group keys of the bootstrap. ``lengths`` are characters of the first and of
    the second response, [P] each; None leaves out what is measured by them.
    """

    p: ArrayLike
    y: ArrayLike
    tie: ArrayLike | None
    prompts: Sequence[Hashable]
    lengths: tuple[ArrayLike, ArrayLike] | None = None

    @property
    def longer(self) -> FloatArray | None:
        """Characters that the first response has more than the second [P]."""
        if self.lengths is None:
            return None
        first, second = (np.asarray(side, dtype=np.float64) for side in self.lengths)
        _check_length("lengths", first, len(self.prompts))
        _check_length("lengths", second, len(self.prompts))
        return np.asarray(first - second)


def evaluate_pairs(
    pairs: JudgedPairs,
    *,
    source: str,
    resamples: int = 1000,
    seed: int = 0,
    rows_dropped: int = 0,
    truncation: Mapping[str, int] | None = None,
    model: Mapping[str, str | None] | None = None,
) -> EvaluationResult:
    """Every pairwise measure with its interval, baselines, reliability and abstention curves.

    Baselines: ``longer_wins`` (accuracy), ``constant`` (NLL of always ½) and, where every label is 0 or 1,
    ``calibrated_floor``'s.
    """
    rows, tie = PairRows.of(pairs.p, pairs.y), pairs.tie
    _check_length("prompts", pairs.prompts, len(rows.p))
    longer = pairs.longer
    bootstrap = PromptBootstrap(pairs.prompts, resamples=resamples, seed=seed)
    soft = bool(np.any(~np.isin(rows.y, (0.0, 0.5, 1.0))))
    measures = pair_metrics(rows.p, rows.y, tie)
    if longer is not None:
        measures["length_gap"] = partial(metrics.accuracy_gap, rows.p, rows.y, longer, tie)
    floor = calibrated_floor(rows.p, seed=seed) if np.all(np.isin(rows.y, (0.0, 1.0))) else {}
    return EvaluationResult(
        data=EvaluationData(
            source=source,
            rows=len(rows.p),
            prompts=bootstrap.prompts,
            rows_dropped=rows_dropped,
            label_kind="soft" if soft else "hard",
            undirected=int(np.sum(rows.y == 0.5)),
        ),
        metrics=bootstrap.intervals(measures, centred=ABSOLUTE_ERRORS),
        tie_rate=float(metrics.tie_rate(rows.p, tie)),
        baselines=_baselines(rows.y, longer, bootstrap) | floor,
        reliability=_reliability(rows.p, rows.y),
        histogram=[int(count) for count in metrics.confidence_histogram(rows.p)],
        abstention=_abstention(rows.p, rows.y, tie, bootstrap),
        label_ceiling=float(metrics.label_ceiling(rows.y)) if soft else None,
        truncation=dict(truncation or {}),
        model=dict(model or {}),
        resamples=resamples,
        seed=seed,
    )


def pair_metrics(p: FloatArray, y: FloatArray, tie: ArrayLike | None = None) -> dict[str, Metric]:
    """The measures of a pairwise evaluation by name, in the order of the tables.

    With undecided pairs, ``accuracy_ties_zero`` and ``_one`` are the ends between which any tie policy lies.
    """
    votes = {"soft_accuracy": partial(metrics.soft_accuracy, p, y, tie)}
    votes["disagreement_auroc"] = partial(metrics.disagreement_auroc, p, y)
    undecided = {
        f"accuracy_ties_{policy}": partial(metrics.accuracy, p, y, tie, tie_policy=policy) for policy in ("zero", "one")
    }
    return {
        "accuracy": partial(metrics.accuracy, p, y, tie),
        "nll": partial(metrics.nll, p, y),
        "brier": partial(metrics.brier, p, y),
        "ece": partial(metrics.expected_calibration_error, p, y),
        "mce": partial(metrics.maximum_calibration_error, p, y),
        "smooth_ece": partial(metrics.smooth_ece, p, y),
        "aurc": partial(metrics.aurc, p, y, tie),
        "excess_aurc": partial(metrics.excess_aurc, p, y, tie),
        "accuracy_at_50": partial(metrics.accuracy_at_coverage, p, y, tie, coverage=0.5),
        "accuracy_at_80": partial(metrics.accuracy_at_coverage, p, y, tie, coverage=0.8),
        "confidence_auroc": partial(metrics.confidence_auroc, p, y, tie),
        "brier_reliability": partial(_brier_part, "reliability", p, y),
        "brier_resolution": partial(_brier_part, "resolution", p, y),
        **(undecided if metrics.tie_rate(p, tie) > 0.0 else {}),
        **(votes if np.any((y > 0.0) & (y < 1.0)) else {}),
    }


def _brier_part(part: str, p: FloatArray, y: FloatArray, *, weights: FloatArray) -> FloatArray:
    value: FloatArray = getattr(metrics.brier_parts(p, y, weights=weights), part)
    return value


def calibrated_floor(p: FloatArray, *, draws: int = 200, seed: int = 0) -> dict[str, Interval]:
    """What ECE and smooth ECE would be if ``p`` were exactly right: labels drawn from p, mean and 95 % range over the draws.

    An error inside its range is no evidence against calibration (consistency resampling, Bröcker & Smith 2007).
    """
    generator = np.random.default_rng(seed)
    labels = (generator.random((draws, len(p))) < p).astype(np.float64)
    errors = {
        "calibrated_ece": [metrics.expected_calibration_error(p, y) for y in labels],
        "calibrated_smooth_ece": smooth_ece_of_draws(p, labels).tolist(),
    }
    return {
        name: Interval(float(np.mean(drawn)), *(float(edge) for edge in np.percentile(drawn, [2.5, 97.5])))
        for name, drawn in errors.items()
    }


def _baselines(y: FloatArray, longer: FloatArray | None, bootstrap: PromptBootstrap) -> dict[str, Interval]:
    """``longer_wins``: accuracy of preferring the longer response, equal lengths ½; ``constant``: NLL of always ½."""
    constant = float(metrics.nll(np.full_like(y, 0.5), y))
    found = {"constant": Interval(constant, constant, constant)}
    if longer is None:
        return found
    wins = (np.sign(longer) + 1.0) / 2.0
    return bootstrap.intervals({"longer_wins": partial(metrics.accuracy, wins, y)}) | found


def _abstention(p: FloatArray, y: FloatArray, tie: ArrayLike | None, bootstrap: PromptBootstrap) -> list[CurvePoint]:
    """Accuracy on what is left where the least certain share of pairs, one of ``BUDGETS``, goes to a person."""

    def curve(weights: FloatArray) -> dict[str, FloatArray]:
        kept = metrics.abstention_curve(p, y, tie, budgets=BUDGETS, weights=weights)
        return {str(budget): kept[:, i] for i, budget in enumerate(BUDGETS)}

    found = bootstrap.joint_intervals(curve)
    return [CurvePoint(x=budget, y=found[str(budget)]) for budget in BUDGETS if str(budget) in found]


def _reliability(p: FloatArray, y: FloatArray) -> list[ReliabilityBin]:
    curve = metrics.reliability_curve(p, y)
    columns = (curve.p, curve.y, curve.low, curve.high, curve.count)
    return [
        ReliabilityBin(p=float(mean_p), y=float(mean_y), low=float(low), high=float(high), count=int(count))
        for mean_p, mean_y, low, high, count in zip(*columns, strict=True)
    ]


def _check_length(name: str, values: Sequence[Hashable] | FloatArray, rows: int) -> None:
    if len(values) != rows:
        raise DataError(f"{name} has {len(values)} rows but p has {rows}; both describe the same pairs")
