"""Does curation find wrong labels and help, and does active selection save labels?

Usage: python experiments/curation.py DATA [--seeds 5] [--selections 20] [--processes 2]
           [--only mislabels] [--out docs/results/curation]
DATA is the folder with ``pairs/``. Heads on frozen MiniLM features. Writes <out>.json (every figure of every seed) and <out>.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
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
from poise.report.tables import markdown_table, number, percent
from poise.training.heads import HeadData, train_heads
from poise.training.recipe import Recipe, parse_recipe

WANTED = 0.6  # share of random's labels
PARTS = ("mislabels", *label_budget.WORLDS, "possible")
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


def cell(values: Sequence[float], digits: int = 3) -> str:
    """Mean and half the width of the 95 % t-interval over seeds."""
    array = np.array([value for value in values if np.isfinite(value)])
    if not len(array):
        return "—"
    half = scipy.stats.t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / len(array) ** 0.5 if len(array) > 1 else 0.0
    return f"{number(float(array.mean()), digits)} ± {number(float(half), digits)}"


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


def selection_section(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The choice on one world, and what it comes to on the other."""
    methods, chosen_on, other = label_budget.METHODS[1:], found["to choose"], found["to report"]
    final = str(label_budget.BUDGET)
    rows = []
    for how in methods:
        shares = [with_interval(p["needs"][how][final]) for p in (chosen_on, other)]
        rows.append(
            [how, *shares, cell(label_budget.by_seed(other, how), 2), cell([c[-1] for c in other["curves"][how]])]
        )
    rows.append(["random", percent(1, 0), percent(1, 0), "1", cell([curve[-1] for curve in other["curves"]["random"]])])
    header = ["", "labels needed, world to choose by", "world to report on", "of each seed", "accuracy in the end"]
    best = min(methods, key=lambda how: chosen_on["needs"][how][final][0])
    budgets = [
        [
            budget,
            *(with_interval(p["needs"][best][budget]) for p in (chosen_on, other)),
            *(cell(found["possible"][world][budget], 2) for world in label_budget.WORLDS),
        ]
        for budget in map(str, label_budget.BUDGETS)
    ]
    gained = np.array(other["curves"][best]) - np.array(other["curves"]["random"])
    gains = ", ".join(f"{label_budget.ROUND * (i + 1)}: {cell(gained[:, i])}" for i in range(0, gained.shape[1], 2))
    return (
        markdown_table(header, rows)
        + f"\nChosen on the first world: `{best}`. On the second it reaches random's final accuracy with "
        + f"{with_interval(other['needs'][best][final])} of the labels. At most {percent(WANTED, 0)} was asked: "
        + f"**{'holds' if other['needs'][best][final][0] <= WANTED else 'does not hold'}**. What it needs for random's accuracy after smaller budgets:\n\n"
        + markdown_table(
            ["budget of random", "world to choose by", "world to report on", "by the model, first", "second"], budgets
        )
        + BY_THE_MODEL
        + f"\nIts accuracy minus random's after so many labels: {gains}.\n"
    )


def with_interval(told: Sequence[float]) -> str:
    """A share of labels with the ends of its interval."""
    value, low, high = told
    return f"{percent(value, 0)} [{percent(low, 0)}, {percent(high, 0)}]"


def page(record: Mapping[str, Any], name: str) -> str:
    """The tables with what they mean."""
    seeds, selections = (
        len(next(iter(record["mislabels"].values()))["figures"]),
        len(record["to report"]["curves"]["random"]),
    )
    return "\n".join(
        [
            INTRO.format(name=name, seeds=seeds, selections=selections),
            MISLABELS.format(seeds=seeds) + mislabel_section(record["mislabels"]),
            SELECTION.format(**vars(label_budget), seeds=selections) + selection_section(record),
        ]
    )


INTRO = """# Curation and active selection

Linear heads on frozen MiniLM features (Bradley–Terry, default stages). Made by
`python experiments/curation.py DATA --seeds {seeds} --selections {selections}`; result file `{name}.json`. ± is half of the 95 %
t-interval over seeds; brackets are 95 % intervals: of gains over held-out prompts, of labels over seeds and held-out prompts.
"""
MISLABELS = """
## Wrong labels

{seeds} seeds. Labels of training pairs are turned round at random; five heads are cross-fitted on the dirty labels, so that no
pair is judged by a head that has seen its prompt; a pair is doubted by the probability that its label is wrong. `drop ≥ 0.7`
drops pairs with a doubt of at least 0.7, `flip` turns them round, `soft` gives them the model's probability as label, `drpo mix`
keeps as many easy pairs as others. Then a head is trained on what is left and held against the held-out pairs, whose labels
are as they came. `none` trains on the dirty labels, `clean` on the labels before the flips.

"""
BY_THE_MODEL = """
`by the model` is the share with which `variance` lowers the mean variance of all candidates' margins as far as random does: what it
aims at, reckoned with the prior and the noise of a head that has a vote on every candidate, so without wrong models and luck of
votes (± over draws of candidates). No greater saving is to be expected of it at such budgets, whatever single runs say: the
features of these pairs differ little in length and point everywhere, so that random pairs teach nearly as much as chosen ones.
"""
SELECTION = """
## Which pairs to label

The simulated world: all six pairs of four responses to a prompt are candidates, {DRAWN} of {PROMPTS} prompts for each of {seeds}
seeds; a label is one rater's vote. The budget is {BUDGET} labels in rounds of {ROUND}; accuracy is against the truth on all pairs of
{HELD_PROMPTS} other prompts. Every method has the same posterior; random is the mean of {ORDERS} orders. What is told is the share of
the labels after which a method has the accuracy that random has after a budget, at first after the whole one, by the curves averaged over the seeds and made
monotone (isotonic regression); a method that never gets there counts as 100 %. One world served to choose a method, another
one, with prompts, responses and votes of its own, to report on it.

"""


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--selections", type=int, default=20, help="seeds of active selection")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("docs/results/curation"))
    parser.add_argument(
        "--only", default=",".join(PARTS), help="parts; others are kept from <out>.json, none makes the page again"
    )
    options = parser.parse_args()
    path = options.out.with_suffix(".json")
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf8")) if path.exists() else {}
    record |= measured(options)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf8")
    options.out.with_suffix(".md").write_text(page(record, options.out.name), encoding="utf8")


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """All parts, beside each other."""
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
        seeds = dict.fromkeys(PARTS, options.seeds) | dict.fromkeys(label_budget.WORLDS, options.selections)
        wanted = [name for name in PARTS if name in options.only.split(",")]
        running = {name: pool.submit(part, name, options.data, seeds[name]) for name in wanted}
        return {name: one.result() for name, one in running.items()}


def part(name: str, data: Path, seeds: int) -> dict[str, Any]:
    """One part, in a process of its own."""
    torch.set_num_threads(1)
    backbone = Backbone.load(BackboneConfig(name="minilm"))
    cache = FeatureCache(default_cache(), backbone.fingerprint(), backbone.hidden_size)
    if name == "mislabels":
        return measure_mislabels(sets(data, backbone, cache), seeds)
    if name == "possible":
        pools = {one: label_budget.pool_of(backbone, cache, number) for one, number in label_budget.WORLDS.items()}
        return {one: label_budget.possible(pool, seeds) for one, pool in pools.items()}
    return label_budget.measure(label_budget.pool_of(backbone, cache, label_budget.WORLDS[name]), seeds, name)


if __name__ == "__main__":
    main()
