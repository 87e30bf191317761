"""Responses with gold scores: does a reward order them as gold does, on new prompts and on the responses of new models too.

A file has one row per prompt (``prompt``, ``responses``, and where known ``models`` and ``gold``, one entry per response) or per
response (``prompt``, ``response``, ``model``, ``gold``), or UltraFeedback's ``completions``. Of a folder every file but ``train…``
is a subset named by its stem: the splits that ``poise data splits`` wrote.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from poise.data import rows
from poise.data.load import SHOWN, BadRow, OnBad, bad_rows_error
from poise.data.records import Text
from poise.data.sources import read_rows
from poise.data.splits import prompt_key
from poise.errors import DataError
from poise.evaluation.benchmark import Item
from poise.evaluation.metrics.rows import FloatArray, mean, ratio
from poise.evaluation.metrics.within_prompt import kendall
from poise.evaluation.robustness import IN_DOMAIN, Candidate

PAIRED_UP_TO = 8
FILES = ("*.jsonl", "*.jsonl.gz", "*.json", "*.parquet", "*.csv")


class GoldOrder:
    """Mean Kendall τ-b of the scores with gold over prompts; with subsets, of each, and ``gap`` = a subset less ``in_domain``.

    Constant scores order nothing and count as τ = 0; prompts with constant gold have no part.
    """

    def score(self, items: Sequence[Item], scores: Sequence[FloatArray], weights: FloatArray) -> dict[str, FloatArray]:
        """The figures, each [R], the headline first; ``weights`` [R, n] say how often each item counts."""
        tau = np.array([kendall(one, item.meta["gold"]) for item, one in zip(items, scores, strict=True)])
        defined = np.isfinite(tau)
        values, counted = np.where(defined, tau, 0.0), weights * defined
        found = {"kendall_tau": mean(values, counted)}
        subsets = list(dict.fromkeys(item.meta["subset"] for item in items))
        if len(subsets) < 2:
            return found
        inside = {name: np.array([item.meta["subset"] == name for item in items]) for name in subsets}
        found |= {f"tau {name}": mean(values, counted * inside[name]) for name in subsets}
        if IN_DOMAIN in subsets:
            others = [name for name in subsets if name != IN_DOMAIN]
            found |= {f"gap {name}": found[f"tau {name}"] - found[f"tau {IN_DOMAIN}"] for name in others}
        return found

    def groups(self, items: Sequence[Item]) -> Sequence[Hashable]:
        """A prompt counts in all of its subsets together."""
        return [prompt_key(item.prompt) for item in items]


GOLD_ORDER = GoldOrder()


def gold_of(item: Item) -> FloatArray | None:
    """What each response is worth: its gold score, its label, or the share of its pairs that it should win; None where
    nothing is said about one of them."""
    for name in ("gold", "correct"):
        if name in item.meta:
            given = np.asarray(item.meta[name], dtype=np.float64)
            return given if np.isfinite(given).all() else None
    won, met = np.zeros(len(item.responses)), np.zeros(len(item.responses))
    for better, worse in item.better:
        won[better] += 1
        met[[better, worse]] += 1
    return ratio(won, met) if met.all() else None


def with_gold(items: Sequence[Item], gold: FloatArray) -> tuple[Item, ...]:
    """Items with the gold scores [B] of their responses, and the pairs that these order where responses are few."""
    found, start = [], 0
    for item in items:
        scores = gold[start : start + len(item.responses)].tolist()
        start += len(scores)
        found.append(replace(item, better=_ordered(scores), meta={**item.meta, "gold": scores}))
    return tuple(found)


def load_responses(place: str, on_bad: OnBad = "error") -> tuple[tuple[Item, ...], tuple[BadRow, ...]]:
    """One item per prompt and subset with at least two responses; gold is NaN where the data has none."""
    items: list[Item] = []
    bad: list[BadRow] = []
    for source, subset in _sources(place):
        candidates, some = load_candidates(source, on_bad)
        bad += some
        groups: dict[Text, list[Candidate]] = {}
        for one in candidates:
            groups.setdefault(one.prompt, []).append(one)
        items += [
            _item(f"{subset} {number}", subset, group) for number, group in enumerate(groups.values()) if len(group) > 1
        ]
    if not items:
        raise DataError(f"{place}: no prompt has two responses; give rows of prompt and responses")
    return tuple(items), tuple(bad)


def candidates_of(items: Sequence[Item]) -> list[Candidate]:
    """Every response of ``load_responses``' items with its model and gold score."""
    return [
        Candidate(item.prompt, response, model, gold)
        for item in items
        for response, model, gold in zip(item.responses, item.meta["models"], item.meta["gold"], strict=True)
    ]


def load_candidates(source: str, on_bad: OnBad = "error") -> tuple[list[Candidate], list[BadRow]]:
    """Every response of a file with its model ('' where unknown) and gold score (NaN where unknown)."""
    found: list[Candidate] = []
    bad: list[BadRow] = []
    for number, row in read_rows(source):
        try:
            found += _candidates(row)
        except rows.RowError as error:
            bad.append(BadRow(source, number, error.problem, error.remedy))
    if bad and (on_bad == "error" or not found):
        raise bad_rows_error(bad[:SHOWN])
    return found, bad


def _sources(place: str) -> list[tuple[str, str]]:
    path = Path(place).expanduser()
    if not path.is_dir() or (path / "dataset_info.json").exists():
        return [(place, "all")]
    files = sorted(one for pattern in FILES for one in path.glob(pattern) if not one.name.startswith("train"))
    if not files:
        raise DataError(f"{place}: holds no file of responses; give the folder that poise data splits wrote, or a file")
    named = {one.name.partition(".")[0]: str(one) for one in files}
    return [(named[name], name) for name in sorted(named, key=lambda name: (name != IN_DOMAIN, name))]


def _item(name: str, subset: str, group: Sequence[Candidate]) -> Item:
    gold = [one.gold for one in group]
    meta = {"subset": subset, "gold": gold, "models": [one.model for one in group]}
    known = bool(np.isfinite(gold).all())
    return Item(name, group[0].prompt, tuple(one.response for one in group), _ordered(gold) if known else (), meta)


def _ordered(gold: Sequence[float]) -> tuple[tuple[int, int], ...]:
    if len(gold) > PAIRED_UP_TO:
        return ()
    pairs = combinations(range(len(gold)), 2)
    return tuple((i, j) if gold[i] > gold[j] else (j, i) for i, j in pairs if gold[i] != gold[j])


def _candidates(row: Mapping[str, Any]) -> list[Candidate]:
    prompt = rows.text(row.get("prompt", row.get("instruction")), "prompt")
    responses: list[Any]
    if isinstance(row.get("completions"), list):
        given = [one for one in row["completions"] if isinstance(one, Mapping)]
        responses, models, gold = ([one.get(name) for one in given] for name in ("response", "model", "gold"))
    elif isinstance(row.get("responses"), list):
        responses = row["responses"]
        models, gold = (_column(row, name, len(responses)) for name in ("models", "gold"))
    else:
        responses, models, gold = ([row.get(name)] for name in ("response", "model", "gold"))
    read = [rows.aligned(prompt, rows.text(one, f"responses[{i}]")) for i, one in enumerate(responses)]
    return [
        Candidate(asked, said, "" if model is None else str(model), _number(score))
        for (asked, said), model, score in zip(read, models, gold, strict=True)
    ]


def _column(row: Mapping[str, Any], name: str, count: int) -> list[Any]:
    given = row.get(name)
    if given is None:
        return [None] * count
    if not isinstance(given, list) or len(given) != count:
        raise rows.RowError(f"{name!r} does not have {count} entries", "give one per response, or leave the column out")
    return given


def _number(value: Any) -> float:
    if value is None:
        return float("nan")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise rows.RowError(f"a gold score is {value!r}", "give one number per response")
    return float(value)
