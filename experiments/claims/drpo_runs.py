"""DRPO trained on the seed's bed, once for all studies of the seed."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from experiments.claims.bed import Bed, Judged, bed, fit, judge, long_stage
from experiments.claims.claim import Setting
from poise.methods import Method

ZERO = {"name": "zero", "share": 0.1, "batch_size": 64, "learning_rate": 1e-3}
REFINE = {"name": "refine", "share": 0.9, "batch_size": 64, "learning_rate": 1e-3} | {
    "method": {"kappa": 0.1, "beta": 0.1, "reference": "previous_stage"}
}


def pairs(setting: Setting, flips: float, learnable: bool = True, held_flips: float | None = None) -> Bed:
    """The seed's bed."""
    return bed(setting.seed, setting.size(10_000, 600), flips, learnable, held_flips)


@lru_cache(40)
def trained(setting: Setting, given: Bed, method: str = "drpo", **options: Any) -> Method[Any, Any]:
    """A method trained out, once for all studies of a seed."""
    return fit(method, given.train, setting.seed, long_stage(setting.size(20, 2), 1e-2), **options)


@lru_cache(40)
def held(setting: Setting, given: Bed, method: str = "drpo", **options: Any) -> Judged:
    """What the same says about the held-out pairs."""
    return judge(trained(setting, given, method, **options), given.held)


@lru_cache(10)
def staged(setting: Setting, given: Bed, zero: float, refine: float = 0.0, head: str = "gaussian") -> Judged:
    """Zero for so many epochs on a tenth of the prompts, then refine on the others, with the published constants."""
    stages = [ZERO | {"epochs": zero}] + ([REFINE | {"epochs": refine}] if refine else [])
    return judge(fit("drpo", given.train, setting.seed, stages, head=head), given.held)
