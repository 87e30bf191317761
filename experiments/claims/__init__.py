"""The papers' claims, a file per family; run with ``python -m experiments``."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from experiments.claims import bsr, drpo, oprm, qrm, relatives, vrm
from experiments.claims.claim import Claim, Finding, Setting
from poise.report.tables import markdown_table

FAMILIES: Mapping[str, Sequence[Claim]] = {
    "drpo": drpo.CLAIMS,
    "oprm": oprm.CLAIMS,
    "qrm": qrm.CLAIMS,
    "vrm": vrm.CLAIMS,
    "bsr": bsr.CLAIMS,
    "relatives": relatives.CLAIMS,
}
KNOWN = {claim.id: claim for family in FAMILIES.values() for claim in family}


def run(claims: Sequence[Claim], setting: Setting, jobs: int, out: Path) -> None:
    """Decide claims, print each as it is decided, and write the record and the table."""
    path = out.with_suffix(".json")
    record: dict[str, Any] = json.loads(path.read_text("utf8")) if path.exists() else {}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        pending = {pool.submit(decide, claim.id, setting): claim for claim in claims}
        for done in as_completed(pending):
            claim, (finding, seconds) = pending[done], done.result()
            print(shown(claim, finding, seconds), flush=True)
            record[claim.id] = row(claim, finding, setting, seconds)
            write(record, out)


def decide(name: str, setting: Setting) -> tuple[Finding, float]:
    """One claim, in a process of its own."""
    torch.set_num_threads(1)
    started = time.monotonic()
    return KNOWN[name].study(setting), time.monotonic() - started


def shown(claim: Claim, finding: Finding, seconds: float) -> str:
    """The claim with what was found, for the terminal."""
    lines = [f"{claim.id}  {claim.says}", f"    {finding.verdict.upper()}  ({claim.test}; {seconds:.0f} s)"]
    lines += [f"    {check}" for check in finding.checks]
    lines += [f"    also: {name} {sum(values) / len(values):.4g}" for name, values in finding.also.items()]
    return "\n".join([*lines, f"    {finding.why}"] if finding.why else lines)


def row(claim: Claim, finding: Finding, setting: Setting, seconds: float) -> dict[str, Any]:
    """Everything about a decided claim, ready for JSON."""
    checks = [
        asdict(c) | {"mean": c.mean, "half": c.half, "met": c.met, "open": c.open, "text": str(c)}
        for c in finding.checks
    ]
    facts = {"says": claim.says, "test": claim.test, "expected": claim.expected, "verdict": finding.verdict}
    return facts | {
        "checks": checks,
        "also": {name: list(values) for name, values in finding.also.items()},
        "why": finding.why,
        "seeds": setting.seeds,
        "smoke": setting.smoke,
        "seconds": round(seconds),
    }


def write(record: Mapping[str, Any], out: Path) -> None:
    """The record, and the table made from it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    ordered = {name: record[name] for name in KNOWN if name in record}
    out.with_suffix(".json").write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf8")
    out.with_suffix(".md").write_text(INTRO + table(ordered) + details(ordered), encoding="utf8")


def table(record: Mapping[str, Any]) -> str:
    """One row a claim."""
    rows = [[name, one["says"], one["expected"], f"**{one['verdict']}**"] for name, one in record.items()]
    return markdown_table(["", "claim", "expected", "measured"], rows)


def details(record: Mapping[str, Any]) -> str:
    """Every figure with its interval and threshold."""
    parts = []
    for name, one in record.items():
        lines = [f"\n### {name}: {one['says']}\n", f"*{one['verdict']}*. Test: {one['test']}. {one['seeds']} seeds.\n"]
        lines += [f"- {check['text']}" for check in one["checks"]]
        lines += [f"- beside it: {key} {sum(v) / len(v):.4g}" for key, v in one["also"].items()]
        parts.append("\n".join([*lines, f"\n{one['why']}"] if one["why"] else lines) + "\n")
    return "".join(parts)


INTRO = """# The papers' claims, measured

Made by `python -m experiments` (sources in `experiments/claims/`, result file `claims.json`). A claim holds where the
95 % t-interval over the seeds of every figure lies on the claimed side of its threshold; *open* marks an interval that
holds the threshold, so that more seeds could decide. `expected` is what the derivations let one expect beforehand.

"""
