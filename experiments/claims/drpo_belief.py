"""Claims about what DRPO's rewards are worth: calibration, confidence, heads, robustness to flips."""

from __future__ import annotations

import math

import numpy as np
import scipy.optimize
import torch
from sklearn.isotonic import IsotonicRegression

from experiments.claims.bed import Judged, judge
from experiments.claims.claim import Check, Claim, Figures, Reason, Setting
from experiments.claims.drpo_runs import held, pairs, staged, trained

HEADS = ("categorical", "Gaussian")


def refinement(setting: Setting) -> Figures:
    """D5: calibration error after zero and after refine; stopped early and trained out."""
    given = pairs(setting, 0.2)
    late = setting.size(40, 5), setting.size(30, 3)
    zero, refine, late_zero, late_refine = (
        staged(setting, given, *epochs).ece for epochs in ((5,), (5, 3), late[:1], late)
    )
    return {
        "ECE refine less ECE zero, early stop": refine - zero,
        "ECE refine, early stop": refine,
        "ECE zero, early stop": zero,
        "ECE refine, trained out": late_refine,
        "ECE refine less ECE zero, trained out": late_refine - late_zero,
    }


def repair(setting: Setting) -> Figures:
    """D6: what is fitted on half of the held-out pairs, and the Brier form, judged on the other half."""
    given = pairs(setting, 0.1)
    said = held(setting, given)
    brier = half_of(held(setting, given, "drpo_exact", score="brier"))
    cooled, plain = cool(said), half_of(said)
    return {
        "ECE with one temperature": cooled.ece,
        "change of accuracy": abs(cooled.accuracy - plain.accuracy),
        "ECE of the Brier form": brier.ece,
        "ECE before": plain.ece,
        "ECE with isotonic regression": isotonic(said).ece,
        "ECE with one temperature, without standardisation": cool(held(setting, given, standardize="none")).ece,
        "ECE with one temperature, stopped early": cool(staged(setting, given, 5, 3)).ece,
    }


def half_of(said: Judged) -> Judged:
    """The half that nothing was fitted on."""
    half = len(said.p) // 2
    return Judged(said.p[half:], said.sigma[half:], said.label[half:])


def cool(said: Judged) -> Judged:
    """z divided by the temperature that is most likely on the first half (the winner stands first), on the second."""
    half, z = len(said.p) // 2, torch.special.ndtri(said.p.clamp(1e-12, 1 - 1e-12))
    found = scipy.optimize.minimize_scalar(
        lambda log_t: float(-torch.special.log_ndtr(z[:half] / math.exp(log_t)).mean()),
        bounds=(-3, 3),
        method="bounded",
    )
    return Judged(torch.special.ndtr(z[half:] / math.exp(found.x)), said.sigma[half:], said.label[half:])


def isotonic(said: Judged) -> Judged:
    """The symmetric monotone map of p that fits the first half best, on the second."""
    half, p = len(said.p) // 2, said.p.numpy()
    both, label = np.concatenate([p[:half], 1 - p[:half]]), np.repeat([1.0, 0.0], half)
    mapped = IsotonicRegression(out_of_bounds="clip").fit(both, label).predict(p[half:])
    return Judged(torch.from_numpy(mapped), said.sigma[half:], said.label[half:])


def confidence(setting: Setting) -> Figures:
    """D7: medians of C = |1 − 2Φ(z)|."""
    given = pairs(setting, 0.1)
    zero, refine = (float((2 * staged(setting, given, *epochs).p - 1).abs().median()) for epochs in ((5,), (5, 3)))
    return {
        "median C, refine less zero": refine - zero,
        "median C of zero": zero,
        "median C of refine": refine,
    }


def categorical(setting: Setting) -> Figures:
    """D9: accuracy of the two heads, trained out and with two stages; and what they gain on their training pairs."""
    given = pairs(setting, 0.1)
    heads = {name: held(setting, given, **({} if name == "Gaussian" else {"head": "categorical"})) for name in HEADS}
    early = {name: staged(setting, given, 5, 3, name.lower()).accuracy for name in HEADS}
    fitted = {
        name: judge(trained(setting, given, **({} if name == "Gaussian" else {"head": "categorical"})), given.train)
        for name in HEADS
    }
    late = heads["categorical"].accuracy - heads["Gaussian"].accuracy
    return {
        "|accuracy gap| of the heads, trained out": abs(late),
        "accuracy categorical less Gaussian, trained out": late,
        "|accuracy gap| of the heads, stopped early": abs(early["categorical"] - early["Gaussian"]),
        "the same on the training pairs": fitted["categorical"].accuracy - fitted["Gaussian"].accuracy,
        **{f"ECE {name}, trained out": judged.ece for name, judged in heads.items()},
    }


def flips(setting: Setting) -> Figures:
    """D10: 30 % of the training labels turned round, none of the held-out ones."""
    given = pairs(setting, 0.3, held_flips=0.0)
    drpo, bt = held(setting, given).accuracy, held(setting, given, "bt", initial="zero").accuracy
    thurstone = held(setting, given, "likelihood").accuracy
    return {
        "accuracy at 30 % flips, DRPO less BT": drpo - bt,
        "accuracy at 30 % flips, BT": bt,
        "accuracy at 30 % flips, DRPO stopped early, less BT": staged(setting, given, 5, 3).accuracy - bt,
        "accuracy at 30 % flips, Thurstone's likelihood less BT": thurstone - bt,
    }


CLAIMS = (
    Claim(
        "D5",
        "Refine calibrates what zero began.",
        "first with early stop, second not under flips",
        refinement,
        [Check("ECE refine less ECE zero, early stop", "below", 0.0), Check("ECE refine, early stop", "below", 0.05)],
        [
            Reason(
                "Calibration comes and goes with the moment of stopping: E[meta-reward] is linear in P(win), an improper score, "
                "and the same two stages trained out are overconfident.",
                Check("ECE refine, trained out", "above", 0.05),
            ),
            Reason(
                "Trained out, refine is worse calibrated than zero.",
                Check("ECE refine less ECE zero, trained out", "above", 0.0),
            ),
        ],
    ),
    Claim(
        "D6",
        "One temperature, or the Brier form, repairs the calibration.",
        "holds",
        repair,
        [
            Check("ECE with one temperature", "below", 0.05),
            Check("change of accuracy", "below", 0.003),
            Check("ECE of the Brier form", "below", 0.05),
        ],
        [
            Reason(
                "Trained out, z is wrong in shape and not only in scale: a free monotone map repairs it.",
                Check("ECE with isotonic regression", "below", 0.05),
            ),
            Reason(
                "One temperature is enough where training stopped early.",
                Check("ECE with one temperature, stopped early", "below", 0.05),
            ),
            Reason(
                "One temperature is enough where the pair's spread is not divided out.",
                Check("ECE with one temperature, without standardisation", "below", 0.05),
            ),
        ],
    ),
    Claim(
        "D7",
        "Zero is less confident than refine.",
        "holds",
        confidence,
        [Check("median C, refine less zero", "above", 0.0)],
    ),
    Claim(
        "D9",
        "A categorical head is as good as a Gaussian one.",
        "holds",
        categorical,
        [Check("|accuracy gap| of the heads, trained out", "below", 0.02)],
        [
            Reason(
                "Stopped early, the heads are level.",
                Check("|accuracy gap| of the heads, stopped early", "below", 0.02),
            ),
            Reason(
                "Trained out, the categorical head, with ten times the weights, learns the noise of its training pairs: there it is ahead.",
                Check("the same on the training pairs", "above", 0.0),
            ),
        ],
    ),
    Claim(
        "D10",
        "DRPO is more robust to flipped labels than Bradley–Terry.",
        "open",
        flips,
        [Check("accuracy at 30 % flips, DRPO less BT", "above", 0.005)],
        [
            Reason(
                "A learned σ does the same without any policy gradient: Thurstone's likelihood leads BT too.",
                Check("accuracy at 30 % flips, Thurstone's likelihood less BT", "above", 0.0),
            )
        ],
    ),
)
