"""Which method should I take? Every method on what a user may have: pairs, votes, ratings, noise, little data.

Usage: python -m experiments.which_method [--seeds 5] [--smoke] [--out docs/results/which_method]
Simulated worlds read by MiniLM, one per seed and situation, because only there the truth is known: accuracy against the side
that most people would take, the KL divergence (nat) of P(win) from the true share, calibration error, for methods that predict
ratings W1 to what raters say (steps of the scale 1 … 5), and seconds of training. Writes <out>.json and <out>.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import torch

from experiments.claims.bed import fit, judge
from experiments.claims.worlds import ReadWorld, read_world, true_p
from poise.data.simulate import WorldConfig
from poise.distributions import Categorical
from poise.methods import Method
from poise.rated import RatedFeatures
from poise.report.tables import markdown_table
from poise.training.heads import HeadData

ANCHOR = {"rating_weight": 1.0, "attribute": "overall"}
METHODS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "bt": ("bt", {"initial": "zero"}),
    "bt + bsr": ("bt", {"initial": "zero", "regulariser": "bsr"}),
    "drpo": ("drpo", {}),
    "drpo_exact brier": ("drpo_exact", {"score": "brier"}),
    "likelihood": ("likelihood", {}),
    "oprm half": ("oprm", {"ties": "half"}),
    "vrm": ("vrm", {}),
    "ensemble of bt": ("ensemble", {"members": 5}),
}
WITH_RATINGS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "likelihood + ratings": ("likelihood", ANCHOR),
    "oprm half + ratings": ("oprm", ANCHOR | {"ties": "half", "levels": 9, "region": "none"}),
    "qrm": ("qrm", {}),
    "qrm mixture": ("qrm", {"aggregate": "mixture"}),
    "attributes gaussian": ("attributes", {"loss": "gaussian"}),
}


@dataclass(frozen=True)
class Situation:
    """What somebody has: pairs of a kind, and whether ratings of the attributes or of the whole."""

    name: str
    pairs: int
    world: Mapping[str, Any]
    ratings: bool = False


SITUATIONS = (
    Situation("pairs, one label each", 3000, {"raters": 1, "flip_rate": 0.0}),
    Situation("pairs with five votes", 3000, {"raters": 5, "flip_rate": 0.0}),
    Situation("noisy labels: 30 % turned round", 3000, {"raters": 1, "flip_rate": 0.3}),
    Situation("little data: 300 pairs", 300, {"raters": 1, "flip_rate": 0.0}),
    Situation("pairs and ratings of several attributes", 3000, {"raters": 1, "flip_rate": 0.0}, ratings=True),
)
SHOWN = ("accuracy", "kl_to_truth", "ece", "w1_to_raters", "seconds")


def figures(method: Method[Any, Any], one: ReadWorld, seconds: float) -> dict[str, float]:
    """What a trained method says about held-out pairs and rated responses, against the truth."""
    held = one.splits["in_domain"]
    said, truth = judge(method, held).p.clamp(1e-9, 1 - 1e-9), true_p(held).clamp(1e-9, 1 - 1e-9)
    right = ((said > 0.5) == (truth > 0.5)).double()
    divergence = truth * (truth / said).log() + (1 - truth) * ((1 - truth) / (1 - said)).log()
    found = {
        "accuracy": float(right.mean()),
        "kl_to_truth": float(divergence.mean()),
        "ece": judge(method, held).ece,
        "seconds": seconds,
    }
    rated = one.held_ratings
    beliefs = method.of_attributes(method(rated.features))
    if "overall" in beliefs:
        found["w1_to_raters"] = float(
            beliefs["overall"].affine(4.0, 1.0).to(torch.float64).wasserstein(raters(rated)).mean()
        )
    return found


def raters(rated: RatedFeatures) -> Categorical:
    """What people would say about each response as a whole, on 1 … 5."""
    masses = torch.tensor([r.meta["true_distribution"]["overall"] for r in rated.records], dtype=torch.float64)  # type: ignore[index]
    return Categorical(torch.arange(1.0, 6.0, dtype=torch.float64), masses.clamp(min=1e-12).log())


def measure(situation: Situation, seeds: int, smoke: bool) -> dict[str, list[dict[str, float]]]:
    """Every method that can learn in a situation, on every seed's world."""
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(seeds):
        pairs = min(situation.pairs, 200) if smoke else situation.pairs
        one = read_world(
            WorldConfig(seed=seed, train_pairs=pairs, eval_pairs=100 if smoke else 1000, **situation.world)
        )
        for name, (method, options) in (METHODS | (WITH_RATINGS if situation.ratings else {})).items():
            data = HeadData(one.train, rated=one.rated if name in WITH_RATINGS else None)
            started = time.perf_counter()
            with torch.inference_mode(False):
                trained = fit(method, data, seed, **options)
            with torch.inference_mode():
                found.setdefault(name, []).append(figures(trained, one, time.perf_counter() - started))
    return found


def cell(runs: Sequence[Mapping[str, float]], key: str) -> str:
    """Mean and half of the 95 % t-interval over the worlds."""
    values = np.array([run[key] for run in runs if key in run])
    if not len(values):
        return "—"
    if key == "seconds":
        return f"{values.mean():.1f}"
    half = (
        scipy.stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
        if len(values) > 1
        else np.nan
    )
    return f"{values.mean():.3f} ± {half:.3f}"


def recommended(found: Mapping[str, Sequence[Mapping[str, float]]], key: str = "kl_to_truth") -> tuple[str, list[str]]:
    """The method with the least mean of ``key``, and those whose paired difference from it may be nothing (95 %)."""
    mean = {name: float(np.mean([run[key] for run in runs])) for name, runs in found.items() if key in runs[0]}
    best = min(mean, key=mean.__getitem__)
    level = []
    for name in mean:
        difference = [a[key] - b[key] for a, b in zip(found[name], found[best], strict=True)]
        if name != best and (len(difference) < 2 or scipy.stats.ttest_1samp(difference, 0.0).pvalue > 0.05):
            level.append(name)
    return best, level


def section(situation: Situation, found: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """One situation: the table, and the recommendation that its figures support."""
    rows = [[name, *(cell(runs, key) for key in SHOWN)] for name, runs in found.items()]
    best, level = recommended(found)
    advice = (
        f"Nearest to the truth: **{best}**"
        + (f"; not distinguishable from it: {', '.join(level)}" if level else "")
        + "."
    )
    if any("w1_to_raters" in runs[0] for runs in found.values()):
        closest, others = recommended(found, "w1_to_raters")
        advice += f" Nearest to what raters say: **{closest}**" + (
            f" (level with {', '.join(others)})." if others else "."
        )
    return f"## {situation.name}\n\n{markdown_table(['', *SHOWN], rows)}\n{advice}\n\n"


INTRO = """# Which method should I take?

Made by `python -m experiments.which_method --seeds {seeds}`; result file `which_method.json`. Simulated worlds read by a frozen
MiniLM, one per seed: mean ± half of the 95 % t-interval over worlds. `accuracy`: against the side that most people would take;
`kl_to_truth`: mean KL divergence (nat) of the predicted P(win) from the true share; `ece`: calibration error against single labels; `w1_to_raters`:
Wasserstein distance to the true distribution of ratings, in steps of the scale 1 … 5; `seconds` of training on one core, from
features. A method is *not distinguishable* where the paired difference may be nothing (t-test, 95 %).

"""


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("docs/results/which_method"))
    options = parser.parse_args()
    record, sections = {}, []
    for situation in SITUATIONS:
        record[situation.name] = found = measure(situation, options.seeds, options.smoke)
        sections.append(section(situation, found))
        print(sections[-1], flush=True)
    options.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf8")
    options.out.with_suffix(".md").write_text(INTRO.format(seeds=options.seeds) + "".join(sections), encoding="utf8")


if __name__ == "__main__":
    main()
