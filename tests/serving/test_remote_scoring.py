"""``poise score http://…`` writes what ``poise score RUN`` writes."""

from __future__ import annotations

import json

import pyarrow.parquet
import pytest

from poise.cli import score as command
from poise.cli.scoring import Scoring
from poise.client import Client
from poise.data.records import Message
from poise.errors import DataError, ServerError
from poise.remote_scoring import score_by_server
from poise.scorers import Endpoint, Own
from tests.serving.place import Place, listening, model


@pytest.fixture(scope="module")
def served():
    return model("qrm")


@pytest.fixture(scope="module")
def address(served):
    place = Place({"rm": served})
    with listening(place) as url:
        yield url


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [{"prompt": f"tell me about {i}", "responses": [f"the fox {i}", f"a dog {i}"]} for i in range(6)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf8")
    return path


def test_the_table_is_that_of_the_model(served, address, rows, tmp_path, monkeypatch):
    how, utilities = Scoring.of("error", "cpu", False), ["lcb:1", "p_best"]
    served.save(tmp_path / "rm", include_backbone=True)
    for source, out in ((tmp_path / "rm", "here"), (address, "there")):
        command.run(source, str(rows), tmp_path / f"{out}.parquet", how, utilities)
    here, there = (pyarrow.parquet.read_table(tmp_path / f"{name}.parquet") for name in ("here", "there"))
    shared = [name for name in here.column_names if name != "cut_tokens"]
    assert shared == [name for name in there.column_names if name != "truncated"]
    for name in shared:
        expected, found = here[name].to_pylist(), there[name].to_pylist()
        if isinstance(expected[0], (str, int)):
            assert found == expected
        else:
            flat = (lambda v: [x for one in v for x in one]) if isinstance(expected[0], list) else list
            assert flat(found) == pytest.approx(flat(expected), rel=1e-5, abs=1e-5)


def test_rows_that_the_server_refuses_are_named_or_left_out(address, rows, tmp_path):
    with rows.open("a", encoding="utf8") as handle:
        handle.write(json.dumps({"prompt": "tell me", "response": "too long " * 300}) + "\n")
    with Client(address) as client:
        with pytest.raises(DataError, match=r"inputs\[6\]: the response alone takes"):
            score_by_server(client, str(rows), tmp_path / "out.parquet")
        assert not (tmp_path / "out.parquet").exists()
        found = score_by_server(client, str(rows), tmp_path / "out.parquet", on_bad="drop")
    assert (found.responses, len(found.bad)) == (12, 1)


def test_evaluation_by_a_server_is_that_of_the_model(served, address):
    texts = [((Message("user", f"tell me {i // 2}"),), (Message("assistant", f"the fox {i}"),)) for i in range(8)]
    here, there = Own(served, "rm").score(texts), Endpoint(address).score(texts)
    for name, tensor in here.beliefs["reward"].parameters().items():
        assert there.beliefs["reward"].parameters()[name].flatten().tolist() == pytest.approx(
            tensor.flatten().tolist(), rel=1e-5, abs=1e-5
        )
    assert there.tokens == here.tokens


def test_an_evaluation_knows_which_model_the_server_has(address):
    scorer = Endpoint(address)
    assert {"model", "revision", "calibration"} < set(scorer.facts)
    scorer.facts = {**scorer.facts, "revision": "another"}
    with pytest.raises(ServerError, match="changed its model"):
        scorer.score([("tell me", "the fox")])
