"""What is in a preference file and what is wrong with it, before anybody trains on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from poise.data.chat import BLOCK, ChatEncoder, Encoded
from poise.data.load import BadRow, read_preferences
from poise.data.merge import merge_duplicates
from poise.data.records import Preference, Text, text_length
from poise.data.splits import prompt_key

SHOWN = 20
Progress = Callable[[int, int], None]  # responses whose tokens are counted, of all


@dataclass(frozen=True)
class LengthReport:
    """Token lengths under one tokenizer and limit. ``over`` counts responses with a cut prompt, ``lost`` those that do not fit."""

    max_length: int
    longest: int
    median: int
    over: int
    lost: int
    responses: int
    same_once_encoded: tuple[int, ...]


@dataclass(frozen=True)
class DataReport:
    """The findings. ``longer_wins`` is the accuracy of always preferring the longer response (equal lengths ½)."""

    source: str
    rows: int
    usable: int
    bad: tuple[BadRow, ...]
    prompts: int
    conversational: int
    multi_turn: int
    with_votes: int
    ties: int
    repeated: int
    contradicted: int
    longer_wins: float
    characters: tuple[float, float]
    subsets: dict[str, int] = field(default_factory=dict)
    lengths: LengthReport | None = None
    overlap_prompts: int | None = None
    overlap_pairs: int | None = None


def check(
    source: str, encoder: ChatEncoder | None = None, against: str | None = None, progress: Progress | None = None
) -> DataReport:
    """Read a preference file whole and report; ``encoder`` adds token lengths, ``against`` a second file's overlap."""
    pairs, bad = read_preferences(source)
    merged = merge_duplicates(pairs)
    directed = [p for p in pairs if p.label != 0.5]
    return DataReport(
        source=source,
        rows=len({p.row for p in pairs}) + len(bad),
        usable=len(pairs),
        bad=bad,
        prompts=len({prompt_key(p.prompt) for p in pairs}),
        conversational=sum(not isinstance(p.prompt, str) for p in pairs),
        multi_turn=sum(not isinstance(p.prompt, str) and sum(m.role == "user" for m in p.prompt) > 1 for p in pairs),
        with_votes=sum(p.votes is not None or p.p_chosen is not None for p in pairs),
        ties=len(pairs) - len(directed),
        repeated=len(pairs) - len(merged),
        contradicted=_contradicted(pairs),
        longer_wins=_longer_wins(directed),
        characters=(_median(pairs, lambda p: p.chosen), _median(pairs, lambda p: p.rejected)),
        subsets=dict(Counter(p.subset for p in pairs if p.subset).most_common(10)),
        lengths=_lengths(pairs, encoder, progress) if encoder is not None and pairs else None,
        **_overlap(pairs, against),
    )


def describe(report: DataReport) -> list[str]:
    """The report as lines for a terminal."""
    lines = [
        f"{report.source}: {report.rows:,} rows, {report.usable:,} usable pairs, {report.prompts:,} prompts",
        f"  form           {_form(report)}",
        f"  labels         {report.with_votes:,} with votes or shares, {report.ties:,} ties",
        f"  repeats        {report.repeated:,} repeated pairs, {report.contradicted:,} labelled both ways",
        f"  length         median {report.characters[0]:.0f} characters chosen, {report.characters[1]:.0f} rejected",
        f"  longer wins    {report.longer_wins:.3f} accuracy by always preferring the longer response",
    ]
    if report.subsets:
        lines.append("  subsets        " + ", ".join(f"{k} ({v:,})" for k, v in report.subsets.items()))
    if (tokens := report.lengths) is not None:
        share = tokens.over / tokens.responses
        lines.append(
            f"  tokens         median {tokens.median:,}, longest {tokens.longest:,}; {tokens.over:,} responses ({share:.1%}) "
            f"with a prompt cut to fit {tokens.max_length:,}, {tokens.lost:,} that do not fit"
        )
        if tokens.same_once_encoded:
            lines.append(f"                 rows identical once encoded: {_numbers(tokens.same_once_encoded)}")
    if report.overlap_prompts is not None:
        lines.append(
            f"  overlap        {report.overlap_prompts:,} prompts and {report.overlap_pairs:,} pairs occur in both files"
        )
    lines.append(f"  broken rows    {len(report.bad):,}")
    lines.extend(f"    row {b.row}: {b.problem}; {b.remedy}" for b in report.bad[:SHOWN])
    if len(report.bad) > SHOWN:
        lines.append(f"    … and {len(report.bad) - SHOWN:,} more")
    return lines


def _contradicted(pairs: Sequence[Preference]) -> int:
    """Pairs of responses that some row prefers one way and another row the other way."""
    directions: dict[tuple[Text, frozenset[Text]], set[Text]] = {}
    for p in pairs:
        if p.label != 0.5:
            better = p.chosen if p.label > 0.5 else p.rejected
            directions.setdefault((p.prompt, frozenset((p.chosen, p.rejected))), set()).add(better)
    return sum(len(better) > 1 for better in directions.values())


def _longer_wins(pairs: Sequence[Preference]) -> float:
    if not pairs:
        return 0.5
    credit = 0.0
    for pair in pairs:
        difference = text_length(pair.chosen) - text_length(pair.rejected)
        longer = 0.5 if difference == 0 else float(difference > 0)
        credit += longer if pair.label > 0.5 else 1 - longer
    return credit / len(pairs)


def _median(pairs: Sequence[Preference], side: Callable[[Preference], Text]) -> float:
    return float(median(text_length(side(p)) for p in pairs)) if pairs else 0.0


def _lengths(pairs: Sequence[Preference], encoder: ChatEncoder, progress: Progress | None) -> LengthReport:
    texts = list(dict.fromkeys(t for p in pairs for t in ((p.prompt, p.chosen), (p.prompt, p.rejected))))
    encoded: dict[tuple[Text, Text], Encoded] = {}
    for i in range(0, len(texts), BLOCK):
        block = texts[i : i + BLOCK]
        encoded |= zip(block, encoder.encode_many(block), strict=True)
        if progress is not None:
            progress(len(encoded), len(texts))
    sizes = sorted(len(e.ids) + e.cut for e in encoded.values() if not e.problem)
    same = tuple(
        p.row
        for p in pairs
        if (a := encoded[p.prompt, p.chosen]).ids == encoded[p.prompt, p.rejected].ids and not a.problem
    )
    return LengthReport(
        max_length=encoder.max_length,
        longest=sizes[-1] if sizes else 0,
        median=sizes[len(sizes) // 2] if sizes else 0,
        over=sum(e.cut > 0 for e in encoded.values()),
        lost=sum(e.problem is not None for e in encoded.values()),
        responses=len(encoded),
        same_once_encoded=same,
    )


def _overlap(pairs: Sequence[Preference], against: str | None) -> dict[str, int | None]:
    if against is None:
        return {}
    other, _ = read_preferences(against)
    prompts = {prompt_key(p.prompt) for p in pairs} & {prompt_key(p.prompt) for p in other}
    mine, theirs = ({(p.prompt, frozenset((p.chosen, p.rejected))) for p in side} for side in (pairs, other))
    return {"overlap_prompts": len(prompts), "overlap_pairs": len(mine & theirs)}


def _form(report: DataReport) -> str:
    plain = report.usable - report.conversational
    parts = (
        [f"{report.conversational:,} conversational ({report.multi_turn:,} multi-turn)"]
        if report.conversational
        else []
    )
    return ", ".join(parts + ([f"{plain:,} plain text"] if plain else [])) or "none"


def _numbers(rows: Sequence[int]) -> str:
    shown = ", ".join(map(str, rows[:SHOWN]))
    return shown + (f" and {len(rows) - SHOWN:,} more" if len(rows) > SHOWN else "")
