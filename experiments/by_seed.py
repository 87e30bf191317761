"""What the laboratory's studies share: seeds beside each other, their record, and what paired differences say.

A study makes one run, a mapping of figures, of every seed. The runs are <out>.json, written as they come; a page is made of
them alone, so that ``--page`` makes it again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import torch

from experiments.people import PEOPLE
from experiments.tiny_rewards import Laboratory

Run = Mapping[str, Any]
Figures = Mapping[str, float]
Study = Callable[[Laboratory, int], dict[str, Any]]
Write = Callable[[Sequence[Run], str, Path], None]  # runs, the command that made them, the files without their endings


def main(about: str | None, study: Study, write: Write, shared: Callable[[Laboratory], object]) -> None:
    """Run every seed of a study and write its files, which are called as its module is; ``shared`` makes what seeds share."""
    name = Path(study.__code__.co_filename).stem
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("runs/laboratory"))
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does everything run?")
    parser.add_argument("--people", choices=sorted(PEOPLE), default="world", help="who judges")
    parser.add_argument("--jobs", type=int, default=2, help="seeds at a time, one thread each")
    parser.add_argument("--page", action="store_true", help="only write the page again, from the JSON file")
    parser.add_argument("--out", type=Path, help="files without their endings, by default docs/results/NAME")
    options = parser.parse_args()
    asked = "" if options.people == "world" else f" --people {options.people}"
    options.out = options.out or Path("docs/results") / (name + asked.replace(" --people ", "_"))
    torch.set_num_threads(1)
    record = options.out.with_suffix(".json")
    if not options.page:
        shared(laboratory := Laboratory(options.work, options.smoke, options.people))
        measure(study, laboratory, options, record)
    runs = json.loads(record.read_text(encoding="utf8"))
    write(runs, f"python -m experiments.{name} --seeds {len(runs)}" + asked + " --smoke" * options.smoke, options.out)


def measure(study: Study, laboratory: Laboratory, options: argparse.Namespace, record: Path) -> None:
    """Run every seed; what is finished is on disk."""
    runs = []
    seeds = range(1, options.seeds + 1)
    with ProcessPoolExecutor(
        options.jobs, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        for run in pool.map(study, [laboratory] * len(seeds), seeds):
            runs.append(run)
            record.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf8")


def interval(values: Sequence[float]) -> str:
    """Mean and half of the 95 % t-interval over the seeds."""
    return f"{np.mean(values):.3f} ± {half_width(values):.3f}"


def half_width(values: Sequence[float]) -> float:
    """Half of the 95 % t-interval of the mean; NaN for one seed."""
    many = len(values)
    return float(scipy.stats.t.ppf(0.975, many - 1) * np.std(values, ddof=1) / many**0.5) if many > 1 else float("nan")


def direction(differences: Sequence[float]) -> int:
    """1 or −1 where the 95 % t-interval of paired differences leaves 0 out, else 0."""
    mean = float(np.mean(differences))
    return int(np.sign(mean)) if abs(mean) > max(half_width(differences), 1e-9) else 0  # 1e-9: equal by construction


def verdict(differences: Sequence[float]) -> str:
    """What paired differences over the seeds say, by their 95 % t-interval."""
    said = {0: f"no difference that {len(differences)} seeds show", 1: "higher", -1: "lower"}
    return f"{said[direction(differences)]} ({interval(differences)})"


def at(course: Sequence[Figures], key: str, value: float) -> dict[str, float]:
    """All figures where the course first reaches ``value`` of ``key``, by straight lines between its points."""
    i = next(i for i, p in enumerate(course) if p[key] >= value)
    if i == 0:
        return dict(course[0])
    before, after = course[i - 1], course[i]
    share = (value - before[key]) / (after[key] - before[key])
    return {name: before[name] + share * (after[name] - before[name]) for name in before}
