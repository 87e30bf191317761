"""What a reward function costs beyond the forward pass: ``as_reward_function`` against the bare network and head on its batches.

A GRPO batch: 4 prompts with 8 completions each, of different lengths. Both read the same token ids in the same batches, in turn. Bare is
what cannot be saved: the network on inputs that were laid out beforehand, then the head. Ours starts from texts: it checks,
renders and tokenises, lays batches out, pools, scores, takes utility, mean, std and quantiles, and logs them. MiniLM, which
reads padded rows, and a decoder (Qwen3 configuration, hidden 384, 6 layers), which reads each prompt once; float32.

The last line of stdout is one JSON object; ``overhead`` is the larger of the two, the median over the repeats of ours / bare − 1.
``outside_forward`` is measured within ours, so that other work on the machine cannot hide or invent it: the time that was not
spent inside the network, over the time that was.
Usage: python bench/reward_function.py [--repeats 12] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from scoring import checkpoint

from poise import as_reward_function
from poise.backbone import Row, padded_inputs, plan_batches
from poise.features import Features
from poise.methods import method_class
from poise.model import RewardModel
from poise.reading import batch_tokens, plan_trees, tree, why_padded
from poise.tree_attention import packed_states, trees

PROMPTS, COMPLETIONS = 4, 8
WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "you",
    "that",
    "it",
    "he",
    "was",
    "for",
    "on",
    "are",
    "as",
    "with",
    "his",
    "they",
    "at",
    "be",
    "this",
    "have",
    "from",
    "or",
    "one",
    "had",
    "by",
    "word",
    "but",
    "not",
    "what",
    "all",
    "were",
    "we",
    "when",
    "your",
    "can",
    "said",
    "there",
    "use",
    "an",
    "each",
    "which",
    "she",
    "do",
    "how",
    "their",
    "if",
    "will",
    "up",
    "other",
    "about",
    "out",
    "many",
    "then",
    "them",
    "these",
]


def texts() -> tuple[list[str], list[str]]:
    """Prompts of 20 to 120 words, each repeated, and completions of 30 to 200."""
    draw = random.Random(0)

    def sentence(low: int, high: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(low, high)))

    prompts = [prompt for prompt in (sentence(20, 120) for _ in range(PROMPTS)) for _ in range(COMPLETIONS)]
    return prompts, [sentence(30, 200) for _ in prompts]


def model_of(kind: str, folder: Path) -> RewardModel:
    """The networks of bench/scoring.py under a Gaussian head."""
    backbone = checkpoint(kind, "float32", folder).backbone
    drpo = method_class("drpo")
    torch.manual_seed(1)
    method = drpo(drpo.Config(), backbone.hidden_size)
    for parameter in method.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return RewardModel(backbone, method)


def bare(model: RewardModel, prompts: list[str], completions: list[str]) -> Callable[[], None]:
    """The forward passes alone, of the batches that ``poise.reading`` makes of these texts."""
    encoded = model._encode(prompts, completions)
    rows, network = [Row(one.ids, one.prompt_length) for one in encoded], model.backbone.model
    states = torch.randn(len(rows), model.backbone.hidden_size)
    features = Features(states, states)
    if why_padded(model.backbone) is None:
        packs = [tree([rows[i] for i in batch]) for batch in plan_trees(rows, batch_tokens(model.backbone))]

        def forward() -> None:
            with torch.inference_mode(), trees(network):
                for packed in packs:
                    packed_states(network, packed, use_cache=False)
                model.method(features)

        return forward
    limit, budget = model.backbone.max_length, model.backbone.tokens_per_batch
    batches = [
        padded_inputs([rows[i] for i in batch], limit, segments=True) for batch in plan_batches(rows, limit, budget)
    ]

    def forward_padded() -> None:
        with torch.inference_mode():
            for inputs in batches:
                network(**inputs)
            model.method(features)

    return forward_padded


class Inside:
    """Adds up the seconds spent inside a network."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.seconds = self._start = 0.0
        network.register_forward_pre_hook(self._begin)
        network.register_forward_hook(self._end)

    def _begin(self, *given: object) -> None:
        self._start = time.perf_counter()

    def _end(self, *given: object) -> None:
        self.seconds += time.perf_counter() - self._start


def measured(model: RewardModel, repeats: int) -> dict[str, float]:
    prompts, completions = texts()
    turns = [(prompts, completions), (prompts[::-1], completions[::-1])]  # no batch twice running: that is read once
    function = as_reward_function(model, "lcb:1")
    logged: list[object] = []

    def ours(turn: int) -> None:
        prompts, completions = turns[turn]
        rewards = function(
            prompts=prompts,
            completions=completions,
            log_metric=lambda name, value: logged.append(value),
            log_extra=lambda name, values: logged.append(values),
        )
        assert len(rewards) == PROMPTS * COMPLETIONS

    forwards = [bare(model, *turn) for turn in turns]

    def forward(turn: int) -> None:
        forwards[turn]()

    seconds: dict[str, list[float]] = {"ours": [], "bare": []}
    outside: list[float] = []
    inside = Inside(model.backbone.model)
    for work in (ours, forward):
        work(1)
    for number in range(repeats):
        pair = [("ours", ours), ("bare", forward)]
        for name, work in pair if number % 2 else pair[::-1]:
            inside.seconds, start = 0.0, time.perf_counter()
            work(number % 2)
            seconds[name].append(time.perf_counter() - start)
            if name == "ours":
                outside.append(seconds[name][-1] / inside.seconds - 1)
    ratios = [mine / theirs - 1 for mine, theirs in zip(seconds["ours"], seconds["bare"], strict=True)]
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "ours_s": round(middle["ours"], 4),
        "bare_s": round(middle["bare"], 4),
        "overhead": round(statistics.median(ratios), 4),
        "outside_forward": round(statistics.median(outside), 4),
        "tokens": sum(len(one.ids) for one in model._encode(prompts, completions)),
    }


def main() -> None:
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result: dict[str, object] = {}
    for kind in ("encoder", "decoder"):
        with tempfile.TemporaryDirectory() as folder:
            found = measured(model_of(kind, Path(folder) / "model"), options.repeats)
        print(
            f"{kind}: ours {found['ours_s']} s, bare {found['bare_s']} s: {found['overhead']:.1%}, within {found['outside_forward']:.1%}",
            file=sys.stderr,
        )
        result[kind] = found
    facts = {
        "completions": PROMPTS * COMPLETIONS,
        "repeats": options.repeats,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    result = {"overhead": max(result[kind]["overhead"] for kind in ("encoder", "decoder")), **result, **facts}  # type: ignore[index]
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
