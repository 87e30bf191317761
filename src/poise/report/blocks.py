"""What a page says about one evaluation set: blocks of figures with their curves, one column a scorer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from poise.evaluation.rated import RatingResult
from poise.evaluation.result import Interval
from poise.evaluation.suite import SetResult
from poise.report import tables
from poise.report.curves import (
    Plot,
    abstention_plot,
    best_of_n_plot,
    coverage_plot,
    pit_plot,
    reliability_plot,
)
from poise.report.svg import MARKERS, MUTED, Panel, draw, series_key, series_style

PAIR_MEASURES = (
    "accuracy",
    "nll",
    "brier",
    "ece",
    "smooth_ece",
    "aurc",
    "confidence_auroc",
    "disagreement_auroc",
    "length_gap",
)
SUMMARY = {
    "peak_gold": "highest gold gain",
    "distance_at_peak": "√KL there",
    "final_over_peak": "gain at the last n / highest",
    "proxy_gold_area": "area between belief and gold",
    "alpha": "α of gold = d(α − βd), d = √KL",
    "beta": "β",
}
STATES = {
    "dispersion": "norm dispersion",
    "dispersion_ratio": "norm dispersion, ratio to the first",
    "rank": "effective rank at equal n",
    "rank_change": "effective rank, less the first's",
}
T = TypeVar("T")


@dataclass(frozen=True)
class Block:
    """A table of figures: one row a figure, one column a scorer, trivial scorers last; then curves."""

    title: str
    rows: Mapping[str, Sequence[Interval | None]]
    labels: Mapping[str, str] = field(default_factory=dict)
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    note: str = ""
    figure: Panel | None = None
    plots: Sequence[Plot] = ()


@dataclass(frozen=True)
class Columns:
    """One set as each of the scorers ``names`` has it, None where one has not; figures are named after ``identity``, '' for none."""

    names: Sequence[str]
    sets: Sequence[SetResult | None]
    identity: str

    @property
    def known(self) -> SetResult:
        """The first that is there."""
        return next(one for one in self.sets if one is not None)

    def rows(self, read: Callable[[SetResult], Mapping[str, Interval]]) -> dict[str, list[Interval | None]]:
        """Figures by name over all scorers."""
        found = [read(one) if one else {} for one in self.sets]
        keys = dict.fromkeys(key for one in found for key in one)
        return {key: [one.get(key) for one in found] for key in keys}

    def each(self, read: Callable[[SetResult], T | None]) -> dict[str, T]:
        """Something that not every scorer has, by the name of those that do."""
        found = {name: read(one) for name, one in zip(self.names, self.sets, strict=True) if one}
        return {name: one for name, one in found.items() if one}

    def figure(self, what: str) -> str:
        """An id for a figure."""
        return f"{self.identity}-{what}" if self.identity else ""


def blocks_of(columns: Columns, utility: str) -> list[Block]:
    """Everything about one set."""
    blocks: list[Block] = []
    if columns.known.figures:
        blocks.append(_official(columns, utility))
    if columns.each(lambda one: one.best_of_n):
        blocks.append(_chosen("Best of n", columns.figure("choice"), columns, lambda one: one.best_of_n))
    if columns.each(lambda one: one.states):
        blocks.append(_states(columns))
    if columns.each(lambda one: one.pairs):
        blocks.append(_pairwise(columns))
    if rows := columns.rows(lambda one: one.confident):
        note = (
            "How often the 90 % intervals of two rewards do not overlap, and whether the higher is the better one; ranking score of "
            "RewardUQ: 1 where all such decisions are right and all others left open."
        )
        blocks.append(Block("Decided by intervals that do not overlap", rows, note=note))
    if rows := columns.rows(lambda one: one.bias):
        note = "Rank correlation of the rewards, within one prompt's responses, with length and with markdown at equal length."
        blocks.append(Block("What the rewards follow besides quality", rows, note=note))
    for number, one in enumerate(columns.known.ratings):
        blocks += _rating(number, columns, one)
    return blocks


def _official(columns: Columns, utility: str) -> Block:
    known, responses = columns.known, columns.known.kind == "responses"
    rows = {key: [one.figures.get(key) if one else None for one in columns.sets] for key in known.figures}
    rules = (
        "Kendall's τ-b of the rewards with gold, mean over prompts." if responses else "By the benchmark's own rules."
    )
    return Block(
        "Order of the responses" if responses else "Official figures",
        rows,
        baselines=known.baselines,
        note=f"{rules} The first row is the headline; the scalar is {utility}. Grey: | longer wins, × random.",
        figure=_dots(columns.identity, columns.names, rows, known.baselines) if columns.identity else None,
    )


def _chosen(title: str, identity: str, columns: Columns, read: Callable[[SetResult], Any]) -> Block:
    found = columns.each(read)
    rows = columns.rows(lambda one: read(one).summary if read(one) else {})
    note = "What choosing by the reward among several responses to a prompt gains in gold, and where choosing harder stops to help."
    return Block(title, rows, SUMMARY, note=note, plots=[best_of_n_plot(identity, found)])


def _states(columns: Columns) -> Block:
    def read(one: SetResult) -> dict[str, Interval]:
        return {
            f"{label}: {subset}": Interval(value, value, value)
            for name, label in STATES.items()
            for subset, value in one.states.get(name, {}).items()
        }

    note = "Of the states that the head reads: SD of their norms over the mean; the entropy of singular values."
    return Block("Spread of the states", columns.rows(read), note=note)


def _pairwise(columns: Columns) -> Block:
    pairs = [one.pairs if one else None for one in columns.sets]
    known = [key for key in PAIR_MEASURES if any(p and key in p.metrics for p in pairs)]
    labels = {key: f"{tables.MEASURES[key].label} {tables.MEASURES[key].better}" for key in known}
    longer = next((p.baselines["longer_wins"] for p in pairs if p and "longer_wins" in p.baselines), None)
    drawable = columns.each(lambda one: one.pairs if one.pairs and one.pairs.reliability else None)
    plots = [reliability_plot(columns.figure("reliability"), drawable)] if drawable else []
    if curves := {name: one for name, one in drawable.items() if one.abstention}:
        plots.append(abstention_plot(columns.figure("abstention"), curves))
    return Block(
        "P(better ≻ worse)",
        {key: [p.metrics.get(key) if p else None for p in pairs] for key in known},
        labels,
        {"longer wins": {"accuracy": longer.value}} if longer else {},
        note="Ties count half.",
        plots=plots,
    )


def _rating(number: int, columns: Columns, first: RatingResult) -> list[Block]:
    def read(one: SetResult) -> RatingResult | None:
        return next((rated for rated in one.ratings if rated.attribute == first.attribute), None)

    def metrics(one: SetResult) -> Mapping[str, Interval]:
        found = read(one)
        return found.metrics if found else {}

    floor = ""
    if first.floor:
        floor = (
            f" W1 against half of the raters: the other half reaches {tables.number(first.floor['split_half'])}, the "
            f"pooled ratings {tables.number(first.floor['marginal'])}, the other half's mean alone "
            f"{tables.number(first.floor['point'])}."
        )
    known = {name: one for name, one in columns.each(read).items() if one.coverage}
    unknown = [name for name in columns.each(read) if name not in known]
    about = f" No belief about it, so only the order of rewards: {', '.join(unknown)}." if unknown else ""
    plots = []
    if known:
        plots += [coverage_plot(columns.figure(f"coverage-{number}"), known)]
        plots += [pit_plot(columns.figure(f"pit-{number}"), known)]
    note = f"{first.items:,} items, {first.raters:.1f} raters each.{floor}{about}"
    blocks = [Block(f"Ratings: {first.attribute}", columns.rows(metrics), note=note, plots=plots)]
    if columns.each(lambda one: getattr(read(one), "best_of_n", None)):
        title = f"Best of n: {first.attribute}"
        choice = columns.figure(f"choice-{number}")
        blocks.append(_chosen(title, choice, columns, lambda one: getattr(read(one), "best_of_n", None)))
    return blocks


def _dots(
    identity: str,
    names: Sequence[str],
    rows: Mapping[str, Sequence[Interval | None]],
    baselines: Mapping[str, Mapping[str, float]],
) -> Panel:
    """Every figure with its interval, scorers side by side, trivial scorers as grey marks."""
    title = f"Official figures of {', '.join(names)}"
    keys = list(rows)

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        for number in range(len(names)):
            shift = 0.22 * (number - (len(names) - 1) / 2)
            for place, key in enumerate(keys):
                interval = rows[key][number]
                if interval is None:
                    continue
                style = series_style(number)
                axes.plot([interval.low, interval.high], [place + shift] * 2, color=style["color"], linewidth=1.2)
                marker = MARKERS[number % len(MARKERS)]
                axes.plot([interval.value], [place + shift], marker=marker, markersize=4.5, color=style["color"])
        for mark, values in zip("|x", baselines.values(), strict=False):
            shown = [(values[key], place) for place, key in enumerate(keys) if key in values]
            axes.plot(*zip(*shown, strict=True), mark, color=MUTED, markersize=6)
        axes.set_yticks(range(len(keys)), keys)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)

    legend = [series_key(name, number) for number, name in enumerate(names)]
    height = 0.9 + 0.26 * len(keys) * max(1.0, 0.6 * len(names))
    return Panel(title, draw(identity, title, (5.4, min(height, 14.0)), paint), tuple(legend))
