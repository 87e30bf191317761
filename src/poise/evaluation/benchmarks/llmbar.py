"""LLMBar: which of two outputs follows the instruction, natural and adversarial (Zeng et al. 2023, arXiv 2310.07641)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from poise.data.named.columns import Row, choice, need
from poise.evaluation.benchmark import Benchmark, Item
from poise.evaluation.benchmarks.layout import answers, places, read_items, said
from poise.evaluation.benchmarks.shares import average, by_part, pooled, with_overall
from poise.evaluation.metrics.rows import FloatArray

ADVERSARIAL = {"Neighbor": 134, "GPTInst": 92, "GPTOut": 47, "Manual": 46}
PROPER = {"Natural": 100} | ADVERSARIAL


class LLMBar(Benchmark):
    """Accuracy, a tie is wrong. Overall is the mean over the five sets of LLMBar proper; ``pooled`` counts their pairs alike.

    ``adversarial`` is the mean over its four sets. The folders Processed and CaseStudy add sets of their own.
    """

    name = "llmbar"
    title = "LLMBar"
    reference = "https://github.com/princeton-nlp/LLMBar"
    hub = ()  # a loading script, which datasets no longer runs
    layout = "Dataset/**/dataset.json, with columns input, output_1, output_2, label; the folder names the set"
    sizes = PROPER

    def load(self, source: str | Path | None) -> Sequence[Item]:  # noqa: D102
        numbered: dict[str, int] = {}

        def item(row: Row, file: str) -> Item:
            part = Path(file).absolute().parent.name
            numbered[part] = numbered.get(part, 0) + 1
            return _item(row, part, numbered[part])

        return read_items(places(self, source, "Dataset/**/dataset.json", "**/dataset.json"), item)

    def score(self, items: Sequence[Item], scores: Sequence[FloatArray], weights: FloatArray) -> dict[str, FloatArray]:  # noqa: D102
        credit = [
            float(one[item.meta["best"]] > one[1 - item.meta["best"]]) for item, one in zip(items, scores, strict=True)
        ]
        sets = by_part(credit, [item.meta["subset"] for item in items], weights)
        proper = {name: sets[name] for name in PROPER if name in sets}
        figures = with_overall(proper, tuple(PROPER))
        if proper:
            figures["pooled"] = pooled(proper, PROPER)
        if ADVERSARIAL.keys() <= sets.keys():
            figures["adversarial"] = average(sets[name] for name in ADVERSARIAL)
        return figures | sets


def _item(row: Row, part: str, number: int) -> Item:
    prompt, best = said(row, "input"), choice(row, "label", (1, 2))
    responses = answers(prompt, need(row, "output_1"), need(row, "output_2"), name="output_1, output_2")
    return Item(f"{part}/{number}", prompt, responses, ((best, 1 - best),), {"subset": part, "best": best})
