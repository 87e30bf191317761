"""Claims about relatives of the five: hidden context (DPL), and how to choose among many answers."""

from __future__ import annotations

import numpy as np
import torch

from experiments.claims.bed import fit, long_stage
from experiments.claims.claim import Check, Claim, Finding, Setting
from poise.data.records import Preference
from poise.distributions import Gaussian, Mixture
from poise.features import Features
from poise.methods.likelihood import explained_share
from poise.pairing import PairFeatures
from poise.utility import parse_utility


def hidden_context(setting: Setting) -> Finding:
    """X1: utility a, doubled or zeroed with probability ½ from .8 on, and the same without the hidden coin."""
    borda, spread, explained = [], [], []
    for seed in range(setting.seeds):
        data, plain = (contexts(seed, setting.size(4000, 400), hidden) for hidden in (True, False))
        bt = fit("bt", data, seed, long_stage(setting.size(20, 2), 3e-2), initial="zero")
        dpl, single = (fit("likelihood", part, seed, long_stage(setting.size(20, 2), 3e-2)) for part in (data, plain))
        with torch.inference_mode():
            middle, every = torch.arange(0.05, 1, 0.1), Features(torch.eye(10))
            count = torch.where(middle < 0.8, 0.1 + middle, 0.275 + 0.25 * middle)
            reward, belief = bt(every).reward.mean, dpl(every).reward
            # by expected utility the last two levels are the best, by Borda count they stand between .3 and .4
            borda.append(float(np.corrcoef(count.argsort().argsort(), reward.argsort().argsort())[0, 1]))
            spread.append(float(belief.std[8:].min() / belief.std[:8].max()))
            explained.append(float(explained_share(single(every).reward) - explained_share(belief)))
    return Finding(
        [
            Check("rank correlation of BT's rewards with the Borda count", borda, "above", 0.9),
            Check("σ of contested levels : largest other σ", spread, "above", 1.3),
            Check("explained share r², without less with hidden context", explained, "above", 0.0),
        ]
    )


def contexts(seed: int, pairs: int, hidden: bool) -> PairFeatures:
    """Pairs of levels a in ten buckets; ties are soft labels."""
    draw = torch.Generator().manual_seed(seed)
    a = torch.rand(pairs, 2, generator=draw)
    doubled = torch.rand(pairs, 2, generator=draw) < 0.5
    utility = torch.where((a < 0.8) | (not hidden), a, torch.where(doubled, 2 * a, 0.0))
    won, tied = utility[:, 0] > utility[:, 1], utility[:, 0] == utility[:, 1]
    label = torch.where(tied, 0.5, won.double()).tolist()
    rows = torch.nn.functional.one_hot((a.flatten() * 10).long(), 10).float()
    records = tuple(Preference(prompt=str(i), chosen="a", rejected="b", p_chosen=p, row=i) for i, p in enumerate(label))
    return PairFeatures(
        Features(rows), torch.arange(2 * pairs).view(-1, 2), records, prompts=tuple(map(str, range(pairs)))
    )


def shrinkage(setting: Setting) -> Finding:
    """X2: best of 256 by a proxy = gold + noise of known size, raw and as posterior mean."""
    gold: dict[str, list[float]] = {
        name: [] for name in ("shrinkage", "lcb_epistemic:2", "mean", "calibrated mean", "calibrated lcb")
    }
    for seed in range(setting.seeds):
        draw = np.random.default_rng([seed, 11])
        prompts, n = setting.size(1500, 100), 256
        truth = draw.normal(size=(prompts, n))
        noise = np.exp(draw.normal(size=(prompts, n)))
        proxy = truth + noise * draw.normal(size=(prompts, n))
        groups = torch.arange(prompts).repeat_interleave(n)
        raw = ensemble_of(proxy, noise)
        for name in ("shrinkage", "lcb_epistemic:2", "mean"):
            gold[name].append(chosen(parse_utility(name)(raw, prompts=groups), truth))
        share = 1 / (1 + noise**2)
        posterior = ensemble_of(share * proxy, np.sqrt(share) * noise)
        gold["calibrated mean"].append(chosen(posterior.mean, truth))
        gold["calibrated lcb"].append(chosen(parse_utility("lcb_epistemic:2")(posterior), truth))
    pair = [("shrinkage", "lcb_epistemic:2"), ("lcb_epistemic:2", "mean"), ("calibrated mean", "calibrated lcb")]
    checks = [
        Check(f"gold of the chosen, {a} less {b}", [x - y for x, y in zip(gold[a], gold[b], strict=True)], "above", 0.0)
        for a, b in pair
    ]
    return Finding(checks, {f"gold by {name}": values for name, values in gold.items()})


def ensemble_of(mean: np.ndarray, std: np.ndarray) -> Mixture:  # type: ignore[type-arg]
    """Two members at mean ± std: what an ensemble that does not know says, [prompts · n]."""
    location, spread = (torch.from_numpy(values).flatten() for values in (mean, std))
    members = [Gaussian(location + sign * spread, torch.zeros_like(spread)) for sign in (-1.0, 1.0)]
    return Mixture.from_members(members, coupling="paired")


def chosen(value: torch.Tensor, truth: np.ndarray) -> float:  # type: ignore[type-arg]
    """Mean truth of the best by ``value`` [prompts · n] in each row."""
    best = value.reshape(truth.shape).argmax(1).numpy()
    return float(truth[np.arange(len(truth)), best].mean())


CLAIMS = (
    Claim(
        "X1",
        "Under hidden context BT follows the Borda count; DPL shows where the context matters.",
        "rank correlation > .9; σ ratio > 1.3; r² lower",
        "holds",
        hidden_context,
    ),
    Claim(
        "X2",
        "Among many answers shrinkage beats a lower bound, which beats the mean; of calibrated means the bound loses.",
        "gold: shrinkage > LCB > mean; calibrated: mean > LCB",
        "holds",
        shrinkage,
    ),
)
