"""Score sets once and save what was said, block by block: a killed evaluation goes on with the first block it lacks."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import pyarrow.parquet

from poise.data.records import Text
from poise.evaluation.benchmark import Item
from poise.evaluation.items import flat_texts, item_json, text_json
from poise.evaluation.predictions import FILE, Predictions, Scored, merge, read, rows_of
from poise.evaluation.sets import EvaluationSet, kind_of
from poise.output import check_writable, replacing, sole
from poise.utility import parse_utility

BLOCK_RESPONSES = 2048
PARTS = "parts"
Progress = Callable[[int, int], None]
"""Called with (responses done, responses in all)."""


class Scoring(Protocol):
    """What the harness needs of a scorer: ``facts`` on which its numbers depend, and ``score``."""

    facts: Mapping[str, Any]

    def score(self, texts: Sequence[tuple[Text, Text]]) -> Scored:
        """What is believed about every response, in order."""


def score_sets(
    scorer: Scoring,
    sets: Sequence[EvaluationSet],
    folder: Path,
    progress: Progress | None = None,
    *,
    utility: str = "mean",
) -> Predictions:
    """Predictions for all sets, in ``folder``/predictions.parquet; memory holds the beliefs of one block.

    A block that is there already, of the same scorer and the same texts, is not scored again. ``utility`` makes the scalar
    that benchmarks see (``poise.utility``); it is written down here and can be chosen anew when measuring.
    """
    facts = {**scorer.facts, "utility": parse_utility(utility).spec}
    parts = folder / PARTS
    check_writable(folder)
    total = sum(len(item.responses) for one in sets for item in one.items)
    done, written = 0, []
    with sole(parts):
        for one in sets:
            keep = compares_subsets(one)
            for block in blocks(one.items):
                path = parts / f"{_digest(scorer.facts, one.facts.name, block)}.parquet"
                if not path.exists():
                    scored = scorer.score(flat_texts(block))
                    table = rows_of(one.facts.name, block, scored if keep else replace(scored, states=None))
                    with replacing(path) as temporary:
                        pyarrow.parquet.write_table(table, temporary, compression="zstd")
                written.append(path)
                done += sum(len(item.responses) for item in block)
                if progress is not None:
                    progress(done, total)
        merge(written, folder / FILE, facts, [one.facts for one in sets])
        shutil.rmtree(parts)
    return read(folder / FILE)


def compares_subsets(one: EvaluationSet) -> bool:
    """Whether the states behind the scores are worth keeping: several subsets of responses."""
    return kind_of(one.facts.name) == "responses" and len({item.meta["subset"] for item in one.items}) > 1


def blocks(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Whole items, about ``BLOCK_RESPONSES`` responses at a time."""
    block: list[Item] = []
    responses = 0
    for item in items:
        block.append(item)
        responses += len(item.responses)
        if responses >= BLOCK_RESPONSES:
            yield block
            block, responses = [], 0
    if block:
        yield block


def _digest(facts: Mapping[str, Any], name: str, block: Sequence[Item]) -> str:
    digest = hashlib.blake2b(json.dumps([dict(facts), name], sort_keys=True, default=str).encode(), digest_size=16)
    for item in block:
        for part in (item.id, item_json(item), *map(text_json, item.responses)):
            digest.update(part.encode("utf8", "surrogatepass") + b"\0")
    return digest.hexdigest()
