"""Does curation find wrong labels and help, and does active selection save labels?

Usage: python experiments/curation.py DATA [--seeds 5] [--parts mislabels,selection]
DATA is the folder with ``pairs/``. Heads on frozen MiniLM features. Writes <out>.json (every figure of every seed; parts that
are not run again are kept) and <out>.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import label_budget
import numpy as np
import scipy.stats
import torch

from poise.backbone import Backbone, BackboneConfig
from poise.curation.decide import Rules, decide, flipped, wrong_labels
from poise.curation.judge import FloatArray, cross_fit, merged
from poise.data.load import load_preferences
from poise.data.merge import merge_duplicates
from poise.data.records import Preference
from poise.data.simulate import WorldConfig, simulate
from poise.data.splits import split_by_prompt
from poise.evaluation import metrics
from poise.evaluation.bootstrap import PromptBootstrap
from poise.feature_cache import FeatureCache, default_cache
from poise.methods import method_class
from poise.pairing import PairFeatures, pair_features
from poise.report.tables import markdown_table, number
from poise.training.heads import HeadData, train_heads
from poise.training.recipe import Recipe, parse_recipe

REAL = ("hh_harmless_test", "pku_saferlhf_5k")
FLIPS = (0.2, 0.0)
ACTIONS: Mapping[str, Rules] = {
    f"{action} ≥ {doubt}": Rules(mislabels=action, doubt=doubt)  # type: ignore[arg-type]
    for action in ("drop", "flip", "soft")
    for doubt in (0.6, 0.7, 0.8)
} | {"drpo mix": Rules(mix="drpo"), "drpo mix, drop ≥ 0.7": Rules(mix="drpo", mislabels="drop", doubt=0.7)}


def recipe_of(seed: int) -> Recipe:
    """Bradley–Terry with the default stages."""
    return parse_recipe({"data": {"train": "x"}, "seed": seed, "method": {"name": "bt", "initial": "zero"}})


def sets(data: Path, backbone: Backbone, cache: FeatureCache) -> dict[str, tuple[PairFeatures, PairFeatures]]:
    """(training, held-out) pairs by name: merged, directed, split by prompt."""
    world = simulate(WorldConfig(flip_rate=0.0, eval_pairs=1100))
    named = {"simulated world": (world.preferences["train"], world.preferences["in_domain"])}
    for name in REAL:
        records = merge_duplicates(load_preferences(data / "pairs" / f"{name}.jsonl.gz", "drop").records)
        named[name] = split_by_prompt([pair for pair in records if pair.label != 0.5], 0.2)
    return {
        name: (pair_features(backbone, train, cache), pair_features(backbone, held, cache))
        for name, (train, held) in named.items()
    }


def with_labels(data: PairFeatures, pairs: Sequence[Preference], rows: Sequence[int]) -> PairFeatures:
    """Some rows of ``data`` with what ``pairs`` now say about them; texts that changed places take their features along."""
    turned = torch.tensor([pairs[i].chosen != data.preferences[i].chosen for i in rows])
    both = data.pairs[torch.tensor(list(rows), dtype=torch.long)]
    return replace(
        data,
        pairs=torch.where(turned[:, None], both.flip(1), both),
        preferences=tuple(pairs[i] for i in rows),
        prompts=tuple(data.prompts[i] for i in rows),
    )


def credit(train: PairFeatures, held: PairFeatures, recipe: Recipe) -> FloatArray:
    """[P] 1 where a head trained on ``train`` prefers the response that people do."""
    method = train_heads(method_class(recipe.method.name), recipe, HeadData(merged(train)))
    with torch.inference_mode():
        reward = method(held.features).reward.to(torch.float64)
        p = reward[held.pairs[:, 0]].prob_greater(reward[held.pairs[:, 1]]).numpy()
    label = np.array([pair.label for pair in held.preferences])
    return np.where(p == 0.5, 0.5, (p > 0.5) == (label > 0.5)).astype(np.float64)


def mislabels(train: PairFeatures, held: PairFeatures, flips: float, seed: int) -> dict[str, Any]:
    """One seed: detection of the injected flips, and what every way to curate gains on the held-out pairs."""
    recipe = recipe_of(seed)
    wrong = np.random.default_rng([seed, 20]).random(len(train)) < flips
    pairs = [flipped(pair) if bad else pair for pair, bad in zip(train.preferences, wrong, strict=True)]
    dirty = with_labels(train, pairs, range(len(train)))
    judgement = cross_fit(method_class(recipe.method.name), recipe, dirty, 5)
    label = np.array([pair.label for pair in pairs])
    found: dict[str, Any] = {"estimated": wrong_labels(judgement.p, label)}
    if flips:
        doubt = label * (1 - judgement.p) + (1 - label) * judgement.p
        found["auroc"] = float(metrics.auroc(doubt, wrong))
    credits = {"clean": credit(train, held, recipe), "none": credit(dirty, held, recipe)}
    credits["drop what is wrong (oracle)"] = credit(
        with_labels(dirty, pairs, np.flatnonzero(~wrong).tolist()), held, recipe
    )
    for name, rules in ACTIONS.items():
        decisions = decide(pairs, judgement, [None] * len(pairs), replace(rules, seed=seed))
        rows = [i for i, one in enumerate(decisions) if one.kept]
        written = [one.written for one in decisions]
        credits[name] = credit(with_labels(dirty, written, rows), held, recipe)
        acted = np.array([one.action != "keep" for one in decisions])
        found[f"{name}: touched"] = float(acted.mean())
        if flips and acted.any():
            found[f"{name}: precision"] = float(wrong[acted].mean())
    return {"figures": found, "credits": credits}


def measure_mislabels(parts: Mapping[str, tuple[PairFeatures, PairFeatures]], seeds: int) -> dict[str, dict[str, Any]]:
    """All sets and flip rates: figures of every seed, and gains with intervals over held-out prompts."""
    found: dict[str, dict[str, Any]] = {}
    for name, (train, held) in parts.items():
        for flips in FLIPS:
            runs = [mislabels(train, held, flips, seed) for seed in range(seeds)]
            credits = {key: np.stack([run["credits"][key] for run in runs]) for key in runs[0]["credits"]}
            mean = {key: values.mean(0) for key, values in credits.items()}
            bootstrap = PromptBootstrap(held.prompts, resamples=2000)
            gains = bootstrap.intervals(
                {key: partial(_mean, values - mean["none"]) for key, values in mean.items() if key != "none"}
            )
            found[f"{name}, {flips:.0%} flipped"] = {
                "training_pairs": len(train),
                "held_pairs": len(held),
                "figures": [run["figures"] for run in runs],
                "accuracy": {key: values.mean(1).tolist() for key, values in credits.items()},
                "gain": {key: [gain.value, gain.low, gain.high] for key, gain in gains.items()},
            }
            last = found[f"{name}, {flips:.0%} flipped"]
            print(name, flips, cell([run.get("auroc", np.nan) for run in last["figures"]]), flush=True)
            for key, gain in last["gain"].items():
                print("   ", key, cell(last["accuracy"][key]), [round(v, 4) for v in gain], flush=True)
    return found


def _mean(values: FloatArray, *, weights: FloatArray) -> FloatArray:
    return np.asarray(weights @ values / weights.sum(-1))


def measure_selection(backbone: Backbone, cache: FeatureCache, seeds: int) -> dict[str, Any]:
    """Learning curves of every method on the half to choose by and on the half to report."""
    found: dict[str, Any] = {}
    for name, half in label_budget.halves(backbone, cache).items():
        found[name] = []
        for seed in range(seeds):
            found[name].append(label_budget.curves(half, seed))
            print(name, seed, label_budget.shares(found[name][-1]), flush=True)
    return found


def cell(values: Sequence[float]) -> str:
    """Mean and half the width of the 95 % t-interval over seeds."""
    array = np.array([value for value in values if np.isfinite(value)])
    if not len(array):
        return "—"
    half = scipy.stats.t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / len(array) ** 0.5 if len(array) > 1 else 0.0
    return f"{number(float(array.mean()))} ± {number(float(half))}"


def mislabel_section(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Detection first, then a table of gains per set."""
    rows = []
    for name, one in found.items():
        runs = one["figures"]
        rows.append(
            [
                name,
                cell(one["accuracy"]["clean"]),
                cell([run.get("auroc", np.nan) for run in runs]),
                cell([run["estimated"] for run in runs]),
            ]
        )
    parts = [markdown_table(["", "accuracy, clean labels", "AUROC of flips", "estimated share of wrong labels"], rows)]
    for name, one in found.items():
        table = []
        for key, values in one["accuracy"].items():
            gain = one["gain"].get(key)
            shown = "" if gain is None else f"{number(gain[0])} [{number(gain[1])}, {number(gain[2])}]"
            touched = cell([run.get(f"{key}: touched", np.nan) for run in one["figures"]])
            precision = cell([run.get(f"{key}: precision", np.nan) for run in one["figures"]])
            table.append([key, touched, precision, cell(values), shown])
        head = f"### {name}\n\n{one['training_pairs']:,} training pairs, {one['held_pairs']:,} held out.\n\n"
        header = ["", "share touched", "of them flipped", "held-out accuracy", "gain over none"]
        parts.append(head + markdown_table(header, table))
    return "\n".join(parts)


def selection_section(found: Mapping[str, Sequence[Mapping[str, Sequence[float]]]]) -> str:
    """The choice on one half of the prompts, and what it comes to on the other."""
    methods = [how for how in label_budget.METHODS if how != "random"]
    shares = {part: [label_budget.shares(run) for run in runs] for part, runs in found.items()}
    mean = {part: label_budget.shares(mean_curves(runs)) for part, runs in found.items()}
    rows = []
    for how in methods:
        row = [how]
        for part in label_budget.PARTS:
            row += [number(mean[part][how], 2), cell([one[how] for one in shares[part]])]
        rows.append([*row, cell([run[how][-1] for run in found["to report"]])])
    rows.append(["random", "1", "1", "1", "1", cell([run["random"][-1] for run in found["to report"]])])
    best = min(methods, key=lambda how: mean["to choose"][how])
    header = ["", "to choose: mean curve", "each seed", "to report: mean curve", "each seed", "accuracy in the end"]
    ends = np.array([[run[best][i] - run["random"][i] for i in range(len(run[best]))] for run in found["to report"]])
    gains = ", ".join(f"{label_budget.ROUND * (i + 1)}: {cell(ends[:, i])}" for i in range(0, ends.shape[1], 2))
    return (
        markdown_table(header, rows)
        + f"\nChosen on the first half: `{best}`. On the second it reaches random's final accuracy with "
        + f"{mean['to report'][best]:.0%} of the labels by the mean curves over seeds.\n"
        + f"Its accuracy minus random's after so many labels: {gains}.\n"
    )


def mean_curves(runs: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, list[float]]:
    """Over the seeds."""
    return {how: np.mean([run[how] for run in runs], axis=0).tolist() for how in runs[0]}


def write(record: Mapping[str, Any], out: Path, seeds: int) -> None:
    """The record and its tables."""
    out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf8")
    parts = [INTRO.format(out=out, seeds=seeds)]
    if "mislabels" in record:
        parts.append(MISLABELS + mislabel_section(record["mislabels"]))
    if "selection" in record:
        parts.append(SELECTION.format(**vars(label_budget)) + selection_section(record["selection"]))
    out.with_suffix(".md").write_text("\n".join(parts), encoding="utf8")


INTRO = """# Curation and active selection

Linear heads on frozen MiniLM features (Bradley–Terry, default stages). Made by
`python experiments/curation.py DATA --seeds {seeds}`; result file `{out.name}.json`. ± is half of the 95 % t-interval over
seeds; brackets are 95 % intervals over held-out prompts, of gains averaged over the seeds.
"""
MISLABELS = """
## Wrong labels

Labels of training pairs are turned round at random; five heads are cross-fitted on the dirty labels, so that no pair is
judged by a head that has seen its prompt; a pair is doubted by the probability that its label is wrong. `drop ≥ 0.7` drops
pairs with a doubt of at least 0.7, `flip` turns them round, `soft` gives them the model's probability as label, `drpo mix`
keeps as many easy pairs as others. Then a head is trained on what is left and held against the held-out pairs, whose labels
are as they came. `none` trains on the dirty labels, `clean` on the labels before the flips.

"""
SELECTION = """
## Which pairs to label

The simulated world: all six pairs of four responses to a prompt are candidates, {DRAWN} prompts a seed; a label is one
rater's vote. The budget is {BUDGET} labels in rounds of {ROUND}; accuracy is against the truth on pairs of other prompts.
Every method has the same posterior; random is the mean of {ORDERS} orders. The columns say what share of the labels a method
needs for the accuracy that random has in the end, by the curves averaged over the seeds and seed by seed. Half of the prompts
served to choose a method, the other half, with other votes and held-out prompts, to report.

"""


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--parts", default="mislabels,selection")
    parser.add_argument("--out", type=Path, default=Path("docs/results/curation"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    backbone = Backbone.load(BackboneConfig(name="minilm"))
    cache = FeatureCache(default_cache(), backbone.fingerprint(), backbone.hidden_size)
    path = options.out.with_suffix(".json")
    for part in options.parts.split(","):
        if part == "mislabels":
            found: Any = measure_mislabels(sets(options.data, backbone, cache), options.seeds)
        else:
            found = measure_selection(backbone, cache, options.seeds)
        record = json.loads(path.read_text(encoding="utf8")) if path.exists() else {}
        write(record | {part: found}, options.out, options.seeds)


if __name__ == "__main__":
    main()
