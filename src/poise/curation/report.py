"""What curation found, as Markdown or one HTML page, with examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from poise.curation.curate import Curated
from poise.curation.decide import GROUPS, NOT_JUDGED, Decision
from poise.report import tables
from poise.report.examples import readable
from poise.report.page import excerpt, render_page
from poise.report.svg import Panel, draw, series_key, series_style

EACH = 3
LONGEST = 1200
WORDS = {
    "kept": "kept",
    "mislabelled": "label looks wrong",
    "disputed": "two camps of raters",
    "repeated": "repeats an earlier pair",
    "contaminated": "prompt is in the evaluation data",
    "mix": "more of its group than the mix takes",
    "unusable": "cannot be used",
    NOT_JUDGED: "kept without a judgement",
}


@dataclass(frozen=True)
class Shown:
    """One pair to look at."""

    title: str
    place: str
    reason: str
    prompt: str
    chosen: str
    rejected: str


def markdown(found: Curated) -> str:
    """The report as Markdown."""
    parts = [
        f"# Curation of {found.source}",
        verdict(found),
        "## What became of the rows",
        tables.markdown_table(*counts(found)),
    ]
    parts += ["## Groups", tables.markdown_table(*groups(found)), "## Examples"]
    for one in examples(found):
        parts.append(f"### {one.title}\n\n{one.place}: {one.reason}")
        parts += [f"**{name}**\n\n{_quoted(text)}" for name, text in _texts(one)]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def page(found: Curated) -> str:
    """The report as one HTML page; ConfigError where the ``report`` extra is not installed."""
    return render_page(
        Path(__file__).with_name("report.html.jinja"),
        source=found.source,
        verdict=verdict(found),
        counts=counts(found),
        groups=groups(found),
        panel=histogram(found),
        examples=[(one, _texts(one)) for one in examples(found)],
    )


def verdict(found: Curated) -> str:
    """The findings in two sentences."""
    rows = len(found.decisions) + len(found.bad)
    who = (
        f"{found.folds} cross-fitted heads of {found.model}, none of which had seen the prompt"
        if found.folds
        else found.model
    )
    noise = (
        ""
        if np.isnan(found.noise)
        else f" At most about {found.noise:.0%} of the labels are wrong: what the judge gets wrong itself counts among them."
    )
    return f"{len(found.kept):,} of {rows:,} rows stay, judged by {who}.{noise}"


def counts(found: Curated) -> tuple[list[str], list[list[str]]]:
    """Header and rows: rule, action, number, share; they add up to all rows."""
    rows = len(found.decisions) + len(found.bad)
    table = [
        [WORDS.get(kind, kind), action, f"{count:,}", tables.percent(count / rows)]
        for (kind, action), count in sorted(found.reasons().items(), key=lambda one: -one[1])
        if count
    ]
    return ["", "action", "rows", "share"], [*table, ["all", "", f"{rows:,}", ""]]


def groups(found: Curated) -> tuple[list[str], list[list[str]]]:
    """Header and rows: easy, boundary and hard before and after."""
    before, after = found.groups(), [one.group for one in found.kept]
    names = [name for name in (*GROUPS, NOT_JUDGED) if before[name]]
    table = [
        [
            name,
            f"{before[name]:,}",
            tables.percent(before[name] / max(1, len(found.decisions))),
            f"{after.count(name):,}",
            tables.percent(after.count(name) / max(1, len(after))),
        ]
        for name in names
    ]
    return ["", "before", "share", "after", "share"], table


def histogram(found: Curated) -> Panel | None:
    """How likely the model finds the labels, by group."""
    said = {group: [1 - one.doubt for one in found.decisions if one.group == group] for group in GROUPS}
    if not any(said.values()):
        return None
    title = "P(label) by the model: how many pairs"

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        edges = np.linspace(0, 1, 41)
        for number, values in enumerate(said.values()):
            heights, _ = np.histogram(values, edges)
            axes.stairs(heights, edges, fill=True, alpha=0.5, color=series_style(number)["color"])
        axes.set_xlabel("P(label)")
        axes.set_ylabel("pairs")

    key = tuple(series_key(group, number) for number, group in enumerate(GROUPS))
    return Panel(title, draw("doubt", title, (5.6, 2.4), paint), key)


def examples(found: Curated) -> list[Shown]:
    """Some pairs of every rule, the most doubted labels first; then what to ask people first."""
    kinds = [kind for kind in WORDS if kind not in ("kept", NOT_JUDGED, "mix", "unusable")]
    shown = []
    for kind in kinds:
        mine = [one for one in found.decisions if one.kind == kind]
        shown += [_shown(WORDS[kind], one) for one in sorted(mine, key=lambda one: -_known(one.doubt))[:EACH]]
    hard = [one for one in found.decisions if one.group == "hard" and one.kind == "kept"]
    shown += [_shown("kept, but doubted", one) for one in sorted(hard, key=lambda one: -one.doubt)[:EACH]]
    return shown + [_shown("ask people", one) for one in found.queue(EACH)]


def _known(doubt: float) -> float:
    return 0.0 if np.isnan(doubt) else doubt


def _shown(title: str, one: Decision) -> Shown:
    pair = one.pair
    texts = [excerpt(readable(text), LONGEST) for text in (pair.prompt, pair.chosen, pair.rejected)]
    return Shown(title, f"row {pair.row} of {pair.source}", one.reason, *texts)


def _texts(one: Shown) -> Sequence[tuple[str, str]]:
    return (("Prompt", one.prompt), ("Chosen, as it came", one.chosen), ("Rejected, as it came", one.rejected))


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())
