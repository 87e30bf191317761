"""Ratings and preferences from several annotators: one row each in the annotators' own tables, and a belief about what they say.

python examples/annotators.py
"""

from __future__ import annotations

import json
import random
from collections import defaultdict

import torch

import poise

QUESTIONS = [f"How long do I cook {thing}?" for thing in ("an egg", "rice", "a beet", "pasta", "lentils", "corn")]
ANSWERS = {"Eight minutes, lid on, low heat.": 4.2, "It depends.": 2.0, "Who cares!": 1.3, "Until it smells done.": 3.1}
STRICTNESS = {"ada": 0.0, "ben": -0.8, "cleo": 0.6}  # what an annotator adds to everything
NOISE = 0.5


def table(prompts: int = 20, seed: int = 0) -> list[dict[str, object]]:
    """The usual export of a labelling tool: annotator, prompt, response, rating from 1 to 5; nobody rates everything."""
    drawn = random.Random(seed)
    rows: list[dict[str, object]] = []
    for number in range(prompts):
        prompt = f"{drawn.choice(QUESTIONS)} (case {number})"
        for response, quality in ANSWERS.items():
            for annotator in drawn.sample(list(STRICTNESS), drawn.choice([2, 3])):
                rating = round(quality + STRICTNESS[annotator] + drawn.gauss(0, NOISE))
                rows.append({"annotator": annotator, "prompt": prompt, "response": response, "rating": rating})
    return [{**row, "rating": min(5, max(1, int(str(row["rating"]))))} for row in rows]


def ratings(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """One row per response with everybody's rating of it; lists may differ in length."""
    given: dict[tuple[object, object], list[dict[str, object]]] = defaultdict(list)
    for row in rows:
        given[row["prompt"], row["response"]].append(row)
    return [
        {
            "prompt": prompt,
            "response": response,
            "ratings": {"helpful": [row["rating"] for row in those]},
            "annotators": [row["annotator"] for row in those],
            "scale": [1, 5],
        }
        for (prompt, response), those in given.items()
    ]


def preferences(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """One row per annotator and pair that they rated differently: equal pairs become one with the share of its votes."""
    given: dict[tuple[object, object], list[dict[str, object]]] = defaultdict(list)
    for row in rows:
        given[row["annotator"], row["prompt"]].append(row)
    return [
        {"prompt": prompt, "chosen": a["response"], "rejected": b["response"], "annotator": annotator}
        for (annotator, prompt), those in given.items()
        for a in those
        for b in those
        if int(str(a["rating"])) > int(str(b["rating"]))
    ]


def main() -> poise.RewardModel:
    """Train on both files; compare what the model believes about a new response with how annotators differ."""
    rows = table()
    for name, made in (("ratings.jsonl", ratings(rows)), ("preferences.jsonl", preferences(rows))):
        with open(name, "w", encoding="utf8") as file:
            file.writelines(json.dumps(row) + "\n" for row in made)
    data = {"train": "preferences.jsonl", "ratings": "ratings.jsonl"}
    poise.train({"data": data, "backbone": "minilm", "method": "qrm"}, out="runs/annotators")
    model = poise.RewardModel.load("runs/annotators")
    said = model.predict_ratings("How long do I cook a potato?", list(ANSWERS))["helpful"]
    low, middle, high = (said.quantile(torch.tensor(level)) for level in (0.1, 0.5, 0.9))
    for i, (answer, quality) in enumerate(ANSWERS.items()):
        print(
            f"{answer:34} truth {quality:.1f}   believed {middle[i]:.1f}, 80 % of ratings in {low[i]:.1f} … {high[i]:.1f}"
        )
    return model


if __name__ == "__main__":
    main()
