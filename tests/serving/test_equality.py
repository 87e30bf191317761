"""Five hundred rows by every road from a text to a score: the same number."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pyarrow.parquet
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from poise.publication import export
from poise.scoring import score_file
from tests.serving.place import ROUTES, body, model, run, score_of

ROWS = 500
WORDS = [
    "the",
    "quick",
    "fox",
    "tell",
    "me",
    "about",
    "sea",
    "hello",
    "village",
    "eight",
    "minutes",
    "boiling",
    "water",
]


def texts() -> list[tuple[str, str]]:
    draw = np.random.default_rng(0)

    def words(most: int) -> str:
        return " ".join(draw.choice(WORDS, int(draw.integers(1, most))))

    prompts = [words(8) for _ in range(ROWS // 4)]
    return [(prompts[i // 4], words(9)) for i in range(ROWS)]


def test_predict_score_every_route_and_plain_transformers_agree(tmp_path):
    served, rows = model("bt"), texts()
    expected = served.predict([p for p, _ in rows], [r for _, r in rows]).mean
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"prompt": p, "response": r}) + "\n" for p, r in rows))
    score_file(served, str(tmp_path / "rows.jsonl"), tmp_path / "scores.parquet")
    roads = {"poise score": pyarrow.parquet.read_table(tmp_path / "scores.parquet")["mean"].to_pylist()}

    async def ask(place, path):
        answers = await asyncio.gather(*(place.post(path, body(path, p, r)) for p, r in rows))
        return [score_of(path, answer.json()) for answer in answers]

    for path in ROUTES:
        roads[path] = run(lambda place, path=path: ask(place, path), {"rm": served})

    export(served, tmp_path / "out")
    reader = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    rendered = [tokenizer.apply_chat_template(body("/classify", p, r)["messages"], tokenize=False) for p, r in rows]
    with torch.inference_mode():
        roads["plain transformers"] = [
            score
            for at in range(0, ROWS, 8)
            for score in reader(**tokenizer(rendered[at : at + 8], padding=True, return_tensors="pt"))
            .logits[:, 0]
            .tolist()
        ]
    assert len(set(expected.tolist())) > ROWS / 2
    gaps = {road: (torch.tensor(found) - expected).abs().max().item() for road, found in roads.items()}
    assert max(gaps.values()) < 1e-5, gaps
