"""Figures of trivial scorers and of published outputs on the real files: any change of a rule moves one of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from poise.evaluation.baselines import longer
from poise.evaluation.benchmark import Item
from poise.evaluation.benchmarks import benchmark
from poise.evaluation.benchmarks.judge_bench import published
from tests.evaluation.benchmarks.samples import figures

SIGNS = {"longer": 1.0, "shorter": -1.0}


def by_length(name: str, place: Path, round_to: int = 4) -> dict[str, tuple[float, float]]:
    """Figures where the longer, and where the shorter answer wins."""
    items = benchmark(name).load(place)
    one, two = (figures(benchmark(name), items, [sign * n for n in longer(items)]) for sign in SIGNS.values())
    return {key: (round(one[key], round_to), round(two[key], round_to)) for key in one}


@pytest.fixture(scope="session")
def official(shared_data: Path) -> Path:
    return shared_data / "benchmarks"


def test_rm_bench(official: Path) -> None:
    found = by_length("rm_bench", official / "RM-Bench")
    assert {name: found[name] for name in found if name not in ("hard", "normal", "easy")} == {
        "partial (chat + code + safety)": (0.4525, 0.5391),
        "chat": (0.3738, 0.6021),
        "chat, hard": (0.0258, 0.9742),
        "chat, normal": (0.2842, 0.6434),
        "chat, easy": (0.8114, 0.1886),
        "code": (0.5161, 0.4839),
        "code, hard": (0.2544, 0.7456),
        "code, normal": (0.5190, 0.4810),
        "code, easy": (0.7749, 0.2251),
        "safety": (0.4676, 0.5314),
        "safety, hard": (0.0998, 0.8995),
        "safety, normal": (0.3787, 0.6190),
        "safety, easy": (0.9244, 0.0756),
    }
    assert benchmark("rm_bench").notes(benchmark("rm_bench").load(official / "RM-Bench")) == ["math: 0 of 529 items"]


def test_reward_bench(official: Path) -> None:
    found = by_length("reward_bench", official / "RewardBench")
    assert found["Chat Hard"] == (0.2697, 0.7255)
    assert found["Reasoning"] == (0.2209, 0.5931)
    rounded = by_length("reward_bench", official / "RewardBench", round_to=3)
    assert {name: rounded[name] for name in rounded if name.startswith("hep-")} == {
        "hep-cpp": (0.341, 0.287),
        "hep-go": (0.354, 0.256),
        "hep-java": (0.335, 0.274),
        "hep-js": (0.348, 0.287),
        "hep-python": (0.378, 0.280),
        "hep-rust": (0.384, 0.256),
    }
    assert rounded["math-prm"] == (0.085, 0.913)
    assert "overall" not in found
    assert "Chat" not in found


def test_judge_bench(official: Path) -> None:
    found = by_length("judge_bench", official / "JudgeBench")
    assert found["gpt-4o"] == (0.4600, 0.5400)
    assert found["claude-3.5-sonnet"] == (0.4444, 0.5630)
    items = benchmark("judge_bench").load(official / "JudgeBench")
    constant = figures(benchmark("judge_bench"), items, [np.zeros(2)] * len(items))
    assert constant["gpt-4o"] == pytest.approx(157 / 350)
    assert benchmark("judge_bench").notes(items) == [], "the data are complete"


@pytest.mark.parametrize(
    ("model", "per_cent"),
    [
        ("Ray2333_GRM-Gemma-2B-rewardmodel-ft", 59.43),
        ("internlm_internlm2-7b-reward", 59.43),
        ("internlm_internlm2-20b-reward", 63.43),
        ("Skywork_Skywork-Reward-Llama-3.1-8B", 62.29),
        ("Skywork_Skywork-Reward-Gemma-2-27B", 64.29),
    ],
)
def test_judge_bench_published_outputs(official: Path, model: str, per_cent: float) -> None:
    file = next((official / "JudgeBench" / "outputs").glob(f"*judge_model={model}.jsonl.gz"))
    items, scores = published(file)
    assert round(100 * figures(benchmark("judge_bench"), items, scores)["gpt-4o"], 2) == per_cent
    # the same scores under the same ids of the data files
    place = {item.id: i for i, item in enumerate(items)}
    data = [one for one in benchmark("judge_bench").load(official / "JudgeBench") if one.meta["subset"] == "gpt-4o"]
    again = figures(benchmark("judge_bench"), data, [scores[place[item.id]] for item in data])
    assert round(100 * again["gpt-4o"], 2) == per_cent


def test_llmbar(official: Path) -> None:
    found = by_length("llmbar", official / "LLMBar", round_to=3)
    proper = {
        "Natural": (0.560, 0.430),
        "Neighbor": (0.119, 0.881),
        "GPTInst": (0.130, 0.870),
        "GPTOut": (0.447, 0.553),
        "Manual": (0.174, 0.804),
    }
    further = {
        "FairEval": (0.591, 0.409),
        "LLMEval^2": (0.605, 0.380),
        "MT-Bench": (0.680, 0.295),
        "Base_10": (0.074, 0.185),
        "Base_9": (0.185, 0.074),
        "Constraint": (0.326, 0.674),
        "Negation": (0.305, 0.695),
        "Normal": (0.695, 0.305),
    }
    assert {name: found[name] for name in proper | further} == proper | further
    assert benchmark("llmbar").notes(benchmark("llmbar").load(official / "LLMBar")) == []


def test_rmb(official: Path) -> None:
    found = by_length("rmb", official / "RMB")
    assert found["helpful, pairwise"] == (0.6595, 0.3297)
    assert found["harmless, pairwise"] == (0.5118, 0.4803)
    assert found["helpful, best-of-N"] == (0.4848, 0.1818)
    assert found["harmless, best-of-N"] == (0.3000, 0.2500)
    assert found["overall"] == tuple(
        pytest.approx(sum(values) / 4, abs=1e-4)
        for values in ((0.6595, 0.5118, 0.4848, 0.3), (0.3297, 0.4803, 0.1818, 0.25))
    )


def _right(items: Sequence[Item]) -> list[np.ndarray]:
    return [(np.arange(len(item.responses)) < item.meta["num_correct"]).astype(float) for item in items]


@pytest.mark.parametrize(
    ("scorer", "expected"),
    [
        ("characters", (0, 0, 0.25, 1, 0.25, 0.110093, 0.268349)),
        ("minus characters", (0, 0.25, 0, 0, 0, -0.009674, 0.040054)),
        ("constant", (0.25, 0.25, 0.25, 0.25, 0.25, 0, 0.208333)),
        ("right", (1, 1, 1, 1, 1, 1.01, 1.001667)),
        ("right and position", (1, 1, 1, 1, 1, 0.698094, 0.949682)),
    ],
)
def test_reward_bench_2(official: Path, scorer: str, expected: tuple[float, ...]) -> None:
    """The synthetic rows: what the scoring functions of allenai/reward-bench give for them."""
    items = benchmark("reward_bench_2").load(official / "synthetic_rewardbench2.jsonl")
    scores = {
        "characters": longer(items),
        "minus characters": [-n for n in longer(items)],
        "constant": [np.zeros(len(item.responses)) for item in items],
        "right": _right(items),
        "right and position": [one + 0.1 * np.arange(len(one)) for one in _right(items)],
    }[scorer]
    found = figures(benchmark("reward_bench_2"), items, scores)
    names = ("Factuality", "Precise IF", "Math", "Safety", "Focus", "Ties", "overall")
    assert [round(found[name], 6) for name in names] == list(expected)
