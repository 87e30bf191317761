"""Claims of OPRM: Gumbel scores and Bradley–Terry, gradients, regions, data efficiency, disagreement, small margins."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.claims.bed import Bed, Judged, auroc, bed, fit, judge, long_stage
from experiments.claims.claim import Check, Claim, Figures, Reason, Setting
from experiments.claims.worlds import true_p, true_rating_variance, world
from poise.data.batch import Batch, Targets
from poise.data.records import QUALITIES
from poise.distributions import Categorical
from poise.distributions.disagreement import bimodal
from poise.methods.ordinal import Ordinal, OrdinalConfig, OrdinalOutput, regions
from poise.pairing import PairFeatures
from poise.training.heads import HeadData

LEVELS = torch.arange(1.0, 10.0)


def gumbel(setting: Setting) -> Figures:
    """O1: independent Gumbel scores put on a grid over [−12, 24], against Λ(Δ) for Δ in [0, 4]."""

    def gap(bins: int, half: bool) -> float:
        return max(abs(gumbel_win(delta, bins, half) - 1 / (1 + math.exp(-delta))) for delta in np.linspace(0, 4, 17))

    return {
        "largest gap to Λ(Δ), 1,025 levels, ties half": gap(1025, True),
        "largest gap to Λ(Δ), nine levels, strict as published": gap(9, False),
        "largest gap to Λ(Δ), nine levels, ties half": gap(9, True),
        "largest gap to Λ(Δ), 1,025 levels, strict": gap(1025, False),
    }


def gumbel_win(delta: float, bins: int, half: bool) -> float:
    """P(winner's level > loser's), plus half of the ties."""
    edges = torch.linspace(-12, 24, bins + 1, dtype=torch.float64)

    def masses(location: float) -> Tensor:
        return torch.exp(-torch.exp(location - edges)).diff().clamp(min=1e-300).log()[None]

    winner, loser = Categorical(edges[1:], masses(delta)), Categorical(edges[1:], masses(0.0))
    p = winner.prob_greater(loser) - (0.0 if half else 0.5) * winner.prob_tie(loser)
    return float(p)


def loss_of(config: OrdinalConfig, first: Tensor, second: Tensor, quality: tuple[float, float]) -> Tensor:
    """The preference term of one pair of logits [K]; quality 0 bad, 1 normal, 2 good."""
    targets = replace(Targets.certain(1), quality=torch.tensor([quality]))
    output = OrdinalOutput(Categorical(LEVELS, torch.stack([first, second])))
    return Ordinal(config, 4).loss(output, Batch(torch.tensor([[0, 1]]), targets))["preference"]


def identities(setting: Setting) -> Figures:
    """O2: autograd against ∂log P/∂a_w(k) = p_w(k)(P(s_l < k) − P)/P."""
    draw = torch.Generator().manual_seed(setting.seed)
    a, b = torch.randn(9, generator=draw).requires_grad_(), torch.randn(9, generator=draw)
    (-loss_of(OrdinalConfig(), a, b, (math.nan, math.nan))).backward()
    assert a.grad is not None
    p, q = a.detach().softmax(0), b.softmax(0)
    below = q.cumsum(0) - q
    total = (p * below).sum()
    return {"|autograd − formula|, strict form": float((a.grad - p * (below - total) / total).abs().max())}


def vanishing(setting: Setting) -> Figures:
    """O3: the gradient once all mass of good and bad lies in its region."""
    sizes = {}
    for form in ("block", "ranktri", "tent"):
        winner, loser = (torch.full((9,), -30.0) for _ in range(2))
        winner[6:], loser[:3] = 0.0, 0.0
        winner.requires_grad_()
        loss_of(OrdinalConfig(region=form), winner, loser, (2.0, 0.0)).backward()  # type: ignore[arg-type]
        assert winner.grad is not None
        sizes[f"gradient inside the region, {form}"] = float(winner.grad.abs().max())
    return sizes


def efficiency(setting: Setting) -> Figures:
    """O4: quality labels (terciles of the true utility) on a fifth of the pairs against all of them."""
    one = bed(setting.seed, setting.size(10_000, 600))
    found: dict[str, float] = {}
    mass, accuracy = {}, {}
    for share, region in (
        (0.2, "ranktri"),
        (1.0, "ranktri"),
        (0.0, "ranktri"),
        (0.2, "region_nll"),
        (1.0, "region_nll"),
    ):
        stages = long_stage(setting.size(20, 2))
        method = fit("oprm", labelled(one, share, setting.seed), setting.seed, stages, ties="half", region=region)
        accuracy[share, region], mass[share, region] = judge(method, one.held).accuracy, region_mass(method, one)
    for region, name in (("ranktri", ""), ("region_nll", ", likelihood of the region instead")):
        few, full = (0.2, region), (1.0, region)
        found[f"mass in the true region, a fifth labelled : all labelled{name}"] = mass[few] / mass[full]
        found[f"pair accuracy, a fifth labelled less all labelled{name}"] = accuracy[few] - accuracy[full]
    found["pair accuracy, a fifth labelled less none"] = accuracy[0.2, "ranktri"] - accuracy[0.0, "ranktri"]
    lost = [mass[share, "ranktri"] - mass[0.0, "ranktri"] for share in (0.2, 1.0)]
    found["share of the gain in mass that a fifth of the labels brings"] = lost[0] / lost[1]
    return found | {
        f"mass in the true region, {share:.0%} labelled": mass[share, "ranktri"] for share in (0.0, 0.2, 1.0)
    }


def quality(utility: Tensor) -> Tensor:
    """0, 1, 2 by terciles of the utility [..., 2]."""
    return torch.bucketize(
        utility, torch.quantile(utility.flatten(), torch.tensor([1 / 3, 2 / 3], dtype=utility.dtype))
    )


def labelled(one: Bed, share: float, seed: int) -> PairFeatures:
    """The training pairs, a share of them with quality labels of both responses."""
    levels = quality(one.train_utility)
    chosen = torch.rand(len(levels), generator=torch.Generator().manual_seed(seed)) < share
    records = [
        replace(pair, quality=(QUALITIES[a], QUALITIES[b])) if keep else pair
        for pair, (a, b), keep in zip(one.train.preferences, levels.tolist(), chosen.tolist(), strict=True)
    ]
    return replace(one.train, preferences=tuple(records))


@torch.inference_mode()
def region_mass(method: torch.nn.Module, one: Bed) -> float:
    """Mean mass that held-out responses have in the region of their true quality."""
    probs = method(one.held.features).reward.probs[one.held.pairs]
    masks = torch.stack(list(regions(9, 3))).to(probs.dtype)[quality(one.held_utility)]
    return float((probs * masks).sum(-1).mean())


def disagreement(setting: Setting) -> Figures:
    """O5: predicted variance and bimodality on the responses on which the world's raters disagree most (upper third)."""
    one = world(setting)
    truth = true_rating_variance(one.held_ratings)
    contested = torch.from_numpy(truth > np.quantile(truth, 2 / 3))
    rated = {"rating_weight": 1.0, "attribute": "overall", "region": "none"}
    found: dict[str, float] = {}
    for name, data, options in (
        ("pairs alone", HeadData(one.train), {}),
        ("pairs and ratings", HeadData(one.train, rated=one.rated), rated),
    ):
        method = fit("oprm", data, setting.seed, ties="half", **options)
        with torch.inference_mode():
            belief = method(one.held_ratings.features).reward
            modes = bimodal(belief.probs).double()
        found[f"AUROC(predicted variance → contested response), {name}"] = auroc(belief.variance, contested)
        found[f"share bimodal, contested less others, {name}"] = float(
            modes[contested].mean() - modes[~contested].mean()
        )
    return found


def against_bt(setting: Setting) -> Mapping[str, Judged]:
    """What both forms of ties and Bradley–Terry say about held-out pairs of the world."""
    one = world(setting)
    forms: Mapping[str, tuple[str, Mapping[str, Any]]] = {
        "half": ("oprm", {"ties": "half"}),
        "strict": ("oprm", {"ties": "strict"}),
        "bt": ("bt", {"initial": "zero"}),
    }
    return {
        name: judge(fit(method, one.train, setting.seed, **options), one.splits["in_domain"])
        for name, (method, options) in forms.items()
    }


def small_margins(setting: Setting) -> Figures:
    """O6: gain in accuracy over BT, in the third of the pairs that people find hardest and in the easiest."""
    said = against_bt(setting)
    clear = (true_p(world(setting).splits["in_domain"]) - 0.5).abs()
    gain = credit(said["half"]) - credit(said["bt"])
    hard, easy = (float(gain[rows].mean()) for rows in (clear <= clear.quantile(1 / 3), clear >= clear.quantile(2 / 3)))
    return {
        "gain on the hardest third less gain on the easiest": hard - easy,
        "gain over BT, hardest third": hard,
        "gain over BT, easiest third": easy,
    }


def credit(said: Judged) -> Tensor:
    """[P]: 1 where a pair is ordered as its label, ½ where either is undecided."""
    return 0.5 + 0.5 * torch.sign(said.p - 0.5) * torch.sign(torch.from_numpy(said.label) - 0.5)


def calibration(setting: Setting) -> Figures:
    """O7: calibration error on held-out pairs of the world, half and strict ties."""
    said = against_bt(setting)
    return {
        "ECE with half ties less BT's": said["half"].ece - said["bt"].ece,
        "ECE of the strict form less BT's": said["strict"].ece - said["bt"].ece,
        "ECE of the strict form less with half ties": said["strict"].ece - said["half"].ece,
        "ECE of BT": said["bt"].ece,
    }


CLAIMS = (
    Claim(
        "O1",
        "With Gumbel scores the ordinal model is Bradley–Terry.",
        "not at nine levels",
        gumbel,
        [
            Check("largest gap to Λ(Δ), 1,025 levels, ties half", "below", 2e-3, every=True),
            Check("largest gap to Λ(Δ), nine levels, strict as published", "below", 0.05, every=True),
        ],
        [
            Reason(
                "The identity is one of continuous scores: nine levels put much mass on ties, which the strict form gives to "
                "nobody; with very many levels it comes close even so.",
                Check("largest gap to Λ(Δ), 1,025 levels, strict", "below", 0.05, every=True),
            ),
            Reason(
                "Giving half of the ties to each side is not enough at nine levels.",
                Check("largest gap to Λ(Δ), nine levels, ties half", "above", 0.05, every=True),
            ),
        ],
    ),
    Claim(
        "O2",
        "The gradient has the published form.",
        "holds for the strict form",
        identities,
        [Check("|autograd − formula|, strict form", "below", 1e-6, every=True)],
    ),
    Claim(
        "O3",
        "A naive interval constraint loses its gradient; the published regions keep it.",
        "holds",
        vanishing,
        [
            Check("gradient inside the region, block", "below", 1e-6, every=True),
            Check("gradient inside the region, ranktri", "above", 1e-3, every=True),
            Check("gradient inside the region, tent", "above", 1e-3, every=True),
        ],
    ),
    Claim(
        "O4",
        "Quality labels on a fifth of the pairs do as well as labels on all.",
        "open",
        efficiency,
        [
            Check("mass in the true region, a fifth labelled : all labelled", "above", 0.95),
            Check("pair accuracy, a fifth labelled less all labelled", "above", -0.005),
        ],
        [
            Reason(
                "A fifth of the labels brings a part of what all of them bring over none.",
                Check("share of the gain in mass that a fifth of the labels brings", "below", 0.95),
            ),
            Reason(
                "It is not the table of the region: with the likelihood of the region in its place a fifth does no better.",
                Check(
                    "mass in the true region, a fifth labelled : all labelled, likelihood of the region instead",
                    "below",
                    0.95,
                ),
            ),
            Reason(
                "Labels also help the order of pairs, so that a few of them are better than none.",
                Check("pair accuracy, a fifth labelled less none", "above", 0.0),
            ),
        ],
    ),
    Claim(
        "O5",
        "Variance and modes of the ordinal distribution show disagreement.",
        "not from pairs alone; with ratings",
        disagreement,
        [
            Check("AUROC(predicted variance → contested response), pairs alone", "above", 0.7),
            Check("share bimodal, contested less others, pairs alone", "above", 0.0),
        ],
        [
            Reason(
                "Two responses to a prompt identify the order alone; the shape of a single distribution needs ratings, which on "
                "frozen MiniLM features help, yet do not reach the threshold either.",
                Check("AUROC(predicted variance → contested response), pairs and ratings", "above", 0.5),
            )
        ],
    ),
    Claim(
        "O6",
        "The gain over Bradley–Terry is largest on small margins.",
        "open",
        small_margins,
        [Check("gain on the hardest third less gain on the easiest", "above", 0.0)],
    ),
    Claim(
        "O7",
        "Better calibrated than Bradley–Terry.",
        "open",
        calibration,
        [Check("ECE with half ties less BT's", "below", 0.0)],
        [
            Reason(
                "This is a matter of the ties: the strict form is trained as if a tie were a loss and read with half of it.",
                Check("ECE of the strict form less with half ties", "above", 0.0),
            )
        ],
    ),
)
