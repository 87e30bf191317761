"""What holds for every benchmark."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from poise.data import sources
from poise.data.records import Text
from poise.errors import ConfigError, DataError
from poise.evaluation.baselines import longer, random
from poise.evaluation.belief_table import REWARD
from poise.evaluation.benchmark import Benchmark, Item
from poise.evaluation.benchmarks import BENCHMARKS, benchmark
from poise.evaluation.bootstrap import PromptBootstrap
from poise.evaluation.compare import compare
from poise.evaluation.harness import score_sets
from poise.evaluation.items import item_json, item_of, text_json
from poise.evaluation.predictions import SetFacts
from poise.evaluation.sets import EvaluationSet
from poise.evaluation.suite import by_item, measure
from tests.evaluation.benchmarks.samples import (
    SAMPLES,
    judge_bench_row,
    ppe_correctness_row,
    ppe_preference_row,
    reward_bench_2_row,
    reward_bench_row,
    rm_bench_row,
)
from tests.evaluation.test_harness import Drawn

every = pytest.mark.parametrize("rules", BENCHMARKS, ids=lambda rules: rules.name)


@pytest.fixture
def items(rules: Benchmark, tmp_path: Path) -> tuple[Item, ...]:
    SAMPLES[rules.name](tmp_path)
    return benchmark(rules.name).load(tmp_path)


def drawn(items: tuple[Item, ...], seed: int = 0) -> list[np.ndarray]:
    """Scores with ties among them."""
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 4, size=len(item.responses)).astype(float) for item in items]


@every
def test_items_are_whole(rules: Benchmark, items: tuple[Item, ...]) -> None:
    assert len({item.id for item in items}) == len(items) > 5
    for item in items:
        assert item.meta["subset"]
        assert all(i != j and max(i, j) < len(item.responses) for i, j in item.better)
    assert rules.notes(items), "a sample is not the official data"


@every
def test_items_survive_being_saved(rules: Benchmark, items: tuple[Item, ...]) -> None:
    again = [item_of(item.id, item_json(item), [text_json(text) for text in item.responses]) for item in items]
    for one, other in zip(items, again, strict=True):
        assert (one.id, one.prompt, one.responses, one.better) == (
            other.id,
            other.prompt,
            other.responses,
            other.better,
        )
    scores, ones = drawn(items), np.ones((1, len(items)))
    assert rules.score(again, scores, ones) == rules.score(items, scores, ones)


@every
def test_unit_weights_are_the_plain_value(rules: Benchmark, items: tuple[Item, ...]) -> None:
    scores = drawn(items)
    plain, many = (rules.score(items, scores, np.ones((r, len(items)))) for r in (1, 7))
    for name, value in plain.items():
        assert many[name].shape == (7,)
        np.testing.assert_array_equal(many[name], np.repeat(value, 7), err_msg=name)
    assert np.isfinite(next(iter(plain.values()))[0])


@every
@pytest.mark.parametrize("seed", range(5))
def test_weights_are_repetitions(rules: Benchmark, items: tuple[Item, ...], seed: int) -> None:
    generator, groups, scores = np.random.default_rng(seed), rules.groups(items), drawn(items, seed)
    times = {group: int(generator.integers(0, 4)) for group in dict.fromkeys(groups)}
    for group in {_part(item): group for item, group in zip(items, groups, strict=True)}.values():
        times[group] = max(1, times[group])  # no part disappears
    counts = [times[group] for group in groups]
    weighted = rules.score(items, scores, np.array([counts], dtype=float))
    rows = np.repeat(np.arange(len(items)), counts)
    literal = rules.score([items[i] for i in rows], [scores[i] for i in rows], np.ones((1, len(rows))))
    assert set(literal) <= set(weighted)
    for name, value in weighted.items():
        np.testing.assert_allclose(value, literal.get(name, [np.nan]), rtol=1e-12, err_msg=name)


def _part(item: Item) -> str:
    return str([item.meta.get(name) for name in ("subset", "goal", "scenario", "category", "kinds")])


@every
def test_the_order_of_items_means_nothing(rules: Benchmark, items: tuple[Item, ...]) -> None:
    scores, weights = drawn(items), np.random.default_rng(1).integers(1, 4, size=(3, len(items))).astype(float)
    groups = {group: i for i, group in enumerate(rules.groups(items))}
    weights = weights[:, [groups[group] for group in rules.groups(items)]]
    order = np.random.default_rng(2).permutation(len(items))
    given = rules.score(items, scores, weights)
    turned = rules.score([items[i] for i in order], [scores[i] for i in order], weights[:, order])
    assert list(given) == list(turned), "nor does it change the order of the figures"
    for name, value in given.items():
        np.testing.assert_allclose(value, turned[name], rtol=1e-12, err_msg=name)


@every
def test_a_better_scorer_has_better_figures(rules: Benchmark, items: tuple[Item, ...]) -> None:
    """1 for every response that should win something and 0 else is at the top of the headline, its negative at 0."""
    sure = [np.array([float(_wins(item, j)) for j in range(len(item.responses))]) for item in items]
    ones = np.ones((1, len(items)))
    best, worst = (next(iter(rules.score(items, [sign * one for one in sure], ones).values()))[0] for sign in (1, -1))
    assert best == pytest.approx(6.01 / 6 if rules.name == "reward_bench_2" else 1.0)
    assert worst <= 0


def _wins(item: Item, response: int) -> bool:
    return response in {i for i, _ in item.better} or (item.meta["subset"] == "best-of-N" and response == 0)


@every
def test_intervals_hold_the_value(rules: Benchmark, items: tuple[Item, ...]) -> None:
    scores = drawn(items)
    bootstrap = PromptBootstrap(rules.groups(items), resamples=200)
    found = bootstrap.joint_intervals(lambda weights: rules.score(items, scores, weights))
    headline = next(iter(found.values()))
    assert headline.low <= headline.value <= headline.high


@every
def test_baselines_score_every_response(rules: Benchmark, items: tuple[Item, ...]) -> None:
    for scores in (longer(items), random(items), random(items, seed=1)):
        assert [len(one) for one in scores] == [len(item.responses) for item in items]
    assert not np.array_equal(np.concatenate(random(items)), np.concatenate(random(items, seed=1)))
    assert longer(items)[0][0] == _characters(items[0].responses[0])


def _characters(text: Text) -> int:
    return len(text) if isinstance(text, str) else len(text[0].content)


@every
def test_a_missing_place_says_what_is_expected(rules: Benchmark, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder") as missing:
        rules.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no file of that layout") as empty:
        rules.load(tmp_path / "empty")
    for error in (missing, empty):
        assert rules.layout in str(error.value)
        assert rules.reference in str(error.value)


@pytest.mark.parametrize("rules", [rules for rules in BENCHMARKS if not rules.hub], ids=lambda rules: rules.name)
def test_without_hub_the_place_must_be_named(rules: Benchmark) -> None:
    with pytest.raises(DataError, match=f"name your copy, {rules.name}=FOLDER"):
        rules.load(None)


@pytest.mark.parametrize("rules", [rules for rules in BENCHMARKS if rules.hub], ids=lambda rules: rules.name)
def test_the_hub_is_read_split_by_split(rules: Benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {
        "reward_bench": reward_bench_row("donotanswer"),
        "reward_bench_2": reward_bench_2_row("0", "Math"),
        "rm_bench": rm_bench_row(0, domain="safety-refuse"),
        "judge_bench": judge_bench_row("B>A"),
        "ppe_preference": ppe_preference_row("model_b"),
        "ppe_correctness": ppe_correctness_row([True, False], [[1, 0]]),
    }
    asked: list[str] = []

    def from_hub(name: str, config: str | None, split: str) -> Iterator[tuple[int, dict[str, object]]]:
        asked.append(f"{name}:{split}")
        return iter([(1, rows[rules.name])])

    monkeypatch.setattr(sources, "_read_hub", from_hub)
    items = rules.load(None)
    assert asked == list(rules.hub)
    assert len(items) == len(rules.hub)


@every
@pytest.mark.parametrize("damage", ["column", "type", "json"])
def test_a_garbled_file_is_named(rules: Benchmark, tmp_path: Path, damage: str) -> None:
    SAMPLES[rules.name](tmp_path)
    file = next(path for path in sorted(tmp_path.rglob("*")) if path.is_file())
    text = file.read_text()
    if damage == "json":
        file.write_text(text[: len(text) // 2])
    else:
        array = text.startswith("[")
        rows = json.loads(text) if array else [json.loads(line) for line in text.splitlines()]
        name = next(name for name in ("prompt", "input", "question", "conversation_input") if name in rows[1])
        rows[1].pop(name)
        if damage == "type":
            rows[1][name] = 3
        lines = [json.dumps(row) for row in rows]
        file.write_text("[" + ",".join(lines) + "]" if array else "\n".join(lines))
    with pytest.raises(DataError) as error:
        rules.load(tmp_path)
    assert str(file) in str(error.value)
    if damage != "json":
        assert "row 2" in str(error.value)
        assert name in str(error.value)


@every
@pytest.mark.parametrize("value", [None, 3, -1.5, True, "", "x", [], [1], [None], [[1]], {}, {"role": 1}, "\ud800"])
def test_any_value_in_any_column_is_read_or_refused(rules: Benchmark, tmp_path: Path, value: object) -> None:
    SAMPLES[rules.name](tmp_path)
    file = next(path for path in sorted(tmp_path.rglob("*")) if path.is_file())
    text = file.read_text()
    first = json.loads(text)[0] if text.startswith("[") else json.loads(text.splitlines()[0])
    for name in first:
        line = json.dumps(first | {name: value})
        file.write_text(f"[{line}]" if file.suffix == ".json" else line)
        try:
            items = rules.load(file)
        except DataError as error:
            assert str(file) in str(error)  # noqa: PT017 - either outcome is right, a crash is not
        else:
            rules.score(items, drawn(tuple(items)), np.ones((1, len(items))))


@every
def test_one_file_is_enough(rules: Benchmark, tmp_path: Path) -> None:
    SAMPLES[rules.name](tmp_path)
    file = next(path for path in sorted(tmp_path.rglob("*")) if path.is_file())
    items = rules.load(file)
    found = rules.score(items, drawn(tuple(items)), np.ones((1, len(items))))
    assert items
    assert np.isfinite(next(iter(found.values()))[0])


def test_names_are_distinct_and_an_unknown_one_is_refused() -> None:
    assert {rules.name for rules in BENCHMARKS} == set(SAMPLES)
    with pytest.raises(ConfigError, match="did you mean 'rm_bench'"):
        benchmark("rmbench")


def test_ids_that_occur_again_are_numbered(tmp_path: Path) -> None:
    SAMPLES["llmbar"](tmp_path / "one")
    shutil.copytree(tmp_path / "one" / "Dataset" / "LLMBar" / "Natural", tmp_path / "Natural")
    shutil.copytree(tmp_path / "Natural", tmp_path / "two" / "Natural")
    assert len({item.id for item in benchmark("llmbar").load(tmp_path)}) == len(benchmark("llmbar").load(tmp_path))


@every
def test_is_scored_saved_and_measured(rules: Benchmark, items: tuple[Item, ...], tmp_path: Path) -> None:
    """Through the harness: official figures of the saved predictions, beside trivial scorers, and single pairs."""
    given = EvaluationSet(SetFacts(rules.name), items)
    predictions = score_sets(Drawn(), [given], tmp_path / "found")
    (found,) = measure(predictions, resamples=20).sets
    scores = by_item(items, predictions.sets[0].scored.beliefs[REWARD].mean.double().numpy())
    official = rules.score(items, scores, np.ones((1, len(items))))
    for name, figure in found.figures.items():
        assert figure.value == official[name][0]
    assert {"longer wins", "random"} == found.baselines.keys()
    assert found.pairs is not None
    assert found.pairs.data.rows == sum(len(item.better) for item in items)
    assert compare([predictions, predictions], resamples=20).differences
