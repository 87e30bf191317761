"""Records from a source: every row is checked, and bad rows are named by number with what is wrong and the remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, Literal, TypeVar

from poise.data import rows
from poise.data.chat import MEND_ROLES, SHORTEN, Truncate
from poise.data.named import Named, resolve
from poise.data.records import Preference, Ranking, Rating, Text, as_messages
from poise.data.sources import read_rows
from poise.errors import DataError

R = TypeVar("R", Preference, Rating, Ranking)
Judged = TypeVar("Judged", Preference, Rating)
OnBad = Literal["error", "drop"]
SHOWN = 5
DROP = "mend them, or leave them out (data.bad_rows=drop in a recipe, --bad-rows drop in poise evaluate and score)"


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was not used: where it stands, what is wrong, what to do."""

    source: str
    row: int
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.source}: row {self.row}: {self.problem}; {self.remedy}"


@dataclass(frozen=True)
class Loaded(Generic[R]):
    """Records and the rows that were left out."""

    records: tuple[R, ...]
    bad: tuple[BadRow, ...] = field(default=())


def load_preferences(source: str | Path | Sequence[str | Path], on_bad: OnBad = "error") -> Loaded[Preference]:
    """Read preference pairs from one or several sources.

    Identical pairs teach nothing and count as bad rows. With ``on_bad="error"`` the first bad rows raise ``DataError``;
    with ``"drop"`` they are returned in ``bad``. Rankings are expanded into their pairs.
    """
    records: list[Preference] = []
    bad: list[BadRow] = []
    for one in [source] if isinstance(source, (str, Path)) else source:
        found, broken = read_preferences(str(one))
        records.extend(found)
        bad.extend(broken)
    return _settled(records, bad, on_bad)


def read_preferences(source: str) -> tuple[tuple[Preference, ...], tuple[BadRow, ...]]:
    """(usable pairs, bad rows) of one source; raises ``DataError`` only where the source as a whole cannot be read."""
    bad: list[BadRow] = []
    named = resolve(source, ("preference", "ranking"))
    if named:
        return tuple(_converted(named.rows, _named_pairs(named.dataset), bad)), tuple(bad)
    return tuple(_converted(source, _preferences_of, bad)), tuple(bad)


def as_conversation(record: Judged) -> Judged:
    """Plain strings as one user and one assistant message; conversations stay as they are."""
    if not isinstance(record.prompt, str):
        return record
    asked = as_messages(record.prompt, "user")
    if isinstance(record, Preference):
        chosen, rejected = (as_messages(text, "assistant") for text in (record.chosen, record.rejected))
        return replace(record, prompt=asked, chosen=chosen, rejected=rejected)
    return replace(record, prompt=asked, response=as_messages(record.response, "assistant"))


def load_ratings(source: str | Path, on_bad: OnBad = "error") -> Loaded[Rating]:
    """Read rated responses; see ``load_preferences`` for ``on_bad``."""
    bad: list[BadRow] = []
    named = resolve(str(source), ("rating",))
    if named:
        made = _converted(named.rows, named.dataset.records, bad)
        return _settled([one for one in made if isinstance(one, Rating)], bad, on_bad)
    records = list(_converted(str(source), lambda row, n, s: [rows.rating(row, n, s)], bad))
    return _settled(records, bad, on_bad)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One response to be scored; ``part`` says which of its row (chosen, rejected, response, responses[2])."""

    row: int
    part: str
    prompt: Text
    response: Text


def iter_candidates(source: str | Path, bad: list[BadRow]) -> Iterator[Candidate]:
    """Whatever holds responses to score: pairs, ratings, rankings, or rows of prompt with response(s) and no label.

    One at a time; rows that cannot be used are added to ``bad``.
    """
    named = resolve(str(source), ("preference", "rating", "ranking"))
    if named:
        return _converted(named.rows, _named_candidates(named.dataset), bad)
    return _converted(str(source), _candidates_of, bad)


def bad_rows_error(bad: Sequence[BadRow], way_out: str = DROP) -> DataError:
    """One message for many bad rows: the first few in full, the rest as a count, and the way out."""
    lines = [str(b) for b in bad[:SHOWN]]
    if len(bad) > SHOWN:
        lines.append(f"… and {len(bad) - SHOWN} more bad rows (poise data check {bad[0].source} lists them)")
    if len(bad) > 1:
        lines.append(way_out)
    return DataError("\n".join(lines))


def require_readable(dropped: Sequence[BadRow], truncate: Truncate) -> None:
    """Refuse (``DataError``) rows that must not be left out silently: of roles that the template does not take, and too long
    ones where ``truncate`` is ``error``."""
    refused = [bad for bad in dropped if bad.remedy == MEND_ROLES]
    if refused:
        raise bad_rows_error(refused, "a row that the chat template refuses is never left out silently")
    too_long = [bad for bad in dropped if bad.remedy == SHORTEN]
    if too_long and truncate == "error":
        raise bad_rows_error(too_long, "or set backbone.truncate=prompt (cut prompts) or drop (leave such rows out)")


T = TypeVar("T")


def _converted(
    source: str, convert: Callable[[dict[str, object], int, str], Iterable[T]], bad: list[BadRow]
) -> Iterator[T]:
    for number, row in read_rows(source):
        try:
            yield from convert(row, number, source)
        except rows.RowError as error:
            bad.append(BadRow(source, number, error.problem, error.remedy))


def _settled(records: list[R], bad: list[BadRow], on_bad: OnBad) -> Loaded[R]:
    if bad and on_bad == "error":
        raise bad_rows_error(bad)
    if not records and not bad:
        raise DataError("no row carries a preference or rating; check the split and the file")
    if not records:
        raise DataError(
            f"{bad[0].source}: no usable row is left; the first problem is in row {bad[0].row}: "
            f"{bad[0].problem}; {bad[0].remedy}"
        )
    return Loaded(tuple(records), tuple(bad))


def _preferences_of(row: dict[str, object], number: int, source: str) -> Iterable[Preference]:
    if "responses" in row and "chosen" not in row:
        return _usable(rows.ranking(row, number, source))
    return _usable(rows.preference(row, number, source))


def _named_pairs(dataset: Named) -> Callable[[dict[str, object], int, str], list[Preference]]:
    def convert(row: dict[str, object], number: int, source: str) -> list[Preference]:
        records = dataset.records(row, number, source)
        return [pair for one in records if not isinstance(one, Rating) for pair in _usable(one)]

    return convert


def _usable(record: Preference | Ranking) -> list[Preference]:
    if isinstance(record, Ranking):
        pairs = list(ranked_pairs(record))
        if not pairs:
            raise rows.RowError("all 'responses' are identical", "remove the row: it says nothing about preference")
        return pairs
    pair = record
    if pair.chosen == pair.rejected:
        raise rows.RowError("'chosen' and 'rejected' are identical", "remove the row: it says nothing about preference")
    return [pair]


def ranked_pairs(ranking: Ranking) -> Iterator[Preference]:
    """All pairs of a ranking, better first; equal ranks become ties."""
    n = len(ranking.responses)
    for i in range(n):
        for j in range(i + 1, n):
            better, worse = (i, j) if ranking.ranks[i] <= ranking.ranks[j] else (j, i)
            if ranking.responses[better] == ranking.responses[worse]:
                continue
            yield Preference(
                prompt=ranking.prompt,
                chosen=ranking.responses[better],
                rejected=ranking.responses[worse],
                tie=ranking.ranks[i] == ranking.ranks[j],
                annotator=ranking.annotator,
                subset=ranking.subset,
                meta=ranking.meta,
                row=ranking.row,
                source=ranking.source,
            )


def _named_candidates(dataset: Named) -> Callable[[dict[str, object], int, str], list[Candidate]]:
    def convert(row: dict[str, object], number: int, source: str) -> list[Candidate]:
        records = dataset.records(row, number, source)
        found: list[Candidate] = []
        for i, one in enumerate(records):
            if isinstance(one, Preference):
                parts = {"chosen": one.chosen, "rejected": one.rejected}
            elif isinstance(one, Ranking):
                parts = {f"responses[{n}]": response for n, response in enumerate(one.responses)}
            else:  # a row that rates several responses makes a record of each
                parts = {"response" if len(records) == 1 else f"responses[{i}]": one.response}
            found.extend(Candidate(number, part, one.prompt, response) for part, response in parts.items())
        return found

    return convert


def _candidates_of(row: dict[str, object], number: int, source: str) -> Iterable[Candidate]:
    if "chosen" in row and "rejected" in row:
        pair = rows.preference(row, number, source)
        parts = {"chosen": (pair.prompt, pair.chosen), "rejected": (pair.prompt, pair.rejected)}
    else:
        given = row.get("responses")
        names = {"response": row.get("response", row.get("completion"))}
        if isinstance(given, list):
            names = {f"responses[{i}]": one for i, one in enumerate(given)}
        if not names or all(one is None for one in names.values()):
            raise rows.RowError("no response to score", "give a column response, responses, or chosen and rejected")
        prompt = rows.text(row.get("prompt"), "prompt")
        parts = {name: rows.aligned(prompt, rows.text(one, name), response_name=name) for name, one in names.items()}
    return [Candidate(number, part, prompt, response) for part, (prompt, response) in parts.items()]
