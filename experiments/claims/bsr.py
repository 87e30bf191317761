"""Claims of BT-BSR: dispersion of hidden norms, generalisation splits, effective rank, hard and easy pairs, the gradient."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from experiments.claims import ranks
from experiments.claims.claim import Check, Claim, Figures, Reason, Setting
from experiments.claims.decoder import figures
from poise.methods.bradley_terry import batch_sum_to_zero

OOD = ("prompt_disjoint", "response_disjoint", "mutual_disjoint")
STEPS = ("bsr 1e-4", "bsr", "bsr 1e-2")


def of_splits(setting: Setting, variant: str, figure: str) -> dict[str, float]:
    """One figure of a trained variant by split."""
    return {name: split[figure] for name, split in figures(setting, variant)["splits"].items()}


def dispersion(setting: Setting) -> Figures:
    """B1: std‖h‖/mean‖h‖ with BSR less without, by split; h at the head's input, and before the final normalisation."""
    found = {}
    for name, key in (("dispersion", "dispersion"), ("dispersion before the final norm", "dispersion_before_norm")):
        bt, bsr, strong = (of_splits(setting, v, key) for v in ("bt", "bsr", "bsr 1e-2"))
        for split in ("train", "in_domain", "mutual_disjoint"):
            found[f"{name} on {split}, BSR less BT"] = bsr[split] - bt[split]
            found[f"{name} on {split}, ten times the coefficient, less BT"] = strong[split] - bt[split]
        found[f"{name} on train, BT"] = bt["train"]
    return found


def growth(setting: Setting) -> Figures:
    """B2: ‖W‖ against its start, and the distances ‖h_w − h_l‖ at the start, after one epoch and after two."""
    courses = [figures(setting, "bt", epochs) for epochs in (0, 1, 2)]
    start, one, two = (course["splits"]["train"] for course in courses)
    found = {"‖W‖ at the end : at the start": courses[2]["weight_norm"] / courses[0]["weight_norm"]}
    for key, name in (("difference_mean", "mean"), ("difference_variance", "variance")):
        found[f"{name} of ‖h_w − h_l‖, one epoch less start"] = one[key] - start[key]
        found[f"{name} of ‖h_w − h_l‖, two epochs less one"] = two[key] - one[key]
    return found | {
        "skewness of ‖h_w − h_l‖ after two epochs": two["difference_skew"],
        "skewness of ‖h_w − h_l‖ at the start": start["difference_skew"],
        "mean ‖h_w − h_l‖ after two epochs : at the start": two["difference_mean"] / start["difference_mean"],
    }


def rank_gap(setting: Setting) -> Figures:
    """B3: |effective rank on new prompts − on the training set|, equal n."""
    ranks_of = {v: of_splits(setting, v, "effective_rank") for v in ("bt", "bsr", "bsr 1e-2")}
    gap = {v: abs(by["mutual_disjoint"] - by["train"]) for v, by in ranks_of.items()}
    return {
        "gap of the effective rank, BSR less BT": gap["bsr"] - gap["bt"],
        "gap of the effective rank, ten times the coefficient, less BT": gap["bsr 1e-2"] - gap["bt"],
        "gap of the effective rank, BT": gap["bt"],
        "effective rank on the training set, BT": ranks_of["bt"]["train"],
        "effective rank on the training set, BSR less BT": ranks_of["bsr"]["train"] - ranks_of["bt"]["train"],
    }


def generalisation(setting: Setting) -> Figures:
    """B4: Kendall's τ within prompts; BSR against BT on three shifted splits, DR and norm against BT, and the gap."""
    tau = {v: of_splits(setting, v, "tau") for v in ("bt", "bsr", "bsr 1e-2", "dr", "norm")}
    mean = {v: float(np.mean([by[split] for split in OOD])) for v, by in tau.items()}
    gap = {v: tau[v]["prompt_disjoint"] - tau[v]["mutual_disjoint"] for v in ("bt", "bsr")}
    return {
        **{f"τ on {split}, BSR less BT": tau["bsr"][split] - tau["bt"][split] for split in OOD},
        **{f"mean τ of the three, {v.upper()} less BT": mean[v] - mean["bt"] for v in ("dr", "norm")},
        "mean τ of the three, ten times the coefficient, less BT": mean["bsr 1e-2"] - mean["bt"],
        "mean τ of the three, |BSR less BT|": abs(mean["bsr"] - mean["bt"]),
        "mean τ of the three, NORM less DR": mean["norm"] - mean["dr"],
        "gap prompt less mutual, BSR less BT": gap["bsr"] - gap["bt"],
        "mean τ of the three, BT": mean["bt"],
    }


def trade(setting: Setting) -> Figures:
    """B5: accuracy where new models write (hard) and in domain (easy), by the coefficient."""
    found = {}
    for kind, split in (("hard", "mutual_disjoint"), ("easy", "in_domain")):
        accuracy = {v: of_splits(setting, v, "accuracy")[split] for v in ("bt", *STEPS)}
        for a, b in itertools.pairwise(STEPS):
            found[f"accuracy on {kind} pairs, {b} less {a}"] = accuracy[b] - accuracy[a]
        found[f"accuracy on {kind} pairs, BT"] = accuracy["bt"]
        found[f"accuracy on {kind} pairs, range over the coefficients"] = max(accuracy.values()) - min(
            accuracy.values()
        )
    return found


def gradient(setting: Setting) -> Figures:
    """B6: ∂(r̄²)/∂r_i over a batch, the margins' gradient, and E[P r̄²]."""
    draw = torch.Generator().manual_seed(setting.seed)
    reward = torch.randn(64, generator=draw, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(batch_sum_to_zero(reward.mean(), "micro"), reward)
    known = reward.detach()
    prompts = torch.randn(setting.size(200_000, 5_000), 32, generator=draw, dtype=torch.float64) * 0.7 + 0.3
    square = prompts.mean(1).square() * 32
    return {
        "|gradient − r_i/P|: equation 28 as printed": float((slope - known / 32).abs().max()),
        "|gradient − r̄/P|": float((slope - known.mean() / 32).abs().max()),
        "|gradient of one response − of its partner|": float((slope[:32] - slope[32:]).abs().max()),
        "|E[P r̄²] − (Var m + P(E m)²)|, standard errors": float(
            (square.mean() - (0.7**2 + 32 * 0.3**2)).abs() / (square.std() / len(square) ** 0.5)
        ),
    }


def scopes(setting: Setting) -> Figures:
    """B7: gradients averaged over two processes against one process."""
    rewards = ranks.rewards(setting.seed)
    averaged = {scope: torch.tensor(found).double() / 2 for scope, found in ranks.slopes(setting.seed).items()}
    whole = rewards.flatten().requires_grad_()
    (of_whole,) = torch.autograd.grad(batch_sum_to_zero(whole.mean(), "micro"), whole)
    parts = [r.clone().requires_grad_() for r in rewards]
    of_parts = torch.cat([torch.autograd.grad(p.mean().square(), p)[0] for p in parts]) / 2
    return {
        "|global over two processes − one process|": float((averaged["global"] - of_whole).abs().max()),
        "|micro − mean of the processes' own losses|": float((averaged["micro"] - of_parts).abs().max()),
    }


def unlike(split: str, figure: str = "dispersion") -> Check:
    """BSR below BT on a split."""
    return Check(f"{figure} on {split}, BSR less BT", "below", 0.0)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "B1",
        "BSR lowers the dispersion of hidden norms.",
        "open",
        dispersion,
        [unlike(split) for split in ("train", "in_domain", "mutual_disjoint")],
        [
            Reason(
                "The head reads states behind a normalisation layer, where norms can hardly differ whatever the loss.",
                Check("dispersion on train, BT", "below", 0.01),
            ),
            Reason(
                "Before that layer norms do differ, and there a stronger penalty raises their dispersion.",
                Check("dispersion before the final norm on train, ten times the coefficient, less BT", "above", 0.0),
            ),
        ],
    ),
    Claim(
        "B2",
        "‖W‖ stays near 1 while ‖h_w − h_l‖ grows under BT, skewed to the right.",
        "holds",
        growth,
        [
            Check("‖W‖ at the end : at the start", "above", 0.9),
            Check("‖W‖ at the end : at the start", "below", 1.1),
            *(
                Check(f"{name} of ‖h_w − h_l‖, {step}", "above", 0.0)
                for name in ("mean", "variance")
                for step in ("one epoch less start", "two epochs less one")
            ),
            Check("skewness of ‖h_w − h_l‖ after two epochs", "above", 0.0),
        ],
        [
            Reason(
                "A decoder that starts from random states first gives up differences between texts that do not matter, and pulls "
                "pairs apart later.",
                Check("mean of ‖h_w − h_l‖, two epochs less one", "above", 0.0),
            )
        ],
    ),
    Claim(
        "B3",
        "BSR narrows the gap of the effective rank between training and new data.",
        "open",
        rank_gap,
        [Check("gap of the effective rank, BSR less BT", "below", 0.0)],
    ),
    Claim(
        "B4",
        "BSR generalises better: order on three shifted splits; DR and norm do worse.",
        "open",
        generalisation,
        [Check(f"τ on {split}, BSR less BT", "above", 0.0) for split in OOD]
        + [Check(f"mean τ of the three, {v} less BT", "below", 0.0) for v in ("DR", "NORM")],
        [
            Reason(
                "In expectation the penalty centres prompts and touches no margin within one, so it hardly reorders a prompt's answers.",
                Check("mean τ of the three, |BSR less BT|", "below", 0.05),
            )
        ],
    ),
    Claim(
        "B5",
        "Larger coefficients raise accuracy on hard pairs and lower it on easy ones.",
        "a trade-off",
        trade,
        [Check(f"accuracy on hard pairs, {b} less {a}", "above", 0.0) for a, b in itertools.pairwise(STEPS)]
        + [Check(f"accuracy on easy pairs, {b} less {a}", "below", 0.0) for a, b in itertools.pairwise(STEPS)],
        [
            Reason(
                "The coefficient hardly moves accuracy here. Hard stands for new prompts answered by new models; the paper has "
                "RM-Bench's styles.",
                Check("accuracy on hard pairs, range over the coefficients", "below", 0.05),
            )
        ],
    ),
    Claim(
        "B6",
        "The penalty pulls each response in proportion to its own reward (equation 28).",
        "does not hold",
        gradient,
        [Check("|gradient − r_i/P|: equation 28 as printed", "below", 1e-6, every=True)],
        [
            Reason(
                "The gradient is r̄/P, the same for every response of the batch: no outlier is singled out and no margin touched.",
                Check("|gradient − r̄/P|", "below", 1e-6, every=True),
            ),
            Reason(
                "Over batches of P pairs the penalty is the variance of the prompts' means and P times their mean squared.",
                Check("|E[P r̄²] − (Var m + P(E m)²)|, standard errors", "below", 4.0, every=True),
            ),
        ],
    ),
    Claim(
        "B7",
        "Scopes: micro is the mean of the processes' losses, global that of one process.",
        "holds",
        scopes,
        [
            Check("|global over two processes − one process|", "below", 1e-6, every=True),
            Check("|micro − mean of the processes' own losses|", "below", 1e-6, every=True),
        ],
    ),
)
