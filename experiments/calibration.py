"""Does calibration do what it says: DRPO's P(win) before and after, against shares of human votes, and conformal guarantees.

Usage: python experiments/calibration.py DATA [--splits 10] [--draws 200] [--only votes,world] [--out docs/results/calibration]
DATA is the folder with ``pairs/``. Heads on frozen MiniLM features. Training, calibration and evaluation are disjoint by
prompt. Writes <out>.json (every figure) and <out>.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from calibrated_pairs import LONG, SHIFTED, Bench, summary, votes_section, world_section
from guarantees import abstention_row, abstention_section, interval_section, known_truth, world_pool

from poise.backbone import Backbone, BackboneConfig
from poise.feature_cache import FeatureCache, default_cache
from poise.report.tables import markdown_table


def falls(section: Mapping[str, Any], data: str) -> str:
    """One data set as a table: a row per variant."""
    rows, count = [], 0
    for name, runs in section.items():
        s, count = summary([run[data] for run in runs]), len(runs)
        chosen = [run[data]["method"] for run in runs]
        rows.append(
            [
                name,
                *(f"{s[f'{key} raw']:.3f} → {s[f'{key} calibrated']:.3f}" for key in ("ece", "nll")),
                f"{s['ece_floor calibrated']:.3f}",
                f"÷ {s['ece falls']:.1f}",
                f"{-s['nll falls']:+.0%}".replace("-", "−"),
                f"{s['accuracy raw']:.4f}",
                f"{s['decisions changed']:.0f}",
                ", ".join(f"{method} {chosen.count(method)}" for method in dict.fromkeys(chosen)),
            ]
        )
    header = ["DRPO", "ECE", "NLL", "ECE floor", "ECE falls", "NLL", "accuracy", "decisions changed", "chosen"]
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
    parser.add_argument("--out", type=Path, default=Path("docs/results/calibration"))
    parser.add_argument(
        "--only",
        default="votes,world,known_truth,abstention,intervals",
        help="sections; others are kept from <out>.json",
    )
    options = parser.parse_args()
    backbone = Backbone.load(BackboneConfig(name="minilm"))
    bench = Bench(backbone, FeatureCache(default_cache(), backbone.fingerprint(), backbone.hidden_size))
    kept = options.out.with_suffix(".json")
    record: dict[str, Any] = json.loads(kept.read_text(encoding="utf8")) if kept.exists() else {}
    for name, measure in (
        ("votes", lambda: votes_section(bench, options.data, options.splits)),
        ("world", lambda: world_section(bench, options.splits)),
        ("known_truth", lambda: abstention_section("known truth", known_truth(4000), options.draws)),
        ("abstention", lambda: abstention_section("simulated world", world_pool(bench), options.draws)),
        ("intervals", lambda: interval_section(bench, options.draws)),
    ):
        if name in options.only.split(","):
            record[name] = measure()
            kept.write_text(json.dumps(record, indent=1) + "\n", encoding="utf8")
    options.out.with_suffix(".md").write_text(page(record, options), encoding="utf8")


def page(record: Mapping[str, Any], options: argparse.Namespace) -> str:
    """The tables of all sections that were measured, with what they mean."""
    parts = [INTRO.format(draws=options.draws, out=options.out.name, long=LONG)]
    if world := record.get("world"):
        parts.append("## Simulated world, unseen prompts of the training domains\n\n" + falls(world, "in_domain"))
        parts += [f"### The same calibration under shift: {name}\n\n{falls(world, name)}" for name in SHIFTED]
    if votes := record.get("votes"):
        names = ("ukpconvarg", "rag_crowd")
        parts += [
            f"## {one}: P(win) and shares of votes\n\n{falls(votes, one)}\n{vote_table(votes, one)}" for one in names
        ]
        parts.append(VOTES)
    if requests := record.get("known_truth", {}) | record.get("abstention", {}):
        header = ["pairs, requested error", "splits with a threshold", "answered", "observed error", "splits above"]
        rows = [
            [name, *abstention_row(runs, float(name.split(", ")[1].strip("%")) / 100)]
            for name, runs in requests.items()
        ]
        parts.append("## Conformal abstention\n\n" + ABSTENTION + markdown_table(header, rows))
    if intervals := record.get("intervals"):
        parts += ["## Ratings\n\n" + RATINGS + crps_table(intervals["crps"]), coverage_table(intervals["coverage"])]
    return "\n".join([*parts, READING])


READING = """## Where it does not help much, and why

- `zero` with the recipe's epochs stays near its N(0, 1) start on little data: it is hardly overconfident, so there is little to
  mend. The same head trained on has the errors that the method's improper score leads to.
- `rag_crowd` is judged by heads that learnt debates, little better than a coin there: no P(win) can then have an NLL far
  below ln 2 = 0.693, however bad the raw one is.
- Where the calibrated ECE is at its floor, a larger fall could not be seen with so few pairs and prompts.
"""
INTRO = """# Calibration

DRPO heads on frozen MiniLM features: the two stages of the recipes, and with {long} times the epochs, towards the stationary
point of an improper score. Calibration (none, temperature or isotonic, chosen by cross-validated NLL) is fitted to
prompts that neither training nor evaluation sees; means over random splits by prompt with as many seeds (`--splits`). `ECE floor` is the mean ECE
of a P(win) that is right by construction on these pairs: below it nothing can be seen.
Made by `python experiments/calibration.py DATA --splits N --draws {draws}`; result file `{out}.json`.

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
