"""``poise score http://…`` writes what ``poise score RUN`` writes."""

from __future__ import annotations

import json
from dataclasses import replace

import pyarrow.parquet
import pytest
import torch

from poise.calibration import Calibration, PairCalibration
from poise.cli import score as command
from poise.cli.scoring import Scoring
from poise.client import Client
from poise.data.records import Message
from poise.errors import DataError, ServerError
from poise.publication.remote import verify_url
from poise.remote_scoring import score_by_server
from poise.scorers import Endpoint, Own, open_scorer
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
        with pytest.raises(DataError, match=r"rows\.jsonl: row 7: response: .*the response alone takes"):
            score_by_server(client, str(rows), tmp_path / "out.parquet")
        assert not (tmp_path / "out.parquet").exists()
        found = score_by_server(client, str(rows), tmp_path / "out.parquet", on_bad="drop")
    assert (found.responses, len(found.bad)) == (12, 1)


class Stop(Exception):
    """The command was interrupted."""


def stop(done: int, total: int) -> None:
    raise Stop


def many(path, bad=(), count=300):
    """Rows with prompts of their own, those of numbers ``bad`` with a response that no model here reads."""
    texts = ["too long " * 300 if row in bad else "the fox" for row in range(1, count + 1)]
    lines = [{"prompt": f"tell me {row}", "response": text} for row, text in enumerate(texts)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf8")
    return str(path)


def test_what_an_interrupted_run_left_out_is_an_error_of_a_run_that_leaves_nothing_out(address, tmp_path):
    source, out = many(tmp_path / "rows.jsonl", bad=[41]), tmp_path / "out.parquet"
    with Client(address) as client:
        with pytest.raises(Stop):
            score_by_server(client, source, out, on_bad="drop", progress=stop)
        with pytest.raises(DataError, match=r"row 41: response"):
            score_by_server(client, source, out)
        assert not out.exists()
        found = score_by_server(client, source, out, on_bad="drop")
    assert (found.responses, [one.row for one in found.bad]) == (299, [41])


def test_every_refused_row_of_a_block_is_named(address, tmp_path):
    source = many(tmp_path / "rows.jsonl", bad=[2, 41, 256])
    with Client(address) as client, pytest.raises(DataError) as raised:
        score_by_server(client, source, tmp_path / "out.parquet")
    assert [line.split(": ")[1] for line in str(raised.value).splitlines()[:3]] == ["row 2", "row 41", "row 256"]


def test_a_server_that_takes_little_at_once_scores_all_and_names_what_it_never_takes(served, address, tmp_path):
    fine, large, out = many(tmp_path / "fine.jsonl"), tmp_path / "large.jsonl", tmp_path / "large.parquet"
    lines = [{"prompt": f"tell me {row}", "responses": ["the fox"] * (80 if row == 3 else 1)} for row in range(5)]
    large.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf8")
    with listening(Place({"rm": served}, waiting_tokens=600)) as url, Client(url) as client:
        assert score_by_server(client, fine, tmp_path / "fine.parquet").responses == 300
        with pytest.raises(DataError, match=r"row 4: responses\[0\]: .*HTTP 413"):
            score_by_server(client, str(large), out)
        found = score_by_server(client, str(large), out, on_bad="drop")
        assert (found.responses, {one.row for one in found.bad}) == (4, {4})
        out.unlink()
        with pytest.raises(Stop):
            score_by_server(client, str(large), out, on_bad="drop", progress=stop)
    with Client(address) as client:
        client.url = url  # as if the server had been started again with more room
        assert score_by_server(client, str(large), out).responses == 84


def test_a_model_that_changes_while_a_block_is_halved_does_not_go_into_one_file(address, tmp_path):
    source = many(tmp_path / "rows.jsonl", bad=[150], count=200)
    with Client(address) as client:
        honest, answers = client.rewards_of, []

        def changing(*given, **options):
            answers.append(replace(honest(*given, **options), revision=f"revision {len(answers)}"))
            return answers[-1]

        client.rewards_of = changing
        with pytest.raises(ServerError, match="changed its model or calibration"):
            score_by_server(client, source, tmp_path / "out.parquet", on_bad="drop")


def test_a_calibration_between_two_runs_does_not_go_into_one_file(served, tmp_path):
    source, out = many(tmp_path / "rows.jsonl"), tmp_path / "out.parquet"
    scaled = served.calibrated(Calibration(pairs=PairCalibration(method="temperature", temperature=3.0)))
    with listening(Place({"rm": served})) as first, listening(Place({"rm": scaled})) as second:
        with Client(first) as client:
            with pytest.raises(Stop):
                score_by_server(client, source, out, progress=stop)
            address = client.url
        with Client(second) as client:
            client.url = address  # as if the server had been started again
            with pytest.raises(ServerError, match="changed its model or calibration"):
                score_by_server(client, source, out)
            assert score_by_server(client, source, out).responses == 300
    revised = json.loads(pyarrow.parquet.read_schema(out).metadata[b"poise.calibration"])
    assert revised == {"id": scaled.calibration.sha256[:16], "method": "temperature"}


def test_a_key_in_the_environment_opens_a_server_to_every_command(served, rows, tmp_path, monkeypatch):
    how = Scoring.of("error", "cpu", False)
    served.save(tmp_path / "rm", include_backbone=True)
    monkeypatch.setenv("POISE_API_KEY", "secret")
    with listening(Place({"rm": served}, api_key="secret")) as url:
        command.run(url, str(rows), tmp_path / "out.parquet", how, ())
        assert verify_url(url, tmp_path / "rm").agrees
        assert Endpoint(url).facts["revision"]
        monkeypatch.setenv("POISE_API_KEY", "another")
        with pytest.raises(ServerError, match="HTTP 401"):
            command.run(url, str(rows), tmp_path / "again.parquet", how, ())
    assert pyarrow.parquet.read_metadata(tmp_path / "out.parquet").num_rows == 12


def test_evaluation_by_a_server_is_that_of_the_model(served, address):
    texts = [((Message("user", f"tell me {i // 2}"),), (Message("assistant", f"the fox {i}"),)) for i in range(8)]
    here, there = Own(served, "rm").score(texts), Endpoint(address).score(texts)
    for name, tensor in here.beliefs["reward"].parameters().items():
        assert there.beliefs["reward"].parameters()[name].flatten().tolist() == pytest.approx(
            tensor.flatten().tolist(), rel=1e-5, abs=1e-5
        )
    assert there.tokens == here.tokens


def test_an_evaluation_knows_which_model_the_server_has(address):
    known = Endpoint(address).facts
    assert {"model", "revision", "calibration"} < set(known)
    for changed in ({"revision": "another"}, {"calibration": {"id": "1", "method": "temperature"}}):
        scorer = Endpoint(address)
        scorer.facts = {**known, **changed}
        with pytest.raises(ServerError, match="changed its model"):
            scorer.score([("tell me", "the fox")])


def test_a_raw_evaluation_by_a_server_leaves_its_calibration_out(served):
    scaled = served.calibrated(Calibration(pairs=PairCalibration(method="temperature", temperature=3.0)))
    texts = [("tell me", f"the fox {i}") for i in range(4)]
    with listening(Place({"rm": scaled})) as url:
        scorer, plain = open_scorer(url, raw=True), open_scorer(url)
        found, calibrated = (one.score(texts).beliefs["reward"] for one in (scorer, plain))
    expected = Own(served, "rm").score(texts).beliefs["reward"]
    p = (found[0].prob_greater(found[1:]), expected[0].prob_greater(expected[1:]))
    torch.testing.assert_close(*p, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(calibrated[0].prob_greater(calibrated[1:]), p[0], atol=1e-3)
    assert scorer.facts["raw"] is True
    assert "calibration" not in scorer.facts, "it has no part in these numbers"
    assert set(plain.facts) - set(scorer.facts) == {"calibration"}
    assert "raw" not in plain.facts
