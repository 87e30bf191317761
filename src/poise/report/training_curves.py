"""Training curves: one small panel per quantity, all stages on one axis of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from poise.report.svg import MARKERS, MUTED, Panel, draw, series_key, series_style
from poise.report.tables import MEASURES


def training_panels(identity: str, lines: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """Loss and its terms, one panel per evaluation metric, the spread σ where logged, and the learning rate."""
    steps, boundaries = _global_steps(lines)
    groups: dict[tuple[int, str, str], list[str]] = {}
    for key in sorted({key for line in lines for key, value in line.items() if _is_number(value)}):
        panel = _panel_of(key)
        if panel is not None:
            groups.setdefault(panel, []).append(key)
    panels = []
    for number, ((_, title, unit), keys) in enumerate(sorted(groups.items())):
        series = {
            key: [(step, line[key]) for step, line in zip(steps, lines, strict=True) if _is_number(line.get(key))]
            for key in keys
        }
        panels.append(_training_panel(f"{identity}-{number}", title, unit, series, boundaries))
    return panels


def _panel_of(key: str) -> tuple[int, str, str] | None:
    """Position, title and y label of the panel that shows a logged key; None for bookkeeping such as the epoch."""
    prefix, _, rest = key.partition("/")
    if prefix == "loss":
        return 0, "Loss", "loss"
    if prefix == "eval" and rest:
        position = list(MEASURES).index(rest) if rest in MEASURES else len(MEASURES)
        label = MEASURES[rest].label if rest in MEASURES else rest.replace("_", " ")
        return 1 + position, f"{label}, held out", label
    if prefix == "benchmark":
        name, _, figure = rest.partition("/")
        return 60, f"{name}: {figure}", figure
    if "sigma" in key or prefix == "std":
        return 90, "Reward spread σ", "σ (reward units)"
    return (99, "Learning rate", "learning rate") if key == "learning_rate" else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _global_steps(lines: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[tuple[float, str]]]:
    """Steps, which each stage counts from 1, through all stages; and where each stage begins with its name."""
    steps: list[float] = []
    boundaries: list[tuple[float, str]] = []
    for line in lines:
        name = str(line.get("stage") or "")
        if not boundaries or boundaries[-1][1] != name:
            boundaries.append((steps[-1] if steps else 0.0, name))
        steps.append(boundaries[-1][0] + line["step"])
    return steps, boundaries


def _training_panel(
    identity: str,
    title: str,
    unit: str,
    series: Mapping[str, list[tuple[float, float]]],
    boundaries: Sequence[tuple[float, str]],
) -> Panel:
    def paint(figure: Any) -> None:
        axes = figure.subplots()
        for number, points in enumerate(series.values()):
            x, y = _thinned(np.array(points, dtype=float))
            marker = MARKERS[number % len(MARKERS)] if len(x) <= 15 else ""
            axes.plot(x, y, marker=marker, markersize=3.5, **series_style(number))
        for start, name in boundaries:
            if start:
                axes.axvline(start, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
            if name and len(boundaries) > 1:
                axes.annotate(
                    name,
                    (start, 1.0),
                    xycoords=("data", "axes fraction"),
                    xytext=(3, 2),
                    color=MUTED,
                    fontsize=8,
                    textcoords="offset points",
                    annotation_clip=False,
                )
        axes.set_xlim(left=0)
        axes.set_xlabel("optimiser step")
        axes.set_ylabel(unit)
        axes.yaxis.set_major_formatter("{x:g}")

    named = [
        key.removeprefix("benchmark/").removeprefix("loss/").removeprefix("eval/").replace("_", " ") for key in series
    ]
    key = tuple(series_key("total" if name == "loss" and len(named) > 1 else name, n) for n, name in enumerate(named))
    return Panel(title, draw(identity, f"Training curve: {title}", (3.6, 2.4), paint), key if len(key) > 1 else ())


def _thinned(points: np.ndarray, most: int = 150) -> tuple[np.ndarray, np.ndarray]:
    """At most ``most`` points: means of consecutive logged values."""
    size = -(-len(points) // most)
    chunks = [points[start : start + size].mean(axis=0) for start in range(0, len(points), size)]
    x, y = np.array(chunks).T
    return x, y
