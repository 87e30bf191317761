"""DRPO's P(win) before and after calibration: on the simulated world, under shift, and against shares of human votes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from vote_shares import against_votes, floors

from poise.backbone import Backbone
from poise.calibration import PairCalibration
from poise.calibration.evidence import PairEvidence, numbered
from poise.calibration.fit_pairs import fit_pairs, win_probabilities
from poise.data.load import load_preferences
from poise.data.merge import merge_duplicates
from poise.data.records import Preference
from poise.data.simulate import WorldConfig, simulate
from poise.evaluation import metrics
from poise.feature_cache import FeatureCache
from poise.methods import Method, method_class
from poise.pairing import PairFeatures, pair_features
from poise.training.heads import HeadData, train_heads
from poise.training.recipe import parse_recipe

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
ZERO, REFINE = method_class("drpo").default_stages
LONG = 10  # times the epochs of the recipes: towards the stationary point
VARIANTS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "zero": [ZERO],
    "zero, long": [ZERO | {"epochs": LONG * ZERO["epochs"]}],
    "refine": [ZERO, REFINE],
    "refine, long": [ZERO, REFINE | {"epochs": LONG * REFINE["epochs"]}],
}
CLAIMED = ("refine", "refine, long")  # the method is both stages; zero alone is shown, not claimed
RAW = PairCalibration(method="none")
WORLD = WorldConfig(train_pairs=7000, eval_pairs=1100, flip_rate=0.0)
SHIFTED = ("prompt_disjoint", "response_disjoint", "mutual_disjoint")


@dataclass(frozen=True)
class Bench:
    """The backbone that all heads read, with its features on disk."""

    backbone: Backbone
    cache: FeatureCache

    def pairs(self, preferences: Sequence[Preference]) -> PairFeatures:
        """Features of pairs."""
        return pair_features(self.backbone, preferences, self.cache, prompt_states=True)


def trained(stages: Sequence[Mapping[str, Any]], data: PairFeatures, seed: int) -> Method[Any, Any]:
    """DRPO by these stages."""
    recipe = parse_recipe({"data": {"train": "x"}, "seed": seed, "method": "drpo", "stages": list(stages)})
    return train_heads(method_class("drpo"), recipe, HeadData(data))


@torch.inference_mode()
def evidence(method: Method[Any, Any], data: PairFeatures) -> PairEvidence:
    """Uncalibrated beliefs about pairs, beside their labels."""
    reward = method(data.features).reward
    first, second = (reward[data.pairs[:, side]] for side in (0, 1))
    return PairEvidence.of(first, second, data.targets().label.tolist(), data.prompts)


def rows_of(data: PairFeatures, rows: IntArray) -> PairFeatures:
    """Some of the pairs; the features stay."""
    return replace(
        data,
        pairs=data.pairs[torch.from_numpy(rows)],
        preferences=tuple(data.preferences[i] for i in rows),
        prompts=tuple(data.prompts[i] for i in rows),
    )


def parts(groups: IntArray, shares: Sequence[float], draw: np.random.Generator) -> list[IntArray]:
    """Rows of random parts of the prompts."""
    order = draw.permutation(np.unique(groups))
    ends = np.round(np.cumsum([0.0, *shares]) * len(order)).astype(int)
    return [np.flatnonzero(np.isin(groups, order[a:b])) for a, b in pairwise(ends)]


@dataclass(frozen=True)
class Tested:
    """P(win) [P] of unseen pairs before and after a calibration of this method, beside what people said."""

    raw: FloatArray
    after: FloatArray
    label: FloatArray
    groups: IntArray
    method: str


def tested(known: PairEvidence, unseen: PairEvidence) -> Tested:
    """A calibration that is chosen and fitted on ``known``, applied to ``unseen``."""
    choice = fit_pairs(known)
    raw, after = (win_probabilities(one, unseen) for one in (RAW, choice.fitted))
    return Tested(raw, after, unseen.label.numpy(), unseen.groups, choice.method)


def figures(turns: Sequence[Tested], votes: Sequence[Preference] | None = None) -> dict[str, Any]:
    """Before and after, on the pairs of all turns together; ``ece apart`` is the mean of the turns."""
    label, groups = (np.concatenate(part) for part in ([t.label for t in turns], [t.groups for t in turns]))
    sides = {"raw": [t.raw for t in turns], "calibrated": [t.after for t in turns]}
    found: dict[str, Any] = {"methods": [t.method for t in turns], "pairs": len(label)}
    for name, parts_of_p in sides.items():
        p = np.concatenate(parts_of_p)
        apart = [metrics.expected_calibration_error(q, t.label) for q, t in zip(parts_of_p, turns, strict=True)]
        found[name] = {
            "ece": float(metrics.expected_calibration_error(p, label)),
            "ece apart": float(np.mean(apart)),
            "nll": float(metrics.nll(p, label)),
            "accuracy": float(metrics.accuracy(p, label)),
            "ece_floor": float(np.mean(floors(p, label, groups, 50))),
        }
        if votes is not None:
            found[name] |= against_votes(p, label, groups, votes)
    found["decisions changed"] = int(sum(np.sum(np.sign(t.raw - 0.5) != np.sign(t.after - 0.5)) for t in turns))
    return found


def world_section(bench: Bench, splits: int) -> dict[str, Any]:
    """The simulated world: training, calibration and evaluation on prompts of one kind, and evaluation under shift."""
    world = simulate(WORLD).preferences
    own = bench.pairs(world["train"])
    shifted = {name: bench.pairs(world[name]) for name in SHIFTED}
    found: dict[str, Any] = {}
    for name, stages in VARIANTS.items():
        runs = []
        for seed in range(splits):
            train, known, unseen = parts(numbered(own.prompts), (0.5, 0.2, 0.3), np.random.default_rng(seed))
            method = trained(stages, rows_of(own, train), seed)
            pool = evidence(method, own)
            runs.append({"in_domain": figures([tested(pool[known], pool[unseen])])})
            for other, data in shifted.items():
                runs[-1][other] = figures([tested(pool[known], evidence(method, data))])
        found[name] = runs
        print("world", name, summary([run["in_domain"] for run in runs]), flush=True)
    return found


def votes_section(bench: Bench, folder: Path, splits: int) -> dict[str, Any]:
    """Real pairs with votes, split in quarters by prompt: half to train, one to calibrate, one to test.

    ``rag_crowd`` is small: there the quarters take turns, so that each prompt is tested once a split. It is also judged by the
    heads that learnt debates, calibrated on half of its prompts.
    """
    debates, answers = (
        bench.pairs(voted(folder, "ukpconvarg", "ukpconvarg.ties")),
        bench.pairs(voted(folder, "rag_crowd")),
    )
    found: dict[str, Any] = {}
    for name, stages in VARIANTS.items():
        runs: list[dict[str, Any]] = []
        for seed in range(splits):
            own, method = turned(debates, stages, seed, turns=1)
            abroad = evidence(method, answers)
            known, unseen = parts(abroad.groups, (0.5, 0.5), np.random.default_rng(seed))
            votes = [answers.preferences[i] for i in unseen]
            runs.append(
                {
                    "ukpconvarg": own,
                    "rag_crowd": turned(answers, stages, seed, turns=4)[0],
                    "rag_crowd, heads of ukpconvarg": figures([tested(abroad[known], abroad[unseen])], votes),
                }
            )
        found[name] = runs
        for data in runs[0]:
            print(data, name, summary([run[data] for run in runs]), flush=True)
    return found


def turned(
    data: PairFeatures, stages: Sequence[Mapping[str, Any]], seed: int, turns: int
) -> tuple[dict[str, Any], Method[Any, Any]]:
    """Figures of one split into quarters that take so many turns, and the last head."""
    quarters, results, votes = parts(numbered(data.prompts), (0.25,) * 4, np.random.default_rng(seed)), [], []
    for turn in range(turns):
        one, two, known, unseen = quarters[turn:] + quarters[:turn]
        method = trained(stages, rows_of(data, np.sort(np.concatenate([one, two]))), seed)
        pool = evidence(method, data)
        results.append(tested(pool[known], pool[unseen]))
        votes += [data.preferences[i] for i in unseen]
    return figures(results, votes), method


def voted(folder: Path, *names: str) -> tuple[Preference, ...]:
    """Pairs with at least two votes; ties in one file with the rest, repeated pairs merged."""
    records = [r for name in names for r in load_preferences(folder / "pairs" / f"{name}.jsonl.gz", "drop").records]
    return tuple(p for p in merge_duplicates(records) if p.votes is not None and p.votes.total >= 2)


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over the runs, with the falls of ECE and NLL between the means and the smallest and largest of a run."""
    found = {
        f"{key} {side}": float(np.mean([run[side][key] for run in runs]))
        for key in runs[0]["raw"]
        for side in ("raw", "calibrated")
    }
    found["ece falls"] = found["ece raw"] / found["ece calibrated"]
    found["ece apart falls"] = found["ece apart raw"] / found["ece apart calibrated"]
    found["nll falls"] = 1 - found["nll calibrated"] / found["nll raw"]
    eces = [run["raw"]["ece"] / run["calibrated"]["ece"] for run in runs]
    nlls = [1 - run["calibrated"]["nll"] / run["raw"]["nll"] for run in runs]
    found |= {"ece falls least": min(eces), "ece falls most": max(eces)}
    found |= {"nll falls least": min(nlls), "nll falls most": max(nlls)}
    found["decisions changed"] = sum(run["decisions changed"] for run in runs)
    return found
