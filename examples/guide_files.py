"""The files that the guides speak of, small enough for a laptop: then every command of a guide runs as it is written.

python examples/guide_files.py guide && cd guide

Data of the simulated world under the guides' names, the shipped recipes, and four models on a frozen encoder in runs/.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import poise
from poise.data.simulate import WorldConfig, simulate
from poise.data.simulate.storage import preference_row, rating_row

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
PAIRS = {
    "train": ["preferences"],
    "in_domain": ["dev", "held_out", "fresh"],
    "prompt_disjoint": ["pairs", "other", "today", "hard"],
    "mutual_disjoint": ["elsewhere", "representative", "refusals", "harms"],
}
RATED = {"train": ["ratings"], "in_domain": ["rated", "raters"]}
SEVERAL = {"train": ["samples"], "prompt_disjoint": ["answers", "candidates", "rows"]}
SIX_ANSWERS = {"responses_per_prompt": 6, "pairs_per_prompt": 3, "ratings_per_response": 3, "multi_turn_share": 0.0}
METHODS = ("bt", "drpo", "qrm", "vrm")


def data() -> None:
    """Preference pairs, rated responses, and several responses per prompt, into the current folder."""
    world = simulate(WorldConfig(train_pairs=90, eval_pairs=60, **SIX_ANSWERS))
    for split, names in PAIRS.items():
        save(names, map(preference_row, world.preferences[split]))
    for split, names in RATED.items():
        save(names, map(rating_row, world.ratings[split]))
    for split, names in SEVERAL.items():
        rated = sorted(world.ratings[split], key=lambda one: str(one.prompt))
        save(names, (together(list(group)) for _, group in groupby(rated, key=lambda one: one.prompt)))
    shutil.copytree(RECIPES, "recipes", dirs_exist_ok=True)


def together(rated: list[poise.Rating]) -> dict[str, object]:
    """One row for all responses to a prompt, with the model behind each and what it is worth in truth."""
    rows = [rating_row(one) for one in rated]
    return {
        "prompt": rows[0]["prompt"],
        "responses": [row["response"] for row in rows],
        "models": [one.meta["model"] for one in rated],
        "gold": [one.meta["true_utility"] for one in rated],
    }


def save(names: Iterable[str], rows: Iterable[dict[str, object]]) -> None:
    """The same rows under several names: the guides tell different stories."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    for name in names:
        Path(f"{name}.jsonl").write_text(text, encoding="utf8")


def models(backbone: str = "minilm") -> None:
    """One run per method; the first token is read (``cls``), which plain classifiers can do too, so all can be exported."""
    for method in METHODS:
        given = {"train": "preferences.jsonl"} | ({"ratings": "ratings.jsonl"} if method == "qrm" else {})
        reader = {"name": backbone, "pooling": "cls"}
        poise.train({"name": method, "data": given, "backbone": reader, "method": method}, out=f"runs/{method}")


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "guide")
    folder.mkdir(parents=True)
    os.chdir(folder)
    data()
    models()
    print(f"made {len(list(Path().glob('*.jsonl')))} files and {len(METHODS)} runs in {folder}")
