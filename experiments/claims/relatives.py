"""Claims about relatives of the five: hidden context (DPL), and how to choose among many answers."""

from __future__ import annotations

import numpy as np
import torch

from experiments.claims.bed import fit, long_stage
from experiments.claims.claim import Check, Claim, Figures, Reason, Setting
from poise.data.records import Preference
from poise.distributions import Gaussian, Mixture
from poise.features import Features
from poise.methods.likelihood import explained_share
from poise.pairing import PairFeatures
from poise.utility import parse_utility


def hidden_context(setting: Setting) -> Figures:
    """X1: utility a, doubled or zeroed with probability ½ from .8 on, and the same without the hidden coin."""
    data, plain = (contexts(setting.seed, setting.size(4000, 400), hidden) for hidden in (True, False))
    stages = long_stage(setting.size(20, 2), 3e-2)
    bt = fit("bt", data, setting.seed, stages, initial="zero")
    dpl, single = (fit("likelihood", part, setting.seed, stages) for part in (data, plain))
    with torch.inference_mode():
        middle, every = torch.arange(0.05, 1, 0.1), Features(torch.eye(10))
        count = torch.where(middle < 0.8, 0.1 + middle, 0.275 + 0.25 * middle)
        reward, belief = bt(every).reward.mean, dpl(every).reward
        # by expected utility the last two levels are the best, by Borda count they stand between .3 and .4
        ranks = [values.argsort().argsort() for values in (count, reward, middle)]
        return {
            "rank correlation of BT's rewards with the Borda count": float(np.corrcoef(ranks[0], ranks[1])[0, 1]),
            "rank correlation of BT's rewards with expected utility": float(np.corrcoef(ranks[2], ranks[1])[0, 1]),
            "σ of contested levels : largest other σ": float(belief.std[8:].min() / belief.std[:8].max()),
            "explained share r², without less with hidden context": float(
                explained_share(single(every).reward) - explained_share(belief)
            ),
        }


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


def shrinkage(setting: Setting) -> Figures:
    """X2: best of 256 by a proxy = gold + noise of known size, raw and as posterior mean; noise of much and little spread."""
    wide, narrow = (choices(setting, spread) for spread in (1.0, 0.3))
    pairs = (("shrinkage", "lcb_epistemic:2"), ("lcb_epistemic:2", "mean"), ("calibrated mean", "calibrated lcb"))
    return {
        **{f"gold of the chosen, {a} less {b}": wide[a] - wide[b] for a, b in pairs},
        **{f"gold of the chosen, {a} less {b}, noise sizes alike": narrow[a] - narrow[b] for a, b in pairs},
        "gold of the chosen, shrinkage by the true spread less lcb_epistemic:2": wide["calibrated mean"]
        - wide["lcb_epistemic:2"],
        **{f"gold of the chosen by {name}": value for name, value in wide.items()},
    }


def choices(setting: Setting, spread: float) -> dict[str, float]:
    """Gold of the best of 256 by each utility; log sizes of the noise have this sd."""
    draw = np.random.default_rng([setting.seed, 11])
    prompts, n = setting.size(1500, 100), 256
    truth = draw.normal(size=(prompts, n))
    noise = np.exp(spread * draw.normal(size=(prompts, n)))
    proxy = truth + noise * draw.normal(size=(prompts, n))
    groups = torch.arange(prompts).repeat_interleave(n)
    raw, share = ensemble_of(proxy, noise, draw), 1 / (1 + noise**2)
    found = {
        name: chosen(parse_utility(name)(raw, prompts=groups), truth)
        for name in ("shrinkage", "lcb_epistemic:2", "mean")
    }
    posterior = ensemble_of(share * proxy, np.sqrt(share) * noise, draw)
    return found | {
        "calibrated mean": chosen(posterior.mean, truth),
        "calibrated lcb": chosen(parse_utility("lcb_epistemic:2")(posterior), truth),
    }


def ensemble_of(mean: np.ndarray, std: np.ndarray, draw: np.random.Generator) -> Mixture:  # type: ignore[type-arg]
    """Two members at mean ± std, [prompts · n]; which is above is drawn, as what members share about all is no doubt about one."""
    sign = draw.choice([-1.0, 1.0], size=mean.shape)
    location, spread = (torch.from_numpy(values).flatten() for values in (mean, sign * std))
    members = [Gaussian(location + offset, torch.zeros_like(spread)) for offset in (spread, -spread)]
    return Mixture.from_members(members, coupling="paired")


def chosen(value: torch.Tensor, truth: np.ndarray) -> float:  # type: ignore[type-arg]
    """Mean truth of the best by ``value`` [prompts · n] in each row."""
    best = value.reshape(truth.shape).argmax(1).numpy()
    return float(truth[np.arange(len(truth)), best].mean())


CLAIMS = (
    Claim(
        "X1",
        "Under hidden context BT follows the Borda count; DPL shows where the context matters.",
        "holds",
        hidden_context,
        [
            Check("rank correlation of BT's rewards with the Borda count", "above", 0.9),
            Check("σ of contested levels : largest other σ", "above", 1.3),
            Check("explained share r², without less with hidden context", "above", 0.0),
        ],
    ),
    Claim(
        "X2",
        "Among many answers shrinkage beats a lower bound, which beats the mean; of calibrated means the bound loses.",
        "holds",
        shrinkage,
        [
            Check("gold of the chosen, shrinkage less lcb_epistemic:2", "above", 0.0),
            Check("gold of the chosen, lcb_epistemic:2 less mean", "above", 0.0),
            Check("gold of the chosen, calibrated mean less calibrated lcb", "above", 0.0),
        ],
        [
            Reason(
                "Shrinkage estimates the spread of truth in a group as what its values vary beyond their noise, and a few loud values "
                "spoil that estimate here: with the true spread it beats the bound.",
                Check("gold of the chosen, shrinkage by the true spread less lcb_epistemic:2", "above", 0.0),
            ),
            Reason(
                "Where all values are about equally noisy, the estimate does and shrinkage is ahead.",
                Check("gold of the chosen, shrinkage less lcb_epistemic:2, noise sizes alike", "above", 0.0),
            ),
        ],
    ),
)
