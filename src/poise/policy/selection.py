"""Best-of-n over whole files: rewards in, one line per prompt out, in memory one block at a time.

Rewards come from ``poise.scoring``, which knows blocks, processes and interrupted work, or from a file that was saved.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from poise import processes
from poise.data.load import OnBad
from poise.errors import ConfigError, DataError
from poise.evaluation import predictions
from poise.evaluation.items import plain
from poise.feature_cache import FeatureCache
from poise.model import RewardModel
from poise.output import check_file, replacing
from poise.policy.best_of_n import Choice, Replay, Stopping, choose, replay
from poise.policy.groups import Group, groups_of_scores, saved_groups, with_texts
from poise.scoring import GROUP, Progress, check_utilities, score_file
from poise.utility import Utility, parse_utility

FORMATS = (".jsonl", ".parquet")
BLOCK = 1024  # prompts that are written at once
TEXTS = ("prompt", "response")
_INTEGERS, _NUMBERS = pyarrow.list_(pyarrow.int64()), pyarrow.list_(pyarrow.float32())
COLUMNS = {
    **dict.fromkeys((GROUP, "choice", "row", "needed"), pyarrow.int64()),
    **dict.fromkeys(("set", "item", "part", *TEXTS), pyarrow.string()),
    "abstained": pyarrow.bool_(),
    "rows": _INTEGERS,
    "parts": pyarrow.list_(pyarrow.string()),
    "utilities": _NUMBERS,
    "p_best": _NUMBERS,
    "wins": pyarrow.list_(_NUMBERS),
}


@dataclass(frozen=True)
class Selection:
    """How to choose: of the first ``n`` responses to each prompt (all by default), with the win matrices or without.

    ``stop_at`` and ``cost`` ask how many responses would have been enough (``best_of_n.Stopping``).
    """

    utility: Utility = field(default_factory=lambda: parse_utility("mean"))
    n: int | None = None
    min_p_best: float = 0.0
    stop_at: float | None = None
    cost: float | None = None
    wins: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.min_p_best <= 1:
            raise ConfigError(f"min-p-best is {self.min_p_best}; it must be a probability")
        self.stopping(self.n or 1)

    def stopping(self, count: int) -> Stopping | None:
        """The rule for a prompt with that many responses, where one was asked for."""
        found = Stopping(n=count if self.n is None else self.n, at=self.stop_at, cost=self.cost)
        return None if self.stop_at is None and self.cost is None else found


@dataclass
class Summary:
    """Sums over prompts; of those where fewer responses were enough, how often the choice was the same and what it lost."""

    prompts: int = 0
    responses: int = 0
    abstained: int = 0
    chosen: float = 0.0
    average: float = 0.0
    p_best: float = 0.0
    needed: int = 0
    same: int = 0
    lost: float = 0.0

    def add(self, choice: Choice, replayed: Replay | None) -> None:
        """Count one prompt in."""
        utilities = choice.utilities.double()
        self.prompts += 1
        self.responses += len(utilities)
        self.abstained += choice.abstained
        self.chosen += utilities[choice.index].item()
        self.average += utilities.mean().item()
        self.p_best += choice.p_best[choice.index].item()
        if replayed is not None:
            self.needed += replayed.count
            self.same += replayed.index == choice.index
            self.lost += (utilities[choice.index] - utilities[replayed.index]).item()

    def figures(self) -> dict[str, float]:
        """Counts, and means over prompts: the utility of the choice and of a response at random, its P(best)."""
        counts = {"prompts": self.prompts, "responses": self.responses, "abstained": self.abstained}
        sums = {"utility": self.chosen, "utility_at_random": self.average, "p_best": self.p_best}
        means = {name: value / self.prompts for name, value in sums.items()}
        if not self.needed:
            return counts | means
        saved = {"same_choice": self.same / self.prompts, "utility_lost": self.lost / self.prompts}
        return counts | means | {"responses_needed": self.needed} | saved


def select_from_file(
    model: RewardModel,
    source: str,
    out: Path,
    selection: Selection,
    *,
    on_bad: OnBad = "error",
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Score every response of ``source`` and choose; under a launcher every process calls this, as ``score_file``."""
    check_out(out, source)
    scores = out.with_name(f".{out.name}.scores.parquet")
    check_utilities(model, [selection.utility])
    score_file(model, source, scores, on_bad=on_bad, cache=cache, progress=progress)
    try:
        return processes.once(lambda: _write(with_texts(groups_of_scores(scores), source), out, selection))
    finally:
        if processes.first():
            scores.unlink()


def select_from_scores(saved: Path, out: Path, selection: Selection) -> Summary:
    """Choose among what ``poise score`` or ``poise evaluate`` saved; raises as ``saved_groups``."""
    check_out(out, saved, saved / predictions.FILE)
    return _write(saved_groups(saved), out, selection)


def check_out(out: Path, *sources: str | Path) -> None:
    """Refuse a file that could not be written, is of no format known here or one of ``sources``, before anything is scored."""
    if out.suffix not in FORMATS:
        raise ConfigError(f"{out}: choices are written as {' or '.join(FORMATS)}; give a file name that ends so")
    check_file(out, *sources)


# ── lines ──


def _write(groups: Iterator[Group], out: Path, selection: Selection) -> Summary:
    """One line each, whole or not at all."""
    summary = Summary()
    with replacing(out) as temporary, ExitStack() as stack:
        write = _json_lines(temporary, stack) if out.suffix == ".jsonl" else _parquet(temporary, stack)
        lines = (_line(group, selection, summary) for group in groups)
        while block := list(islice(lines, BLOCK)):
            write(block)
        if not summary.prompts:
            raise DataError("there is no response to choose; check the file")
    return summary


def _json_lines(path: Path, stack: ExitStack) -> Callable[[list[dict[str, Any]]], None]:
    file = stack.enter_context(path.open("w", encoding="utf8"))
    return lambda lines: file.writelines(json.dumps(line) + "\n" for line in lines)


def _parquet(path: Path, stack: ExitStack) -> Callable[[list[dict[str, Any]]], None]:
    """Texts become JSON: a column cannot hold strings and conversations."""
    opened: list[pyarrow.parquet.ParquetWriter] = []

    def write(lines: list[dict[str, Any]]) -> None:
        rows = [line | {name: json.dumps(line[name]) for name in TEXTS if name in line} for line in lines]
        table = pyarrow.Table.from_pylist(rows, pyarrow.schema([(name, COLUMNS[name]) for name in rows[0]]))
        if not opened:
            opened.append(stack.enter_context(pyarrow.parquet.ParquetWriter(path, table.schema)))
        opened[0].write_table(table)

    return write


def _line(group: Group, selection: Selection, summary: Summary) -> dict[str, Any]:
    count = len(group.parts) if selection.n is None else min(selection.n, len(group.parts))
    reward = group.reward[:count]
    choice = choose(reward, selection.utility, min_p_best=selection.min_p_best)
    stopping = selection.stopping(count)
    replayed = None if stopping is None else replay(reward, selection.utility, stopping)
    summary.add(choice, replayed)
    line = group.place | {
        "choice": choice.index,
        "part": group.parts[choice.index],
        "abstained": choice.abstained,
        "parts": list(group.parts[:count]),
        "utilities": choice.utilities.tolist(),
        "p_best": choice.p_best.tolist(),
    }
    if group.rows:
        line |= {"row": group.rows[choice.index], "rows": list(group.rows[:count])}
    if selection.wins:
        line["wins"] = choice.wins.tolist()
    if replayed is not None:
        line["needed"] = replayed.count
    if group.texts is not None:
        line |= {"prompt": plain(group.texts[0]), "response": plain(group.texts[1][choice.index])}
    return line
