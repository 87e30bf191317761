"""Curves of an evaluation, several scorers in one diagram, and the numbers behind each for those who read no pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from poise.evaluation.chosen import BestOfNResult
from poise.evaluation.rated import RatingResult
from poise.evaluation.result import EvaluationResult, Interval
from poise.report import tables
from poise.report.svg import MARKERS, MUTED, Panel, draw, series_key, series_style

SIZE = (3.6, 2.8)


@dataclass(frozen=True)
class Plot:
    """A diagram (``panel`` is None where none is drawn) and its numbers: ``rows`` under ``header``, as text."""

    title: str
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    panel: Panel | None = None


@dataclass(frozen=True)
class Series:
    """Points with their intervals; drawn thin where it is only for comparison."""

    name: str
    x: Sequence[float]
    y: Sequence[Interval]
    thin: bool = False


def reliability_plot(identity: str, results: Mapping[str, EvaluationResult]) -> Plot:
    """Stated confidence against the share that came true."""
    header = ["stated", "came true", "pairs"]
    rows = []
    for name, result in results.items():
        for one in result.reliability:
            true = tables.value_with_bounds(Interval(one.y, one.low, one.high), 2)
            rows.append([*([name] if len(results) > 1 else []), tables.number(one.p, 2), true, f"{one.count:,}"])
    series = [
        Series(
            name,
            [one.p for one in result.reliability],
            [Interval(one.y, one.low, one.high) for one in result.reliability],
        )
        for name, result in results.items()
    ]

    def paint(axes: Any) -> None:
        axes.plot([0.5, 1.0], [0.5, 1.0], color=MUTED, linewidth=0.8, zorder=1)
        _lines(axes, series, marked=True)
        axes.set_xlabel("stated confidence in the preferred response")
        axes.set_ylabel("share that came true")

    caption = "On the line: calibrated; below: overconfident; above: underconfident."
    panel = _panel(identity, "Reliability", series, paint)
    return Plot("Reliability", caption, [*(["scorer"] if len(results) > 1 else []), *header], rows, panel)


def abstention_plot(identity: str, results: Mapping[str, EvaluationResult]) -> Plot:
    """Accuracy on the rest against the share of pairs that goes to a person."""
    series = [
        Series(name, [one.x for one in result.abstention], [one.y for one in result.abstention])
        for name, result in results.items()
    ]

    def paint(axes: Any) -> None:
        _lines(axes, series)
        axes.set_xlabel("share of pairs left to a person, least certain first")
        axes.set_ylabel("accuracy on the rest")

    shown = [i for i, one in enumerate(series[0].x) if round(20 * one) % 2 == 0]
    caption = "A scorer that knows when it is wrong rises; one that does not stays flat."
    return _plot(
        "Accuracy against abstention",
        caption,
        "left out",
        series,
        shown,
        _panel(identity, "Accuracy against abstention", series, paint),
        tables.percent,
    )


def coverage_plot(identity: str, results: Mapping[str, RatingResult]) -> Plot:
    """Quantile coverage: between the share below and the share at most at the predicted quantile lies the level, if calibrated."""
    series = []
    for name, result in results.items():
        levels = [one.level for one in result.coverage]
        series.append(Series(f"{name}, below", levels, [one.below for one in result.coverage]))
        series.append(Series(f"{name}, at most", levels, [one.at_most for one in result.coverage]))

    def paint(axes: Any) -> None:
        axes.plot([0.0, 1.0], [0.0, 1.0], color=MUTED, linewidth=0.8, zorder=1)
        for number, (below, above) in enumerate(zip(series[::2], series[1::2], strict=True)):
            style = series_style(number)
            low, high = [one.value for one in below.y], [one.value for one in above.y]
            axes.fill_between(below.x, low, high, color=style["color"], alpha=0.2, linewidth=0)
            axes.plot(below.x, low, **style)
            axes.plot(above.x, high, **style)
        axes.set_xlabel("level of the predicted quantile")
        axes.set_ylabel("share of ratings below / at most")

    panel = _panel(identity, "Quantile coverage", [Series(name, (), ()) for name in results], paint)
    shown = [i for i, one in enumerate(series[0].x) if round(20 * one) in (1, 2, 5, 10, 15, 18, 19)]
    caption = "Ratings are discrete: the band reaches from the share below the quantile to the share at most at it; calibrated, it holds the line."
    return _plot("Quantile coverage", caption, "level", series, shown, panel, lambda x: tables.number(x, 2))


def pit_plot(identity: str, results: Mapping[str, RatingResult]) -> Plot:
    """The histogram of the randomised PIT."""
    series = [Series(name, [one.x for one in r.pit], [one.y for one in r.pit]) for name, r in results.items()]

    def paint(axes: Any) -> None:
        axes.axhline(1.0, color=MUTED, linewidth=0.8, zorder=1)
        for number, one in enumerate(series):
            edges = np.linspace(0.0, 1.0, len(one.x) + 1)
            axes.stairs([y.value for y in one.y], edges, **series_style(number))
            color = series_style(number)["color"]
            axes.vlines(one.x, [y.low for y in one.y], [y.high for y in one.y], color=color, linewidth=0.8)
        axes.set_ylim(bottom=0.0)
        axes.set_xlabel("randomised PIT of the ratings")
        axes.set_ylabel("density")

    caption = "Flat: calibrated; a hill: too wide; a valley: too narrow; a slope: biased. In expectation over the random draws."
    panel = _panel(identity, "PIT", series, paint)
    return _plot("PIT", caption, "bin", series, range(len(series[0].x)), panel, lambda x: tables.number(x, 2))


def best_of_n_plot(identity: str, results: Mapping[str, BestOfNResult]) -> Plot:
    """Gain in gold by choosing the best of n, and what the scorer believes it gains."""
    series = []
    for name, result in results.items():
        series.append(Series(f"{name}, gold", result.n, result.gold))
        series.append(Series(f"{name}, own belief", result.n, result.proxy, thin=True))

    def paint(axes: Any) -> None:
        axes.axhline(0.0, color=MUTED, linewidth=0.8, zorder=1)
        for number, (gold, proxy) in enumerate(zip(series[::2], series[1::2], strict=True)):
            style = series_style(number)
            axes.plot(
                proxy.x, [one.value for one in proxy.y], color=style["color"], linewidth=0.8, linestyle=(0, (1, 2))
            )
            _line(axes, gold, number, marked=True)
        axes.set_xscale("log", base=2)
        n = sorted({size for one in series for size in one.x})
        ticks = n if len(n) < 9 else n[::2]
        axes.set_xticks(ticks, [f"{size:g}" for size in ticks])
        axes.minorticks_off()
        axes.set_xlabel("n, responses to choose from")
        axes.set_ylabel("gain (SD within a prompt)")

    first = next(iter(results.values()))
    caption = (
        f"Unbiased over all draws of n from the {first.responses} responses or more to each of {first.prompts:,} prompts. Line: gold; "
        "dotted: what the scorer believes. Where gold falls, choosing harder hurts."
    )
    panel = _panel(identity, "Best of n", [Series(name, (), ()) for name in results], paint)
    return _plot("Best of n", caption, "n", series, range(len(series[0].x)), panel, lambda x: f"{x:g}")


def _plot(
    title: str,
    caption: str,
    axis: str,
    series: Sequence[Series],
    shown: Sequence[int],
    panel: Panel | None,
    written: Callable[[float], str],
) -> Plot:
    header = [axis, *(one.name for one in series)]
    cells = [[written(series[0].x[i]), *(_cell(one, i) for one in series)] for i in shown]
    return Plot(title, caption, header, cells, panel)


def _cell(series: Series, i: int) -> str:
    return tables.value_with_bounds(series.y[i], 2) if i < len(series.y) else "—"


def _panel(identity: str, title: str, series: Sequence[Series], paint: Callable[[Any], None]) -> Panel | None:
    """Nothing without an identity: Markdown has no figures."""
    if not identity:
        return None
    names = [one.name for one in series]
    title = f"{title} of {', '.join(names)}"
    key = tuple(series_key(name, number) for number, name in enumerate(names)) if len(names) > 1 else ()
    return Panel(title, draw(identity, title, SIZE, lambda figure: paint(figure.subplots())), key)


def _lines(axes: Any, series: Sequence[Series], *, marked: bool = False) -> None:
    for number, one in enumerate(series):
        _line(axes, one, number, marked=marked)


def _line(axes: Any, one: Series, number: int, *, marked: bool) -> None:
    style = series_style(number)
    if len(one.x):
        low, high = [y.low for y in one.y], [y.high for y in one.y]
        axes.fill_between(one.x, low, high, color=style["color"], alpha=0.13, linewidth=0)
    marker = MARKERS[number % len(MARKERS)] if marked else ""
    axes.plot(one.x, [y.value for y in one.y], marker=marker, markersize=3.5, **style)
