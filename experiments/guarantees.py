"""Conformal guarantees over random splits: errors among answered pairs, coverage of rating intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from calibrated_pairs import VARIANTS, WORLD, Bench, evidence, parts, rows_of, trained
from scipy.stats import binom, norm

from poise.calibration.conformal import disagreement, fit_abstention, fit_interval, rating_masses
from poise.calibration.evidence import PairEvidence, RatingEvidence, numbered
from poise.calibration.fit_pairs import fit_temperature, win_probabilities
from poise.calibration.fit_ratings import fit_ratings
from poise.data.ratings import scales_of
from poise.data.records import Preference, Rating
from poise.data.simulate import WorldConfig, simulate
from poise.data.splits import prompt_key
from poise.distributions import Gaussian
from poise.methods import method_class
from poise.model import RewardModel
from poise.rated import rated_features
from poise.training.heads import HeadData, train_heads
from poise.training.recipe import parse_recipe


def abstention_section(name: str, pool: PairEvidence, draws: int) -> dict[str, Any]:
    """Observed error among answered pairs over random splits, for several requested error rates."""
    found: dict[str, Any] = {}
    for wanted in (0.1, 0.2, 0.3):
        runs = [abstained(pool, wanted, np.random.default_rng([number, 7])) for number in range(draws)]
        found[f"{name}, {wanted:.0%}"] = runs
        print(name, wanted, abstention_row(runs, wanted), flush=True)
    return found


def known_truth(count: int) -> PairEvidence:
    """Overconfident beliefs (2.5 times too sure) about pairs whose votes come from known probabilities, one pair a prompt."""
    draw = np.random.default_rng(0)
    z = draw.normal(0.0, 1.5, count)
    label = (draw.random(count) < norm.cdf(z)).astype(float)
    scaled, std = torch.from_numpy(2.5 * z), torch.full((count,), 0.5**0.5, dtype=torch.float64)
    return PairEvidence.of(Gaussian(scaled, std), Gaussian(0 * scaled, std), label.tolist(), range(count))


def world_pool(bench: Bench) -> PairEvidence:
    """Half of the training prompts of the world, majority labels, judged by DRPO refine of the other half."""
    data = bench.pairs(simulate(WORLD).preferences["train"])
    train, rest = parts(numbered(data.prompts), (0.5, 0.5), np.random.default_rng(0))
    pool = evidence(trained(VARIANTS["refine"], rows_of(data, train), 0), rows_of(data, rest))
    return replace(pool, label=(torch.sign(pool.label - 0.5) + 1) / 2)


def abstained(pool: PairEvidence, wanted: float, draw: np.random.Generator) -> dict[str, float | None]:
    """Fit on a quarter of the prompts, find the threshold on a quarter, count errors on the rest."""
    fitting, testing, unseen = parts(pool.groups, (0.25, 0.25, 0.5), draw)
    calibration = fit_temperature(pool[fitting])
    rest, last = pool[testing], pool[unseen]
    found = fit_abstention(win_probabilities(calibration, rest), rest.label.numpy(), rest.groups, wanted)
    p = win_probabilities(calibration, last)
    answered = found.answers(torch.from_numpy(p)).numpy()
    errs = disagreement(p, last.label.numpy())[answered]
    return {"answered": float(answered.mean()), "error": float(errs.mean()) if len(errs) else None}


def abstention_row(runs: Sequence[Mapping[str, float | None]], wanted: float) -> list[str]:
    """Answered; mean and 95 % band of the observed error; how often it is above the request, and how often it may be."""
    errors = np.array([run["error"] for run in runs if run["error"] is not None])
    above = int(np.sum(errors > wanted))
    most = int(binom.ppf(0.975, len(runs), 0.1))
    band = (
        f"{np.mean(errors):.3f} [{np.quantile(errors, 0.025):.3f}, {np.quantile(errors, 0.975):.3f}]"
        if len(errors)
        else "—"
    )
    return [
        f"{len(errors)} of {len(runs)}",
        f"{np.mean([run['answered'] for run in runs]):.2f}",
        band,
        f"{above} (at most {most})",
    ]


def interval_section(bench: Bench, draws: int) -> dict[str, Any]:
    """Coverage of conformal rating intervals over random splits, and what calibration does to the CRPS."""
    world = simulate(WorldConfig())
    pools = rating_pools(bench, world.preferences["train"], world.ratings["train"], world.ratings["in_domain"])
    found: dict[str, Any] = {"crps": {}, "coverage": {}}
    for name, pool in pools.items():
        choice = fit_ratings(pool)
        found["crps"][name] = {"method": choice.method, "cross-validated": choice.scores}
        for wanted in (0.8, 0.9):
            runs = [covered(pool, wanted, np.random.default_rng([number, 8])) for number in range(draws)]
            found["coverage"][f"{name}, {wanted:.0%}"] = runs
            print(name, wanted, np.mean([r["coverage"] for r in runs]), flush=True)
    return found


def rating_pools(
    bench: Bench, pairs: Sequence[Preference], training: Sequence[Rating], held: Sequence[Rating]
) -> dict[str, RatingEvidence]:
    """What a head of Gaussian attributes says about ratings of unseen prompts."""
    scales = scales_of([*training, *held])
    rated = rated_features(bench.backbone, training, scales, bench.cache, prompt_states=True)
    recipe = parse_recipe({"data": {"train": "x"}, "method": {"name": "attributes", "loss": "gaussian"}})
    method = train_heads(method_class("attributes"), recipe, HeadData(bench.pairs(pairs), rated=rated))
    model = RewardModel(bench.backbone, method, scales={name: scales[name] for name in method.attributes})
    unseen = rated_features(bench.backbone, held, scales, bench.cache, prompt_states=True)
    beliefs = model.rate_features(unseen.features)
    prompts = [prompt_key(record.prompt) for record in unseen.records]
    return {
        name: RatingEvidence.of(belief, [list(r.ratings[name]) for r in unseen.records], prompts)
        for name, belief in beliefs.items()
    }


def covered(pool: RatingEvidence, wanted: float, draw: np.random.Generator) -> dict[str, float]:
    """Fit on a quarter of the prompts, move the interval on a quarter, count on the rest; before is the raw belief's."""
    fitting, testing, unseen = parts(pool.groups, (0.25, 0.25, 0.5), draw)
    fitted = fit_ratings(pool[fitting], "affine").fitted
    interval = fit_interval(fitted, pool[testing], wanted)
    last = pool[unseen]
    raw = interval.model_copy(update={"margin": 0.0})
    found = {}
    for name, one, belief in (("coverage", interval, fitted.apply(last.belief)), ("raw", raw, last.belief)):
        low, high = one.of(last.each(belief))
        inside = ((last.value >= low) & (last.value <= high)).double()
        mass = rating_masses(last)
        found[name] = float(inside.numpy() @ mass / mass.sum())  # a prompt counts once
    return found | {"prompts": float(len(np.unique(pool[testing].groups)))}
