"""``poise curate``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import typer

from poise.cli.caching import cache_of
from poise.cli.choices import on_bad, one_of
from poise.cli.progress import FEATURES, working
from poise.curation import report
from poise.curation.curate import Curated, Search, curate, read
from poise.curation.decide import GROUPS, Disputed, Mislabels, Rules
from poise.curation.write import bad_row, check_outs, curated_row, write_rows
from poise.errors import ConfigError
from poise.model import RewardModel
from poise.output import replacing
from poise.report import tables
from poise.report.extras import missing_packages


@dataclass(frozen=True)
class Outs:
    """Where everything goes; what is not named lies beside ``out``, but for the queue, which is then not written."""

    out: Path
    dropped: Path | None = None
    queue: Path | None = None
    report: Path | None = None
    queue_size: int = 500

    @property
    def left_out(self) -> Path:
        """The rows that are not in ``out``."""
        return self.dropped or self.out.with_name(f"{self.out.stem}.dropped{self.out.suffix}")

    @property
    def page(self) -> Path:
        """The report: HTML where it can be drawn, else Markdown."""
        return self.report or self.out.with_suffix(".md" if missing_packages() else ".html")

    def check(self, inputs: list[str]) -> None:
        """Refuse what cannot be written, before any work."""
        if self.queue_size < 1:
            raise ConfigError(f"--queue-size is {self.queue_size}; give at least 1")
        check_outs((self.out, self.left_out, self.queue), inputs)
        check_outs((self.page,), inputs, (".html", ".md"))
        if self.page.suffix == ".html" and (missing := missing_packages()):
            raise ConfigError(missing)


def rules_of(mislabels: str, doubt: float, boundary: float, disputed: str, mix: str | None, seed: int) -> Rules:
    """The rules from words on the command line. ConfigError for what is none."""
    one_of("mislabels", mislabels, get_args(Mislabels))
    one_of("disputed", disputed, get_args(Disputed))
    return Rules(boundary, mislabels, doubt, disputed, _mix(mix), seed)  # type: ignore[arg-type]


def run(
    folder: Path,
    data: str,
    outs: Outs,
    rules: Rules,
    search: Search,
    *,
    bad_rows: str,
    device: str,
    raw: bool,
    as_json: bool,
) -> None:
    """Curate a file of pairs: what stays, what was left out, the queue for people, and the report."""
    unusable = on_bad(bad_rows)
    one_of("repeats", search.repeats, ("drop", "keep"))
    outs.check([data, *search.against])
    material = read(data, search, unusable)
    with working(FEATURES) as terminal:
        model = RewardModel.load(folder, device=device, raw=raw)
        cache = cache_of(folder, model.backbone)
        found = curate(model, folder, material, rules, search, cache=cache, reporter=terminal)
    assert len(found.kept) + len(found.left_out) == len(found.decisions)
    _write(found, outs)
    typer.echo(json.dumps(_facts(found, rules, search)) if as_json else _described(found, outs))


def _write(found: Curated, outs: Outs) -> None:
    """The curated rows last: where they are, everything else is."""
    text = report.page(found) if outs.page.suffix == ".html" else report.markdown(found)
    out = [curated_row(one) for one in found.left_out] + [bad_row(bad) for bad in found.bad]
    write_rows(out, outs.left_out)
    if outs.queue is not None:
        queue = [{"rank": i} | curated_row(one) for i, one in enumerate(found.queue(outs.queue_size), 1)]
        write_rows(queue, outs.queue)
    with replacing(outs.page) as temporary:
        temporary.write_text(text, encoding="utf8")
    write_rows([curated_row(one) for one in found.kept], outs.out)


def _mix(given: str | None) -> tuple[float, float, float] | Literal["drpo"] | None:
    if given is None or given == "drpo":
        return given  # type: ignore[return-value]
    try:
        easy, boundary, hard = (float(part) for part in given.split(","))
    except ValueError:
        raise ConfigError(
            f"--mix {given!r}; give the shares of {', '.join(GROUPS)} pairs such as 0.3,0.6,0.1, or the word drpo"
        ) from None
    return easy, boundary, hard


def _facts(found: Curated, rules: Rules, search: Search) -> dict[str, Any]:
    rows = len(found.decisions) + len(found.bad)
    return {
        "source": found.source,
        "rows": rows,
        "kept": len(found.kept),
        "left_out": rows - len(found.kept),
        "actions": dict(found.actions()),
        "reasons": [{"rule": kind, "action": act, "rows": n} for (kind, act), n in found.reasons().items()],
        "groups": dict(found.groups()),
        "wrong_labels": None if found.noise != found.noise else found.noise,
        "cross_fitted": found.folds,
        "rules": asdict(rules),
        "search": asdict(search),
    }


def _described(found: Curated, outs: Outs) -> str:
    places = [f"curated rows: {outs.out}", f"left out, with reasons: {outs.left_out}"]
    places += [f"for people: {outs.queue}"] if outs.queue else []
    return "\n".join(
        [
            report.verdict(found),
            "",
            tables.plain_table(*report.counts(found), numeric=(2, 3)),
            tables.plain_table(*report.groups(found), numeric=(1, 2, 3, 4)),
            *places,
            f"report: {outs.page}",
        ]
    )
