"""Does a policy trained on a risk-averse utility of a distributional reward avoid bad answers? QRM's Figure 3, with known truth.

Usage: python -m experiments.risk_aware_policy [--seeds 5] [--work runs/laboratory] [--smoke]
Per seed a QRM reward is trained on the judgements of a simulated world; a tiny policy is then trained by RLOO twice, on the
mean of its belief and on the entropic utility, from the same start with the same draws. The same pair trained on what the raters
really think (no reward model) says what could be had. Compared: left-tail quantiles of the true reward of the policies' answers,
per answer (mean over raters) and per rater. Writes <out>.json (every figure of every seed) and <out>.md. The folder ``--work``
keeps policy and reward models for the next run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.overoptimization import interval, verdict
from experiments.tiny_policy import Judged, Policy, Reward, Sample, Settings, judge, read_gold, train
from experiments.tiny_rewards import Laboratory, Rewards, agreement
from poise.distributions import Mixture
from poise.report.tables import markdown_table
from poise.utility import parse_utility

LEVELS = (0.05, 0.1, 0.15, 0.2, 0.25)
AVERSION = 2.0  # λ in units of 1/sd of the belief about one answer: the utility gives up about one such sd
BETA = 0.05


class Truth:
    """The raters themselves as the reward: a utility of what the groups think of a response, as the gold reader has it."""

    def __init__(self, policy: Policy, known: Judged, utility: str) -> None:
        self.tokenizer, self.utility, self.scale = policy.tokenizer, parse_utility(utility), 1.0
        self.scale = float(self(known.sample.topics, known.sample.texts).std())

    def __call__(self, topics: Sequence[str], responses: Sequence[str]) -> Tensor:
        """[B]."""
        nothing = torch.empty(0)
        _, groups, shares, _, _ = read_gold(self.tokenizer, Sample(list(topics), nothing, nothing, list(responses)))
        return self.utility(belief(groups, shares)).float() / self.scale


def belief(groups: Any, shares: Any) -> Mixture:
    """The utility [B, groups] of a random rater as a reward."""
    means = torch.from_numpy(np.asarray(groups))
    return Mixture(torch.from_numpy(np.asarray(shares)).log(), means, torch.zeros_like(means))


def study(laboratory: Laboratory, seed: int) -> dict[str, Any]:
    """All policies of one seed, judged; gains are in standard deviations of the true reward under the reference."""
    policy, topics = laboratory.policy(), laboratory.topics
    known = judge(policy, policy, topics, seed=1000 + seed)
    model = laboratory.qrm(seed)
    written = [i for i, text in enumerate(known.sample.texts) if text]
    said = model.predict([f"{topics[i]} " for i in written], [known.sample.texts[i] for i in written])
    rated = belief(known.groups[written], known.shares[written])
    spread = {"qrm": float(said.std.mean()), "truth": float(rated.std.mean())}
    found: dict[str, Any] = {
        "reference": outcome(known, known),
        "spread": spread,
        "spearman_with_gold": agreement(said.mean, known.gold[written]),
        "spearman_of_spread": agreement(said.std, rated.std),
    }
    settings = Settings(*((3, BETA, 8, 2, 5e-4, 3) if laboratory.smoke else (30, BETA, 64, 2, 2e-4, 30)))
    for source in ("qrm", "truth"):
        for name in ("mean", "entropic"):
            utility = "mean" if name == "mean" else f"entropic:{AVERSION / spread[source]:.4g}"
            reward: Reward
            if source == "qrm":
                reward = Rewards(model, utility, known.sample.topics, known.sample.texts)
            else:
                reward = Truth(policy, known, utility)
            *_, (_, trained) = train(policy, reward, settings, seed)
            found[f"{source}, {name}"] = outcome(judge(trained, policy, topics * 3, 4000 + seed), known)
            figures = found[f"{source}, {name}"]
            print(
                f"seed {seed}, {source}, {utility}: " + ", ".join(f"{k} {v:.3f}" for k, v in figures.items()),
                flush=True,
            )
    return found


def outcome(now: Judged, known: Judged) -> dict[str, float]:
    """Mean and left tail of the true reward, per answer and per rater; the divergence; how much the raters disagree."""
    scale, zero = known.gold.std(), known.gold.mean()
    answers = (now.gold - zero) / scale
    raters = (now.groups - zero) / scale
    quantiles = {f"answer_q{100 * level:02.0f}": float(np.quantile(answers, level)) for level in LEVELS}
    weight = now.shares.flatten() / len(now.gold)
    order = raters.flatten().argsort()
    reached = weight[order].cumsum()
    quantiles |= {
        f"rater_q{100 * level:02.0f}": float(raters.flatten()[order][np.searchsorted(reached, level)])
        for level in LEVELS
    }
    return {
        "mean": float(answers.mean()),
        **quantiles,
        "kl": float(now.kl.mean()),
        "disagreement": float(belief(now.groups, now.shares).std.mean() / scale),
        "faults": float(now.faults.mean()),
        **dict(
            zip(
                ("relevance", "correctness", "harmlessness", "politeness", "verbosity"),
                now.levels.mean(0).tolist(),
                strict=True,
            )
        ),
    }


def conclusions(runs: Sequence[Mapping[str, Any]]) -> str:
    """The claims of the figure, each with the figure that decides it: entropic less mean, paired by seed."""
    lines = []
    for source, title in (("qrm", "the QRM reward"), ("truth", "the raters themselves")):
        for key, what in (
            *(
                (f"{who}_q{level:02d}", f"the {level} % quantile over {who}s")
                for who in ("rater", "answer")
                for level in (5, 25)
            ),
            ("mean", "the mean"),
            ("kl", "the divergence [nat]"),
            ("disagreement", "the raters' disagreement"),
            ("faults", "faults an answer"),
        ):
            differences = [run[f"{source}, entropic"][key] - run[f"{source}, mean"][key] for run in runs]
            lines.append(f"- Trained on {title}, {what} of the risk-averse policy is: {verdict(differences)}.")
        tails = [
            [run[f"{source}, {name}"]["rater_q05"] - run[f"{source}, {name}"]["mean"] for run in runs]
            for name in ("mean", "entropic")
        ]
        apart = list(np.subtract(tails[1], tails[0]))
        lines.append(
            f"- Trained on {title}, its 5 % quantile over raters as seen from its own mean is: {verdict(apart)}."
        )
    lines.append(CAUSE)
    return "### What is found\n\n" + "\n".join(lines) + "\n"


def page(runs: Sequence[Mapping[str, Any]], command: str, out: Path) -> str:
    """The result as Markdown."""
    sections = [INTRO.format(command=command, name=out.name, seeds=len(runs), aversion=AVERSION, beta=BETA)]
    sections.append(conclusions(runs))
    for source, title in (("qrm", "Trained on the QRM reward"), ("truth", "Trained on the raters themselves")):
        rows = []
        for key in runs[0]["reference"]:
            reference, mean, careful = (
                [run[name][key] for run in runs] for name in ("reference", f"{source}, mean", f"{source}, entropic")
            )
            rows.append([key, *map(interval, (reference, mean, careful)), interval(list(np.subtract(careful, mean)))])
        sections.append(
            f"### {title}\n\n" + markdown_table(["", "reference", "mean", "entropic", "entropic − mean"], rows)
        )
    knows = [[key, interval([run[key] for run in runs])] for key in ("spearman_with_gold", "spearman_of_spread")]
    sections.append("### What the QRM reward knows\n\n" + markdown_table(["", "answers of the reference"], knows))
    return "\n".join(sections)


CAUSE = """
A lift of the tail at an equal mean would be the risk trade of QRM's Figure 3. Where tail and mean rise together and the same
utility of the raters' own beliefs lifts neither, the gain is another one: the mean of a learned belief is climbed into answers
that are worse in truth (relevance, verbosity below), and the entropic utility is climbed less far (divergence). Whether its lead
would remain at an equal divergence was not measured. `spearman_of_spread` below says how little the belief's spread has
to do with how much the raters of an answer disagree."""


INTRO = """# A risk-averse policy

A tiny policy (`experiments/tiny_policy.py`) trained by RLOO (k = 2, 30 steps, KL weight {beta}) on the mean and on the entropic
utility of a reward, λ = {aversion} / sd of the belief about one answer; both rewards are scaled to unit deviation under the
reference, so that the KL weight means the same. {seeds} seeds (judgements, reward models, draws; start and draws of the two
policies of a seed are the same): mean ± half of the 95 % t-interval, the last column of the paired differences. Rewards are true
ones, in standard deviations over the reference's answers from their mean: `answer_qNN` are quantiles over answers of the mean
over raters, `rater_qNN` over answers and raters. `disagreement` is the mean deviation between the raters of an answer.
`spearman_of_spread`: does the reward model know on which answers raters disagree?
Made by `{command}`; result file `{name}.json`.

"""


def measure(options: argparse.Namespace, record: Path) -> None:
    """Run every seed; what is finished is on disk."""
    laboratory, runs = Laboratory(options.work, options.smoke), []
    laboratory.policy()
    seeds = range(1, options.seeds + 1)
    with ProcessPoolExecutor(
        options.jobs, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        for run in pool.map(study, [laboratory] * len(seeds), seeds):
            runs.append(run)
            record.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf8")


def main() -> None:
    """Run every seed and write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("runs/laboratory"))
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does everything run?")
    parser.add_argument("--jobs", type=int, default=2, help="seeds at a time, one thread each")
    parser.add_argument("--page", action="store_true", help="only write the page again, from the JSON file")
    parser.add_argument("--out", type=Path, default=Path("docs/results/risk_aware_policy"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    record = options.out.with_suffix(".json")
    if not options.page:
        measure(options, record)
    runs = json.loads(record.read_text(encoding="utf8"))
    command = f"python -m experiments.risk_aware_policy --seeds {len(runs)}" + " --smoke" * options.smoke
    options.out.with_suffix(".md").write_text(page(runs, command, options.out), encoding="utf8")


if __name__ == "__main__":
    main()
