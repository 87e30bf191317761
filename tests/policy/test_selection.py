"""Best-of-n over files: the choices of ``choose``, whatever was scored before, dropped or interrupted."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet
import pytest
import torch

from poise import scoring
from poise.errors import ConfigError, DataError
from poise.model import RewardModel
from poise.policy.best_of_n import best_of_n
from poise.policy.selection import Selection, select_from_file, select_from_scores
from poise.scoring import score_file
from poise.utility import parse_utility
from tests.conftest import tiny_encoder, written
from tests.test_model import make_model

ANSWERS = ["In water.", "No idea.", "Ask the fox by the sea.", "For eight minutes.", "Hello to everyone.", "Tell me."]


@pytest.fixture(scope="module")
def model() -> RewardModel:
    return make_model(tiny_encoder())


@pytest.fixture
def source(tmp_path) -> str:
    rows = [{"prompt": f"How do I boil {i} eggs?", "responses": [f"{a} {i}" for a in ANSWERS]} for i in range(9)]
    return written(tmp_path / "rows.jsonl", rows)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_file_of_choices_is_what_choose_says(model, source, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "BLOCK", 10)
    selection = Selection(parse_utility("cvar:0.2"), min_p_best=0.3, stop_at=0.5)
    summary = select_from_file(model, source, tmp_path / "out.jsonl", selection)
    found = lines(tmp_path / "out.jsonl")
    assert len(found) == 9
    for row, line in zip(lines(Path(source)), found, strict=True):
        choice = best_of_n(model, row["prompt"], row["responses"], "cvar:0.2", min_p_best=0.3)
        assert (line["choice"], line["abstained"]) == (choice.index, choice.abstained)
        assert (line["prompt"], line["response"]) == (row["prompt"], row["responses"][choice.index])
        assert line["part"] == f"responses[{choice.index}]" == line["parts"][choice.index]
        assert line["utilities"] == pytest.approx(choice.utilities.tolist(), abs=1e-5)
        assert line["p_best"] == pytest.approx(choice.p_best.tolist(), abs=1e-5)
        assert torch.tensor(line["wins"]).allclose(choice.wins, atol=1e-5)
        assert 3 <= line["needed"] <= 6
    assert {line["abstained"] for line in found} <= {True, False}
    figures = summary.figures()
    assert figures["responses_needed"] == sum(line["needed"] for line in found)
    assert figures["abstained"] == sum(line["abstained"] for line in found)
    assert figures["utility"] == pytest.approx(sum(max(line["utilities"]) for line in found) / 9)
    assert figures["utility_lost"] >= 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.jsonl", "rows.jsonl"]


def test_saved_scores_give_the_same_choices(model, source, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "BLOCK", 10)
    score_file(model, source, tmp_path / "scores.parquet", utilities=[parse_utility("p_best")])
    select_from_file(model, source, tmp_path / "out.jsonl", Selection())
    select_from_scores(tmp_path / "scores.parquet", tmp_path / "again.jsonl", Selection())
    texts = {"prompt", "response"}
    first, second = lines(tmp_path / "out.jsonl"), lines(tmp_path / "again.jsonl")
    assert second == [{k: v for k, v in line.items() if k not in texts} for line in first]
    column = pyarrow.parquet.read_table(tmp_path / "scores.parquet")["p_best"].to_pylist()
    assert column == pytest.approx([p for line in first for p in line["p_best"]], abs=1e-6)


def test_row_groups_that_cut_a_prompt_are_put_together(model, source, tmp_path):
    score_file(model, source, tmp_path / "scores.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "scores.parquet")
    pyarrow.parquet.write_table(table.drop_columns(["group"]), tmp_path / "cut.parquet", row_group_size=4)
    for name in ("scores", "cut"):
        select_from_scores(tmp_path / f"{name}.parquet", tmp_path / f"{name}.jsonl", Selection())
    first, second = lines(tmp_path / "scores.jsonl"), lines(tmp_path / "cut.jsonl")
    assert len(first) == 9
    assert [line["p_best"] for line in first] == [line["p_best"] for line in second]


def test_rows_of_one_response_each_compete_while_the_prompt_stays(model, tmp_path):
    rows = [{"prompt": "How?", "response": a} for a in ANSWERS[:3]]
    rows += [{"prompt": "Why?", "response": a} for a in ANSWERS[:2]]
    rows += [{"prompt": "Why?", "responses": ANSWERS[2:4]}, {"prompt": "Why?", "chosen": "So.", "rejected": "No."}]
    source = written(tmp_path / "rows.jsonl", rows)
    select_from_file(model, source, tmp_path / "out.jsonl", Selection())
    found = lines(tmp_path / "out.jsonl")
    assert [line["rows"] for line in found] == [[1, 2, 3], [4, 5], [6, 6], [7, 7]]
    assert [line["group"] for line in found] == [1, 4, 6, 7]
    assert found[3]["parts"] == ["chosen", "rejected"]
    assert all(line["response"] for line in found)


def test_responses_that_do_not_fit_do_not_compete(model, tmp_path):
    rows = [
        {"prompt": "How?", "responses": ["So.", "ho " * 400, "No."]},
        {"prompt": "Why?", "responses": ["ho " * 400, "hey " * 300]},
        {"prompt": "Who?"},
        {"prompt": "When?", "responses": ["Now.", "Then."]},
    ]
    source = written(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError, match="row 3: no response to score"):
        select_from_file(model, source, tmp_path / "out.jsonl", Selection())
    select_from_file(model, source, tmp_path / "out.jsonl", Selection(), on_bad="drop")
    found = lines(tmp_path / "out.jsonl")
    assert [line["parts"] for line in found] == [["responses[0]", "responses[2]"], ["responses[0]", "responses[1]"]]
    assert [line["prompt"] for line in found] == ["How?", "When?"]


def test_the_first_n_and_no_matrices_as_parquet(model, source, tmp_path):
    select_from_file(model, source, tmp_path / "out.parquet", Selection(n=3, wins=False))
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert {len(u) for u in table["utilities"].to_pylist()} == {3}
    assert "wins" not in table.column_names
    assert json.loads(table["prompt"][0].as_py()) == "How do I boil 0 eggs?"


def test_a_killed_choice_leaves_nothing_and_keeps_what_was_scored(model, source, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "BLOCK", 10)
    predict, calls = model.predict_encoded, []

    def broken(encoded, **options):
        calls.append(len(encoded))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return predict(encoded, **options)

    monkeypatch.setattr(model, "predict_encoded", broken)
    with pytest.raises(KeyboardInterrupt):
        select_from_file(model, source, tmp_path / "out.jsonl", Selection())
    assert not (tmp_path / "out.jsonl").exists()
    select_from_file(model, source, tmp_path / "out.jsonl", Selection())
    assert len(calls) == 3 + 3, "five blocks of two prompts, of which two were there"
    assert len(lines(tmp_path / "out.jsonl")) == 9
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.jsonl", "rows.jsonl"]


def test_nothing_is_written_over_what_is_chosen_from(model, source, tmp_path):
    saved, folder = tmp_path / "scores.parquet", tmp_path / "evaluation"
    score_file(model, source, saved)
    folder.mkdir()
    (folder / "predictions.parquet").write_bytes(saved.read_bytes())
    before = saved.read_bytes(), Path(source).read_bytes()
    for over in (saved, tmp_path / "evaluation" / ".." / "scores.parquet"):
        with pytest.raises(ConfigError, match="is the data itself; give every file a name of its own"):
            select_from_scores(saved, over, Selection())
    with pytest.raises(ConfigError, match="is the data itself"):
        select_from_scores(folder, folder / "predictions.parquet", Selection())
    with pytest.raises(ConfigError, match="is the data itself"):
        select_from_file(model, source, Path(source), Selection())
    kept = (folder / "predictions.parquet").read_bytes()
    assert (saved.read_bytes(), Path(source).read_bytes(), kept) == (*before, before[0])


def test_what_is_refused_before_anything_is_scored(model, source, tmp_path, monkeypatch):
    monkeypatch.setattr(model, "predict_encoded", None)
    for selection, out, error, message in (
        (Selection(), "out.csv", ConfigError, "choices are written as .jsonl or .parquet"),
        (Selection(parse_utility("shrinkage")), "out.jsonl", Exception, "does not say what the model does not know"),
    ):
        with pytest.raises(error, match=message):
            select_from_file(model, source, tmp_path / out, selection)
    with pytest.raises(ConfigError, match="min-p-best is 2; it must be a probability"):
        Selection(min_p_best=2)
    (tmp_path / "other.parquet").write_bytes(b"no")
    with pytest.raises(DataError, match=r"cannot be read as saved rewards .*; give a file that poise score"):
        select_from_scores(tmp_path / "other.parquet", tmp_path / "out.jsonl", Selection())
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="holds no rewards; give a file that poise score"):
        select_from_scores(tmp_path / "other.parquet", tmp_path / "out.jsonl", Selection())
