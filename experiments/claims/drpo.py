"""Claims about DRPO's objective: what it does to σ, the hinge, the course of training, the margin, the gradient."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import scipy.optimize
import scipy.stats
import torch
from torch import Tensor

from experiments.claims.bed import auroc, fit, long_stage
from experiments.claims.claim import Check, Claim, Figures, Reason, Setting
from experiments.claims.drpo_runs import held, pairs, staged
from poise.distributions import Gaussian
from poise.distributions.numerics import normal_cdf
from poise.methods.bandit import Bandit, BanditConfig, meta_rewards, normal_log_prob, standardised

FLIPS, KAPPAS = (0.1, 0.3), (0.0, 0.1, 0.3, 0.5, 1.0)


def collapse(setting: Setting) -> Figures:
    """D1: σ after training over σ before (1), by two flip rates."""
    found = {}
    for flips in FLIPS:
        given = pairs(setting, flips)
        for name, options in (
            ("the mean of the log, no KL", {"supervised": "mean_of_log", "beta": 0.0}),
            ("the mean of the log, DRPO's KL", {"supervised": "mean_of_log"}),
            ("DRPO", {}),
            ("DRPO without standardisation", {"standardize": "none"}),
        ):
            found[f"σ of {name}, flips {flips}"] = float(held(setting, given, **options).sigma.mean())
        found[f"σ of DRPO stopped early, flips {flips}"] = float(staged(setting, given, 5, 3).sigma.mean())
    return found


def necessity(setting: Setting) -> Figures:
    """D2: whether supervision alone collapses; Thurstone's likelihood is supervised and should keep σ."""
    given = pairs(setting, 0.1)
    drpo, thurstone = held(setting, given), held(setting, given, "likelihood")
    log = held(setting, given, supervised="mean_of_log", beta=0.0)
    told = {name: auroc(j.sigma, given.noisy) for name, j in (("DRPO", drpo), ("Thurstone", thurstone), ("log", log))}
    return {
        "σ of Thurstone's likelihood": float(thurstone.sigma.mean()),
        "σ of the mean of the log": float(log.sigma.mean()),
        "AUROC(σ → noisy prompt), Thurstone less DRPO": told["Thurstone"] - told["DRPO"],
        "AUROC(σ → noisy prompt), DRPO": told["DRPO"],
        "AUROC(σ → noisy prompt), Thurstone": told["Thurstone"],
        "AUROC(σ → noisy prompt), the mean of the log": told["log"],
    }


def hinge(setting: Setting) -> Figures:
    """D3: pairs nobody can order; pair standardisation."""
    given = pairs(setting, 0.5, learnable=False)
    hacked, honest = held(setting, given, meta_reward="hinge"), held(setting, given)
    learnable = held(setting, pairs(setting, 0.1), meta_reward="hinge")
    z = [torch.special.ndtri(j.p.clamp(1e-9, 1 - 1e-9)).abs().mean() for j in (hacked, learnable)]
    return {
        "σ with the hinge, unlearnable pairs": float(hacked.sigma.mean()),
        "mean |z| with the hinge, unlearnable pairs": float(z[0]),
        "σ with the indicator, unlearnable pairs": float(honest.sigma.mean()),
        "σ with the hinge, learnable pairs": float(learnable.sigma.mean()),
        "mean |z| with the hinge, learnable pairs": float(z[1]),
    }


def trends(setting: Setting) -> Figures:
    """D4: rank correlation with the step of what the log says in one epoch (as published), on pairs without flips."""
    with tempfile.TemporaryDirectory() as folder:
        fit("drpo", pairs(setting, 0.0).train, setting.seed, long_stage(1), Path(folder))
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text("utf8").splitlines()]
    steps = [line["step"] for line in lines]
    logged = {"meta-reward": "meta_reward", "σ": "sigma", "gap": "margin"}
    return {
        f"Spearman(step, {name})": float(scipy.stats.spearmanr(steps, [line[key] for line in lines])[0])
        for name, key in logged.items()
    }


def margins(setting: Setting) -> Figures:
    """D8: accuracy by κ, and where the gradient of σ changes its sign."""
    given = pairs(setting, 0.1)
    accuracy = {k: held(setting, given, kappa=k).accuracy for k in KAPPAS}
    return {
        "best accuracy of κ in [.1, .3] less the best of the others": max(accuracy[0.1], accuracy[0.3])
        - max(accuracy[k] for k in (0.0, 0.5, 1.0)),
        "accuracy at κ = 1 less at .1": accuracy[1.0] - accuracy[0.1],
        "|z − κ| where the gradient of σ is 0, κ = .3": abs(zero_of_sigma(0.3) - 0.3),
        "range of accuracy over κ": max(accuracy.values()) - min(accuracy.values()),
        **{f"accuracy at κ = {k}": value for k, value in accuracy.items()},
        **{f"σ at κ = {k}": float(held(setting, given, kappa=k).sigma.mean()) for k in (0.0, 1.0)},
    }


def zero_of_sigma(kappa: float) -> float:
    """The z at which ∂Φ((δ − κs)/s)/∂σ, margin fixed, changes its sign."""

    def slope(z: float) -> float:
        std = torch.tensor([1.0, 1.0], dtype=torch.float64, requires_grad=True)
        s = std.square().sum().sqrt()
        (gradient,) = torch.autograd.grad(normal_cdf((z * 2**0.5 - kappa * s.detach()) / s), std)
        return float(gradient[0])

    return float(scipy.optimize.brentq(slope, 1e-3, 2.0))


def units(setting: Setting) -> Figures:
    """D11: four identities of the objective."""
    draw = torch.Generator().manual_seed(setting.seed)
    mean, std = torch.randn(1, generator=draw, requires_grad=True), torch.rand(1, generator=draw).add(0.5)
    std.requires_grad_()
    samples = mean[:, None] + std[:, None] * torch.randn(1, 64, generator=draw)
    advantage = torch.rand(1, 64, generator=draw)
    (normal_log_prob(samples, Gaussian(mean, std)) * (advantage - advantage.mean())).mean().backward()
    assert mean.grad is not None
    assert std.grad is not None
    meta = meta_rewards(torch.randn(50, 2, 32, generator=draw), torch.zeros(50), "indicator").mean(2)
    return {
        "gradient through attached samples": float(mean.grad.abs() + std.grad.abs()),
        "|mean R of winners − mean R of losers|": float((meta[:, 0] - meta[:, 1]).abs().max()),
        "advantage where all meta-rewards are equal": float(
            standardised(torch.full((3, 2, 8), 0.7), "pair").abs().max()
        ),
        "|sampled gradient − (1 − 1/G)∇½Φ|, in standard errors": sampled_gradient_error(
            setting.seed, setting.size(200_000, 20_000)
        ),
    }


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


CLAIMS = (
    Claim(
        "D1",
        "Supervised training on sampled rewards collapses σ; DRPO does not.",
        "holds",
        collapse,
        [Check(f"σ of the mean of the log, no KL, flips {f}", "below", 0.2) for f in FLIPS]
        + [Check(f"σ of DRPO, flips {f}", "above", 0.25) for f in FLIPS],
        [
            Reason(
                "Trained out, DRPO lowers σ as well where pairs are resolved; stopped early it has not yet.",
                Check("σ of DRPO stopped early, flips 0.1", "above", 0.25),
            ),
            Reason(
                "It is the division by the pair's own spread that goes on pressing on resolved pairs.",
                Check("σ of DRPO without standardisation, flips 0.1", "above", 0.25),
            ),
            Reason(
                "A KL term as strong as DRPO's keeps σ of the supervised loss from collapsing as far.",
                Check("σ of the mean of the log, DRPO's KL, flips 0.1", "above", 0.2),
            ),
        ],
    ),
    Claim(
        "D2",
        "Reinforcement learning is necessary against the collapse of σ.",
        "does not hold",
        necessity,
        [
            Check("σ of Thurstone's likelihood", "above", 0.5),
            Check("AUROC(σ → noisy prompt), Thurstone less DRPO", "above", -0.05),
        ],
        [
            Reason(
                "What collapses is the mean of the log (the published ablation) on the same pairs, not supervision: Thurstone's "
                "likelihood, the log of the mean, keeps σ and knows the noisy prompts.",
                Check("σ of the mean of the log", "below", 0.2),
            )
        ],
        refutes=True,
    ),
    Claim(
        "D3",
        "A hinge meta-reward is hacked by inflating σ.",
        "holds, on unlearnable pairs",
        hinge,
        [
            Check("σ with the hinge, unlearnable pairs", "above", 2.0),
            Check("mean |z| with the hinge, unlearnable pairs", "below", 0.3),
            Check("σ with the indicator, unlearnable pairs", "below", 1.5),
        ],
        [
            Reason(
                "On pairs that can be ordered the gap grows as well: they stay resolved.",
                Check("mean |z| with the hinge, learnable pairs", "above", 0.3),
            )
        ],
    ),
    Claim(
        "D4",
        "Meta-reward and gap rise and σ falls during training.",
        "holds",
        trends,
        [
            Check("Spearman(step, meta-reward)", "above", 0.8),
            Check("Spearman(step, σ)", "below", -0.8),
            Check("Spearman(step, gap)", "above", 0.8),
        ],
    ),
    Claim(
        "D8",
        "The best margin κ lies between .1 and .3.",
        "small effect",
        margins,
        [
            Check("best accuracy of κ in [.1, .3] less the best of the others", "above", 0.0),
            Check("accuracy at κ = 1 less at .1", "below", 0.0),
            Check("|z − κ| where the gradient of σ is 0, κ = .3", "below", 1e-3, every=True),
        ],
        [
            Reason(
                "κ decides below which z a pair inflates σ and hardly moves means, hence accuracy.",
                Check("range of accuracy over κ", "below", 0.005),
            )
        ],
    ),
    Claim(
        "D11",
        "The policy gradient is what the derivation says.",
        "holds",
        units,
        [
            Check("gradient through attached samples", "below", 1e-6, every=True),
            Check("|mean R of winners − mean R of losers|", "below", 1e-6, every=True),
            Check("advantage where all meta-rewards are equal", "below", 1e-12, every=True),
            Check("|sampled gradient − (1 − 1/G)∇½Φ|, in standard errors", "below", 3.5, every=True),
        ],
    ),
)
