"""Claims of BT-BSR: dispersion of hidden norms, generalisation splits, effective rank, hard and easy pairs, the gradient."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as spawn

from experiments.claims.claim import Check, Claim, Finding, Setting
from experiments.claims.decoder import figures
from poise.methods.bradley_terry import batch_sum_to_zero

OOD = ("prompt_disjoint", "response_disjoint", "mutual_disjoint")


def by_seed(setting: Setting, variant: str, read: Callable[[dict], float], epochs: float = 2) -> list[float]:  # type: ignore[type-arg]
    """One figure of a variant for every seed."""
    return [read(figures(setting, variant, seed, epochs)) for seed in range(setting.seeds)]


def less(ours: list[float], theirs: list[float]) -> list[float]:
    """Paired differences."""
    return [a - b for a, b in zip(ours, theirs, strict=True)]


def dispersion(setting: Setting) -> Finding:
    """B1: std‖h‖/mean‖h‖ with BSR less without, by split."""
    checks, also = [], {}
    for name in ("train", "in_domain", "mutual_disjoint"):
        values = {
            v: by_seed(setting, v, lambda f, n=name: f["splits"][n]["dispersion"]) for v in ("bt", "bsr", "bsr 1e-2")
        }
        checks.append(Check(f"dispersion on {name}, BSR less BT", less(values["bsr"], values["bt"]), "below", 0.0))
        also |= {f"dispersion on {name}, {v}": d for v, d in values.items()}
    why = "The penalty moves a batch's mean reward, not any single norm; with a final normalisation layer norms can hardly differ."
    return Finding(checks, also, why)


def growth(setting: Setting) -> Finding:
    """B2: ‖W‖ against its start, and the distances ‖h_w − h_l‖ at the start, after one epoch and after two."""
    norms = [by_seed(setting, "bt", lambda f: f["weight_norm"], e) for e in (0, 1, 2)]
    ratio = [c / a for a, c in zip(norms[0], norms[2], strict=True)]
    checks = [
        Check("‖W‖ at the end : at the start", ratio, "above", 0.9),
        Check("‖W‖ at the end : at the start", ratio, "below", 1.1),
    ]
    for key, name in (("difference_mean", "mean"), ("difference_variance", "variance")):
        start, one, two = (by_seed(setting, "bt", lambda f, k=key: f["splits"]["train"][k], e) for e in (0, 1, 2))
        checks.append(Check(f"{name} of ‖h_w − h_l‖, one epoch less start", less(one, start), "above", 0.0))
        checks.append(Check(f"{name} of ‖h_w − h_l‖, two epochs less one", less(two, one), "above", 0.0))
    skew = by_seed(setting, "bt", lambda f: f["splits"]["train"]["difference_skew"])
    checks.append(Check("skewness of ‖h_w − h_l‖ after two epochs", skew, "above", 0.0))
    return Finding(checks)


def rank_gap(setting: Setting) -> Finding:
    """B3: |effective rank on new prompts − on the training set|, equal n."""
    gap = {
        v: by_seed(
            setting,
            v,
            lambda f: abs(f["splits"]["mutual_disjoint"]["effective_rank"] - f["splits"]["train"]["effective_rank"]),
        )
        for v in ("bt", "bsr", "bsr 1e-2")
    }
    return Finding(
        [Check("gap of the effective rank, BSR less BT", less(gap["bsr"], gap["bt"]), "below", 0.0)],
        {f"gap, {v}": g for v, g in gap.items()},
    )


def generalisation(setting: Setting) -> Finding:
    """B4: Kendall's τ within prompts; BSR against BT on three shifted splits, DR and norm against BT, and the gap."""
    tau = {
        v: {n: by_seed(setting, v, lambda f, n=n: f["splits"][n]["tau"]) for n in ("in_domain", *OOD)}
        for v in ("bt", "bsr", "bsr 1e-2", "dr", "norm")
    }
    checks = [Check(f"τ on {n}, BSR less BT", less(tau["bsr"][n], tau["bt"][n]), "above", 0.0) for n in OOD]
    mean = {v: list(np.mean([tau[v][n] for n in OOD], axis=0)) for v in tau}
    checks += [
        Check(f"mean τ of the three, {v.upper()} less BT", less(mean[v], mean["bt"]), "below", 0.0)
        for v in ("dr", "norm")
    ]
    gap = {v: less(tau[v]["prompt_disjoint"], tau[v]["mutual_disjoint"]) for v in ("bt", "bsr")}
    also = {
        "gap prompt less mutual, BSR less BT": less(gap["bsr"], gap["bt"]),
        **{f"mean τ of the three, {v}": m for v, m in mean.items()},
    }
    return Finding(
        checks,
        also,
        "In expectation the penalty centres prompts; it touches no margin within a prompt, so it can hardly reorder its answers.",
    )


def trade(setting: Setting) -> Finding:
    """B5: accuracy where new models write (hard) and in domain (easy), by the coefficient."""
    steps = ("bsr 1e-4", "bsr", "bsr 1e-2")
    hard, easy = (
        [by_seed(setting, v, lambda f, n=n: f["splits"][n]["accuracy"]) for v in steps]
        for n in ("mutual_disjoint", "in_domain")
    )
    checks = [
        Check(f"accuracy on hard pairs, {b} less {a}", less(hard[i + 1], hard[i]), "above", 0.0)
        for i, (a, b) in enumerate(itertools.pairwise(steps))
    ]
    checks += [
        Check(f"accuracy on easy pairs, {b} less {a}", less(easy[i + 1], easy[i]), "below", 0.0)
        for i, (a, b) in enumerate(itertools.pairwise(steps))
    ]
    return Finding(
        checks, why="Hard stands for pairs of new prompts by new models here; the paper has RM-Bench's styles."
    )


def gradient(setting: Setting) -> Finding:
    """B6: ∂(r̄²)/∂r_i over a batch, the margins' gradient, and E[P r̄²]."""
    apart, constant, margin, expectation = [], [], [], []
    for seed in range(setting.seeds):
        draw = torch.Generator().manual_seed(seed)
        reward = torch.randn(64, generator=draw, dtype=torch.float64).requires_grad_()
        (slope,) = torch.autograd.grad(batch_sum_to_zero(reward.mean(), "micro"), reward)
        apart.append(float((slope - reward.detach() / 32).abs().max()))  # equation 28 of the paper: r_i / P
        constant.append(float((slope - reward.detach().mean() / 32).abs().max()))
        margin.append(float((slope[:32] - slope[32:]).abs().max()))
        prompts = torch.randn(setting.size(200_000, 5_000), 32, generator=draw, dtype=torch.float64) * 0.7 + 0.3
        square = prompts.mean(1).square() * 32
        wanted = 0.7**2 + 32 * 0.3**2
        expectation.append(float((square.mean() - wanted).abs() / (square.std() / len(square) ** 0.5)))
    checks = [
        Check("|gradient − r_i/P|: equation 28 as printed", apart, "below", 1e-6, every=True),
    ]
    also = {
        "|gradient − r̄/P|": constant,
        "|gradient of one response − of its partner|": margin,
        "|E[P r̄²] − (Var m + P(E m)²)|, standard errors": expectation,
    }
    return Finding(
        checks,
        also,
        "The gradient is r̄/P, the same for every response of the batch: no outlier is singled out and no margin touched.",
    )


def scopes(setting: Setting) -> Finding:
    """B7: gradients averaged over two processes against one process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    queue = spawn.get_context("spawn").SimpleQueue()
    spawn.spawn(_rank, args=(port, queue), nprocs=2)
    found = dict(queue.get() for _ in range(2))
    rewards = _rewards()
    whole = rewards.flatten().requires_grad_()
    (of_whole,) = torch.autograd.grad(batch_sum_to_zero(whole.mean(), "micro"), whole)
    averaged = torch.tensor([found[0]["global"], found[1]["global"]]).double().flatten() / 2
    parts = [r.clone().requires_grad_() for r in rewards]
    of_parts = torch.cat([torch.autograd.grad(p.mean().square(), p)[0] for p in parts]) / 2
    micro = torch.tensor([found[0]["micro"], found[1]["micro"]]).double().flatten() / 2
    return Finding(
        [
            Check(
                "|global over two processes − one process|",
                [float((averaged - of_whole).abs().max())],
                "below",
                1e-6,
                every=True,
            ),
            Check(
                "|micro − mean of the processes' own losses|",
                [float((micro - of_parts).abs().max())],
                "below",
                1e-6,
                every=True,
            ),
        ]
    )


def _rewards() -> torch.Tensor:
    return torch.randn(2, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _rank(rank: int, port: int, queue) -> None:  # type: ignore[no-untyped-def]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    found = {}
    for scope in ("global", "micro"):
        mine = _rewards()[rank].clone().requires_grad_()
        (slope,) = torch.autograd.grad(batch_sum_to_zero(mine.mean(), scope), mine)
        found[scope] = slope.tolist()
    queue.put((rank, found))
    dist.destroy_process_group()


CLAIMS = (
    Claim(
        "B1",
        "BSR lowers the dispersion of hidden norms.",
        "std‖h‖/mean‖h‖ lower in training, in domain and shifted",
        "open",
        dispersion,
    ),
    Claim(
        "B2",
        "‖W‖ stays near 1 while ‖h_w − h_l‖ grows under BT, skewed to the right.",
        "ratio in [.9, 1.1]; mean and variance grow from epoch to epoch; skew > 0",
        "holds",
        growth,
    ),
    Claim(
        "B3",
        "BSR narrows the gap of the effective rank between training and new data.",
        "|new − training| smaller at equal n",
        "open",
        rank_gap,
    ),
    Claim(
        "B4",
        "BSR generalises better: order on three shifted splits; DR and norm do worse.",
        "Kendall τ: BSR > BT on each; DR, norm < BT",
        "open",
        generalisation,
    ),
    Claim(
        "B5",
        "Larger coefficients raise accuracy on hard pairs and lower it on easy ones.",
        "monotone over 1e-4, 1e-3, 1e-2",
        "a trade-off",
        trade,
    ),
    Claim(
        "B6",
        "The penalty pulls each response in proportion to its own reward (equation 28).",
        "gradient = r_i/P to 1e-6",
        "does not hold",
        gradient,
    ),
    Claim(
        "B7",
        "Scopes: micro is the mean of the processes' losses, global that of one process.",
        "to 1e-6",
        "holds",
        scopes,
    ),
)
