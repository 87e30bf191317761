from __future__ import annotations

from poise.evaluation.result import EvaluationData, EvaluationResult, Interval
from poise.report import tables

RESULT = EvaluationResult(
    data=EvaluationData(source="t", rows=10, prompts=5, label_kind="hard"),
    metrics={
        "custom": Interval(-0.00001, -1.0, 1.0),
        "nll": Interval(0.5, 0.4, 0.6),
        "accuracy": Interval(0.7, 0.6, 0.8),
    },
    baselines={"constant": Interval(0.693, 0.693, 0.693)},
    tie_rate=0.0,
)


def test_numbers() -> None:
    assert tables.number(-1.5, 1) == "−1.5"
    assert tables.number(-0.0001) == "0.000"
    assert tables.percent(0.7354) == "73.5\u00a0%"
    assert tables.value_with_bounds(Interval(0.5, 0.4, 0.6)) == "0.500 [0.400, 0.600]"
    assert tables.value_with_bounds(Interval(0.5, 0.5, 0.5)) == "0.500"


def test_known_metrics_come_first_beside_their_baselines() -> None:
    rows = tables.metric_rows(RESULT)
    assert [row.label for row in rows] == ["Accuracy", "NLL (nat)", "custom"]
    assert (rows[1].baseline_label, rows[1].baseline, rows[1].baseline_interval) == ("always ½", "0.693", "")
    assert rows[0].baseline == "", "no longer-wins baseline was computed"


def test_markdown_and_plain() -> None:
    assert tables.markdown_table(["name", "n"], [["a|b\nc", "1"], ["d", "20"]], numeric=[1]) == (
        "| name   |   n |\n| ------ | --: |\n| a\\|b c |   1 |\n| d      |  20 |\n"
    )
    assert (
        tables.plain_table(["name", "n"], [["a", "1"], ["d", "20"]], numeric=[1]) == "name    n\na       1\nd      20\n"
    )
