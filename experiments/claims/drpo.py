"""Claims of DRPO: variance, hinge hacking, zero → refine, calibration, margins, heads, robustness to flips."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import scipy.optimize
import scipy.stats
import torch
from torch import Tensor

from experiments.claims.bed import Bed, Judged, auroc, bed, fit, judge, long_stage
from experiments.claims.claim import Check, Claim, Finding, Setting
from poise.distributions import Gaussian
from poise.distributions.numerics import normal_cdf
from poise.methods.bandit import Bandit, BanditConfig, meta_rewards, normal_log_prob, standardised

REFINE = {"kappa": 0.1, "beta": 0.1, "reference": "previous_stage"}


def beds(setting: Setting, flips: float, learnable: bool = True, held_flips: float | None = None) -> list[Bed]:
    """One bed per seed."""
    return [bed(seed, setting.size(10_000, 600), flips, learnable, held_flips) for seed in range(setting.seeds)]


def trained(setting: Setting, given: list[Bed], method: str = "drpo", **options: object) -> list[Judged]:
    """A method trained out on every bed, judged on its held-out pairs."""
    stages = long_stage(setting.size(20, 2), 1e-2)
    return [judge(fit(method, one.train, seed, stages, **options), one.held) for seed, one in enumerate(given)]


def collapse(setting: Setting) -> Finding:
    """D1: σ after training over σ before (1), by two flip rates."""
    checks, also = [], {}
    for flips in (0.1, 0.3):
        given = beds(setting, flips)
        for name, side, limit, options in (
            ("mean of the log, no KL", "below", 0.2, {"supervised": "mean_of_log", "beta": 0.0}),
            ("DRPO", "above", 0.25, {}),
        ):
            sigma = [float(j.sigma.mean()) for j in trained(setting, given, **options)]
            checks.append(Check(f"σ of {name}, flips {flips}", sigma, side, limit))
        held = trained(setting, given, supervised="mean_of_log")
        also[f"σ of mean of the log with DRPO's KL (β .05), flips {flips}"] = [float(j.sigma.mean()) for j in held]
    why = "The loss that collapses is a mean over draws of −log Λ: every loss of spread lowers it. A KL term stops it early."
    return Finding(checks, also, why)


def necessity(setting: Setting) -> Finding:
    """D2: whether supervision alone collapses; Thurstone's likelihood is supervised and should keep σ."""
    given = beds(setting, 0.1)
    drpo, thurstone = trained(setting, given), trained(setting, given, "likelihood")
    told = [[auroc(j.sigma, one.noisy) for j, one in zip(some, given, strict=True)] for some in (drpo, thurstone)]
    checks = [
        Check("σ of Thurstone's likelihood", [float(j.sigma.mean()) for j in thurstone], "above", 0.5),
        Check(
            "AUROC(σ → noisy prompt), Thurstone less DRPO", [t - d for d, t in zip(*told, strict=True)], "above", -0.05
        ),
    ]
    also = {"AUROC(σ → noisy prompt), DRPO": told[0], "AUROC(σ → noisy prompt), Thurstone": told[1]}
    why = "The log of the mean does not collapse; the published ablation minimises the mean of the log. It is the order of the two, not supervision."
    return Finding(checks, also, why, refutes=True)


def hinge(setting: Setting) -> Finding:
    """D3: pairs nobody can order; pair standardisation."""
    given = beds(setting, 0.5, learnable=False)
    hacked, honest = trained(setting, given, meta_reward="hinge"), trained(setting, given)
    z = [float(torch.special.ndtri(j.p.clamp(1e-9, 1 - 1e-9)).abs().mean()) for j in hacked]
    checks = [
        Check("σ with the hinge, unlearnable pairs", [float(j.sigma.mean()) for j in hacked], "above", 2.0),
        Check("mean |z| with the hinge", z, "below", 0.3),
        Check("σ with the indicator", [float(j.sigma.mean()) for j in honest], "below", 1.5),
    ]
    learnable = trained(setting, beds(setting, 0.1), meta_reward="hinge")
    also = {"σ with the hinge, learnable pairs": [float(j.sigma.mean()) for j in learnable]}
    return Finding(
        checks,
        also,
        "∂/∂s of the expected hinge is φ(z) > 0 whatever z; only where no gap can grow does σ take it all.",
    )


def trends(setting: Setting) -> Finding:
    """D4: rank correlation with the step of what the log says in one epoch (as published), on pairs without flips."""
    found: dict[str, list[float]] = {"meta_reward": [], "sigma": [], "margin": []}
    for seed, one in enumerate(beds(setting, 0.0)):
        with tempfile.TemporaryDirectory() as folder:
            fit("drpo", one.train, seed, long_stage(1), Path(folder))
            lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text("utf8").splitlines()]
        for name, values in found.items():
            values.append(float(scipy.stats.spearmanr([x["step"] for x in lines], [x[name] for x in lines])[0]))
    checks = [
        Check("Spearman(step, meta-reward)", found["meta_reward"], "above", 0.8),
        Check("Spearman(step, σ)", found["sigma"], "below", -0.8),
        Check("Spearman(step, gap)", found["margin"], "above", 0.8),
    ]
    return Finding(checks, why="σ falls after each pair is resolved (z > κ), so its fall follows the rise of the gap.")


def two_stages(setting: Setting, given: list[Bed], epochs: tuple[float, float]) -> tuple[list[Judged], list[Judged]]:
    """(zero, zero → refine), with the paper's shares of the prompts."""
    zero = {"name": "zero", "share": 0.1, "epochs": epochs[0], "batch_size": 64, "learning_rate": 1e-3}
    refine = {
        "name": "refine",
        "share": 0.9,
        "epochs": epochs[1],
        "batch_size": 64,
        "learning_rate": 1e-3,
        "method": REFINE,
    }
    both = []
    for stages in ([zero], [zero, refine]):
        both.append([judge(fit("drpo", one.train, seed, stages), one.held) for seed, one in enumerate(given)])
    return both[0], both[1]


def refinement(setting: Setting) -> Finding:
    """D5: calibration error after zero and after refine; stopped early and trained out."""
    given = beds(setting, 0.2)
    zero, refine = two_stages(setting, given, (5, 3))
    late_zero, late = two_stages(setting, given, (setting.size(40, 5), setting.size(30, 3)))
    checks = [
        Check("ECE refine less ECE zero, early stop", gains(refine, zero, "ece"), "below", 0.0),
        Check("ECE refine, early stop", [j.ece for j in refine], "below", 0.05),
    ]
    also = {
        "ECE zero, early stop": [j.ece for j in zero],
        "ECE refine, trained out": [j.ece for j in late],
        "ECE refine less ECE zero, trained out": gains(late, late_zero, "ece"),
    }
    why = (
        "E[meta-reward] is linear in P(win), an improper score: calibration comes and goes with the moment of stopping."
    )
    return Finding(checks, also, why)


def repair(setting: Setting) -> Finding:
    """D6: a temperature fitted on half of the held-out pairs, and the Brier form, judged on the other half."""
    given = beds(setting, 0.1)
    ece, change, brier, raw = [], [], [], []
    for said, exact in zip(trained(setting, given), trained(setting, given, "drpo_exact", score="brier"), strict=True):
        half = len(said.p) // 2
        z = torch.special.ndtri(said.p.clamp(1e-12, 1 - 1e-12))
        t = scipy.optimize.minimize_scalar(
            lambda log_t, z=z[:half]: float(-torch.special.log_ndtr(z / math.exp(log_t)).mean()),
            bounds=(-3, 3),
            method="bounded",
        )
        cooled = Judged(torch.special.ndtr(z[half:] / math.exp(t.x)), said.sigma[half:], said.label[half:])
        before = Judged(said.p[half:], said.sigma[half:], said.label[half:])
        ece.append(cooled.ece)
        raw.append(before.ece)
        change.append(abs(cooled.accuracy - before.accuracy))
        brier.append(exact.ece)
    checks = [
        Check("ECE with one temperature", ece, "below", 0.05),
        Check("change of accuracy", change, "below", 0.003),
        Check("ECE of the Brier form", brier, "below", 0.05),
    ]
    return Finding(checks, {"ECE before": raw})


def confidence(setting: Setting) -> Finding:
    """D7: medians of C = |1 − 2Φ(z)|."""
    zero, refine = two_stages(setting, beds(setting, 0.1), (5, 3))
    medians = [[float((2 * j.p - 1).abs().median()) for j in some] for some in (zero, refine)]
    gap = [r - z for z, r in zip(*medians, strict=True)]
    return Finding(
        [Check("median C, refine less zero", gap, "above", 0.0)],
        {"median C of zero": medians[0], "median C of refine": medians[1]},
    )


def margins(setting: Setting) -> Finding:
    """D8: accuracy by κ, and where the gradient of σ changes its sign."""
    given = beds(setting, 0.1)
    accuracy = {k: [j.accuracy for j in trained(setting, given, kappa=k)] for k in (0.0, 0.1, 0.3, 0.5, 1.0)}
    best = [
        max(accuracy[0.1][i], accuracy[0.3][i]) - max(accuracy[k][i] for k in (0.0, 0.5, 1.0))
        for i in range(setting.seeds)
    ]
    checks = [
        Check("best accuracy of κ in [.1, .3] less the best of the others", best, "above", 0.0),
        Check(
            "accuracy at κ = 1 less at .1",
            [a - b for a, b in zip(accuracy[1.0], accuracy[0.1], strict=True)],
            "below",
            0.0,
        ),
        Check(
            "|z − κ| where the gradient of σ is 0, κ = .3", [abs(zero_of_sigma(0.3) - 0.3)], "below", 1e-3, every=True
        ),
    ]
    why = "κ decides below which z a pair inflates σ; it hardly moves means, hence accuracy."
    return Finding(checks, {f"accuracy at κ = {k}": values for k, values in accuracy.items()}, why)


def zero_of_sigma(kappa: float) -> float:
    """The z at which ∂Φ((δ − κs)/s)/∂σ, margin fixed, changes its sign."""

    def slope(z: float) -> float:
        std = torch.tensor([1.0, 1.0], dtype=torch.float64, requires_grad=True)
        s = std.square().sum().sqrt()
        (gradient,) = torch.autograd.grad(normal_cdf((z * 2**0.5 - kappa * s.detach()) / s), std)
        return float(gradient[0])

    return float(scipy.optimize.brentq(slope, 1e-3, 2.0))


def categorical(setting: Setting) -> Finding:
    """D9: accuracy of the two heads, trained out and with the method's own stages."""
    given = beds(setting, 0.1)
    levels, gaussian = trained(setting, given, head="categorical"), trained(setting, given)
    early = [
        [judge(fit("drpo", one.train, seed, head=head), one.held) for seed, one in enumerate(given)]
        for head in ("categorical", "gaussian")
    ]
    also = {
        "accuracy categorical less Gaussian, trained out": gains(levels, gaussian, "accuracy"),
        "accuracy categorical less Gaussian, zero → refine": gains(*early, "accuracy"),
        "ECE categorical": [j.ece for j in levels],
        "ECE Gaussian": [j.ece for j in gaussian],
    }
    gap = [abs(a) for a in gains(levels, gaussian, "accuracy")]
    return Finding([Check("|accuracy gap| of the heads, trained out", gap, "below", 0.02)], also)


def flips(setting: Setting) -> Finding:
    """D10: 30 % of the training labels turned round, none of the held-out ones."""
    given = beds(setting, 0.3, held_flips=0.0)
    drpo, bt = trained(setting, given), trained(setting, given, "bt", initial="zero")
    early = [judge(fit("drpo", one.train, seed), one.held) for seed, one in enumerate(given)]
    checks = [Check("accuracy at 30 % flips, DRPO less BT", gains(drpo, bt, "accuracy"), "above", 0.005)]
    also = {
        "accuracy BT": [j.accuracy for j in bt],
        "accuracy DRPO, zero → refine, early stop": [j.accuracy for j in early],
    }
    why = "The slope φ(z) lets go of pairs that are far on the wrong side; symmetric flips of a linear utility have few of these."
    return Finding(checks, also, why)


def units(setting: Setting) -> Finding:
    """D11: four identities of the objective."""
    attached, credit, still, error = [], [], [], []
    for seed in range(setting.seeds):
        draw = torch.Generator().manual_seed(seed)
        mean, std = (
            torch.randn(1, generator=draw, requires_grad=True),
            torch.rand(1, generator=draw).add(0.5).requires_grad_(),
        )
        samples = mean[:, None] + std[:, None] * torch.randn(1, 64, generator=draw)
        advantage = torch.rand(1, 64, generator=draw)
        (normal_log_prob(samples, Gaussian(mean, std)) * (advantage - advantage.mean())).mean().backward()
        attached.append(float(mean.grad.abs() + std.grad.abs()))
        drawn = torch.randn(50, 2, 32, generator=draw)
        meta = meta_rewards(drawn, torch.zeros(50), "indicator")
        credit.append(float((meta[:, 0].mean(1) - meta[:, 1].mean(1)).abs().max()))
        still.append(float(standardised(torch.full((3, 2, 8), 0.7), "pair").abs().max()))
        error.append(sampled_gradient_error(seed, setting.size(200_000, 20_000)))
    checks = [
        Check("gradient through attached samples", attached, "below", 1e-6, every=True),
        Check("|mean R of winners − mean R of losers|", credit, "below", 1e-6, every=True),
        Check("advantage where all meta-rewards are equal", still, "below", 1e-12, every=True),
        Check("|sampled gradient − (1 − 1/G)∇½Φ|, in standard errors", error, "below", 3.5, every=True),
    ]
    return Finding(checks)


def sampled_gradient_error(seed: int, pairs: int) -> float:
    """Largest distance of the sampled policy gradient from its closed form over the four parameters of a pair."""
    draw = torch.Generator().manual_seed(seed)
    given = torch.rand(2, 2, generator=draw, dtype=torch.float64) + torch.tensor([[0.3, 0.6], [0.0, 0.6]])
    method = Bandit(BanditConfig(samples=8, kappa=0.0, beta=0.0, standardize="none"), 2).double()
    parameters = given.expand(pairs, 2, 2).clone().requires_grad_()  # [P, (w, l), (μ, σ)]
    policy = Gaussian(parameters[..., 0], parameters[..., 1])
    samples = method.sample(policy, draw)
    advantage = method.advantage(samples, torch.zeros(pairs, dtype=torch.float64))
    per_pair = (normal_log_prob(samples, policy) * advantage).mean((1, 2))
    (each,) = torch.autograd.grad(per_pair.sum(), parameters)
    exact = given.clone().requires_grad_()
    z = (exact[0, 0] - exact[1, 0]) / exact[:, 1].square().sum().sqrt()
    (wanted,) = torch.autograd.grad((1 - 1 / 8) * 0.5 * normal_cdf(z), exact)
    error: Tensor = (each.mean(0) - wanted).abs() / (each.std(0) / pairs**0.5)
    return float(error.max())


def gains(ours: list[Judged], theirs: list[Judged], what: str) -> list[float]:
    """Paired differences of a measure, seed by seed."""
    measure: Callable[[Judged], float] = lambda j: float(getattr(j, what))  # noqa: E731
    return [measure(a) - measure(b) for a, b in zip(ours, theirs, strict=True)]


CLAIMS = (
    Claim(
        "D1",
        "Supervised training on sampled rewards collapses σ; DRPO does not.",
        "σ_end/σ_0 < .2 for mean-of-log, > .25 for DRPO, flips .1 and .3",
        "holds",
        collapse,
    ),
    Claim(
        "D2",
        "Reinforcement learning is necessary against the collapse of σ.",
        "refuted if Thurstone keeps σ > .5 and its AUROC(σ → noise) ≥ DRPO − .05",
        "does not hold",
        necessity,
    ),
    Claim(
        "D3",
        "A hinge meta-reward is hacked by inflating σ.",
        "unlearnable pairs: σ > 2 and |z| < .3; indicator σ < 1.5",
        "holds, on unlearnable pairs",
        hinge,
    ),
    Claim(
        "D4",
        "Meta-reward and gap rise and σ falls during training.",
        "Spearman with the step > .8, < −.8, > .8",
        "holds",
        trends,
    ),
    Claim(
        "D5",
        "Refine calibrates what zero began.",
        "ECE refine < zero; ECE < .05",
        "first with early stop, second not under flips",
        refinement,
    ),
    Claim(
        "D6",
        "One temperature, or the Brier form, repairs the calibration.",
        "ECE ≤ .05, accuracy change < .3 points",
        "holds",
        repair,
    ),
    Claim("D7", "Zero is less confident than refine.", "median C: zero < refine", "holds", confidence),
    Claim(
        "D8",
        "The best margin κ lies between .1 and .3.",
        "argmax of accuracy over {0, .1, .3, .5, 1}; accuracy(1) < accuracy(.1)",
        "small effect",
        margins,
    ),
    Claim("D9", "A categorical head is as good as a Gaussian one.", "accuracy gap < 2 points", "holds", categorical),
    Claim(
        "D10",
        "DRPO is more robust to flipped labels than Bradley–Terry.",
        "30 % flips: accuracy ≥ BT + .5 points",
        "open",
        flips,
    ),
    Claim(
        "D11",
        "The policy gradient is what the derivation says.",
        "identities: attached samples 0; equal credit; 0 at equal rewards; (1 − 1/G)∇½Φ",
        "holds",
        units,
    ),
)
