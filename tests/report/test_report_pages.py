"""Pages are self-contained, complete, safe to open and the same every time."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from poise.errors import ConfigError
from poise.evaluation.pairwise import JudgedPairs, evaluate_pairs
from poise.evaluation.result import EvaluationResult, Interval
from poise.report import Curve, Example, RunRecord, extras, render, summary_page
from poise.report.training_curves import training_panels
from poise.report.verdict import comparison_verdict, verdict

SECTIONS = {"verdict", "metrics", "training", "reliability", "examples", "data", "reproduce"}
VOID = {"meta", "br", "hr", "img", "link", "input"}
HOSTILE = "<script>alert('x')</script> & \"quotes\" $mathtext_{$ ≻"


class Page(HTMLParser):
    """Checks nesting, and collects ids, tags, references and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.references: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        assert len(self.ids) == len(set(self.ids)), "an id occurs twice"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in {"href", "xlink:href", "src", "srcset", "action"}:
                self.references.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def result() -> EvaluationResult:
    generator = np.random.default_rng(0)
    confidence = 1 / (1 + np.exp(-1.5 * np.abs(generator.normal(size=400))))
    p = np.where(generator.random(400) < confidence, confidence, 1 - confidence)
    return evaluate_pairs(
        JudgedPairs(p, np.ones(400), None, [row // 2 for row in range(400)], (np.arange(400) % 7, np.arange(400) % 5)),
        resamples=40,
        source="held-out",
        truncation={"prompt": 3},
        model={"checkpoint": None},
    )


def curves() -> dict[str, Curve]:
    x = np.linspace(-3, 3, 31)
    return {
        "density": Curve("density", tuple(x), tuple(np.exp(-(x**2))), 0.0, 0.7),
        "atoms": Curve("atoms", (1.0, 2.0, 3.0), (0.2, 0.5, 0.3), 2.1, 0.7),
        "quantiles": Curve("atoms", (0.1, 0.3, 0.9, 2.0), (0.25,) * 4, 0.8, 0.7),
        "point": Curve("point", (0.5,), (1.0,), 0.5, 0.0),
    }


def example(first: str = "density", second: str = "density", prompt: str = HOSTILE) -> Example:
    return Example("Most certain", prompt, "yes " * 3000, HOSTILE, 1.0, 0.93, curves()[first], curves()[second])


@pytest.fixture(scope="module")
def record(result) -> RunRecord:
    lines = [
        {
            "stage": stage,
            "step": step,
            "epoch": 0.1,
            "loss": 1.0 / step,
            "loss/nll": 0.5,
            "learning_rate": 1e-4,
            "sigma": 0.3,
        }
        for stage in (f"zero {HOSTILE}", "refine")
        for step in range(1, 400)
    ]
    shapes = (
        ("atoms", "atoms"),
        ("point", "density"),
        ("point", "point"),
        ("quantiles", "quantiles"),
        ("atoms", "quantiles"),
    )
    lines[100:100] = [{"stage": lines[99]["stage"], "step": 100, "eval/accuracy": 0.7, "eval/smooth_ece": float("nan")}]
    return RunRecord(
        name="run <1>",
        method="drpo",
        result=result,
        metrics=lines,
        examples=[example(), *(example(*each) for each in shapes)],
        recipe_yaml=f"name: {HOSTILE}",
        versions={"poise": "0.1.0"},
        seeds={"training": 0},
        notes=[HOSTILE],
    )


def test_report_is_complete_and_well_formed(record) -> None:
    page = Page(render(record))
    assert set(page.ids) >= SECTIONS
    text = " ".join(" ".join(page.text).split())
    for part in (
        "Smooth ECE",
        "longer wins",
        "Learning rate",
        "Reward spread σ",
        "Accuracy, held out",
        "more characters]",
    ):
        assert part in text
    assert "P(chosen ≻ rejected) = 0.930" in text
    assert "truncated: prompt" in text


@pytest.mark.parametrize("page", [render, lambda record: summary_page([record, replace(record, name="b/c")], HOSTILE)])
def test_pages_are_self_contained_and_safe(record, page) -> None:
    html = page(record)
    parsed = Page(html)
    assert not parsed.tags & {"script", "link", "img", "iframe", "object", "embed"}
    assert not re.search(r"https?:|//\w|@import|url\((?!#)", html), "an address outside the page"
    assert all(reference.startswith("#") or reference.endswith("/report.html") for reference in parsed.references)
    assert "<script" not in html
    assert "#0102" not in html, "a sentinel colour was left behind"


def test_internal_references_resolve(record) -> None:
    html = render(record)
    ids = set(Page(html).ids)
    assert set(re.findall(r"url\(#([^)]+)\)", html)) | set(re.findall(r'href="#([^"]+)"', html)) <= ids


def test_same_record_same_bytes(record) -> None:
    assert render(record) == render(record)
    assert summary_page([record], "t") == summary_page([record], "t")


def test_a_run_with_nothing_to_show_still_has_every_section() -> None:
    page = Page(render(RunRecord("empty", "bt")))
    assert set(page.ids) >= SECTIONS
    assert "empty has not been evaluated" in " ".join(page.text)
    assert "not two evaluated runs" in summary_page([RunRecord("empty", "bt")], "Nothing")


def test_summary_links_each_report_and_groups_shared_pairs(record) -> None:
    other = replace(record, name="b/c", examples=[example("atoms", "atoms"), example(prompt="only here")])
    page = Page(summary_page([record, other], "Both"))
    assert "run%20%3C1%3E/report.html" in page.references
    assert "b%2Fc/report.html" in page.references
    text = " ".join(page.text)
    assert text.index("b/c", text.index("seen by each model")) < text.index("only here"), "shared pairs come first"


def test_a_missing_extra_is_named(record, monkeypatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(extras.importlib, "import_module", absent)
    with pytest.raises(ConfigError, match=r"needs matplotlib.*pip install 'poise\[report\]'"):
        render(record)
    with pytest.raises(ConfigError, match="needs jinja2"):
        render(RunRecord("empty", "bt"))


def test_importing_the_report_loads_neither_extra() -> None:
    code = "import sys, poise.report; sys.exit(bool({'matplotlib', 'jinja2'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_long_series_are_thinned_and_stages_joined() -> None:
    lines = [{"stage": stage, "step": step, "loss": 1.0} for stage in "ab" for step in range(1000)]
    (panel,) = training_panels("t", lines)
    assert len(panel.svg) < 30_000
    assert ">2000<" in panel.svg, "the second stage continues the axis of the first"


def test_a_stage_that_is_logged_late_continues_too() -> None:
    lines = [{"stage": stage, "step": step, "loss": 1.0} for stage, step in (("a", 400), ("b", 500), ("b", 1000))]
    (panel,) = training_panels("t", lines)
    assert ">1400<" in panel.svg


def changed(result: EvaluationResult, **metrics: Interval) -> EvaluationResult:
    return result.model_copy(update={"metrics": result.metrics | metrics})


def test_verdict_says_no_more_than_the_intervals_allow(result) -> None:
    longer = result.baselines["longer_wins"].value
    assert "cannot be told apart" in verdict(
        "m", changed(result, accuracy=Interval(longer, longer - 0.1, longer + 0.1))
    )
    assert "less than always preferring" in verdict("m", changed(result, accuracy=Interval(0.1, 0.05, 0.15)))
    assert "often certain and wrong" in verdict("m", changed(result, nll=Interval(1.2, 1.1, 1.3)))
    assert "worth no more" in verdict("m", changed(result, nll=Interval(0.69, 0.65, 0.73)))
    assert "off by 30.0 percentage points, more than chance" in verdict(
        "m", changed(result, smooth_ece=Interval(0.3, 0.2, 0.4))
    )
    assert "certainty says little" in verdict("m", changed(result, accuracy_at_50=Interval(0.5, 0.4, 0.6)))
    votes = changed(result, soft_accuracy=Interval(0.6, 0.5, 0.7)).model_copy(
        update={"label_ceiling": 0.81, "tie_rate": 0.2}
    )
    assert "no model could match more than 81.0" in verdict("m", votes)
    assert "undecided on 20.0" in verdict("m", votes)


def test_comparison_verdict_names_the_leader_and_its_rivals(result) -> None:
    worse = changed(result, nll=Interval(0.9, 0.89, 0.91))
    text = comparison_verdict({"a": result, "b": worse})
    assert "a has the lowest NLL" in text
    assert "a orders the most pairs correctly" in text
    assert text.count("b may be as good") == 2
