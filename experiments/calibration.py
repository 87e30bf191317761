"""Does calibration do what it says: DRPO's P(win) before and after, against shares of human votes, and conformal guarantees.

Usage: python experiments/calibration.py DATA [--splits 10] [--draws 200] [--processes 2]
           [--only votes,world] [--out docs/results/calibration]
DATA is the folder with ``pairs/``. Heads on frozen MiniLM features. Training, calibration and evaluation are disjoint by
prompt. Writes <out>.json (every figure) and, once all sections are there, <out>.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch
from calibrated_pairs import CLAIMED, LONG, SHIFTED, Bench, summary, votes_section, world_section
from guarantees import abstention_row, abstention_section, interval_section, known_truth, world_pool

from poise.backbone import Backbone, BackboneConfig
from poise.feature_cache import FeatureCache, default_cache
from poise.report.tables import markdown_table


def verdicts(record: Mapping[str, Any]) -> str:
    """What was asked of calibration, for DRPO's two stages, data set by data set."""
    sets = [("simulated world", record["world"], "in_domain")]
    sets += [(name, record["votes"], name) for name in ("ukpconvarg", "rag_crowd")]
    rows = []
    for title, section, data in sets:
        for name in CLAIMED:
            runs = [run[data] for run in section[name]]
            s = summary(runs)
            within = sum(run["calibrated"].get("gap", 1) <= run["calibrated"].get("gap_floor", 0) for run in runs)
            rows.append(
                [
                    f"{title}, {name}",
                    f"÷ {s['ece falls']:.1f} ({'yes' if s['ece falls'] >= 5 else 'no'})",
                    f"{percent(-s['nll falls'])} ({'yes' if s['nll falls'] >= 0.3 else 'no'})",
                    f"{s['decisions changed']:.0f} of {sum(run['pairs'] for run in runs):,}",
                    f"{within} of {len(runs)}" if "gap" in runs[0]["calibrated"] else "",
                ]
            )
    header = ["", "ECE falls at least 5-fold", "NLL by at least 30 %", "decisions changed", "within the votes' noise"]
    return markdown_table(header, rows)


def percent(share: float) -> str:
    """A signed share in per cent, with a minus sign."""
    return f"{share:+.0%}".replace("-", "−")


def falls(section: Mapping[str, Any], data: str) -> str:
    """One data set as a table: a row per variant."""
    rows, count, turns = [], 0, False
    for name, runs in section.items():
        s, count = summary([run[data] for run in runs]), len(runs)
        chosen = [method for run in runs for method in run[data]["methods"]]
        turns = len(chosen) > count
        rows.append(
            [
                name,
                *(f"{s[f'{key} raw']:.3f} → {s[f'{key} calibrated']:.3f}" for key in ("ece", "nll")),
                f"{s['ece_floor calibrated']:.3f}",
                f"÷ {s['ece falls']:.1f} [{s['ece falls least']:.1f}, {s['ece falls most']:.1f}]",
                f"{percent(-s['nll falls'])} [{percent(-s['nll falls least'])}, {percent(-s['nll falls most'])}]",
                f"{s['accuracy raw']:.4f}",
                f"{s['decisions changed']:.0f}",
                ", ".join(f"{method} {chosen.count(method)}" for method in dict.fromkeys(chosen)),
            ]
        )
        if turns:
            rows[-1][3:3] = [f"{s['ece apart raw']:.3f} → {s['ece apart calibrated']:.3f}"]
    header = ["DRPO", "ECE", "NLL", "ECE floor", "ECE falls", "NLL", "accuracy", "decisions changed", "chosen"]
    if turns:
        header[3:3] = ["ECE, each quarter"]
    return f"{count} splits.\n\n" + markdown_table(header, rows)


def vote_table(section: Mapping[str, Any], data: str) -> str:
    """Distances from vote shares with their floors."""
    rows = []
    for name, runs in section.items():
        s = summary([run[data] for run in runs])
        within = sum(run[data]["calibrated"]["gap"] <= run[data]["calibrated"]["gap_floor"] for run in runs)
        rows.append(
            [
                name,
                f"{s['gap raw']:.3f} → {s['gap calibrated']:.3f}",
                f"{s['gap_floor calibrated']:.3f}",
                f"{within} of {len(runs)}",
                f"{s['halves calibrated']:.3f}",
                f"{s['rmse raw']:.3f} → {s['rmse calibrated']:.3f}",
                f"{s['rmse_floor calibrated']:.3f}",
            ]
        )
    return markdown_table(["DRPO", "distance", "floor", "within", "halves", "RMSE", "RMSE floor"], rows)


def coverage_table(found: Mapping[str, Any]) -> str:
    """Coverage of intervals: mean and 95 % band over the draws."""
    rows = []
    for name, runs in found.items():
        values, raw = (np.array([run[key] for run in runs]) for key in ("coverage", "raw"))
        low, high = np.quantile(values, (0.025, 0.975))
        rows.append([name, f"{raw.mean():.3f}", f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"])
    return markdown_table(["attribute, requested", "raw", "conformal: mean and 95 % band"], rows)


def crps_table(found: Mapping[str, Any]) -> str:
    """Cross-validated CRPS of every candidate."""
    rows = [
        [name, *(f"{score:.4f}" for score in known["cross-validated"].values()), known["method"]]
        for name, known in found.items()
    ]
    return markdown_table(["attribute", *next(iter(found.values()))["cross-validated"], "chosen"], rows)


def main() -> None:
    """Measure everything and write the two files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("docs/results/calibration"))
    parser.add_argument(
        "--only",
        default=",".join(SECTIONS),
        help="sections; others are kept from <out>.json, none makes the page again",
    )
    options = parser.parse_args()
    path = options.out.with_suffix(".json")
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf8")) if path.exists() else {}
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
        wanted = [name for name in SECTIONS if name in options.only.split(",")]
        running = {pool.submit(measured, name, options.data, options.splits, options.draws): name for name in wanted}
        for done in as_completed(running):
            record[running[done]] = done.result()
            path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf8")
    if set(SECTIONS) <= set(record):
        options.out.with_suffix(".md").write_text(page(record, options.out.name), encoding="utf8")


SECTIONS = ("votes", "world", "intervals", "abstention", "known_truth")


def measured(name: str, data: Path, splits: int, draws: int) -> dict[str, Any]:
    """One section, in a process of its own."""
    torch.set_num_threads(1)
    backbone = Backbone.load(BackboneConfig(name="minilm"))
    bench = Bench(backbone, FeatureCache(default_cache(), backbone.fingerprint(), backbone.hidden_size))
    if name == "votes":
        return votes_section(bench, data, splits)
    if name == "world":
        return world_section(bench, splits)
    if name == "intervals":
        return interval_section(bench, draws)
    if name == "abstention":
        return abstention_section("simulated world", world_pool(bench), draws)
    return abstention_section("known truth", known_truth(4000), draws)


def page(record: Mapping[str, Any], name: str) -> str:
    """The tables of all sections with what they mean."""
    votes, world, intervals = record["votes"], record["world"], record["intervals"]
    splits, draws = len(votes["refine"]), len(record["known_truth"]["known truth, 10%"])
    parts = [INTRO.format(splits=splits, draws=draws, out=name, long=LONG) + verdicts(record) + READING]
    parts.append("## Simulated world, unseen prompts of the training domains\n\n" + falls(world, "in_domain"))
    parts += [f"### The same calibration under shift: {one}\n\n{falls(world, one)}" for one in SHIFTED]
    for one in votes["refine"][0]:
        about = TURNS if one == "rag_crowd" else ""
        parts.append(f"## {one}: P(win) and shares of votes\n\n{about}{falls(votes, one)}\n{vote_table(votes, one)}")
    parts.append(VOTES)
    requests = record["known_truth"] | record["abstention"]
    header = ["pairs, requested error", "splits with a threshold", "answered", "observed error", "splits above"]
    rows = [[one, *abstention_row(runs, float(one.split(", ")[1].strip("%")) / 100)] for one, runs in requests.items()]
    parts.append("## Conformal abstention\n\n" + ABSTENTION + markdown_table(header, rows))
    return "\n".join(
        [*parts, "## Ratings\n\n" + RATINGS + crps_table(intervals["crps"]), coverage_table(intervals["coverage"])]
    )


INTRO = """# Calibration

DRPO heads on frozen MiniLM features, before and after calibration (none, temperature or isotonic, chosen by cross-validated
NLL), which is fitted to prompts that neither training nor evaluation sees. Figures are means over {splits} random splits by
prompt with as many seeds, falls are those of the means, with the smallest and the largest of a split in brackets. `ECE floor` is
the mean ECE of a P(win) that is right by construction on these pairs: below it nothing can be seen.
Made by `python experiments/calibration.py DATA --splits {splits} --draws {draws}`; result file `{out}.json`.

DRPO is two stages, zero and then refine. `refine` is the recipe as it stands, `refine, long` has {long} times its epochs,
towards the stationary point of an improper score; both were named before anything was measured. `zero` is the first stage on
its own, which the method does not stop at: it is shown for what it is, and nothing is claimed of it.

## What was asked

"""
READING = """
- **What calibration can mend is overconfidence**, and training makes that: P(win) of `refine` is pushed towards 0 and 1 with every
  step. Where the recipe takes few steps (`rag_crowd`: some hundred pairs, about twenty steps) the head is still near N(0, 1),
  hardly overconfident, and there is little to mend.
- **ECE cannot fall below its floor.** With few prompts the floor is high, and a fall to it may be less than 5-fold however good the
  calibration is.
- **No decision changes** anywhere: both maps are monotone and keep ½.

"""
TURNS = """Small: 65 prompts. So the quarters of a split take turns, and each prompt is tested once; ECE is that of all pairs together, and
in a column of its own the mean of the quarters, which have so few prompts that noise alone makes most of it.

"""
VOTES = """`distance` is the ECE of P(win) against shares of votes, `floor` the 95 % quantile of what it is for a P(win) that is right by
construction, given these votes and prompts (residuals with random signs by prompt), `within` the splits at or below their
floor. `halves` is the distance between two random halves of each pair's voters in the same bins. `RMSE` is pair by pair, its
floor the binomial noise of a share of that many votes: the rest is what the model does not know about a pair.

"""
ABSTENTION = """A quarter of the prompts for the fit, a quarter for the threshold, half to count errors on. The threshold keeps the request with
probability 90 % over the draw of the calibration prompts, so at most about 10 % of the splits may be above it; in brackets is
the most that chance allows (97.5 %). `known truth`: 4,000 pairs whose votes come from known probabilities, beliefs 2.5 times
too sure. `simulated world`: majority of five raters, DRPO refine. Where no threshold can be proven nothing is answered.

"""
RATINGS = """Gaussian attribute heads, ratings of unseen prompts of the simulated world (units of the ratings). Intervals: affine fit on a
quarter of the prompts, conformal margin from a quarter, coverage on the rest; `raw` is the uncalibrated central interval.

"""


if __name__ == "__main__":
    main()
