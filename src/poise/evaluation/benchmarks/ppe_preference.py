"""PPE human preference: 16,038 battles of Chatbot Arena, ties left out (Frick et al. 2024, arXiv 2410.14872).

The columns are those of the hub's data card; accuracy without ties is the paper's. The authors' scoring code has not been
seen: that equal scores are wrong is ours, and so is how the measures over rankings of models are made (``metrics/ranking.py``):
from the win rates of all battles, ties half. They are there where the rows name the models, ``model_a`` and ``model_b``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from poise.data.named.columns import Row, choice, need
from poise.evaluation.benchmark import Benchmark, Item
from poise.evaluation.benchmarks.layout import answers, places, plain, read_items, said
from poise.evaluation.metrics.ranking import Battles, model_ranking
from poise.evaluation.metrics.rows import FloatArray, mean

WINNERS = ("model_a", "model_b")  # else a tie: "tie", "tie (bothbad)"
FLAGS = ("hard_prompt", "easy_prompt", "if_prompt", "is_code", "math_prompt")
SIZES = {"battles": 16_038}
LANGUAGES = ("English", "Chinese", "Russian")


class PPEPreference(Benchmark):
    """Share of decided battles whose winner has the higher score; the same by kind of prompt and by language; model rankings."""

    name = "ppe_preference"
    title = "PPE human preference"
    reference = "https://huggingface.co/datasets/lmarena-ai/PPE-Human-Preference-V1"
    hub = ("lmarena-ai/PPE-Human-Preference-V1:test",)
    layout = "the split test as Parquet or JSON lines, with columns question_id, prompt, response_1, response_2, winner"
    sizes = SIZES

    def load(self, source: str | Path | None) -> Sequence[Item]:  # noqa: D102
        return read_items(places(self, source, "*.parquet", "data/*.parquet", "*.jsonl", "*.jsonl.gz"), _item)

    def score(self, items: Sequence[Item], scores: Sequence[FloatArray], weights: FloatArray) -> dict[str, FloatArray]:  # noqa: D102
        decided = [i for i, item in enumerate(items) if item.better]
        credit = np.array([float(scores[i][a] > scores[i][b]) for i in decided for a, b in items[i].better])
        kinds = [items[i].meta["kinds"] for i in decided]
        counted = weights[:, decided]
        figures = {"accuracy": mean(credit, counted)}
        for kind in (*FLAGS, *LANGUAGES):
            among = np.array([kind in given for given in kinds], dtype=bool)
            if among.any():
                figures[kind] = mean(credit[among], counted[:, among])
        return figures | _ranking(items, scores, weights)


def _ranking(items: Sequence[Item], scores: Sequence[FloatArray], weights: FloatArray) -> dict[str, FloatArray]:
    """How the models behind the responses are ranked, against people's ranking."""
    rows = [i for i, item in enumerate(items) if item.meta.get("models")]
    names = list(dict.fromkeys(name for i in rows for name in items[i].meta["models"]))
    if not rows:
        return {}
    first, second = (np.array([names.index(items[i].meta["models"][side]) for i in rows]) for side in (0, 1))
    people = np.array([1.0 - items[i].better[0][0] if items[i].better else 0.5 for i in rows])
    scorer = np.array([(np.sign(scores[i][0] - scores[i][1]) + 1.0) / 2.0 for i in rows])
    found = model_ranking(Battles(first, second, len(names)), scorer, people, weights=weights[:, rows])
    return {f"models, {name}": value for name, value in found.items()}


def _item(row: Row, source: str) -> Item:
    prompt, tie = said(row, "prompt"), plain(row, "winner").startswith("tie")
    winner = 0 if tie else choice(row, "winner", WINNERS)
    responses = answers(prompt, need(row, "response_1"), need(row, "response_2"), name="response_1, response_2")
    kinds = [flag for flag in FLAGS if row.get(flag)] + [name for name in LANGUAGES if row.get("language") == name]
    better = () if tie else ((winner, 1 - winner),)
    meta: dict[str, Any] = {"subset": "battles", "kinds": kinds}
    if row.get("model_a") and row.get("model_b"):
        meta["models"] = [str(row["model_a"]), str(row["model_b"])]
    return Item(str(need(row, "question_id")), prompt, responses, better, meta)
