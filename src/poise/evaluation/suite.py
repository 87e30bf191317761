"""From saved predictions to a ``SuiteResult``: official figures, pairwise measures and ratings, each with its interval."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from poise.data.ratings import Scales
from poise.data.splits import prompt_key
from poise.errors import DataError
from poise.evaluation import baselines
from poise.evaluation.bias import bias_metrics, style
from poise.evaluation.bootstrap import Interval, PromptBootstrap
from poise.evaluation.chosen import BestOfNResult, choose
from poise.evaluation.gold import gold_of
from poise.evaluation.metrics.confident import Bounds, interval_rates
from poise.evaluation.metrics.rows import FloatArray
from poise.evaluation.pairwise import JudgedPairs, evaluate_pairs
from poise.evaluation.predictions import Predictions, SetPredictions
from poise.evaluation.rated import Rated, RatingResult, evaluate_ratings
from poise.evaluation.result import EvaluationResult, Record
from poise.evaluation.robustness import IN_DOMAIN, states_kept
from poise.evaluation.scalars import SetPairs, by_item, scalars
from poise.evaluation.sets import Kind, Rules, kind_of, lengths, rules_of
from poise.utility import Utility, parse_utility

SCHEMA_VERSION: Literal[1] = 1
RANDOM_DRAWS = 20
BIAS_RESAMPLES = 200  # ranks are taken anew in each
INTERVAL = (0.05, 0.95)
DAMPINGS = (0.0, 0.01, 0.2, 1.0)


class SetResult(Record):
    """One set. ``figures`` are the official ones (of responses with gold scores: the order kept), the first of them the
    headline; ``baselines`` the same of trivial scorers; ``pairs`` the measures of P(better ≻ worse), ``confident`` those of
    intervals that do not overlap, ``ratings`` those of each attribute, ``best_of_n`` what choosing is worth, ``bias`` what rewards
    follow besides quality, ``states`` how the states that the head reads are spread in each subset."""

    name: str
    kind: Kind
    items: int
    responses: int
    figures: dict[str, Interval] = Field(default={})
    baselines: dict[str, dict[str, float]] = Field(default={})
    pairs: EvaluationResult | None = None
    ratings: list[RatingResult] = Field(default=[])
    confident: dict[str, Interval] = Field(default={})
    best_of_n: BestOfNResult | None = None
    bias: dict[str, Interval] = Field(default={})
    states: dict[str, dict[str, float]] = Field(default={})
    counts: dict[str, int] = Field(default={})
    notes: list[str] = Field(default=[])


class SuiteResult(Record):
    """Everything that was measured of one scorer."""

    schema_version: Literal[1] = SCHEMA_VERSION
    scorer: dict[str, Any]
    sets: list[SetResult]
    resamples: int = Field(ge=1)
    seed: int = 0

    def to_json(self) -> str:
        """Indented JSON, ending in a newline; raises ``DataError`` rather than write NaN."""
        try:
            return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        except ValueError as error:
            raise DataError("the result holds NaN or infinity; leave undefined figures out") from error

    def save(self, path: Path) -> None:
        """Write ``to_json`` to ``path``."""
        path.write_text(self.to_json(), encoding="utf8")


def measure(
    predictions: Predictions,
    *,
    resamples: int = 1000,
    seed: int = 0,
    utility: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SuiteResult:
    """Every measure of every set; the model is not needed. ``utility`` takes the place of the one written down.

    ``progress`` hears how many of how many sets are done.
    """
    chosen = utility_of(predictions, utility)
    sets = []
    for done, one in enumerate(predictions.sets):
        progress(done, len(predictions.sets))
        sets.append(_Measuring(one, predictions.scorer, chosen, resamples, seed).result())
    return SuiteResult(scorer={**predictions.scorer, "utility": chosen.spec}, sets=sets, resamples=resamples, seed=seed)


def utility_of(predictions: Predictions, utility: str | None = None) -> Utility:
    """What turned beliefs into the scalar of these predictions."""
    return parse_utility(utility or str(predictions.scorer.get("utility", "mean")))


def scales_of_scorer(facts: Mapping[str, Any]) -> Scales:
    """The scales of the ratings that a scorer was trained on."""
    return {name: (low, high) for name, (low, high) in (facts.get("scales") or {}).items()}


@dataclass(frozen=True)
class _Measuring:
    """One set while it is measured."""

    one: SetPredictions
    scorer: Mapping[str, Any]
    utility: Utility
    resamples: int
    seed: int

    @cached_property
    def scalar(self) -> FloatArray:
        return scalars(self.one, self.utility)

    def result(self) -> SetResult:
        items, scored, name = self.one.items, self.one.scored, self.one.facts.name
        counts = {
            "rows left out": self.one.facts.left_out,
            "responses whose prompt was cut": sum(n > 0 for n in scored.cut),
            "responses that lost their end": sum(n > 0 for n in scored.cut_response),
        }
        found: dict[str, Any] = {}
        if (rules := rules_of(name)) is not None:
            found |= self._official(rules) | {"best_of_n": self._chosen(rules)}
        if any(item.better for item in items):
            pairs = SetPairs.of(self.one)
            found |= {"pairs": self._pairwise(pairs), "confident": self._confident(pairs)}
        if any(len(item.responses) > 1 for item in items):
            found["bias"] = self._bias()
        if kind_of(name) == "ratings":
            rated = Rated(items, scored.beliefs, scales_of_scorer(self.scorer), self.scalar)
            found["ratings"] = evaluate_ratings(rated, resamples=self.resamples, seed=self.seed)
        return SetResult(
            name=name,
            kind=kind_of(name),
            items=len(items),
            responses=sum(len(item.responses) for item in items),
            states=self._states(),
            counts={what: count for what, count in counts.items() if count},
            notes=list(self.one.facts.notes),
            **found,
        )

    def _official(self, rules: Rules) -> dict[str, Any]:
        """The official figures with intervals, beside those of trivial scorers."""
        items, scores = self.one.items, by_item(self.one.items, self.scalar)
        bootstrap = PromptBootstrap(rules.groups(items), resamples=self.resamples, seed=self.seed)
        ones = np.ones((1, len(items)))
        chance = [rules.score(items, baselines.random(items, draw), ones) for draw in range(RANDOM_DRAWS)]
        longer = rules.score(items, baselines.longer(items), ones)
        trivial = {
            "longer wins": {name: float(value[0]) for name, value in longer.items()},
            "random": {name: float(np.mean([draw[name] for draw in chance])) for name in chance[0]},
        }
        return {
            "figures": bootstrap.joint_intervals(lambda weights: rules.score(items, scores, weights)),
            "baselines": {
                name: {key: value for key, value in figures.items() if np.isfinite(value)}
                for name, figures in trivial.items()
            },
        }

    def _chosen(self, rules: Rules) -> BestOfNResult | None:
        worth = [gold_of(item) for item in self.one.items]
        known = [i for i, one in enumerate(worth) if one is not None]
        scores, groups = by_item(self.one.items, self.scalar), rules.groups(self.one.items)
        golds = [one for one in worth if one is not None]
        return choose(
            [scores[i] for i in known], golds, [groups[i] for i in known], resamples=self.resamples, seed=self.seed
        )

    def _pairwise(self, pairs: SetPairs) -> EvaluationResult:
        items, sizes = self.one.items, lengths(self.one.items)
        longer = [sizes[i][a] for i, a, _ in pairs.rows], [sizes[i][b] for i, _, b in pairs.rows]
        return evaluate_pairs(
            JudgedPairs(pairs.p, pairs.label, pairs.tie, pairs.prompts(items), longer),
            source=self.one.facts.name,
            rows_dropped=self.one.facts.left_out,
            resamples=self.resamples,
            seed=self.seed,
        )

    def _confident(self, pairs: SetPairs) -> dict[str, Interval]:
        """Pairs whose 90 % intervals of reward do not overlap, where rewards have a spread at all."""
        if not pairs.better.std.any():
            return {}
        first, second = (
            Bounds(side.quantile(INTERVAL[0]).numpy(), side.mean.numpy(), side.quantile(INTERVAL[1]).numpy())
            for side in (pairs.better, pairs.worse)
        )

        def figures(weights: FloatArray) -> dict[str, FloatArray]:
            rates = interval_rates(first, second, pairs.label, weights=weights)
            found = {"confident and right": rates.confident_right, "confident and wrong": rates.confident_wrong}
            return found | {f"ranking score, b = {b:g}": rates.ranking_score(b) for b in DAMPINGS}

        bootstrap = PromptBootstrap(pairs.prompts(self.one.items), resamples=self.resamples, seed=self.seed)
        return bootstrap.joint_intervals(figures)

    def _bias(self) -> dict[str, Interval]:
        """Rank correlations within items of the rewards with length (also beyond gold), and with markdown at equal length."""
        items = self.one.items
        rows = [i for i, item in enumerate(items) for _ in item.responses]
        amounts = {
            name: values
            for name, values in style([r for item in items for r in item.responses]).items()
            if values.any()
        }
        gold = None
        if all("gold" in item.meta for item in items):
            gold = np.concatenate([np.asarray(item.meta["gold"], dtype=np.float64) for item in items])
        measures = bias_metrics(self.scalar, amounts, rows, gold)
        shown = {
            name: measure
            for name, measure in measures.items()
            if name in ("length_spearman", "length_spearman_given_gold") or name.endswith("given_length")
        }
        prompts = [prompt_key(items[i].prompt) for i in rows]
        return PromptBootstrap(prompts, resamples=min(self.resamples, BIAS_RESAMPLES), seed=self.seed).intervals(shown)

    def _states(self) -> dict[str, dict[str, float]]:
        """Norm dispersion and effective rank of each subset, where states were saved."""
        if self.one.scored.states is None:
            return {}
        rows = [item.meta["subset"] for item in self.one.items for _ in item.responses]
        names = list(dict.fromkeys(rows))
        subsets = {name: self.one.scored.states[[row == name for row in rows]] for name in names}
        return vars(states_kept(subsets, IN_DOMAIN if IN_DOMAIN in names else names[0], seed=self.seed))
