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
from scipy.optimize import isotonic_regression

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


def before_and_after(
    known: PairEvidence, unseen: PairEvidence, votes: Sequence[Preference] | None = None
) -> dict[str, Any]:
    """Figures on ``unseen`` before and after a calibration that is chosen and fitted on ``known``."""
    choice = fit_pairs(known)
    label = unseen.label.numpy()
    found: dict[str, Any] = {"method": choice.method, "temperature": choice.fitted.temperature, "pairs": len(label)}
    for name, calibration in (("raw", RAW), ("calibrated", choice.fitted)):
        p = win_probabilities(calibration, unseen)
        found[name] = {
            "ece": float(metrics.expected_calibration_error(p, label)),
            "nll": float(metrics.nll(p, label)),
            "accuracy": float(metrics.accuracy(p, label)),
            "ece_floor": float(np.mean(floors(p, label, unseen.groups, 50))),
        }
        if votes is not None:
            found[name] |= against_votes(p, label, unseen.groups, votes)
    raw, after = (win_probabilities(one, unseen) for one in (RAW, choice.fitted))
    found["decisions changed"] = int(np.sum(np.sign(raw - 0.5) != np.sign(after - 0.5)))
    return found


def against_votes(p: FloatArray, share: FloatArray, groups: IntArray, pairs: Sequence[Preference]) -> dict[str, float]:
    """How far P(win) is from shares of votes, and how far it would be if it were right.

    ``gap``: ECE of p against shares. ``gap_floor``: its 95 % quantile where p is calibrated by construction: residuals of the
    shares from their isotonic regression, with random signs by prompt, put onto p. ``halves``: the same distance between the
    shares of two random halves of the voters. ``rmse`` of p against shares, ``rmse_floor`` from the binomial variance of a
    share of that many votes.
    """
    draw = np.random.default_rng(0)
    floor = floors(p, share, groups)
    counts = np.array([[v.chosen + v.tie / 2, v.total] for v in (pair.votes for pair in pairs) if v is not None])
    halves = [gap_of_halves(p, pairs, draw) for _ in range(5)]
    noise = share * (1 - share) / np.maximum(counts[:, 1] - 1, 1)
    return {
        "gap": gap(p, share),
        "gap_floor": float(np.quantile(floor, 0.95)),
        "halves": float(np.mean(halves)),
        "rmse": float(np.sqrt(np.mean((p - share) ** 2))),
        "rmse_floor": float(np.sqrt(np.mean(noise))),
    }


def floors(p: FloatArray, share: FloatArray, groups: IntArray, draws: int = 200) -> list[float]:
    """Distances of shares from a P(win) that is right by construction."""
    draw, right = np.random.default_rng(0), pair_map(p, share)
    signs = [draw.choice([-1.0, 1.0], groups.max() + 1)[groups] for _ in range(draws)]
    return [gap(right, right + sign * (share - right)) for sign in signs]


def pair_map(p: FloatArray, share: FloatArray) -> FloatArray:
    """The isotonic regression of shares on p, seen from both sides."""
    both, shares = np.concatenate([p, 1 - p]), np.concatenate([share, 1 - share])
    order = np.argsort(both, kind="stable")
    fitted = np.empty_like(both)
    fitted[order] = isotonic_regression(shares[order]).x
    return fitted[: len(p)]


def gap(p: FloatArray, share: FloatArray) -> float:
    """ECE against shares that noise may have put outside [0, 1]: Σ_b n_b/n·|mean p − mean share|, 15 equal-mass bins."""
    side = np.where(p >= 0.5, 1.0, -1.0)
    difference = side * (p - share)
    order = np.argsort(np.abs(p - 0.5), kind="stable")
    return float(sum(abs(difference[b].sum()) for b in np.array_split(order, 15)) / len(p))


def gap_of_halves(p: FloatArray, pairs: Sequence[Preference], draw: np.random.Generator) -> float:
    """The distance in the same bins between shares of two random halves of the voters of each pair."""
    one, two = np.empty(len(p)), np.empty(len(p))
    for i, pair in enumerate(pairs):
        votes = pair.votes
        assert votes is not None
        cast = np.repeat([1.0, 0.0, 0.5], [int(votes.chosen), int(votes.rejected), int(votes.tie)])
        cast = draw.permutation(cast)
        one[i], two[i] = cast[: len(cast) // 2].mean(), cast[len(cast) // 2 :].mean()
    side = np.where(p >= 0.5, 1.0, -1.0)
    order = np.argsort(np.abs(p - 0.5), kind="stable")
    return float(sum(abs((side * (one - two))[b].sum()) for b in np.array_split(order, 15)) / len(p))


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
            runs.append({"in_domain": before_and_after(pool[known], pool[unseen])})
            for other, data in shifted.items():
                runs[-1][other] = before_and_after(pool[known], evidence(method, data))
        found[name] = runs
        print("world", name, summary([run["in_domain"] for run in runs]), flush=True)
    return found


def votes_section(bench: Bench, folder: Path, splits: int) -> dict[str, Any]:
    """Real pairs with votes: UKPConvArg split in three by prompt, and RAG answers judged by a model of the former."""
    own = bench.pairs(voted(folder, "ukpconvarg", "ukpconvarg.ties"))
    other = bench.pairs(voted(folder, "rag_crowd"))
    found: dict[str, Any] = {}
    for name, stages in VARIANTS.items():
        runs = []
        for seed in range(splits):
            draw = np.random.default_rng(seed)
            train, known, unseen = parts(numbered(own.prompts), (0.5, 0.25, 0.25), draw)
            method = trained(stages, rows_of(own, train), seed)
            pool, abroad = evidence(method, own), evidence(method, other)
            first, second = parts(abroad.groups, (0.5, 0.5), draw)
            runs.append(
                {
                    "ukpconvarg": before_and_after(pool[known], pool[unseen], [own.preferences[i] for i in unseen]),
                    "rag_crowd": before_and_after(
                        abroad[first], abroad[second], [other.preferences[i] for i in second]
                    ),
                }
            )
        found[name] = runs
        for data in ("ukpconvarg", "rag_crowd"):
            print(data, name, summary([run[data] for run in runs]), flush=True)
    return found


def voted(folder: Path, *names: str) -> tuple[Preference, ...]:
    """Pairs with at least two votes; ties in one file with the rest, repeated pairs merged."""
    records = [r for name in names for r in load_preferences(folder / "pairs" / f"{name}.jsonl.gz", "drop").records]
    return tuple(p for p in merge_duplicates(records) if p.votes is not None and p.votes.total >= 2)


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over the runs, with the falls of ECE and NLL."""
    found = {
        f"{key} {side}": float(np.mean([run[side][key] for run in runs]))
        for key in runs[0]["raw"]
        for side in ("raw", "calibrated")
    }
    found["ece falls"] = found["ece raw"] / found["ece calibrated"]
    found["nll falls"] = 1 - found["nll calibrated"] / found["nll raw"]
    found["decisions changed"] = sum(run["decisions changed"] for run in runs)
    return found
