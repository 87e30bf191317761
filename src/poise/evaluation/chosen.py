"""What choosing by a reward is worth: the record of best-of-n over many prompts, against gold scores or labels."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from pydantic import Field

from poise.evaluation.best_of_n import FIT, SUMMARY, BestOfN, kl_bound
from poise.evaluation.bootstrap import Interval, PromptBootstrap
from poise.evaluation.metrics.rows import FloatArray
from poise.evaluation.result import Record

FEWEST_RESPONSES, FEWEST_PROMPTS = 4, 10


class BestOfNResult(Record):
    """Gains over one random response, in standard deviations within prompts, at each ``n`` and its ``kl`` (nat).

    ``gold`` is what the chosen response is worth, ``proxy`` what the scorer believes it is. ``summary``: where gold peaks
    (``distance_at_peak`` is √KL), ``final_over_peak``, ``proxy_gold_area``, and α, β of gold = d(α − βd), d = √KL.
    """

    prompts: int
    responses: int = Field(description="of the prompt that has the fewest; n does not exceed it")
    n: list[int]
    kl: list[float]
    gold: list[Interval]
    proxy: list[Interval]
    summary: dict[str, Interval]


def choose(
    proxy: Sequence[FloatArray],
    gold: Sequence[FloatArray],
    prompts: Sequence[Hashable],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> BestOfNResult | None:
    """From the scores [N] of each prompt's responses; None where too few prompts have several, or gold never differs."""
    kept = [i for i, given in enumerate(gold) if len(given) >= FEWEST_RESPONSES]
    if len(kept) < FEWEST_PROMPTS or not any(gold[i].std() > 0 for i in kept):
        return None
    most = min(len(gold[i]) for i in kept)
    sizes = sorted({*(2**power for power in range(most.bit_length()) if 2**power <= most), most})
    curves = BestOfN.of([proxy[i] for i in kept], [gold[i] for i in kept], sizes)
    found = PromptBootstrap([prompts[i] for i in kept], resamples=resamples, seed=seed).intervals(curves.metrics())
    nothing = Interval(0.0, 0.0, 0.0)
    return BestOfNResult(
        prompts=len(kept),
        responses=most,
        n=list(curves.n),
        kl=[float(one) for one in kl_bound(curves.n)],
        gold=[found.get(f"gold_at_{n}", nothing) for n in curves.n],
        proxy=[found.get(f"proxy_at_{n}", nothing) for n in curves.n],
        summary={name: found[name] for name in (*SUMMARY, *FIT) if name in found},
    )
