"""Several scorers on the same items: paired differences, each with its interval, and which of them mean anything.

Every measure that both have of a set is tested: official figures, P(better ≻ worse), ratings. All scorers see the same
resamples of prompts, so that what is hard for all of them cancels. With many differences some stray far from 0 by chance: Holm's
correction over all of them, one family, keeps the chance of a single false one at 5 %. Beside the bootstrap, accuracy has
McNemar's exact test, which takes pairs as independent.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from poise.data.ratings import Scales
from poise.data.splits import prompt_key
from poise.errors import DataError
from poise.evaluation.bootstrap import Interval, Metric, PromptBootstrap
from poise.evaluation.items import item_json, text_json
from poise.evaluation.metrics.decision import decision_credit, directed
from poise.evaluation.metrics.paired import mcnemar
from poise.evaluation.metrics.rows import FloatArray
from poise.evaluation.pairwise import pair_metrics
from poise.evaluation.predictions import Predictions, SetPredictions
from poise.evaluation.rated import Rated, attributes_of
from poise.evaluation.result import Record
from poise.evaluation.scalars import SetPairs, by_item, scalars
from poise.evaluation.sets import kind_of, rules_of
from poise.evaluation.suite import scales_of_scorer, utility_of
from poise.utility import Utility

LEVEL = 0.05


class Difference(Record):
    """``scorer`` minus ``reference`` in one figure of one set; ``p_holm`` is corrected over the whole comparison.

    ``mcnemar`` is a second p-value for accuracy, over the pairs that both decide.
    """

    name: str
    figure: str
    reference: str
    scorer: str
    difference: Interval
    p: float
    p_holm: float = 1.0
    mcnemar: float | None = None

    @property
    def significant(self) -> bool:
        """Whether it stands after the correction."""
        return self.p_holm < LEVEL


class Comparison(Record):
    """All differences, and a sentence about them."""

    differences: list[Difference]
    verdict: str


def compare(
    predictions: Sequence[Predictions],
    *,
    resamples: int = 1000,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Every scorer against the first, on the sets that both have; raises ``DataError`` where the items differ.

    ``progress`` hears how many of how many sets of the others are done.
    """
    mine, *others = map(Side.of, predictions, told_apart([str(given.scorer["name"]) for given in predictions]))
    shared: list[tuple[Side, SetPredictions, SetPredictions]] = []
    for side, other in zip(others, predictions[1:], strict=True):
        theirs = {one.facts.name: one for one in other.sets}
        shared += [(side, one, theirs[one.facts.name]) for one in predictions[0].sets if one.facts.name in theirs]
    found = []
    for done, (side, first, second) in enumerate(shared):
        progress(done, len(shared))
        found += _differences(first, second, (mine, side), resamples, seed)
    if not found:
        raise DataError("these evaluations share no set; evaluate all scorers on the same ones")
    corrected = [
        one.model_copy(update={"p_holm": p}) for one, p in zip(found, holm([one.p for one in found]), strict=True)
    ]
    return Comparison(differences=corrected, verdict=_verdict(corrected))


def told_apart(names: Sequence[str]) -> list[str]:
    """Names of scorers; those that an earlier one has get numbers."""
    found: list[str] = []
    for number, name in enumerate(names, 1):
        found.append(f"{name} ({number})" if name in found else name)
    return found


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction of p-values."""
    order = np.argsort(p)
    scaled = np.asarray(p)[order] * np.arange(len(p), 0, -1)
    found = np.empty(len(p))
    found[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return found.tolist()


def _differences(
    one: SetPredictions, other: SetPredictions, sides: tuple[Side, Side], resamples: int, seed: int
) -> list[Difference]:
    _check_same(one, other)
    found = []
    mine, theirs = sides
    for first, second in zip(mine.measured(one), theirs.measured(other), strict=True):
        bootstrap = PromptBootstrap(first.groups, resamples=resamples, seed=seed)

        def paired(weights: FloatArray, first: Measured = first, second: Measured = second) -> dict[str, FloatArray]:
            before, after = first.figures(weights), second.figures(weights)
            return {key: after[key] - before[key] for key in before if key in after}

        for key, (interval, p) in bootstrap.tested(paired).items():
            found.append(
                Difference(
                    name=one.facts.name,
                    figure=first.prefix + key,
                    reference=mine.name,
                    scorer=theirs.name,
                    difference=interval,
                    p=p,
                    mcnemar=_mcnemar(first.right, second.right) if key == "accuracy" else None,
                )
            )
    return found


def _mcnemar(first: FloatArray | None, second: FloatArray | None) -> float | None:
    """Over the pairs in which both are simply right or wrong."""
    if first is None or second is None:
        return None
    decided = np.isin(first, (0.0, 1.0)) & np.isin(second, (0.0, 1.0))
    return mcnemar(first[decided], second[decided]) if decided.any() else None


@dataclass(frozen=True)
class Measured:
    """Figures that are resampled together by ``groups``; ``right`` [P] is each pair's credit, NaN without a winner."""

    prefix: str
    groups: Sequence[Hashable]
    figures: Callable[[FloatArray], Mapping[str, FloatArray]]
    right: FloatArray | None = None


@dataclass(frozen=True)
class Side:
    """A scorer's part of a comparison."""

    name: str
    utility: Utility
    scales: Scales

    @classmethod
    def of(cls, given: Predictions, name: str) -> Side:
        """As its predictions say."""
        return cls(name, utility_of(given), scales_of_scorer(given.scorer))

    def measured(self, one: SetPredictions) -> list[Measured]:
        """Everything that is measured of a set."""
        found = []
        if (rules := rules_of(one.facts.name)) is not None:
            scores = by_item(one.items, scalars(one, self.utility))
            official = partial(rules.score, one.items, scores)
            found.append(Measured("", rules.groups(one.items), official))
        if any(item.better for item in one.items):
            found.append(_pairs(one))
        if kind_of(one.facts.name) == "ratings":
            rated = Rated(one.items, one.scored.beliefs, self.scales, scalars(one, self.utility))
            for name in attributes_of(one.items):
                rows, measures = rated.measures(name)
                groups = [prompt_key(one.items[i].prompt) for i in rows]
                found.append(Measured(f"{name}: ", groups, partial(_all, measures)))
        return found


def _pairs(one: SetPredictions) -> Measured:
    pairs = SetPairs.of(one)
    p, tie = pairs.p, pairs.tie
    right = np.where(directed(pairs.label), decision_credit(p, pairs.label, tie, "half"), np.nan)
    return Measured("pairs: ", pairs.prompts(one.items), partial(_all, pair_metrics(p, pairs.label, tie)), right)


def _all(measures: Mapping[str, Metric], weights: FloatArray) -> dict[str, FloatArray]:
    return {name: measure(weights=weights) for name, measure in measures.items()}


def _check_same(one: SetPredictions, other: SetPredictions) -> None:
    for mine, theirs in zip(one.items, other.items, strict=False):
        if item_json(mine) != item_json(theirs) or list(map(text_json, mine.responses)) != list(
            map(text_json, theirs.responses)
        ):
            raise DataError(f"{one.facts.name}: item {mine.id!r} is not the same in both; evaluate both on one version")
    if len(one.items) != len(other.items):
        raise DataError(
            f"{one.facts.name}: {len(one.items):,} items in one evaluation, {len(other.items):,} in the other; evaluate both "
            "on one version (and with the same --include-train-prompts)"
        )


def _verdict(differences: Sequence[Difference]) -> str:
    sure = [one for one in differences if one.significant]
    count = f"{len(sure)} of {len(differences)} differences {'stands' if len(sure) == 1 else 'stand'}"
    correction = "after Holm's correction for all of them (p < .05)"
    if not sure:
        return (
            f"None of the {len(differences)} differences stands {correction}: these data do not tell the scorers apart."
        )
    listed = "; ".join(
        f"{one.name}, {one.figure}: {one.scorer} {one.difference.value:+.3f} against {one.reference}"
        for one in sure[:8]
    )
    rest = f"; and {len(sure) - 8} more" if len(sure) > 8 else ""
    return f"{count} {correction}: {listed}{rest}. The others are not significant."
