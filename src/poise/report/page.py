"""Run records to self-contained HTML: no script, no request, the same bytes for the same record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from poise.evaluation.result import EvaluationResult, Interval
from poise.report import tables
from poise.report.extras import require
from poise.report.figures import reliability_overlay, reliability_panel, reward_panel
from poise.report.record import Example, RunRecord
from poise.report.svg import Panel
from poise.report.training_curves import training_panels
from poise.report.verdict import comparison_verdict, verdict

MOST_EXAMPLES = 12
MOST_CHARACTERS = 4000


@dataclass(frozen=True)
class _Drawn:
    """An example with its panel; on a comparison page also with the run that predicted it."""

    example: Example
    panel: Panel
    run: str = ""


def render(record: RunRecord) -> str:
    """The report of one run as one HTML document; raises ConfigError when the ``report`` extra is not installed."""
    result = record.result
    reliability = reliability_panel("reliability", result) if result and result.reliability else None
    return render_page(
        "page.html.jinja",
        record=record,
        result=result,
        verdict=verdict(record.name, result),
        rows=tables.metric_rows(result) if result else [],
        training=training_panels("training", record.metrics),
        stages=len({str(line.get("stage")) for line in record.metrics}),
        reliability=reliability,
        examples=[
            _Drawn(example, reward_panel(f"example-{number}", example))
            for number, example in enumerate(record.examples[:MOST_EXAMPLES])
        ],
        counts=_counts(result) if result else [],
    )


def summary_page(runs: Sequence[RunRecord], title: str) -> str:
    """A page that compares ``runs``; each links to ``<name>/report.html`` beside it."""
    results = {run.name: run.result for run in runs if run.result is not None}
    drawable = {name: result for name, result in results.items() if result.reliability}
    return render_page(
        "summary.html.jinja",
        title=title,
        runs=runs,
        links={run.name: f"{quote(run.name, safe='')}/report.html" for run in runs},
        compared={key: tables.MEASURES[key] for key in tables.COMPARED},
        baselines=_shared_baselines(list(results.values())),
        verdict=comparison_verdict(results),
        reliability=reliability_overlay("reliability", drawable) if drawable else None,
        pairs=_shared_pairs(runs),
        rows=sorted({f"{result.data.rows:,}" for result in results.values()}),
    )


def render_page(template: str | Path, **values: object) -> str:
    """A template, of this folder or by its path, with the page's filters and style; ConfigError without the ``report`` extra."""
    jinja2 = require("jinja2")
    folder, own = Path(__file__).parent, Path(template)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, own.parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": tables.number,
        "percent": tables.percent,
        "bounds": tables.bounds,
        "excerpt": excerpt,
    }
    environment.globals["style"] = (folder / "style.css").read_text(encoding="utf-8")
    return str(environment.get_template(own.name).render(**values))


def excerpt(text: str, most: int = MOST_CHARACTERS) -> str:
    """``text`` up to ``most`` characters, saying what was left out."""
    return text if len(text) <= most else f"{text[:most]}… [{len(text) - most:,} more characters]"


def _counts(result: EvaluationResult) -> list[tuple[str, int]]:
    """What is and is not in the numbers."""
    data = result.data
    counted = [("pairs evaluated", data.rows), ("prompts", data.prompts), ("rows dropped", data.rows_dropped)]
    counted += [("pairs labelled ½ (no part in accuracy)", data.undirected)]
    return counted + [
        (f"truncated: {name.replace('_', ' ')}", count) for name, count in sorted(result.truncation.items())
    ]


def _shared_baselines(results: Sequence[EvaluationResult]) -> dict[str, dict[str, Interval]]:
    """Baseline rows of the comparison, label → metric → value; only those that all runs agree on (the same pairs)."""
    shared = {}
    for metric, key in (("accuracy", "longer_wins"), ("nll", "constant")):
        found = {result.baselines.get(key) for result in results}
        for interval in found if len(found) == 1 else ():
            if interval is not None:
                shared[tables.MEASURES[metric].baseline_label] = {metric: interval}
    return shared


def _shared_pairs(runs: Sequence[RunRecord]) -> list[list[_Drawn]]:
    """Examples grouped by pair, those that most runs show first."""
    groups: dict[tuple[str, str, str], list[_Drawn]] = {}
    for index, run in enumerate(runs):
        for number, example in enumerate(run.examples):
            drawn = groups.setdefault((example.prompt, example.chosen, example.rejected), [])
            if all(other.run != run.name for other in drawn):
                drawn.append(_Drawn(example, reward_panel(f"example-{index}-{number}", example), run.name))
    return sorted(groups.values(), key=len, reverse=True)[:MOST_EXAMPLES]
