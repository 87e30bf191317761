"""Claims of VRM: against Bradley–Terry, supervision of the weights, spurious features, the bound, the moments."""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributions import Dirichlet

from experiments.claims.bed import fit, judge, pair_features
from experiments.claims.claim import Check, Claim, Figures, Reason, Setting
from experiments.claims.worlds import world
from poise.features import Features
from poise.methods.dirichlet import dirichlet_kl
from poise.methods.pac_bayes import pac_bayes
from poise.methods.variational import Variational, VariationalConfig
from poise.pairing import PairFeatures

SUPERVISED = {"supervision_weight": 1.0}
PUBLISHED = {"likelihood": "elbo", "draws": 1, "kl_w": 1.0, "kl_z": 1.0}
WEIGHTS = (0.01, 0.1, 1.0)


def better(setting: Setting) -> Figures:
    """V1: accuracy on prompts of other domains."""
    one = world(setting)
    held = one.splits["prompt_disjoint"]

    def accuracy(method: str, **options: Any) -> float:
        return judge(fit(method, one.train, setting.seed, **options), held).accuracy

    bt = accuracy("bt", initial="zero")
    return {
        "accuracy on new prompts, VRM less BT": accuracy("vrm") - bt,
        "accuracy on new prompts, VRM with the bound as published": accuracy("vrm", **PUBLISHED),
        "accuracy on new prompts, BT": bt,
    }


def supervision_weight(setting: Setting) -> Figures:
    """V2: accuracy in training and on held-out pairs, and the area under the supervision's loss, by its weight."""
    one = world(setting)
    train, held, area = [], [], []
    for c in WEIGHTS:
        with tempfile.TemporaryDirectory() as folder:
            method = fit("vrm", one.train, setting.seed, folder=Path(folder), supervision_weight=c)
            lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text("utf8").splitlines()]
        area.append(float(np.mean([line["loss/supervision"] / c for line in lines])))
        train.append(judge(method, one.train).accuracy)
        held.append(judge(method, one.splits["in_domain"]).accuracy)
    return {
        "range of the training accuracy over the weights": max(train) - min(train),
        "least rise of held-out accuracy from weight to weight": min(b - a for a, b in itertools.pairwise(held)),
        "largest rise of the area under the KL from weight to weight": max(b - a for a, b in itertools.pairwise(area)),
        "range of the held-out accuracy over the weights": max(held) - min(held),
        **{f"held-out accuracy, weight {c:g}": value for c, value in zip(WEIGHTS, held, strict=True)},
    }


def supervision_kind(setting: Setting) -> Figures:
    """V3: accuracy by the loss of the supervision, and without any."""
    one, accuracy = world(setting), {}
    for kind in ("kl", "mse", "rank", "none"):
        options = {} if kind == "none" else SUPERVISED | {"supervision": kind}
        accuracy[kind] = judge(fit("vrm", one.train, setting.seed, **options), one.splits["in_domain"]).accuracy
    kinds = [accuracy[kind] for kind in ("kl", "mse", "rank")]
    return {
        "range of accuracy over KL, MSE and ranking": max(kinds) - min(kinds),
        "accuracy with KL less without supervision": accuracy["kl"] - accuracy["none"],
        **{f"accuracy, supervision {kind}": value for kind, value in accuracy.items()},
    }


def spurious(setting: Setting) -> Figures:
    """V4: a cue (length) that goes with the label in 80 % of the training pairs and against it in 80 % of the test pairs."""
    train, flipped, same = (cued(setting.seed, part, setting, agrees) for part, agrees in enumerate((0.8, 0.2, 0.8)))
    vrm, bt = fit("vrm", train, setting.seed), fit("bt", train, setting.seed, initial="zero")
    return {
        "accuracy where the cue misleads, VRM less BT": judge(vrm, flipped).accuracy - judge(bt, flipped).accuracy,
        "accuracy where the cue does not mislead, VRM less BT": judge(vrm, same).accuracy - judge(bt, same).accuracy,
        "accuracy where the cue misleads, BT": judge(bt, flipped).accuracy,
    }


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


def bound(setting: Setting) -> Figures:
    """V5: the bound of a trained model against its test error, and where it says nothing."""
    train, test = (cued(setting.seed, part, setting, 0.5) for part in (0, 2))
    method = fit("vrm", train, setting.seed)
    with torch.inference_mode():
        output = method(train.features)
        weights = dirichlet_kl(output.concentration[train.pairs[:, 0]])
        kl = float((weights + method._kl_z(output)[train.pairs].sum(-1)).sum())
    risk, error = 1 - judge(method, train).accuracy, 1 - judge(method, test).accuracy
    value, mean_kl = pac_bayes(risk, kl, len(train)), kl / len(train)
    return {
        "bound less test error": value - error,
        "vacuous exactly where the mean KL exceeds 2(1 − risk)²": float((value > 1) == (mean_kl > 2 * (1 - risk) ** 2)),
        "bound": value,
        "mean KL per pair, nat": mean_kl,
        "test error less training error": error - risk,
    }


def moments(setting: Setting) -> Figures:
    """V6: closed-form mean and variance of the reward against draws, in standard errors."""
    draws = setting.size(100_000, 5_000)
    torch.manual_seed(setting.seed)
    method = Variational(VariationalConfig(objectives=4, latent=5), 16).eval()
    with torch.inference_mode():
        output = method(Features(torch.randn(4, 16), torch.randn(4, 16)))
        weight = Dirichlet(output.concentration).sample((draws,))
        reward = method.decoder(weight, output.mean + output.std * torch.randn(draws, *output.mean.shape)).double()
        centred = reward - reward.mean(0)
        off_mean = (output.reward.mean - reward.mean(0)).abs() / (reward.std(0) / draws**0.5)
        error = ((centred**4).mean(0) - reward.var(0) ** 2).sqrt() / draws**0.5
        off_variance = (output.reward.variance - reward.var(0)).abs() / error
    return {"largest distance from 1e5 draws, standard errors": float(torch.maximum(off_mean, off_variance).max())}


CLAIMS = (
    Claim(
        "V1",
        "VRM orders better than Bradley–Terry.",
        "open",
        better,
        [Check("accuracy on new prompts, VRM less BT", "above", 0.0)],
        [
            Reason(
                "With both KLs at their published weight no posterior lifts the bound above its value at the prior, so nothing is learnt.",
                Check("accuracy on new prompts, VRM with the bound as published", "below", 0.55),
            )
        ],
    ),
    Claim(
        "V2",
        "More supervision: training accuracy flat, held-out accuracy up, KL falls faster.",
        "third holds, second open",
        supervision_weight,
        [
            Check("range of the training accuracy over the weights", "below", 0.01),
            Check("least rise of held-out accuracy from weight to weight", "above", -0.005),
            Check("largest rise of the area under the KL from weight to weight", "below", 0.0),
        ],
        [
            Reason(
                "Held-out accuracy neither rises nor falls by much: over a hundredfold weight it stays within two points.",
                Check("range of the held-out accuracy over the weights", "below", 0.02),
            )
        ],
    ),
    Claim(
        "V3",
        "The kind of supervision does not matter, and none costs nothing.",
        "holds",
        supervision_kind,
        [
            Check("range of accuracy over KL, MSE and ranking", "below", 0.01),
            Check("accuracy with KL less without supervision", "below", 0.01),
        ],
    ),
    Claim(
        "V4",
        "VRM resists spurious features.",
        "open",
        spurious,
        [Check("accuracy where the cue misleads, VRM less BT", "above", 0.0)],
        [
            Reason(
                "Nothing in the bound knows which feature is spurious: VRM uses the cue more than BT, and gains from it where it is right.",
                Check("accuracy where the cue does not mislead, VRM less BT", "above", 0.0),
            )
        ],
    ),
    Claim(
        "V5",
        "The PAC-Bayes figure lies above the test error.",
        "holds as arithmetic, not as a certificate",
        bound,
        [
            Check("bound less test error", "above", 0.0, every=True),
            Check("vacuous exactly where the mean KL exceeds 2(1 − risk)²", "above", 0.5, every=True),
        ],
        [
            Reason(
                "As a certificate it says nothing: it exceeds 1, which any error is below.",
                Check("bound", "above", 1.0),
            )
        ],
    ),
    Claim(
        "V6",
        "Closed-form moments are right.",
        "holds",
        moments,
        [Check("largest distance from 1e5 draws, standard errors", "below", 4.5, every=True)],
    ),
)
