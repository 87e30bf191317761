"""Claims of VRM: against Bradley–Terry, supervision of the weights, spurious features, the bound, the moments."""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.distributions import Dirichlet

from experiments.claims.bed import fit, judge, pair_features
from experiments.claims.claim import Check, Claim, Finding, Setting
from experiments.claims.worlds import worlds
from poise.features import Features
from poise.methods.dirichlet import dirichlet_kl
from poise.methods.pac_bayes import pac_bayes
from poise.methods.variational import Variational, VariationalConfig
from poise.pairing import PairFeatures

SUPERVISED = {"supervision_weight": 1.0}


def better(setting: Setting) -> Finding:
    """V1: accuracy on prompts of other domains."""
    gain, faithful = [], []
    for seed, one in enumerate(worlds(setting)):
        held = one.splits["prompt_disjoint"]
        bt = judge(fit("bt", one.train, seed, initial="zero"), held).accuracy
        gain.append(judge(fit("vrm", one.train, seed), held).accuracy - bt)
        published = {"likelihood": "elbo", "draws": 1, "kl_w": 1.0, "kl_z": 1.0}
        faithful.append(judge(fit("vrm", one.train, seed, **published), held).accuracy - bt)
    why = "With the KLs at their published weight no posterior lifts the bound above its value at the prior, so nothing is learnt."
    return Finding(
        [Check("accuracy on new prompts, VRM less BT", gain, "above", 0.0)],
        {"the bound as published less BT": faithful},
        why,
    )


def supervision_weight(setting: Setting) -> Finding:
    """V2: accuracy in training and on held-out pairs, and the area under the supervision's loss, by its weight."""
    weights = (0.01, 0.1, 1.0)
    train: dict[float, list[float]] = {c: [] for c in weights}
    held: dict[float, list[float]] = {c: [] for c in weights}
    area: dict[float, list[float]] = {c: [] for c in weights}
    for seed, one in enumerate(worlds(setting)):
        for c in weights:
            with tempfile.TemporaryDirectory() as folder:
                method = fit("vrm", one.train, seed, folder=Path(folder), supervision_weight=c)
                lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text("utf8").splitlines()]
            area[c].append(float(np.mean([line["loss/supervision"] / c for line in lines])))
            train[c].append(judge(method, one.train).accuracy)
            held[c].append(judge(method, one.splits["in_domain"]).accuracy)
    spread = [max(train[c][i] for c in weights) - min(train[c][i] for c in weights) for i in range(setting.seeds)]
    rise = [min(held[b][i] - held[a][i] for a, b in itertools.pairwise(weights)) for i in range(setting.seeds)]
    fall = [max(area[b][i] - area[a][i] for a, b in itertools.pairwise(weights)) for i in range(setting.seeds)]
    checks = [
        Check("range of the training accuracy over the weights", spread, "below", 0.01),
        Check("least rise of held-out accuracy from weight to weight", rise, "above", -0.005),
        Check("largest rise of the area under the KL from weight to weight", fall, "below", 0.0),
    ]
    return Finding(checks, {f"held-out accuracy, weight {c:g}": values for c, values in held.items()})


def supervision_kind(setting: Setting) -> Finding:
    """V3: accuracy by the loss of the supervision, and without any."""
    accuracy: dict[str, list[float]] = {kind: [] for kind in ("kl", "mse", "rank", "none")}
    for seed, one in enumerate(worlds(setting)):
        for kind, found in accuracy.items():
            options = {} if kind == "none" else SUPERVISED | {"supervision": kind}
            found.append(judge(fit("vrm", one.train, seed, **options), one.splits["in_domain"]).accuracy)
    kinds = ("kl", "mse", "rank")
    spread = [max(accuracy[k][i] for k in kinds) - min(accuracy[k][i] for k in kinds) for i in range(setting.seeds)]
    drop = [accuracy["kl"][i] - accuracy["none"][i] for i in range(setting.seeds)]
    checks = [
        Check("range of accuracy over KL, MSE and ranking", spread, "below", 0.01),
        Check("accuracy with KL less without supervision", drop, "below", 0.01),
    ]
    return Finding(checks, {f"accuracy, {kind}": values for kind, values in accuracy.items()})


def spurious(setting: Setting) -> Finding:
    """V4: a cue (length) that goes with the label in 80 % of the training pairs and against it in 80 % of the test pairs."""
    gain, clean = [], []
    for seed in range(setting.seeds):
        train, flipped, same = (cued(seed, part, setting, agrees) for part, agrees in enumerate((0.8, 0.2, 0.8)))
        vrm, bt = fit("vrm", train, seed), fit("bt", train, seed, initial="zero")
        gain.append(judge(vrm, flipped).accuracy - judge(bt, flipped).accuracy)
        clean.append(judge(vrm, same).accuracy - judge(bt, same).accuracy)
    why = "Nothing in the bound knows which feature is spurious: both heads use the cue as far as it predicts."
    return Finding(
        [Check("accuracy where the cue misleads, VRM less BT", gain, "above", 0.0)], {"where it does not": clean}, why
    )


def cued(seed: int, part: int, setting: Setting, agrees: float) -> PairFeatures:
    """Pairs [chosen, rejected] whose last feature is larger for the chosen one with probability ``agrees``."""
    draw = np.random.default_rng([seed, 5])
    weights = draw.normal(size=40) / 40**0.5
    fresh, count = np.random.default_rng([seed, 6, part]), setting.size(5000, 300)
    x = fresh.normal(size=(count, 2, 64))
    x[:, :, :8] = x[:, :1, :8]
    x[:, :, 1] = 1.0
    utility = 1.5 * x[:, :, 8:48] @ weights
    wins = fresh.random(count) < 1 / (1 + np.exp(-(utility[:, 0] - utility[:, 1])))
    x = np.where(wins[:, None, None], x, x[:, ::-1])
    cue = np.where(fresh.random(count) < agrees, 1.0, -1.0)[:, None] * np.array([0.5, -0.5])
    x[:, :, -1] = cue + 0.3 * fresh.normal(size=(count, 2))
    return pair_features(torch.from_numpy(x).float(), prompt=True)


def bound(setting: Setting) -> Finding:
    """V5: the bound of a trained model against its test error, and where it says nothing."""
    slack, vacuous, mean_kl = [], [], []
    for seed in range(setting.seeds):
        train, test = (cued(seed, part, setting, 0.5) for part in (0, 2))
        method = fit("vrm", train, seed)
        with torch.inference_mode():
            output = method(train.features)
            kl = float(
                (
                    dirichlet_kl(output.concentration[train.pairs[:, 0]]) + method._kl_z(output)[train.pairs].sum(-1)
                ).sum()
            )
        risk, error = 1 - judge(method, train).accuracy, 1 - judge(method, test).accuracy
        mean_kl.append(kl / len(train))
        value = pac_bayes(risk, kl, len(train))
        slack.append(value - error)
        vacuous.append(float((value > 1) == (mean_kl[-1] > 2 * (1 - risk) ** 2)))
    checks = [
        Check("bound less test error", slack, "above", 0.0, every=True),
        Check("vacuous exactly where the mean KL exceeds 2(1 − risk)²", vacuous, "above", 0.5, every=True),
    ]
    why = "The arithmetic holds. As a certificate it fails: latents of training pairs are no hypothesis for new ones, and the term does not vanish with n."
    return Finding(checks, {"mean KL per pair, nat": mean_kl}, why)


def moments(setting: Setting) -> Finding:
    """V6: closed-form mean and variance of the reward against draws, in standard errors."""
    draws, worst = setting.size(100_000, 5_000), []
    for seed in range(setting.seeds):
        torch.manual_seed(seed)
        method = Variational(VariationalConfig(objectives=4, latent=5), 16).eval()
        with torch.inference_mode():
            output = method(Features(torch.randn(4, 16), torch.randn(4, 16)))
            weight = Dirichlet(output.concentration).sample((draws,))
            reward = method.decoder(weight, output.mean + output.std * torch.randn(draws, *output.mean.shape)).double()
            centred = reward - reward.mean(0)
            off_mean = (output.reward.mean - reward.mean(0)).abs() / (reward.std(0) / draws**0.5)
            error = ((centred**4).mean(0) - reward.var(0) ** 2).sqrt() / draws**0.5
            off_variance = (output.reward.variance - reward.var(0)).abs() / error
        worst.append(float(torch.maximum(off_mean, off_variance).max()))
    return Finding([Check("largest distance from 1e5 draws, standard errors", worst, "below", 4.5, every=True)])


CLAIMS = (
    Claim("V1", "VRM orders better than Bradley–Terry.", "accuracy on new prompts > BT", "open", better),
    Claim(
        "V2",
        "More supervision: training accuracy flat, held-out accuracy up, KL falls faster.",
        "range < 1 point; no fall of more than half a point; area under the KL falls",
        "third holds, second open",
        supervision_weight,
    ),
    Claim(
        "V3",
        "The kind of supervision does not matter, and none costs nothing.",
        "range < 1 point; drop < 1 point",
        "holds",
        supervision_kind,
    ),
    Claim("V4", "VRM resists spurious features.", "cue turned round at test: accuracy > BT", "open", spurious),
    Claim(
        "V5",
        "The PAC-Bayes figure lies above the test error.",
        "bound ≥ test error; vacuous where the mean KL says so",
        "holds as arithmetic, not as a certificate",
        bound,
    ),
    Claim("V6", "Closed-form moments are right.", "within error of 1e5 draws", "holds", moments),
)
