"""Whole files: the same rewards as predict, whatever was killed or shared out in between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from poise import scoring
from poise.errors import ConfigError, DataError
from poise.methods import method_class
from poise.model import RewardModel
from poise.output import sole
from poise.scoring import BatchScorer, score_file, survey
from tests.conftest import tiny_encoder, written
from tests.test_model import make_model


@pytest.fixture(scope="module")
def model() -> RewardModel:
    return make_model(tiny_encoder())


@pytest.fixture
def source(tmp_path) -> str:
    rows = [{"prompt": f"How do I boil {i} eggs?", "responses": ["In water.", f"No idea, {i}."]} for i in range(20)]
    return written(tmp_path / "rows.jsonl", rows)


def test_a_file_is_scored_as_predict_scores_its_texts(model, source, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "BLOCK", 7)
    seen = []
    found = score_file(model, source, tmp_path / "out.parquet", progress=lambda done, total: seen.append((done, total)))
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    rows = [json.loads(line) for line in Path(source).read_text().splitlines()]
    expected = model.predict([r["prompt"] for r in rows for _ in "ab"], [a for r in rows for a in r["responses"]])
    assert np.array_equal(table["mean"].to_numpy(), expected.mean.numpy())
    assert np.array_equal(table["std"].to_numpy(), expected.std.numpy())
    assert table["row"].to_pylist() == [i for i in range(1, 21) for _ in "ab"]
    assert (found.responses, seen[-1]) == (40, (40, 40))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.parquet", "rows.jsonl"]


def test_a_killed_job_goes_on_with_the_blocks_it_lacks(model, source, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "BLOCK", 4)
    predict, calls = model.predict_encoded, []

    def broken(encoded, **options):
        calls.append(len(encoded))
        if len(calls) == 6:
            raise KeyboardInterrupt
        return predict(encoded, **options)

    monkeypatch.setattr(model, "predict_encoded", broken)
    with pytest.raises(KeyboardInterrupt):
        score_file(model, source, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()
    score_file(model, source, tmp_path / "out.parquet")
    assert len(calls) == 6 + 5, "ten blocks, of which five were there"
    monkeypatch.setattr(model, "predict_encoded", predict)
    score_file(model, source, tmp_path / "whole.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "out.parquet").equals(
        pyarrow.parquet.read_table(tmp_path / "whole.parquet")
    )


def test_two_jobs_do_not_write_one_file(model, source, tmp_path):
    with sole(tmp_path / ".out.parquet.parts"), pytest.raises(ConfigError, match="another process is writing"):
        score_file(model, source, tmp_path / "out.parquet")
    assert score_file(model, source, tmp_path / "out.parquet").responses == 40


def test_parts_of_another_model_or_other_texts_are_not_used(model, source, tmp_path, monkeypatch):
    facts, block = repr(sorted(model.facts().items())), next(scoring._blocks(source, []))
    before = scoring._digest(facts, block)
    assert scoring._digest(facts, block) == before
    assert scoring._digest(facts, block[1:]) != before
    other = RewardModel(model.backbone, method_class("drpo")(method_class("drpo").Config(), model.backbone.hidden_size))
    assert other.facts()["head_sha256"] != model.facts()["head_sha256"]


def test_broken_rows_are_found_before_anything_is_scored(model, tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"prompt": "p", "response": "r"}\n{"prompt": "p"}\n{"prompt": "p", "response": "%s"}\n' % ("ho " * 400)
    )
    monkeypatch.setattr(model, "predict_encoded", None)
    with pytest.raises(DataError, match="row 2: no response to score"):
        score_file(model, str(path), tmp_path / "out.parquet")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.jsonl"]
    found = survey(model, str(path), "drop")
    assert (found.responses, [bad.row for bad in found.bad]) == (1, [2, 3])


@pytest.mark.heavy
def test_two_processes_write_what_one_writes(model, source, tmp_path):
    model.save(tmp_path / "model", include_backbone=True)
    code = """
        import sys
        from poise import scoring
        scoring.BLOCK = 6
        from poise.cli.main import main
        sys.argv = ["poise", *sys.argv[1:]]
        main()
    """
    (tmp_path / "run.py").write_text(textwrap.dedent(code))
    one = [sys.executable]
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for launcher, out in ((one, "one.parquet"), (two, "two.parquet")):
        command = [*launcher, str(tmp_path / "run.py"), "score", "model", source, "--out", out]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("40 responses scored") == 1
    one, two = (pyarrow.parquet.read_table(tmp_path / f"{name}.parquet") for name in ("one", "two"))
    assert one.equals(two)


def test_a_batch_scorer_adds_columns_and_can_be_sent_to_a_worker(model, tmp_path):
    model.save(tmp_path / "model", include_backbone=True)
    scorer = BatchScorer(str(tmp_path / "model"))
    messages = np.array([{"role": "user", "content": "How?"}], dtype=object)
    batch = {
        "prompt": np.array(["How?", "Why?"], dtype=object),
        "response": np.array(["So.", "No."], dtype=object),
        "id": np.arange(2),
    }
    found = scorer(batch)
    expected = model.predict(["How?", "Why?"], ["So.", "No."])
    np.testing.assert_allclose(found["mean"], expected.mean.numpy())
    assert found["id"].tolist() == [0, 1]
    asked = scorer({"prompt": [messages], "response": np.array(["So."], dtype=object)})
    np.testing.assert_allclose(asked["mean"], expected.mean[:1].numpy())


def test_ray_data_scores_over_a_cluster(model, tmp_path):
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    model.save(tmp_path / "model", include_backbone=True)
    rows = [{"prompt": "How?", "response": f"So {i}."} for i in range(10)]
    found = ray.data.from_items(rows).map_batches(
        BatchScorer, fn_constructor_args=[str(tmp_path / "model")], concurrency=1, batch_size=4
    )
    means = {row["response"]: row["mean"] for row in found.take_all()}
    expected = model.predict("How?", [row["response"] for row in rows]).mean
    np.testing.assert_allclose([means[row["response"]] for row in rows], expected.numpy(), rtol=1e-6)
