"""What does a policy gain in truth as it climbs a learned reward, and does batch sum-to-zero regularisation (BSR) help?

Usage: python -m experiments.overoptimization [--seeds 5] [--work runs/laboratory] [--smoke]
Gold reward against the divergence from the fine-tuned policy (BSR, Figure 5) on the simulated world, where the gold reward is
known: a tiny policy is trained by RLOO on Bradley–Terry reward models with and without BSR, and the same reward models choose
the best of n. Per seed new judgements, reward models and draws; the fine-tuned policy is one. Writes <out>.json (every figure
of every seed), <out>.md and <out>.svg. The folder ``--work`` keeps policy and reward models for the next run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.by_seed import Run, at, interval, main, verdict
from experiments.tiny_policy import Judged, Settings, judge, train
from experiments.tiny_rewards import Laboratory, Rewards, agreement
from poise.evaluation.best_of_n import BestOfN, fit_gain, over_optimisation
from poise.report.tables import markdown_table

PROXIES = ("bt", "bt + bsr")
SIZES = (1, 2, 4, 8, 16, 32, 64)
BETA = 0.02


def study(laboratory: Laboratory, seed: int) -> dict[str, Any]:
    """Both proxies of one seed: the course of RLOO and best-of-n, gold in units of its spread under the reference."""
    policy, topics = laboratory.policy(), laboratory.topics
    known = judge(policy, policy, topics, seed=1000 + seed)
    scale = float(known.gold.std())
    some, n = (topics[::7], 8) if laboratory.smoke else (topics[::16], SIZES[-1])
    pool = judge(policy, policy, [topic for topic in some for _ in range(n)], seed=2000 + seed)
    found: dict[str, Any] = {"gold_std": scale}
    for name in PROXIES:
        model = laboratory.bradley_terry(seed, name)
        reward = Rewards(model, "mean", known.topics, known.texts)
        settings = Settings(*((4, BETA, 8, 2, 5e-4, 2) if laboratory.smoke else (40, BETA, 64, 2, 3e-4, 5)))
        before = reward(known.topics, known.texts).double().numpy()
        course = [
            point(step, judge(now, policy, topics[::2], 3000 + step), reward, known, float(before.mean()), scale)
            for step, now in train(policy, reward, settings, seed)
        ]
        told = reward(pool.topics, pool.texts).double().numpy()
        shape = (len(some), n)
        best = BestOfN.of([*told.reshape(shape)], [*pool.gold.reshape(shape)], [size for size in SIZES if size <= n])
        proxy, gold = best.curves()
        found[name] = {
            "rloo": course,
            "best_of_n": {
                "n": best.n,
                "distance": best.distance.tolist(),
                "proxy": proxy.tolist(),
                "gold": gold.tolist(),
            },
            **summary(course, best.distance, proxy, gold),
            "spearman_with_gold": agreement(before, known.gold),
            "spearman_with_faults": agreement(before, known.faults),
        }
        print(f"seed {seed}, {name}: " + ", ".join(f"{k} {found[name][k]:.3f}" for k in SHOWN), flush=True)
    return found


def point(step: int, now: Judged, reward: Rewards, before: Judged, told_before: float, scale: float) -> dict[str, Any]:
    """One evaluation on the course: gains over the reference in its standard deviations, √KL, and what became of the texts."""
    told = reward(now.topics, now.texts).double().numpy()
    return {
        "step": step,
        "distance": float(np.sqrt(max(now.kl.mean(), 0.0))),
        "gold": float(now.gold.mean() - before.gold.mean()) / scale,
        "gold_error": float(np.hypot(now.gold.std(), before.gold.std()) / len(now.gold) ** 0.5) / scale,
        "proxy": float(told.mean()) - told_before,
        "faults": float(now.faults.mean()),
        "levels": now.levels.mean(0).tolist(),
        "gold_without_faults": float((now.gold + 0.5 * now.faults).mean() - (before.gold + 0.5 * before.faults).mean())
        / scale,
        "spearman": agreement(told, now.gold),
    }


def summary(course: Sequence[Mapping[str, Any]], distance: Any, proxy: Any, gold: Any) -> dict[str, float]:
    """Peaks, what is left of them, and Gao's coefficients for both ways of optimising."""
    d, told, true = (np.array([p[key] for p in course]) for key in ("distance", "proxy", "gold"))
    order = np.argsort(d)
    of_course = over_optimisation(d[order], told[order], true[order])
    of_best = over_optimisation(distance, proxy, gold)
    alpha, beta = fit_gain(d, true, "policy_gradient")
    alpha_best, beta_best = fit_gain(distance, gold)
    return {
        "peak_gold": float(of_course["peak_gold"]),
        "distance_at_peak": float(of_course["distance_at_peak"]),
        "final_gold": float(true[-1]),
        "lost_after_peak": float(of_course["peak_gold"] - true[-1]),
        "final_proxy": float(told[-1]),
        "final_distance": float(d[-1]),
        "final_faults": float(course[-1]["faults"]),
        "alpha": float(alpha),
        "beta": float(beta),
        "best_of_n_peak": float(of_best["peak_gold"]),
        "best_of_n_final": float(gold[-1]),
        "best_of_n_alpha": float(alpha_best),
        "best_of_n_beta": float(beta_best),
    }


SHOWN = (
    *(
        "peak_gold",
        "distance_at_peak",
        "final_gold",
        "lost_after_peak",
        "final_proxy",
        "final_distance",
        "final_faults",
    ),
    *(
        "alpha",
        "beta",
        "best_of_n_final",
        "best_of_n_alpha",
        "best_of_n_beta",
        "spearman_with_gold",
        "spearman_with_faults",
    ),
)


def conclusions(runs: Sequence[Run]) -> str:
    """The claims of the figure, each with the figure that decides it."""
    lost = [np.mean([run[name]["lost_after_peak"] for name in PROXIES]) for run in runs]
    lines = [f"- Gold lost between its peak and the last step of RLOO, mean of both rewards: {interval(lost)} sd."]
    for key, what in (
        ("peak_gold", "peak gold of RLOO"),
        ("final_gold", "gold at the last step"),
        ("lost_after_peak", "gold lost after the peak"),
        ("best_of_n_final", "gold of the best of the largest n"),
        ("spearman_with_gold", "rank correlation with gold before training"),
    ):
        differences = [run["bt + bsr"][key] - run["bt"][key] for run in runs]
        lines.append(f"- With BSR, {what} is: {verdict(differences)}.")
    apart = [np.subtract(*(equally_far(run, name)["gold"] for name in reversed(PROXIES))) for run in runs]
    lines.append(
        f"- With BSR, gold where both policies are as far from the start as the least far gets is: {verdict(apart)}. A loss after "
        "the peak counts only as far as a policy has gone, and the policies have not gone equally far."
    )
    faults = [[run[name]["rloo"][i]["faults"] for run in runs for name in PROXIES] for i in (0, -1)]
    kept = [[run[name]["rloo"][-1][key] for run in runs for name in PROXIES] for key in ("gold", "gold_without_faults")]
    lines.append(
        f"- Where the loss comes from: faults an answer rise from {np.mean(faults[0]):.2f} to {np.mean(faults[1]):.2f}; the last "
        f"policies' gain is {np.mean(kept[0]):.2f} sd with them and {np.mean(kept[1]):.2f} without. No reward model has seen a fault: "
        "its training answers have none."
    )
    return "### What is found\n\n" + "\n".join(lines) + "\n"


def equally_far(run: Run, name: str) -> dict[str, float]:
    """The figures of a policy's course at the largest distance that both policies of the seed reach."""
    courses = {
        proxy: [{key: p[key] for key in ("distance", "gold", "faults")} for p in run[proxy]["rloo"]]
        for proxy in PROXIES
    }
    return at(courses[name], "distance", min(max(p["distance"] for p in course) for course in courses.values()))


def draw(runs: Sequence[Run], path: Path) -> None:
    """Gold (solid) and proxy (dashed) gains against √KL, by RLOO and by best-of-n; thin lines are seeds."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, way in zip(axes, ("rloo", "best_of_n"), strict=True):
        for name, colour in zip(PROXIES, ("tab:blue", "tab:orange"), strict=True):
            lines = [_lines(run[name][way]) for run in runs]
            mean = np.mean(lines, axis=0)
            for line in lines:
                axis.plot(line[0], line[1], color=colour, alpha=0.25, linewidth=0.8)
            axis.plot(mean[0], mean[1], color=colour, label=f"{name}: gold")
            axis.plot(mean[0], mean[2], color=colour, linestyle="--", label=f"{name}: proxy")
        axis.set(
            title=way.replace("_", "-"), xlabel="√KL from the fine-tuned policy [√nat]", ylabel="gain [sd under it]"
        )
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def _lines(way: Any) -> Any:
    if isinstance(way, Mapping):
        return np.array([way["distance"], way["gold"], way["proxy"]])
    return np.array([[p[key] for p in way] for key in ("distance", "gold", "proxy")])


def page(runs: Sequence[Run], command: str, out: Path) -> str:
    """The result as Markdown."""
    rows = []
    for key in SHOWN:
        two = [[run[name][key] for run in runs] for name in PROXIES]
        rows.append([key, *(interval(values) for values in two), interval(list(np.subtract(two[1], two[0])))])
    course = []
    for i, start in enumerate(runs[0]["bt"]["rloo"]):
        cells = [[run[name]["rloo"][i] for run in runs] for name in PROXIES]
        course.append(
            [str(start["step"]), *(f"{np.mean([p[key] for p in cell]):.2f}" for cell in cells for key in COURSE)]
        )
    head = ["step", *(f"{name}: {key}" for name in PROXIES for key in COURSE)]
    return INTRO.format(command=command, name=out.name, seeds=len(runs), beta=BETA) + "\n".join(
        [
            conclusions(runs),
            markdown_table(["", *PROXIES, "difference"], rows),
            "\n### The course of RLOO (means over the seeds)\n",
            markdown_table(head, course),
        ]
    )


COURSE = ("distance", "proxy", "gold", "gold_without_faults", "faults", "spearman")
INTRO = """# Over-optimisation of a learned reward, with and without BSR

A tiny policy (two layers, a vocabulary of the simulated world's phrases), fine-tuned on the world's responses, is trained by
RLOO (k = 2, KL weight {beta}) on Bradley–Terry reward models of the same size; {seeds} seeds, each with judgements, reward models
and draws of its own: mean ± half of the 95 % t-interval. Gains are over the fine-tuned policy in standard deviations of its
responses; distance is √KL [√nat], exact along the policy's own responses. `alpha` and `beta` fit gold = d(α − β ln d) for RLOO
and d(α − βd) for best-of-n (n ≤ 64, distance from n). Gold is the world's own utility, less ½ for each fault, which is what
no one in the world would write (`experiments/phrase_world.py`); `gold_without_faults` leaves them out. Learning rate (3e-4), steps (40)
and batch (64 prompts × 2) were lowered after a discarded pilot, before these seeds were run.
Made by `{command}`; result file `{name}.json`.

![Gold and proxy gains against √KL]({name}.svg)

"""


def write(runs: Sequence[Run], command: str, out: Path) -> None:
    """The page and the figure."""
    out.with_suffix(".md").write_text(page(runs, command, out), encoding="utf8")
    draw(runs, out.with_suffix(".svg"))


if __name__ == "__main__":
    main(__doc__, study, write, shared=Laboratory.policy)
