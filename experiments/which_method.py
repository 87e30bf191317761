"""Which method should I take? Every method on what a user may have: pairs, votes, ratings, noise, little data.

Usage: python -m experiments.which_method [--seeds 5] [--smoke] [--runs runs/which_method] [--out docs/results/which_method]
Simulated worlds read by MiniLM, one per seed and situation, because only there the truth is known. Figures of every seed are kept
under --runs and not measured again. Writes <out>.json and <out>.md after every seed of a situation.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import torch

from experiments.claims.bed import fit, judge
from experiments.claims.claim import interval
from experiments.claims.worlds import ReadWorld, read_world, true_p
from poise.data.ratings import Ratings
from poise.data.simulate import WorldConfig
from poise.distributions import Categorical
from poise.evaluation import metrics
from poise.methods import Method
from poise.output import replacing
from poise.rated import RatedFeatures
from poise.report.tables import markdown_table
from poise.training.heads import HeadData

ANCHOR = {"rating_weight": 1.0, "attribute": "overall"}
Named = Mapping[str, tuple[str, Mapping[str, Any]]]
METHODS: Named = {
    "bt": ("bt", {"initial": "zero"}),
    "bt + bsr": ("bt", {"initial": "zero", "regulariser": "bsr"}),
    "drpo": ("drpo", {}),
    "drpo_exact brier": ("drpo_exact", {"score": "brier"}),
    "likelihood": ("likelihood", {}),
    "oprm half": ("oprm", {"ties": "half"}),
    "vrm": ("vrm", {}),
    "ensemble of bt": ("ensemble", {"members": 5}),
}
WITH_RATINGS: Named = {
    "likelihood + ratings": ("likelihood", ANCHOR),
    "oprm half + ratings": ("oprm", ANCHOR | {"ties": "half", "levels": 9, "region": "none"}),
    "attributes gaussian": ("attributes", {"loss": "gaussian"}),
    "qrm": ("qrm", {}),
}


@dataclass(frozen=True)
class Situation:
    """What somebody has: so many pairs of a kind, and perhaps ratings of the whole or of everything."""

    name: str
    title: str
    pairs: int
    world: Mapping[str, Any]
    ratings: tuple[str, ...] | None = ()  # none; None: of all attributes

    @property
    def methods(self) -> Named:
        """Those that can learn from it."""
        return METHODS if self.ratings == () else METHODS | WITH_RATINGS


FEWEST_WORLDS = 3
SAME = 1e-9  # two figures that differ by less are the same
CLEAN = {"raters": 1, "flip_rate": 0.0, "ratings_per_response": 1}
SITUATIONS = (
    Situation("pairs", "Pairs with one label each (3,000)", 3000, CLEAN),
    Situation("votes", "Pairs with five votes each (3,000)", 3000, CLEAN | {"raters": 5}),
    Situation("noise", "Noisy labels: 30 % of 3,000 pairs turned round", 3000, CLEAN | {"flip_rate": 0.3}),
    Situation("little", "Little data: 300 pairs", 300, CLEAN),
    Situation("ratings", "Pairs, and one rating of the whole for each response", 3000, CLEAN, ("overall",)),
    Situation("attributes", "Pairs, and one rating of every attribute for each response", 3000, CLEAN, None),
)
# figure → (what it is called, whether more is better)
FIGURES: Mapping[str, tuple[str, bool]] = {
    "accuracy": ("accuracy", True),
    "divergence": ("KL to the truth", False),
    "ece": ("ECE", False),
    "ratings": ("W1 of ratings", False),
    "seconds": ("CPU s", False),
}


def measure(situation: Situation, seed: int, smoke: bool) -> dict[str, dict[str, float]]:
    """Every method that can learn in a situation, on one world."""
    torch.set_num_threads(1)
    sizes = {
        "train_pairs": min(situation.pairs, 120) if smoke else situation.pairs,
        "eval_pairs": 60 if smoke else 1000,
    }
    one = read_world(WorldConfig(seed=seed, **sizes, **situation.world))
    rated = one.rated if situation.ratings is None else of_attributes(one.rated, situation.ratings)
    found = {}
    for name, (method, options) in situation.methods.items():
        data = HeadData(one.train, rated=rated if name in WITH_RATINGS else None)
        quick = {"solver": "steps"} if smoke and method == "qrm" else {}
        started = time.process_time()
        trained = fit(method, data, seed, **options, **quick)
        seconds = time.process_time() - started
        found[name] = figures(trained, one) | {"seconds": seconds}
        if (
            method == "qrm" and situation.ratings is None
        ):  # the same weights: the gate learns from means, which are equal
            pooled = copy.deepcopy(trained)
            pooled.config = replace(trained.config, aggregate="mixture")
            found["qrm mixture"] = figures(pooled, one) | {"seconds": seconds}
    return found


def of_attributes(rated: RatedFeatures, names: Sequence[str]) -> RatedFeatures:
    """The same responses with the ratings of some attributes alone."""
    scales = {name: rated.scales[name] for name in names}
    return replace(rated, ratings=Ratings.of([r.ratings for r in rated.records], scales), scales=scales)


@torch.inference_mode()
def figures(method: Method[Any, Any], one: ReadWorld) -> dict[str, float]:
    """What a trained method says about held-out pairs and rated responses, against the truth."""
    held = one.splits["in_domain"]
    said, truth = judge(method, held).p.clamp(1e-9, 1 - 1e-9), true_p(held).clamp(1e-9, 1 - 1e-9)
    divergence = truth * (truth / said).log() + (1 - truth) * ((1 - truth) / (1 - said)).log()
    right = 0.5 + 0.5 * torch.sign(said - 0.5) * torch.sign(truth - 0.5)
    found = {
        "accuracy": float(right.mean()),
        "divergence": float(divergence.mean()),
        "ece": float(metrics.expected_calibration_error(said.numpy(), truth.numpy())),
    }
    beliefs = method.of_attributes(method(one.held_ratings.features))
    if "overall" in beliefs:
        told = beliefs["overall"].affine(4.0, 1.0).to(torch.float64)
        found["ratings"] = float(told.wasserstein(raters(one.held_ratings)).mean())
    return found


def raters(rated: RatedFeatures) -> Categorical:
    """What people would say about each response as a whole, on 1 … 5."""
    masses = torch.tensor([r.meta["true_distribution"]["overall"] for r in rated.records], dtype=torch.float64)  # type: ignore[index]
    return Categorical(torch.arange(1.0, 6.0, dtype=torch.float64), masses.clamp(min=1e-12).log())


Runs = Mapping[str, Sequence[Mapping[str, float]]]  # by method, a seed each


def level(found: Runs, figure: str) -> tuple[str, list[str]]:
    """(the method with the best mean, all whose paired difference from it may be nothing at 95 %, itself among them)."""
    sign = 1 if FIGURES[figure][1] else -1
    values = {name: sign * np.array([run[figure] for run in runs]) for name, runs in found.items() if figure in runs[0]}
    best = max(values, key=lambda name: float(values[name].mean()))

    def may_be_best(name: str) -> bool:
        gap = values[best] - values[name]
        if np.ptp(gap) < SAME:  # the same difference in every world
            return bool(np.abs(gap).max() < SAME)
        return bool(scipy.stats.ttest_1samp(gap, 0.0).pvalue > 0.05)

    return best, [name for name in values if may_be_best(name)]


def advice(found: Runs) -> str:
    """The method that is level with the best in most respects, the cheaper of equals, with what it misses."""
    if min(map(len, found.values())) < FEWEST_WORLDS:
        return f"No advice: fewer than {FEWEST_WORLDS} worlds tell hardly a difference from chance."
    asked = [f for f in FIGURES if f != "seconds" and any(f in runs[0] for runs in found.values())]
    levels = {figure: level(found, figure) for figure in asked}
    cost = {name: float(np.mean([run["seconds"] for run in runs])) for name, runs in found.items()}
    kept = {name: [f for f in asked if name in levels[f][1]] for name in found}
    most = max(map(len, kept.values()))
    choice = min((name for name in found if len(kept[name]) == most), key=cost.__getitem__)
    rivals = [name for name in found if len(kept[name]) == most and name != choice]
    lines = [f"**Take `{choice}`** ({cost[choice]:.1f} s): level with the best in {listed(kept[choice])}."]
    for figure in asked:
        best, _ = levels[figure]
        if figure not in kept[choice]:
            lines.append(f"In {FIGURES[figure][0]} `{best}` is better.")
    if rivals:
        lines.append(f"As good in as many respects, but dearer: {', '.join(f'`{name}`' for name in rivals)}.")
    return " ".join(lines)


def listed(figures: Sequence[str]) -> str:
    """accuracy, KL and ECE."""
    names = [FIGURES[figure][0] for figure in figures]
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names) or "nothing"


def section(situation: Situation, found: Runs) -> str:
    """One situation: the table, best and level ones in bold, and the advice."""
    bold = {figure: level(found, figure)[1] for figure in FIGURES if any(figure in runs[0] for runs in found.values())}
    rows = []
    for name, runs in found.items():
        cells = [cell([run[figure] for run in runs if figure in run], figure, name in bold[figure]) for figure in bold]
        rows.append([f"`{name}`", *cells])
    table = markdown_table(["", *(FIGURES[figure][0] for figure in bold)], rows)
    return f"## {situation.title}\n\n{table}\n{advice(found)}\n\n"


def cell(values: Sequence[float], figure: str, best: bool) -> str:
    """Mean ± half of the 95 % t-interval."""
    if not values:
        return "—"
    mean, half = interval(values)
    if figure == "seconds":
        return f"{mean:.1f}"
    if np.isnan(half):
        return f"{mean:.3f}"
    text = f"{mean:.3f} ± {half:.3f}"
    return f"**{text}**" if best else text


def page(record: Mapping[str, Runs]) -> str:
    """The advice of all situations, then each."""
    known = [one for one in SITUATIONS if one.name in record]
    seeds = {len(runs) for found in record.values() for runs in found.values()}
    missing = [one.title for one in SITUATIONS if one not in known]
    summary = markdown_table(["you have", "so"], [[one.title, advice(record[one.name])] for one in known])
    told = " or ".join(map(str, sorted(seeds)))
    notes = [f"Not measured yet: {'; '.join(missing)}.\n"] if missing else []
    if min(seeds) < FEWEST_WORLDS:
        notes.append(f"**Preliminary: some situations were measured on fewer than {FEWEST_WORLDS} worlds.**\n")
    return (
        INTRO.format(seeds=told, summary=summary)
        + "\n".join(notes)
        + "\n" * bool(notes)
        + "".join(section(one, record[one.name]) for one in known)
    )


INTRO = """# Which method should I take?

Made by `python -m experiments.which_method`; every figure of every seed: `which_method.json`. Simulated worlds read by a frozen
MiniLM (worlds per situation: {seeds}): mean ± half of the 95 % t-interval over worlds, on 1,000 held-out pairs of the same domains.
All methods with their default stages. Only a simulated world knows the truth:

- *accuracy*: pairs ordered as most people would order them;
- *KL to the truth* (nat): of the predicted P(win) from the share of people who prefer the first, so both order and calibration;
- *ECE*: distance of predicted from true shares, averaged over 15 bins of confidence;
- *W1 of ratings*: distance of the predicted from the true distribution of overall ratings, in steps of the scale 1 … 5;
- *CPU s*: training on one core, from features.

**Bold**: the best, and all whose paired difference from it may be nothing (t-test over worlds, 95 %). The advice takes the method
that is bold in most columns, the cheaper of equals.

{summary}
"""


def measured(seeds: int, runs: Path, smoke: bool, known_only: bool = False) -> Iterator[dict[str, Runs]]:
    """All that is known, after every seed of a situation."""
    record: dict[str, dict[str, list[dict[str, float]]]] = {}
    for seed, situation in itertools.product(range(seeds), SITUATIONS):
        path = runs / f"{situation.name}-{seed}.json"
        if not path.exists():
            if known_only:
                continue
            found = measure(situation, seed, smoke)
            runs.mkdir(parents=True, exist_ok=True)
            with replacing(path) as new:
                new.write_text(json.dumps(found, indent=1) + "\n", encoding="utf8")
        for name, run in json.loads(path.read_text("utf8")).items():
            record.setdefault(situation.name, {}).setdefault(name, []).append(run)
        yield dict(record)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does everything run?")
    parser.add_argument("--runs", type=Path, default=Path("runs/which_method"))
    parser.add_argument("--out", type=Path, default=Path("docs/results/which_method"))
    parser.add_argument("--page", action="store_true", help="measure nothing; write what is known by now")
    options = parser.parse_args()
    runs = options.runs / "smoke" if options.smoke else options.runs
    for record in measured(options.seeds, runs, options.smoke, options.page):
        for file, text in ((".json", json.dumps(record, indent=1) + "\n"), (".md", page(record))):
            with replacing(options.out.with_suffix(file)) as new:
                new.write_text(text, encoding="utf8")


if __name__ == "__main__":
    main()
