"""PPE correctness: 32 answers a prompt with verified labels, five sets (Frick et al. 2024, arXiv 2410.14872).

The columns are those of the hub's data cards and of programs that read them: ``sampled_conflict_pairs`` are numbers from 0 of
answers whose labels differ, some given twice. The authors' scoring code has not been seen: that equal scores are wrong, that a
best-of-k curve is the exact mean over draws, its distance from the best possible curve as a mean over k, and one AUROC over all
answers of a set are ours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import comb
from pathlib import Path

import numpy as np

from poise.data.named.columns import Row, need, number
from poise.data.rows import RowError
from poise.errors import DataError
from poise.evaluation.benchmark import Benchmark, Item
from poise.evaluation.benchmarks.layout import answers, listed, places, read_items, said
from poise.evaluation.benchmarks.shares import average, with_overall
from poise.evaluation.metrics.discrimination import auroc
from poise.evaluation.metrics.rows import FloatArray, ratio

SETS = ("MMLU-Pro", "MATH", "GPQA", "MBPP-Plus", "IFEval")
NAMES = {name: re.compile(re.escape(name).replace(r"\-", "[-_ ]?"), re.IGNORECASE) for name in SETS}
PROMPTS = 2_555


class PPECorrectness(Benchmark):
    """Accuracy over the given conflict pairs, a pair given twice counting twice; overall is the mean over the five sets.

    Best-of-k from the answers of one prompt: its ``maximum`` over k, its ``end`` at k = all, its ``distance`` below choosing
    by the labels themselves; and the AUROC of the score for being right.
    """

    name = "ppe_correctness"
    title = "PPE correctness"
    reference = "https://huggingface.co/lmarena-ai (PPE-…-Best-of-K)"
    hub = tuple(f"lmarena-ai/PPE-{name}-Best-of-K:train" for name in SETS)
    layout = (
        f"a Parquet or JSONL copy of every set, {', '.join(SETS)} in its file's or folder's name, with columns "
        "question_id, prompt, response_1 to response_32, scores, sampled_conflict_pairs"
    )

    def load(self, source: str | Path | None) -> Sequence[Item]:  # noqa: D102
        names = ("*.parquet", "*.jsonl", "*.jsonl.gz")
        items = read_items(places(self, source, *names, *(f"**/{name}" for name in names)), _item)
        for name in SETS:
            counts = {len(item.responses) for item in items if item.meta["subset"] == name}
            if len(counts) > 1:
                raise DataError(
                    f"{name}: prompts have {sorted(counts)} answers; best-of-k needs the same number for each"
                )
        return items

    def score(self, items: Sequence[Item], scores: Sequence[FloatArray], weights: FloatArray) -> dict[str, FloatArray]:  # noqa: D102
        found = {}
        for name in SETS:
            rows = [i for i, item in enumerate(items) if item.meta["subset"] == name]
            if rows:
                found[name] = _figures([items[i] for i in rows], np.stack([scores[i] for i in rows]), weights[:, rows])
        kinds = list(next(iter(found.values())))
        figures = with_overall({name: figures["accuracy"] for name, figures in found.items()}, SETS)
        for kind in kinds[1:]:
            figures[kind] = average(figures[kind] for figures in found.values())
            figures |= {f"{name}, {kind}": one[kind] for name, one in found.items()}
        return figures

    def notes(self, items: Sequence[Item]) -> list[str]:  # noqa: D102
        missing = [f"{name} is missing" for name in SETS if name not in {item.meta["subset"] for item in items}]
        return missing + ([f"{len(items):,} of {PROMPTS:,} prompts"] if len(items) != PROMPTS else [])


def _figures(items: Sequence[Item], scores: FloatArray, weights: FloatArray) -> dict[str, FloatArray]:
    gold = np.array([item.meta["correct"] for item in items], dtype=np.float64)
    won = [sum(one[a] > one[b] for a, b in item.better) for item, one in zip(items, scores, strict=True)]
    pairs = [len(item.better) for item in items]
    drawn = weights.sum(axis=-1, keepdims=True)
    ranked = np.where(np.isnan(scores), -np.inf, scores)  # NaN is the lowest here too
    curve, highest = (ratio(weights @ best_of_each(proxy, gold), drawn) for proxy in (scores, gold))
    return {
        "accuracy": ratio(weights @ np.array(won, dtype=np.float64), weights @ np.array(pairs, dtype=np.float64)),
        "maximum": curve.max(axis=-1),
        "end": curve[:, -1],
        "distance": (highest - curve).mean(axis=-1),
        "AUROC": auroc(ranked.ravel(), gold.ravel(), weights=np.repeat(weights, gold.shape[1], axis=1)),
    }


def best_of_each(proxy: FloatArray, gold: FloatArray) -> FloatArray:
    """Expected gold of the highest ``proxy`` among k answers drawn without replacement, k = 1 … N: [n, N] to [n, N].

    Rank i of N is the best of k with probability C(i−1, k−1)/C(N, k); equal proxies share their gold. NaN is the lowest.
    """
    n = proxy.shape[1]
    proxy = np.where(np.isnan(proxy), -np.inf, proxy)
    equal = (proxy[:, :, None] == proxy[:, None, :]).astype(np.float64)
    shared = (equal @ gold[:, :, None])[:, :, 0] / equal.sum(axis=-1)
    ranked = np.take_along_axis(shared, np.argsort(proxy, axis=1), axis=1)
    chance = np.array([[comb(i, k - 1) / comb(n, k) for k in range(1, n + 1)] for i in range(n)])
    return np.asarray(ranked @ chance)


def _item(row: Row, source: str) -> Item:
    prompt, subset = said(row, "prompt"), _set_of(source)
    labels = [number(int(one) if isinstance(one, bool) else one, "scores", 0, 1) for one in listed(row, "scores", 2)]
    given = [need(row, f"response_{i}") for i in range(1, len(labels) + 1)]
    better = []
    for pair in listed(row, "sampled_conflict_pairs", 0):
        whole = isinstance(pair, (list, tuple)) and len(pair) == 2
        if not whole or not all(isinstance(i, int) and 0 <= i < len(labels) for i in pair):
            raise RowError(f"'sampled_conflict_pairs' holds {pair!r}", f"two numbers from 0 to {len(labels) - 1} each")
        a, b = pair
        if labels[a] != labels[b]:
            better.append((a, b) if labels[a] > labels[b] else (b, a))
    name = "/".join(str(part) for part in (subset, need(row, "question_id"), row.get("model_name")) if part is not None)
    return Item(
        name, prompt, answers(prompt, *given, name="response"), tuple(better), {"subset": subset, "correct": labels}
    )


def _set_of(source: str) -> str:
    for part in reversed(Path(source).parts):
        if found := [name for name, spelling in NAMES.items() if spelling.search(part)]:
            return found[0]
    raise DataError(f"{source}: no part of the name says which set this is; put one of {', '.join(SETS)} in it")
