"""Claims of OPRM: Gumbel scores and Bradley–Terry, gradients, regions, data efficiency, disagreement, small margins."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from experiments.claims.bed import Bed, auroc, bed, fit, judge, long_stage
from experiments.claims.claim import Check, Claim, Finding, Setting
from experiments.claims.worlds import true_p, true_rating_variance, worlds
from poise.data.batch import Batch, Targets
from poise.data.records import QUALITIES
from poise.distributions import Categorical
from poise.methods.ordinal import Ordinal, OrdinalConfig, OrdinalOutput, regions
from poise.pairing import PairFeatures
from poise.training.heads import HeadData

LEVELS = torch.arange(1.0, 10.0)


def gumbel(setting: Setting) -> Finding:
    """O1: independent Gumbel scores put on a grid over [−12, 24], against Λ(Δ) for Δ in [0, 4]."""
    fine, coarse = (
        max(abs(gumbel_win(delta, bins, half) - 1 / (1 + math.exp(-delta))) for delta in np.linspace(0, 4, 17))
        for bins, half in ((1025, True), (9, False))
    )
    checks = [
        Check("largest gap to Λ(Δ), 1,025 levels, ties half", [fine], "below", 2e-3, every=True),
        Check("largest gap to Λ(Δ), nine levels, strict as published", [coarse], "below", 0.05, every=True),
    ]
    half = max(abs(gumbel_win(d, 9, True) - 1 / (1 + math.exp(-d))) for d in np.linspace(0, 4, 17))
    why = "The identity is one of continuous scores: nine levels put much mass on ties, which the strict form gives to nobody."
    return Finding(checks, {"largest gap, nine levels, ties half": [half]}, why)


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


def identities(setting: Setting) -> Finding:
    """O2: autograd against ∂log P/∂a_w(k) = p_w(k)(P(s_l < k) − P)/P."""
    errors = []
    for seed in range(setting.seeds):
        draw = torch.Generator().manual_seed(seed)
        a, b = torch.randn(9, generator=draw).requires_grad_(), torch.randn(9, generator=draw)
        (-loss_of(OrdinalConfig(), a, b, (math.nan, math.nan))).backward()
        p, q = a.detach().softmax(0), b.softmax(0)
        below = q.cumsum(0) - q
        total = (p * below).sum()
        errors.append(float((a.grad - p * (below - total) / total).abs().max()))  # type: ignore[operator]
    return Finding([Check("|autograd − formula|, strict form", errors, "below", 1e-6, every=True)])


def vanishing(setting: Setting) -> Finding:
    """O3: the gradient once all mass of good and bad lies in its region."""
    sizes = {}
    for form in ("block", "ranktri", "tent"):
        winner, loser = (torch.full((9,), -30.0) for _ in range(2))
        winner[6:], loser[:3] = 0.0, 0.0
        winner.requires_grad_()
        loss_of(OrdinalConfig(region=form), winner, loser, (2.0, 0.0)).backward()  # type: ignore[arg-type]
        sizes[form] = float(winner.grad.abs().max())  # type: ignore[union-attr]
    return Finding(
        [
            Check("gradient inside the region, block", [sizes["block"]], "below", 1e-6, every=True),
            Check("gradient inside the region, ranktri", [sizes["ranktri"]], "above", 1e-3, every=True),
            Check("gradient inside the region, tent", [sizes["tent"]], "above", 1e-3, every=True),
        ]
    )


def efficiency(setting: Setting) -> Finding:
    """O4: quality labels (terciles of the true utility) on a fifth of the pairs against all of them."""
    mass: dict[float, list[float]] = {0.2: [], 1.0: [], 0.0: []}
    accuracy: dict[float, list[float]] = {0.2: [], 1.0: [], 0.0: []}
    for seed in range(setting.seeds):
        one = bed(seed, setting.size(10_000, 600))
        for share in mass:
            method = fit("oprm", labelled(one, share, seed), seed, long_stage(setting.size(20, 2)), ties="half")
            accuracy[share].append(judge(method, one.held).accuracy)
            mass[share].append(region_mass(method, one))
    ratio = [a / b for a, b in zip(mass[0.2], mass[1.0], strict=True)]
    gap = [a - b for a, b in zip(accuracy[0.2], accuracy[1.0], strict=True)]
    checks = [
        Check("mass in the true region, a fifth labelled : all labelled", ratio, "above", 0.95),
        Check("pair accuracy, a fifth labelled less all labelled", gap, "above", -0.005),
    ]
    also = {f"mass in the true region, {share:.0%} labelled": values for share, values in mass.items()}
    return Finding(checks, also | {f"accuracy, {share:.0%} labelled": values for share, values in accuracy.items()})


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


def disagreement(setting: Setting) -> Finding:
    """O5: predicted variance against the responses on which the world's raters disagree most (upper third)."""
    alone, anchored = [], []
    for seed, one in enumerate(worlds(setting)):
        truth = true_rating_variance(one.held_ratings)
        contested = torch.from_numpy(truth > np.quantile(truth, 2 / 3))
        for found, data, options in (
            (alone, HeadData(one.train), {}),
            (
                anchored,
                HeadData(one.train, rated=one.rated),
                {"rating_weight": 1.0, "attribute": "overall", "region": "none"},
            ),
        ):
            method = fit("oprm", data, seed, long_stage(setting.size(10, 1)), ties="half", **options)
            with torch.inference_mode():
                found.append(auroc(method(one.held_ratings.features).reward.variance, contested))
    check = Check("AUROC(predicted variance → contested response), pairs alone", alone, "above", 0.7)
    why = "Two responses to a prompt identify z alone; the shape of a single distribution needs ratings or quality labels."
    return Finding([check], {"the same with ratings": anchored}, why)


def small_margins(setting: Setting) -> Finding:
    """O6: gain in accuracy over BT, in the third of the pairs that people find hardest and in the easiest."""
    difference, hard, easy = [], [], []
    for seed, one in enumerate(worlds(setting)):
        held = one.splits["in_domain"]
        clear = (true_p(held) - 0.5).abs()
        low, high = clear <= clear.quantile(1 / 3), clear >= clear.quantile(2 / 3)
        right = []
        for name, options in (("oprm", {"ties": "half"}), ("bt", {"initial": "zero"})):
            said = judge(fit(name, one.train, seed, **options), held)
            right.append(
                ((said.p > 0.5).double() + 0.5 * (said.p == 0.5)) * (torch.from_numpy(said.label) > 0.5)
                + ((said.p < 0.5).double() + 0.5 * (said.p == 0.5)) * (torch.from_numpy(said.label) < 0.5)
            )
        gain = right[0] - right[1]
        hard.append(float(gain[low].mean()))
        easy.append(float(gain[high].mean()))
        difference.append(hard[-1] - easy[-1])
    also = {"gain over BT, hardest third": hard, "gain over BT, easiest third": easy}
    return Finding([Check("gain on the hardest third less gain on the easiest", difference, "above", 0.0)], also)


def calibration(setting: Setting) -> Finding:
    """O7: calibration error on held-out pairs of the world, half and strict ties."""
    half, strict = [], []
    for seed, one in enumerate(worlds(setting)):
        held = one.splits["in_domain"]
        bt = judge(fit("bt", one.train, seed, initial="zero"), held).ece
        half.append(judge(fit("oprm", one.train, seed, ties="half"), held).ece - bt)
        strict.append(judge(fit("oprm", one.train, seed, ties="strict"), held).ece - bt)
    why = "The strict form trains P(w > l) without ties but is read with half of them: what it maximises is not the likelihood of a label."
    return Finding(
        [Check("ECE with half ties less BT's", half, "below", 0.0)], {"ECE of the strict form less BT's": strict}, why
    )


CLAIMS = (
    Claim(
        "O1",
        "With Gumbel scores the ordinal model is Bradley–Terry.",
        "largest gap to Λ < .002 at 1,025 levels and < .05 at nine",
        "not at nine levels",
        gumbel,
    ),
    Claim(
        "O2",
        "The gradient has the published form.",
        "autograd equals the formula to 1e-6",
        "holds for the strict form",
        identities,
    ),
    Claim(
        "O3",
        "A naive interval constraint loses its gradient; the published regions keep it.",
        "gradient inside: block 0; ranktri and tent > 0",
        "holds",
        vanishing,
    ),
    Claim(
        "O4",
        "Quality labels on a fifth of the pairs do.",
        "mass in the region ≥ 95 % of fully labelled; accuracy not lower by more than half a point",
        "open",
        efficiency,
    ),
    Claim(
        "O5",
        "Variance and modes of the ordinal distribution show disagreement.",
        "AUROC > .7 from pairs alone",
        "not from pairs alone; with ratings",
        disagreement,
    ),
    Claim(
        "O6",
        "The gain over Bradley–Terry is largest on small margins.",
        "gain in the hardest third > gain in the easiest",
        "open",
        small_margins,
    ),
    Claim("O7", "Better calibrated than Bradley–Terry.", "ECE(half) < ECE(BT)", "open", calibration),
)
