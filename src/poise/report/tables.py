"""Evaluation results as rows of text, for pages, Markdown and the terminal alike."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from poise.evaluation.result import EvaluationResult, Interval


@dataclass(frozen=True)
class Measure:
    """How a metric is shown: its label, which direction is better, what it says, and the baseline it is read against."""

    label: str
    better: str
    meaning: str
    baseline: str | None = None
    baseline_label: str = ""


MEASURES = {
    "accuracy": Measure("Accuracy", "↑", "pairs ordered as people do", "longer_wins", "longer wins"),
    "soft_accuracy": Measure("Soft accuracy", "↑", "single votes matched"),
    "accuracy_ties_zero": Measure("Accuracy, ties wrong", "↑", "the same, a tie counts 0"),
    "accuracy_ties_one": Measure("Accuracy, ties right", "↑", "the same, a tie counts 1"),
    "nll": Measure("NLL (nat)", "↓", "surprise at the label", "constant", "always ½"),
    "brier": Measure("Brier score", "↓", "squared error of the probability"),
    "brier_reliability": Measure("Brier: reliability", "↓", "its part that calibration would remove"),
    "brier_resolution": Measure("Brier: resolution", "↑", "its part that telling pairs apart earns"),
    "ece": Measure("ECE", "↓", "stated against observed, 15 bins", "calibrated_ece", "if calibrated"),
    "mce": Measure("MCE", "↓", "gap in the worst bin"),
    "smooth_ece": Measure("Smooth ECE", "↓", "the same without bins", "calibrated_smooth_ece", "if calibrated"),
    "aurc": Measure("AURC", "↓", "error rate, averaged over coverage"),
    "excess_aurc": Measure("Excess AURC", "↓", "AURC above the best possible order"),
    "accuracy_at_50": Measure("Accuracy, surest 50 %", "↑", "if it may abstain on the other half"),
    "accuracy_at_80": Measure("Accuracy, surest 80 %", "↑", "if it may abstain on a fifth"),
    "confidence_auroc": Measure("Confidence AUROC", "↑", "certainty tells right from wrong"),
    "disagreement_auroc": Measure("Disagreement AUROC", "↑", "uncertain where raters split"),
    "length_gap": Measure("Length gap", "→ 0", "accuracy where the longer is better, less where it is worse"),
}
"""Known metrics in the order of the tables; others follow under their own name."""

COMPARED = ("accuracy", "nll", "ece", "smooth_ece")


@dataclass(frozen=True)
class MetricRow:
    """One line of the metric table, as text; ``interval`` and ``baseline`` may be empty."""

    label: str
    better: str
    value: str
    interval: str
    baseline_label: str
    baseline: str
    baseline_interval: str
    meaning: str


def number(value: float, digits: int = 3) -> str:
    """Fixed decimals with a real minus sign and no negative zero."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0.0 else text.replace("-", "−")


def percent(value: float, digits: int = 1) -> str:
    """A share as per cent with a no-break space."""
    return f"{number(100.0 * value, digits)}\u00a0%"


def bounds(interval: Interval, digits: int = 3) -> str:
    """``[low, high]``, or nothing where the value is exact."""
    return "" if interval.low == interval.high else f"[{number(interval.low, digits)}, {number(interval.high, digits)}]"


def value_with_bounds(interval: Interval, digits: int = 3) -> str:
    """``0.735 [0.723, 0.747]``."""
    return f"{number(interval.value, digits)} {bounds(interval, digits)}".rstrip()


def metric_rows(result: EvaluationResult) -> list[MetricRow]:
    """Every metric of ``result``, known ones first."""
    known = [name for name in MEASURES if name in result.metrics]
    rows = []
    for name in known + [name for name in result.metrics if name not in MEASURES]:
        measure, interval = MEASURES.get(name, Measure(name, "", "")), result.metrics[name]
        baseline = result.baselines.get(measure.baseline or "")
        rows.append(
            MetricRow(
                measure.label,
                measure.better,
                number(interval.value),
                bounds(interval),
                measure.baseline_label if baseline else "",
                number(baseline.value) if baseline else "",
                bounds(baseline) if baseline else "",
                measure.meaning,
            )
        )
    return rows


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, numeric: Collection[int] = ()) -> str:
    """A Markdown table with padded cells; columns named by index in ``numeric`` are aligned right."""
    cells = [[_markdown_cell(cell) for cell in row] for row in (header, *rows)]
    widths = _widths(cells)
    rule = ["-" * (width - 1) + ":" if column in numeric else "-" * width for column, width in enumerate(widths)]
    padded = [_padded(row, widths, numeric) for row in cells]
    return "\n".join(f"| {' | '.join(row)} |" for row in (padded[0], rule, *padded[1:])) + "\n"


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, numeric: Collection[int] = ()) -> str:
    """The same table for a terminal: columns two spaces apart."""
    widths = _widths([header, *rows])
    return "\n".join("  ".join(_padded(row, widths, numeric)).rstrip() for row in (header, *rows)) + "\n"


def _markdown_cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(3, *(len(cell) for cell in column)) for column in zip_longest(*rows, fillvalue="")]


def _padded(row: Sequence[str], widths: Sequence[int], numeric: Collection[int]) -> list[str]:
    return [
        cell.rjust(width) if column in numeric else cell.ljust(width)
        for column, (cell, width) in enumerate(zip_longest(row, widths, fillvalue=""))
        if isinstance(width, int)
    ]
