"""Measure claims seed by seed, keep every figure, and judge from what is there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from experiments.claims.claim import Claim, Setting
from experiments.claims.families import FAMILIES, KNOWN
from poise.output import replacing


def measured(names: Sequence[str], seeds: int, runs: Path, smoke: bool, jobs: int) -> Iterator[list[str]]:
    """Measure what is not under ``runs`` yet; yields the claims of a family when one of its seeds is done.

    A family's claims of one seed share a process, so that they find each other's data and trained methods.
    """
    groups = [[c.id for c in family.claims if c.id in names] for family in FAMILIES.values()]
    settings = [Setting(seed, runs, smoke) for seed in range(seeds)]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        pending = {pool.submit(measure, ids, one): ids for one in settings for ids in groups if ids}
        for done in as_completed(pending):
            done.result()
            yield pending[done]


def measure(ids: Sequence[str], setting: Setting) -> None:
    """The claims of a family on one seed, each kept as soon as it is known."""
    torch.set_num_threads(1)
    setting.runs.mkdir(parents=True, exist_ok=True)
    for name in ids:
        path = kept(setting.runs, name, setting.seed)
        if path.exists():
            continue
        started = time.process_time()
        figures = dict(KNOWN[name].study(setting))
        with replacing(path) as new:
            found = {"figures": figures, "seconds": round(time.process_time() - started, 2), "smoke": setting.smoke}
            new.write_text(json.dumps(found, indent=1) + "\n", encoding="utf8")


def kept(runs: Path, name: str, seed: int) -> Path:
    """Where a claim's figures of a seed are."""
    return runs / f"{name}-{seed}.json"


def row(claim: Claim, runs: Path, seeds: int) -> dict[str, Any] | None:
    """Everything that is known about a claim, ready for JSON; None before its first seed is done."""
    paths = {seed: kept(runs, claim.id, seed) for seed in range(seeds)}
    known = {seed: json.loads(path.read_text("utf8")) for seed, path in paths.items() if path.exists()}
    if not known:
        return None
    names = next(iter(known.values()))["figures"]
    figures = {name: [one["figures"][name] for one in known.values()] for name in names}
    return {
        "says": claim.says,
        "verdict": claim.verdict(figures),
        "seeds": list(known),
        "cpu_seconds": round(sum(one["seconds"] for one in known.values()), 1),
        "smoke": any(one["smoke"] for one in known.values()),
        "figures": figures,
    }
