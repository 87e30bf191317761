"""Does a policy trained on a risk-averse utility of a distributional reward avoid bad answers? QRM's Figure 3, with known truth.

Usage: python -m experiments.risk_aware_policy [--seeds 5] [--people divided] [--work runs/laboratory] [--smoke]
Per seed a QRM reward learns what people say about the reference policy's answers; a tiny policy is then trained by RLOO on
the mean of its belief, on the entropic utility and on QRM's exponential one, from the same start with the same draws. The same
policies trained on what the people really think (no reward model) say what could be had. Policies are compared at equal
divergence and at equal mean, along their courses; best-of-n, whose divergence is equal by itself, chooses by the same utilities
and is compared at equal mean along n.
Writes <out>.json (every figure of every seed) and <out>.md. The folder ``--work`` keeps policy and reward models for the next run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.by_seed import Figures, Run, at, direction, interval, main, verdict
from experiments.tiny_policy import Judged, Policy, Reward, Settings, judge, read_gold, train
from experiments.tiny_rewards import Laboratory, Rewards, agreement
from poise.data.simulate.raters import Group
from poise.distributions import Mixture, RewardDistribution
from poise.report.tables import markdown_table
from poise.utility import parse_utility

LEVELS = (0.05, 0.1, 0.15, 0.2, 0.25)
TAIL = tuple(f"rater_q{100 * level:02.0f}" for level in LEVELS)
AVERSION = 2.0  # λ of the entropic utility, in 1/sd of the belief about one answer: it gives up about one such sd
WIDE_AVERSION = 1.0  # λ of the exponential utility, in 1/sd of the rewards of all answers
BETA, N = 0.05, 8
JUDGED, CHOICES = 32, 8  # answers a topic that judge a policy, and choices a topic that judge best-of-n
SOURCES = {"qrm": "the QRM reward", "truth": "the raters themselves"}
CAREFUL = ("entropic", "exponential")


class Truth:
    """The raters themselves as the reward: a utility of what the groups think of a response, as the gold reader has it."""

    def __init__(self, policy: Policy, groups: Sequence[Group], known: Judged, utility: str) -> None:
        self.tokenizer, self.groups, self.utility, self.scale = policy.tokenizer, groups, parse_utility(utility), 1.0
        self.scale = float(self(known.topics, known.texts).std())

    def __call__(self, topics: Sequence[str], responses: Sequence[str]) -> Tensor:
        """[B]."""
        _, worths, shares, _, _ = read_gold(self.tokenizer, topics, responses, self.groups)
        return self.utility(belief(worths, shares)).float() / self.scale


def belief(groups: Any, shares: Any) -> Mixture:
    """The utility [B, groups] of a random rater as a reward."""
    means = torch.from_numpy(np.asarray(groups))
    return Mixture(torch.from_numpy(np.asarray(shares)).log(), means, torch.zeros_like(means))


def study(laboratory: Laboratory, seed: int) -> dict[str, Any]:
    """All policies and choices of one seed, judged; gains are in standard deviations of the true reward under the reference."""
    policy, topics, groups = laboratory.policy(), laboratory.topics, laboratory.groups
    judged, choices = (2, 1) if laboratory.smoke else (JUDGED, CHOICES)
    known = judge(policy, policy, topics * 2, 1000 + seed, groups)
    reference = judge(policy, policy, topics * judged, 4000 + seed, groups)
    pool = judge(policy, None, [topic for topic in topics * choices for _ in range(N)], 2000 + seed, groups)
    model = laboratory.qrm(seed)
    written = known.of([i for i, text in enumerate(known.texts) if text])
    said = model.predict([f"{topic} " for topic in written.topics], written.texts)
    rated = belief(written.groups, written.shares)
    found: dict[str, Any] = {
        "reference": outcome(reference, reference),
        "spearman_with_gold": agreement(said.mean, written.gold),
        "spearman_of_spread": agreement(said.std, rated.std),
    }
    settings = Settings(*((4, BETA, 8, 2, 5e-4, 2) if laboratory.smoke else (48, BETA, 64, 2, 1e-4, 12)))
    for source, beliefs in (("qrm", said), ("truth", rated)):
        for name, utility in utilities(beliefs).items():
            reward: Reward = (
                Rewards(model, utility, known.topics, known.texts)
                if source == "qrm"
                else Truth(policy, groups, known, utility)
            )
            course = [
                {"step": step, **outcome(judge(now, policy, topics * judged, 4000 + seed, groups), reference)}
                for step, now in train(policy, reward, settings, seed)
                if step
            ]
            best = best_of_n(pool, reward(pool.topics, pool.texts).view(-1, N), reference)
            found[f"{source}, {name}"] = {"utility": utility, "course": course, "best_of_n": best}
            figures = ", ".join(f"{key} {course[-1][key]:.3f}" for key in ("distance", "mean", TAIL[0], TAIL[-1]))
            print(f"seed {seed}, {source}, {utility}: {figures}", flush=True)
    return found


def best_of_n(pool: Judged, rewards: Tensor, reference: Judged) -> list[dict[str, float]]:
    """Outcomes of the best of the first n answers of every choice, n = 2 … N, by ``rewards`` [choices, N] of the pool."""
    course = []
    for n in range(2, N + 1):
        chosen = np.arange(len(rewards)) * N + rewards[:, :n].argmax(1).numpy()
        course.append(
            {"n": n, **outcome(pool.of(chosen), reference), "distance": float(np.log(n) - (n - 1) / n) ** 0.5}
        )
    return course


def utilities(beliefs: RewardDistribution) -> dict[str, str]:
    """Name → utility, with the aversion in the units of these beliefs about the reference's answers."""
    own, whole = float(beliefs.std.mean()), float((beliefs.variance.mean() + beliefs.mean.var()).sqrt())
    return {
        "mean": "mean",
        "entropic": f"entropic:{AVERSION / own:.4g}",
        "exponential": f"exponential:{WIDE_AVERSION / whole:.4g}",
    }


def outcome(now: Judged, known: Judged) -> dict[str, float]:
    """Mean and left tail of the true reward, per answer and per rater; √KL; how much the raters disagree; what was written."""
    scale, zero = known.gold.std(), known.gold.mean()
    answers = (now.gold - zero) / scale
    raters = ((now.groups - zero) / scale).flatten()
    order = raters.argsort()
    reached = (now.shares.flatten() / len(now.gold))[order].cumsum()
    return {
        "mean": float(answers.mean()),
        **{key: float(raters[order][np.searchsorted(reached, level)]) for key, level in zip(TAIL, LEVELS, strict=True)},
        **{f"answer_q{100 * level:02.0f}": float(np.quantile(answers, level)) for level in (LEVELS[0], LEVELS[-1])},
        "distance": float(np.sqrt(max(now.kl.mean(), 0.0))),
        "sd_of_answers": float(answers.std()),
        "disagreement": float(belief(now.groups, now.shares).std.square().mean().sqrt() / scale),
        "faults": float(now.faults.mean()),
        "verbosity": float(now.levels[:, -1].mean()),
    }


# ── along the courses ──


Reading = Callable[[Run, str, str], Figures]  # run, source, utility -> figures


def where_all_get(key: str, course: str = "course", share: float = 1.0) -> Reading:
    """Reads courses from the reference on where they first have a share of the largest ``key`` that all utilities get to."""

    def path(run: Run, source: str, name: str) -> list[Figures]:
        return [run["reference"], *run[f"{source}, {name}"][course]]

    def reading(run: Run, source: str, name: str) -> Figures:
        reached = min(max(point[key] for point in path(run, source, other)) for other in ("mean", *CAREFUL))
        return at(path(run, source, name), key, share * reached)

    return reading


ALONG: dict[str, Reading] = {
    "equal divergence": where_all_get("distance"),
    "half of that divergence": where_all_get("distance", share=0.5**0.5),
    "equal mean": where_all_get("mean"),
    "the last step": lambda run, source, name: run[f"{source}, {name}"]["course"][-1],
    f"best of {N}": lambda run, source, name: run[f"{source}, {name}"]["best_of_n"][-1],
    "equal mean of best-of-n": where_all_get("mean", "best_of_n"),
}
DECIDING = ("equal divergence", "equal mean", f"best of {N}", "equal mean of best-of-n")


def differences(runs: Sequence[Run], source: str, name: str, where: str, key: str) -> list[float]:
    """Of a risk-averse policy less the mean's, seed by seed."""
    read = ALONG[where]
    return [read(run, source, name)[key] - read(run, source, "mean")[key] for run in runs]


def conclusions(runs: Sequence[Run]) -> str:
    """The claim of the figure for each source, utility and way, with the figures that decide it."""
    lines = []
    for where in DECIDING:
        for source, title in SOURCES.items():
            for name in CAREFUL:
                tail = [differences(runs, source, name, where, key) for key in TAIL]
                mean = differences(runs, source, name, where, "mean")
                higher = sum(direction(difference) == 1 for difference in tail)
                holds = higher == len(TAIL) and direction(mean) == 0
                lines.append(
                    f"- **{name}, {title}, {where}: {'holds' if holds else 'does not hold'}.** Quantiles higher at {higher} of "
                    f"{len(TAIL)} levels; 5 %: {verdict(tail[0])}; 25 %: {verdict(tail[-1])}; all five on average: "
                    f"{verdict(np.mean(tail, axis=0).tolist())}; mean: {verdict(mean)}."
                )
    between = [run["reference"]["disagreement"] ** 2 for run in runs]
    share = [b / (b + run["reference"]["sd_of_answers"] ** 2) for b, run in zip(between, runs, strict=True)]
    lines.append(
        f"- Of the variance of the true reward under the reference, {interval(share)} lies between the raters of an answer; "
        "the rest lies between answers. The entropic utility of an answer sees only the first."
    )
    return "### What is found\n\n" + "\n".join(lines) + "\n"


def page(runs: Sequence[Run], command: str, out: Path) -> str:
    """The result as Markdown."""
    parts = [INTRO.format(command=command, name=out.name, seeds=len(runs)), conclusions(runs)]
    knows = [[key, interval([run[key] for run in runs])] for key in ("spearman_with_gold", "spearman_of_spread")]
    parts.append("### What the QRM reward knows\n\n" + markdown_table(["", "answers of the reference"], knows))
    for where, read in ALONG.items():
        for source, title in SOURCES.items():
            rows = []
            for key in runs[0]["reference"]:
                cells = [[read(run, source, name)[key] for run in runs] for name in ("mean", *CAREFUL)]
                apart = [interval(differences(runs, source, name, where, key)) for name in CAREFUL]
                rows.append([key, *map(interval, cells), *apart])
            head = ["", "mean", *CAREFUL, *(f"{name} − mean" for name in CAREFUL)]
            parts.append(f"### At {where}: {title}\n\n" + markdown_table(head, rows))
    return "\n".join(parts)


INTRO = f"""# Risk-averse policies

A tiny policy (`experiments/tiny_policy.py`) trained by RLOO (k = 2, 64 prompts a step, 48 steps, rate 1e-4, KL weight {BETA}) on
three utilities of a reward: the mean; the entropic certainty equivalent, λ = {AVERSION:g} / sd of the belief about one answer; QRM's own
exponential utility, λ = {WIDE_AVERSION:g} / sd of the rewards of all answers. Each is scaled to unit deviation under the reference, so that the KL weight
means the same. {{seeds}} seeds (people, reward models, draws; start and draws of the policies of a seed are the same): mean ± half of the 95 %
t-interval, differences paired by seed. Rewards are true ones, in standard deviations over the reference's answers from their mean:
`rater_qNN` are quantiles over answers and raters, `answer_qNN` over answers of the mean over raters; `disagreement` is the root mean
square deviation between the raters of an answer.

Policies that have gone differently far are not comparable. So each is judged every twelve steps ({JUDGED} answers to every topic), and
its figures are read where it first is as far from the reference (`distance`, √KL [√nat], exact) as the least far of the three
gets; at half of that KL; and where it first has a mean that all three get to. Best of {N} by the same utilities ({CHOICES} choices a topic) has one
divergence, whatever the utility; at equal mean it is read along n = 1 … {N}. The claim is taken to hold where all five quantiles of .05 … .25 over raters
are higher and the mean shows no difference (at equal divergence a mean that is higher too is against the rule, not against caution); their
average decides nothing.

The same policies were judged before on two answers a topic and one choice of {N}, and the quantiles of 672 answers are themselves uncertain by
about what was looked for: among divided people, under the QRM reward, the entropic utility's lift at equal divergence was .18 ± .21 at 5 %, .13 ± .15 at 10 %
and beyond noise from 15 % on; at equal mean .18 ± .12, .07 ± .05, .04 ± .07, .07 ± .04 and .07 ± .08. The larger numbers, and best-of-n at equal mean, were
declared before they were judged; rewards, training, utilities and the rule above are as they were.

Two kinds of people judge, on a page each. Those of the simulated world (`risk_aware_policy.md`) differ in what they want, but about as much
on one answer as on another, so that hardly anything can be done about it. The others (`--people divided`, `risk_aware_policy_divided.md`) are of one
mind about relevance, correctness and harmlessness and at odds about manners and length, which the average of them does not mind: a middling
answer is as good on average and less disputed, so that a lower risk can be had without a lower mean. They were added when the
figures of the first were known, before any reward or policy was trained for them; nothing else differs.

The QRM reward: eight people each rate twelve of the reference's answers to every topic (4,032 answers a seed) overall, by what they
usually read; its quantiles of the overall judgement are solved on frozen features of a backbone that was trained once on 16,128 other answers
with six ratings by eight people each, starting from the reference's weights. `spearman_of_spread`: does it know on which answers
raters disagree? These settings were declared before the five seeds were run, after pilots on another seed that trained no policy: with the
world's fixed cut-points nearly a third of the ratings fall to the lowest and the spread repeats the mean (.03); with the gate over six attributes, whose
quantile functions are averaged, the spread is .11; an earlier reward on 2,000 ratings of the world's own answers and a Bradley–Terry backbone had −.03.
Both kinds of people were first studied with 20 steps at a rate of 2e-4. That training was noisy: it went twice as far as best of {N} and gained less
(divided people, mean of the QRM reward: .71 at √KL 2.1 against .90 at 1.1), and at equal divergence no claim held; at equal means the lowest quantiles
of divided people were higher (entropic, QRM reward: .138 ± .075). Hence more and smaller steps, chosen on another seed with the raters
as the reward and the mean as the only utility; the figures of the short training are otherwise discarded.
Made by `{{command}}`; result file `{{name}}.json`.

"""


def write(runs: Sequence[Run], command: str, out: Path) -> None:
    """The page."""
    out.with_suffix(".md").write_text(page(runs, command, out), encoding="utf8")


if __name__ == "__main__":
    main(__doc__, study, write, shared=Laboratory.rated_backbone)
