"""The page of all claims, made from their record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.claims.claim import FAILS, HOLDS, UNTESTABLE, Check, Claim, shown
from experiments.claims.families import FAMILIES, KNOWN
from poise.report.tables import markdown_table

Record = Mapping[str, Mapping[str, Any]]


def page(record: Record) -> str:
    """Overview, then every claim of every method with all that was measured."""
    parts = [INTRO, overview(record)]
    for family in FAMILIES.values():
        parts += [
            f"## {family.title}\n",
            *(details(claim, record[claim.id]) for claim in family.claims if claim.id in record),
        ]
    return "\n".join(parts)


def overview(record: Record) -> str:
    """How many hold, and one row a claim."""
    count = Counter(one["verdict"] for one in record.values())
    seeds = sorted({len(one["seeds"]) for one in record.values()})
    told = f"{count[HOLDS]} hold, {count[FAILS]} do not hold, {count[UNTESTABLE]} cannot be tested here"
    minutes = sum(one["cpu_seconds"] for one in record.values()) / 60
    lines = [f"Of {len(record)} claims: {told}. Seeds per claim: {' or '.join(map(str, seeds))}."]
    lines.append(f"All studies together took {minutes:.0f} minutes of one processor core.\n")
    if min(seeds) < 2:
        lines.append(
            "**Preliminary: where there is one seed only, there is no interval and the value alone decides.**\n"
        )
    missing = [name for name in KNOWN if name not in record]
    if missing:
        lines.append(f"Not measured yet: {', '.join(missing)}.\n")
    if any(one["smoke"] for one in record.values()):
        lines.append("**Sizes of a smoke test: the figures say nothing.**\n")
    rows = [
        [f"[{name}](#{name.lower()})", one["says"], KNOWN[name].expected, f"**{one['verdict']}**"]
        for name, one in record.items()
    ]
    return "\n".join([*lines, markdown_table(["", "claim", "expected", "measured"], rows)])


def details(claim: Claim, one: Mapping[str, Any]) -> str:
    """A claim's figures with intervals and thresholds, why it comes out so, and what else was measured."""
    figures: Mapping[str, Sequence[float]] = one["figures"]
    rows = [[c.figure, c.text(figures[c.figure]), c.threshold, outcome(c, figures[c.figure])] for c in claim.checks]
    question = "refuted where" if claim.refutes else "holds where"
    seeds = len(one["seeds"])
    parts = [
        f'<a id="{claim.id.lower()}"></a>\n\n### {claim.id}: {claim.says}\n',
        f"**{one['verdict'].capitalize()}** ({seeds} seed{'s' if seeds > 1 else ''}; expected: {claim.expected}).\n",
        claim.untestable,
        markdown_table([question, "measured", "threshold", ""], rows),
        *[*because(claim, figures), *undecided(claim, figures, one["verdict"]), ""],
    ]
    named = {check.figure for check in [*claim.checks, *(reason.check for reason in claim.reasons)]}
    beside = [f"{name} {shown(values)}" for name, values in figures.items() if name not in named]
    return "\n".join([*filter(None, parts), *([f"Beside it: {'; '.join(beside)}.\n"] if beside else [])])


def outcome(check: Check, values: Sequence[float]) -> str:
    """met, not met, or open."""
    return "met" if check.met(values) else "open" if check.open(values) else "not met"


def because(claim: Claim, figures: Mapping[str, Sequence[float]]) -> list[str]:
    """The sentences that further measurements bear out; others are told as unconfirmed."""
    lines = []
    for reason in claim.reasons:
        values, check = figures[reason.check.figure], reason.check
        evidence = f"{check.figure}: {check.text(values)}, {check.threshold}"
        if check.met(values):
            lines.append(f"- {reason.sentence} ({evidence})")
        else:
            lines.append(f"- *Expected, but not borne out:* {reason.sentence} ({evidence}: {outcome(check, values)})")
    return lines


def undecided(claim: Claim, figures: Mapping[str, Sequence[float]], verdict: str) -> list[str]:
    """What it would take where no figure speaks against a claim and some do not yet speak for it."""
    open_ones = [check for check in claim.checks if check.open(figures[check.figure])]
    against = [c for c in claim.checks if not c.met(figures[c.figure]) and c not in open_ones]
    if verdict != FAILS or claim.refutes or against:
        return []
    needed = max(check.seeds_to_decide(figures[check.figure]) for check in open_ones)
    told = "no number of seeds" if needed == float("inf") else f"about {needed:,.0f} seeds"
    return [
        f"- Undecided rather than refuted: {len(open_ones)} of its figures {'is' if len(open_ones) == 1 else 'are'} open, and an "
        f"effect of the measured size is so small beside what varies from seed to seed that {told} would be needed to decide it."
    ]


INTRO = """# The papers' claims, measured

Five papers make claims by which people choose methods. This page measures each of them at a small scale, with these
implementations: on Gaussian features with a known utility and people who disagree, on simulated texts read by a frozen MiniLM,
and, where hidden states must move, on a small decoder trained from scratch on the same texts. A claim that fails here may hold
at another scale; the further measurements under it say why it fails here.

Made by `python -m experiments` (sources: `experiments/claims/`; every figure of every seed: `claims.json`). Figures are means over
seeds ± half of the 95 % t-interval. A claim **holds** where the whole interval of each of its figures lies on the claimed side
of its threshold; a figure is *open* where the interval holds the threshold, so that more seeds might decide. Identities must be met
on every seed. *Expected* is what the derivations let one expect before anything was measured.
"""
