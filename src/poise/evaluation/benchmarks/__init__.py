"""The benchmarks, one file each. ``BENCHMARKS`` is the whole list of ours; ``register`` adds one of yours."""

from __future__ import annotations

from poise.errors import ConfigError
from poise.evaluation.benchmark import Benchmark
from poise.evaluation.benchmarks.judge_bench import JudgeBench
from poise.evaluation.benchmarks.llmbar import LLMBar
from poise.evaluation.benchmarks.ppe_correctness import PPECorrectness
from poise.evaluation.benchmarks.ppe_preference import PPEPreference
from poise.evaluation.benchmarks.reward_bench import RewardBench
from poise.evaluation.benchmarks.reward_bench_2 import RewardBench2
from poise.evaluation.benchmarks.rm_bench import RMBench
from poise.evaluation.benchmarks.rmb import RMB
from poise.registry import Registry

BENCHMARKS: tuple[Benchmark, ...] = (
    RewardBench(),
    RewardBench2(),
    RMBench(),
    RMB(),
    JudgeBench(),
    LLMBar(),
    PPEPreference(),
    PPECorrectness(),
)


def _check(one: Benchmark) -> None:
    if not isinstance(one, Benchmark):
        raise ConfigError(
            f"{one!r} is no benchmark; give an instance of a subclass of poise.evaluation.benchmark.Benchmark"
        )


_REGISTRY = Registry("benchmark", "poise.benchmarks", BENCHMARKS, _check)


def register(one: Benchmark) -> None:
    """Let ``--on`` and ``training.benchmarks`` of this process name a benchmark of yours.

    A package makes its own known to the command line too, by entry points of the group ``poise.benchmarks`` to instances.
    """
    _REGISTRY.add(one)


def benchmark(name: str) -> Benchmark:
    """By name; raises ``ConfigError`` with the nearest one."""
    return _REGISTRY.get(name)


def benchmark_names() -> list[str]:
    """All that ``benchmark`` knows."""
    return _REGISTRY.names()
