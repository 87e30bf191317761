"""Whole files of responses → a Parquet file of rewards, block by block: memory and work at risk are those of one block.

The responses to one prompt (``groups_of``) are in one block and share a number in the column ``group``. Blocks are dealt to
the processes of a launcher in turn. Each is a file of its own until all are there; a killed job goes on with those it lacks.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch

from poise import processes
from poise.data.chat import SHORTEN, Encoded
from poise.data.load import BadRow, Candidate, bad_rows_error, iter_candidates
from poise.data.records import Text, as_messages
from poise.data.rows import aligned
from poise.errors import DataError
from poise.evaluation.belief_table import REWARD, belief_columns, belief_facts
from poise.feature_cache import FeatureCache
from poise.features import Features
from poise.model import RewardModel
from poise.output import check_file, replacing, sole
from poise.utility import Utility

BLOCK = 4096
GROUP = "group"
Progress = Callable[[int, int], None]
"""Called with (responses done, responses in all), by every process for its own share."""


@dataclass(frozen=True)
class Survey:
    """What a file holds: responses that can be scored, and what was left out."""

    responses: int
    bad: tuple[BadRow, ...]


def check_rows(source: str, on_bad: str = "error") -> None:
    """Read a file to its end, before a model is loaded for it; raises as ``survey`` does."""
    bad: list[BadRow] = []
    found = sum(1 for _ in iter_candidates(source, bad))
    _settle(f"{source}: no row holds a response to score", found, bad, on_bad)


def survey(model: RewardModel, source: str, on_bad: str = "error") -> Survey:
    """Read and encode everything once, scoring nothing, so that hours of work do not end at a broken row.

    Raises ``DataError`` for the first bad rows, unless ``on_bad`` is ``drop``; and where no response is left.
    """
    bad: list[BadRow] = []
    found = 0
    for block in _blocks(source, bad):
        texts, unfit = encoded_candidates(model, block, source)
        bad += unfit
        found += len(texts)
    bad.sort(key=lambda one: one.row)
    _settle(f"{source}: no response to score fits", found, bad, on_bad)
    return Survey(found, tuple(bad))


def score_file(
    model: RewardModel,
    source: str,
    out: Path,
    *,
    utilities: Sequence[Utility] = (),
    on_bad: str = "error",
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
) -> Survey:
    """Score every response of ``source`` into ``out``, whole or not at all, in the order of the file.

    Each of ``utilities`` is a column named like its ``spec``. Under a launcher every process calls this, inside
    ``processes.connection``.
    """
    check_file(out, source)
    check_utilities(model, utilities)
    known = processes.once(lambda: survey(model, source, on_bad))
    parts = out.with_name(f".{out.name}.parts")
    facts, done, written = repr((sorted(model.facts().items()), [utility.spec for utility in utilities])), 0, []
    with ExitStack() as claim:
        processes.once(lambda: claim.enter_context(sole(parts)))
        for number, block in enumerate(_blocks(source, [])):
            path = parts / f"{number:06d}-{_digest(facts, block)}.parquet"
            written.append(path)
            if number % processes.count() != processes.number():
                continue
            texts, _ = encoded_candidates(model, block, source)
            if texts and not path.exists():
                with replacing(path) as temporary:
                    pyarrow.parquet.write_table(_table(texts, _groups(block), model, utilities, cache), temporary)
            done += len(texts)
            if progress is not None:
                progress(done, known.responses // processes.count())
        processes.wait()
        processes.once(lambda: _join(written, out))
    return known


def check_utilities(model: RewardModel, utilities: Sequence[Utility]) -> None:
    """Refuse, before hours of scoring, what the rewards of this model cannot say; raises as the utility does."""
    if not utilities:
        return
    blank = torch.zeros(2, model.backbone.hidden_size)
    reward = model.predict_features(Features(blank, blank))
    for utility in utilities:
        utility(reward, torch.zeros(2, dtype=torch.long))


class BatchScorer:
    """Scores batches of columns ``prompt`` and ``response`` and adds those of the belief; one instance per worker.

    For frameworks that bring their own scheduler: ``dataset.map_batches(BatchScorer, fn_constructor_args=["runs/bt"],
    concurrency=8)`` in Ray Data.
    """

    def __init__(self, folder: str, device: str = "auto") -> None:
        self.model = RewardModel.load(folder, device=device)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Columns [n] in, the same and ``mean``, ``std``, quantiles and parameters out, as arrays."""
        prompts, responses = ([_plain(text) for text in batch[name]] for name in ("prompt", "response"))
        columns = belief_columns({REWARD: self.model.predict(prompts, responses)})
        return dict(batch) | {name: _array(column) for name, column in columns.items()}


def _settle(nothing: str, found: int, bad: Sequence[BadRow], on_bad: str) -> None:
    if bad and on_bad == "error":
        raise bad_rows_error(bad)
    if not found:
        first = f"; the first problem: {bad[0]}" if bad else "; check the split and the file"
        raise DataError(nothing + first)


def groups_of(candidates: Iterable[Candidate]) -> Iterator[list[Candidate]]:
    """What competes: the responses of one row, or of successive rows that have one response each to the same prompt."""

    def rival(row: list[Candidate]) -> object:
        return row[0].row if len(row) > 1 else (row[0].prompt,)

    rows = (list(row) for _, row in itertools.groupby(candidates, lambda one: one.row))
    for _, same in itertools.groupby(rows, rival):
        yield [one for row in same for one in row]


def _groups(block: Sequence[Candidate]) -> dict[tuple[int, str], int]:
    """The number of the group of each (row, part): that of its first row."""
    return {(one.row, one.part): group[0].row for group in groups_of(block) for one in group}


def _blocks(source: str, bad: list[BadRow]) -> Iterator[list[Candidate]]:
    """At least ``BLOCK`` candidates at a time, in whole groups."""
    block: list[Candidate] = []
    for group in groups_of(iter_candidates(source, bad)):
        block += group
        if len(block) >= BLOCK:
            yield block
            block = []
    if block:
        yield block


def encoded_candidates(
    model: RewardModel, candidates: Sequence[Candidate], source: str
) -> tuple[list[tuple[Candidate, Encoded]], list[BadRow]]:
    """(what can be scored, what does not fit): candidates with their token ids, as ``model`` reads them."""
    encoded = model.backbone.encode([_meant(c.prompt, c.response, model.conversational) for c in candidates])
    pairs = list(zip(candidates, encoded, strict=True))
    unfit = [
        BadRow(
            source, c.row, f"{c.part}: {e.problem}", "shorten it or remove the row" if e.remedy == SHORTEN else e.remedy
        )
        for c, e in pairs
        if e.problem
    ]
    return [(c, e) for c, e in pairs if not e.problem], unfit


def _table(
    texts: Sequence[tuple[Candidate, Encoded]],
    groups: Mapping[tuple[int, str], int],
    model: RewardModel,
    utilities: Sequence[Utility],
    cache: FeatureCache | None,
) -> pyarrow.Table:
    reward = model.predict_encoded([encoded for _, encoded in texts], cache=cache)
    group = torch.tensor([groups[c.row, c.part] for c, _ in texts])
    columns = {
        "row": pyarrow.array([c.row for c, _ in texts]),
        "part": pyarrow.array([c.part for c, _ in texts]),
        GROUP: pyarrow.array(group.numpy()),
        **{utility.spec: pyarrow.array(utility(reward, group).cpu().numpy()) for utility in utilities},
        **belief_columns({REWARD: reward}),
        "tokens": pyarrow.array([len(e.ids) for _, e in texts]),
        "cut_tokens": pyarrow.array([e.cut for _, e in texts]),
    }
    facts = {
        "poise.method": model.method.name,
        "poise.dtype": str(model.backbone.dtype),
        "poise.beliefs": belief_facts({REWARD: reward}),
    }
    return pyarrow.table(columns).replace_schema_metadata(facts)


def _join(parts: Sequence[Path], out: Path) -> None:
    """One file of all parts in order; a part of which nothing could be scored was not written."""
    there = [part for part in parts if part.exists()]
    schema = pyarrow.parquet.read_schema(there[0])
    with replacing(out) as temporary, pyarrow.parquet.ParquetWriter(temporary, schema) as writer:
        for part in there:
            writer.write_table(pyarrow.parquet.read_table(part).replace_schema_metadata(schema.metadata))
    shutil.rmtree(there[0].parent)


def _digest(facts: str, block: Sequence[Candidate]) -> str:
    """What a part depends on: the model and the texts."""
    digest = hashlib.blake2b(facts.encode(), digest_size=8)
    for one in block:
        digest.update(repr((one.row, one.part, one.prompt, one.response)).encode("utf8", "surrogatepass"))
    return digest.hexdigest()


def _meant(prompt: Text, response: Text, conversational: bool) -> tuple[Text, Text]:
    """Plain strings as the model was trained to read them."""
    if conversational and isinstance(prompt, str):
        return aligned(as_messages(prompt, "user"), response)
    return prompt, response


def _plain(text: Any) -> Any:
    """Texts as frameworks hand them over: arrays of messages instead of lists."""
    return list(text) if isinstance(text, np.ndarray) else text


def _array(column: pyarrow.Array) -> Any:
    if pyarrow.types.is_fixed_size_list(column.type):
        return np.stack(column.to_numpy(zero_copy_only=False))
    return column.to_numpy(zero_copy_only=False)
