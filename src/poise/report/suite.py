"""Evaluations of one or several scorers as one self-contained HTML page, set by set, and the same as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from poise.evaluation.compare import Comparison, told_apart
from poise.evaluation.predictions import Predictions, SetPredictions
from poise.evaluation.remarkable import UNCERTAIN, WRONG, remarkable
from poise.evaluation.scalars import SetPairs
from poise.evaluation.suite import SuiteResult
from poise.report import tables
from poise.report.blocks import Block, Columns, blocks_of
from poise.report.examples import curve, readable
from poise.report.figures import reward_panel
from poise.report.page import excerpt, render_page
from poise.report.record import Example
from poise.report.svg import Panel

EXAMPLES = 3
SHOWN, SHOWN_IN_MARKDOWN = 2000, 600
TESTED = (
    "p: two-sided, by the bootstrap over prompts. Corrected: by Holm over all rows of this table as one family, so that the chance of a "
    "single false difference is 5 %. McNemar: a second test of accuracy, exact where pairs are independent, too sure where they "
    "share prompts; not part of the family."
)


@dataclass(frozen=True)
class Drawn:
    """An example with its rewards."""

    example: Example
    panel: Panel


@dataclass(frozen=True)
class Section:
    """Everything about one set."""

    name: str
    subtitle: str
    blocks: Sequence[Block]
    notes: Sequence[str]
    examples: Sequence[Example]

    def drawn(self, identity: str) -> list[Drawn]:
        """The examples with their figures."""
        return [Drawn(one, reward_panel(f"{identity}-example-{i}", one)) for i, one in enumerate(self.examples)]


@dataclass(frozen=True)
class Page:
    """What both forms are made from: ``comparison`` are rows of paired differences, ``verdict`` says what they amount to.

    ``examples`` by set are pairs to read, of one scorer.
    """

    results: Sequence[SuiteResult]
    comparison: Sequence[Sequence[str]] = ()
    verdict: str = ""
    examples: Mapping[str, Sequence[Example]] | None = None

    @property
    def names(self) -> list[str]:
        """How scorers are told apart; equal names get numbers."""
        return told_apart([str(result.scorer["name"]) for result in self.results])

    def sections(self, *, drawn: bool) -> list[Section]:
        """Set by set."""
        order = dict.fromkeys(one.name for result in self.results for one in result.sets)
        found = [{one.name: one for one in result.sets} for result in self.results]
        utilities = [str(result.scorer.get("utility", "mean")) for result in self.results]
        utility = utilities[0]
        if len(set(utilities)) > 1:
            utility = ", ".join(f"{one} ({name})" for one, name in zip(utilities, self.names, strict=True))
        sections = []
        for number, name in enumerate(order):
            columns = Columns(self.names, [one.get(name) for one in found], f"set-{number}" if drawn else "")
            known = columns.known
            subtitle = f"{known.items:,} items, {known.responses:,} responses"
            blocks = blocks_of(columns, utility)
            sections.append(Section(name, subtitle, blocks, _notes(columns), (self.examples or {}).get(name, ())))
        return sections


def suite_page(
    results: Sequence[SuiteResult],
    comparison: Sequence[Sequence[str]] = (),
    verdict: str = "",
    examples: Mapping[str, Sequence[Example]] | None = None,
) -> str:
    """``results`` side by side as HTML; see ``Page``."""
    page = Page(results, comparison, verdict, examples)
    names = page.names
    return render_page(
        "suite.html.jinja",
        title=" and ".join(names) if len(names) < 4 else f"{len(names)} scorers",
        names=names,
        verdict=verdict,
        comparison=comparison,
        tested=TESTED,
        sections=[(one, one.drawn(f"set-{i}")) for i, one in enumerate(page.sections(drawn=True))],
        facts=[_facts(result) for result in results],
        resamples=results[0].resamples,
        shown=SHOWN,
    )


def suite_markdown(
    results: Sequence[SuiteResult],
    comparison: Sequence[Sequence[str]] = (),
    verdict: str = "",
    examples: Mapping[str, Sequence[Example]] | None = None,
) -> str:
    """The page without its figures, whose numbers stand in tables, for a model card."""
    page = Page(results, comparison, verdict, examples)
    parts = [f"# Evaluation of {', '.join(page.names)}", verdict]
    if comparison:
        parts += ["## Paired differences", tables.markdown_table(comparison[0], comparison[1:]), TESTED]
    for section in page.sections(drawn=False):
        parts += [f"## {section.name}", section.subtitle, *(f"- {note}" for note in section.notes)]
        for block in section.blocks:
            parts += _block(block, page.names)
        if section.examples:
            parts += ["### Examples to read", *map(_example, section.examples)]
    parts.append(f"In brackets: 95 % intervals from {results[0].resamples:,} resamples of prompts.")
    return "\n\n".join(part.rstrip() for part in parts if part) + "\n"


def comparison_rows(found: Comparison) -> list[list[str]]:
    """Header and rows of paired differences; McNemar's test where one of them has it."""
    exact = any(one.mcnemar is not None for one in found.differences)
    header = ["set", "figure", "scorer", f"minus {found.differences[0].reference}", "p", "corrected", ""]
    rows = []
    for one in found.differences:
        second = [] if not exact else ["" if one.mcnemar is None else tables.number(one.mcnemar)]
        difference = tables.value_with_bounds(one.difference)
        tested = [tables.number(one.p), tables.number(one.p_holm), *second]
        said = "" if one.significant else "not significant"
        rows.append([one.name, one.figure, one.scorer, difference, *tested, said])
    return [[*header[:-1], *(["McNemar"] if exact else []), ""], *rows]


def examples_of(predictions: Predictions, each: int = EXAMPLES) -> dict[str, list[Example]]:
    """By set, the pairs that the scorer is most certain and wrong about, and those it is least certain of."""
    found = {one.facts.name: _examples(one, each) for one in predictions.sets}
    return {name: examples for name, examples in found.items() if examples}


def _examples(one: SetPredictions, each: int) -> list[Example]:
    if not any(item.better for item in one.items):
        return []
    pairs = SetPairs.of(one)
    p, seen = pairs.p, set()
    examples: list[Example] = []
    for title, row in remarkable(p, pairs.label, 8 * each, titles=(WRONG, UNCERTAIN)):
        number, better, worse = pairs.rows[row]
        item = one.items[number]
        if (title, item.prompt) in seen or sum(other.title == title for other in examples) == each:
            continue  # another pair of the same prompt tells nothing new
        seen.add((title, item.prompt))
        examples.append(
            Example(
                title=title,
                prompt=readable(item.prompt),
                chosen=readable(item.responses[better]),
                rejected=readable(item.responses[worse]),
                label=float(pairs.label[row]),
                p_chosen=float(p[row]),
                chosen_curve=curve(pairs.better[row]),
                rejected_curve=curve(pairs.worse[row]),
            )
        )
    return examples


def _notes(columns: Columns) -> list[str]:
    said: dict[str, list[str]] = {}
    for label, one in zip(columns.names, columns.sets, strict=True):
        for text in [] if one is None else [*one.notes, *(f"{n:,} {what}" for what, n in one.counts.items())]:
            said.setdefault(text, []).append(label)
    return [text if len(who) == len(columns.names) else f"{', '.join(who)}: {text}" for text, who in said.items()]


def _block(block: Block, names: Sequence[str]) -> list[str]:
    rows = [
        [
            block.labels.get(key, key),
            *("—" if one is None else tables.value_with_bounds(one) for one in intervals),
            *(tables.number(values[key]) if key in values else "" for values in block.baselines.values()),
        ]
        for key, intervals in block.rows.items()
    ]
    table = tables.markdown_table(["", *names, *block.baselines], rows) if rows else ""
    parts = [f"### {block.title}", block.note.partition(" Grey:")[0], table]
    for plot in block.plots:
        parts += [f"{plot.title}: {plot.caption}", tables.markdown_table(plot.header, plot.rows)]
    return parts


def _example(one: Example) -> str:
    """Folded, and fenced so that nothing in the texts is read as Markdown or HTML."""
    head = f"{one.title}: P(chosen ≻ rejected) = {tables.number(one.p_chosen)}, label {tables.number(one.label, 2)}"
    texts = {"Prompt": one.prompt, "Chosen": one.chosen, "Rejected": one.rejected}
    parts = [f"<details><summary>{head}</summary>"]
    for speaker, text in texts.items():
        shown = excerpt(text, SHOWN_IN_MARKDOWN)
        longest = max((len(run) for run in "".join(c if c == "`" else " " for c in shown).split()), default=0)
        fence = "`" * max(3, longest + 1)
        parts.append(f"{speaker}:\n\n{fence}text\n{shown}\n{fence}")
    return "\n\n".join([*parts, "</details>"])


def _facts(result: SuiteResult) -> list[tuple[str, str]]:
    return [(key, "—" if value is None else str(value)) for key, value in result.scorer.items()]
