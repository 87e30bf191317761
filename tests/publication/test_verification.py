"""Golden scores checked again: folders, checkpoints and servers, right and wrong ones, and what the command line says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

from poise.errors import CheckpointError, ConfigError, ServerError
from poise.publication import export, verify_folder
from poise.publication.golden import read_plain_golden
from poise.publication.remote import verify_url
from tests.cli.place import poise
from tests.conftest import tiny_decoder, tiny_encoder
from tests.test_model import make_model

URL = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """One model as a checkpoint and in both plain forms."""
    place, model = tmp_path_factory.mktemp("exported"), make_model()
    model.save(place / "checkpoint")
    export(model, place, "both")
    return {name: place / name for name in ("checkpoint", "scalar", "params")}


@pytest.fixture
def off(folders, tmp_path) -> Path:
    """The scalar form with one weight changed a little."""
    for path in folders["scalar"].iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    state = load_file(tmp_path / "model.safetensors")
    state["score.weight"][0, 0] += 0.01
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path


@pytest.mark.parametrize("name", ["checkpoint", "scalar", "params"])
def test_what_was_written_agrees(folders, name):
    found = verify_folder(folders[name], device="cpu")
    assert found.agrees
    assert found.worst.difference < 1e-5
    assert found.reader == ("poise" if name == "checkpoint" else "transformers")
    assert found.to_dict()["texts"] == 4


def test_a_changed_weight_is_off(off):
    found = verify_folder(off)
    assert not found.agrees
    assert 1e-4 < found.worst.difference < 0.1
    assert found.to_dict()["largest_difference"] == found.worst.difference


def test_texts_that_are_tokenised_otherwise_are_off(off):
    template = off / "chat_template.jinja"
    template.write_text(template.read_text() + "<eos>")
    found = verify_folder(off)
    assert found.worst.found is None
    assert found.to_dict()["largest_difference"] is None
    assert "raw" in str(found.to_dict()["off"])


@pytest.mark.parametrize(
    ("content", "says"), [(None, "has no golden.jsonl"), ("{", "cannot be read"), ("", "no golden")]
)
def test_a_folder_without_golden_scores_cannot_be_told(off, content, says):
    (off / "golden.jsonl").unlink()
    if content is not None:
        (off / "golden.jsonl").write_text(content)
    with pytest.raises(CheckpointError, match=says):
        verify_folder(off)


# ── the command line


def test_exit_codes_of_verify(folders, off):
    good, bad, none = (poise("verify", target, "--device", "cpu") for target in (folders["params"], off, off / "no"))
    assert good.code == 0
    assert "largest difference" in good.out
    assert good.out.endswith("agrees\n")
    assert bad.code == 1
    assert "off: short: raw" in bad.out
    assert bad.out.endswith("does not agree\n")
    assert none.code == 2
    assert none.err.startswith("error: ")


def test_verify_as_json(folders):
    found = json.loads(poise("verify", folders["scalar"], "--json").out)
    assert found["agrees"] is True
    assert found["checked"] == 8
    assert found["off"] == []
    assert found["largest_difference"] < 1e-5


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("http://localhost:1",), "name it with --golden FOLDER"),
        (("runs/a", "--golden", "runs/b"), "--golden is for the address of a server"),
    ],
)
def test_verify_says_which_golden_scores_are_meant(arguments, says):
    outcome = poise("verify", *arguments)
    assert outcome.code == 2
    assert says in outcome.err


def test_export_writes_what_verify_reads(folders, tmp_path):
    outcome = poise("export", folders["checkpoint"], "--out", tmp_path / "out", "--form", "both", "--license", "mit")
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("largest difference") == 2
    assert poise("verify", tmp_path / "out" / "scalar").code == 0
    assert "license: mit" in (tmp_path / "out" / "params" / "README.md").read_text("utf8")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--form", "scaler"), "did you mean 'scalar'"),
        (("--push", "a/b/c"), "no repository of the hub"),
        (("--license", "My own!"), "no identifier of the hub"),
    ],
)
def test_what_cannot_be_exported_is_one_message(folders, tmp_path, more, says):
    outcome = poise("export", folders["checkpoint"], "--out", tmp_path / "out", *more)
    assert outcome.code == 2
    assert says in outcome.err
    assert not list(tmp_path.iterdir())


def test_an_encoder_on_the_mean_is_refused_with_the_way_out(tmp_path):
    make_model(tiny_encoder(), "bt").save(tmp_path / "run" / "checkpoint")
    outcome = poise("export", tmp_path / "run", "--out", tmp_path / "out")
    assert outcome.code == 2
    assert "response_mean" in outcome.err
    assert not (tmp_path / "out").exists()
    assert poise("export", tmp_path / "run", "--out", tmp_path / "out", "--form", "poise").code == 0
    assert poise("verify", tmp_path / "out").code == 0


# ── servers


def classify(folder: Path, activation=None, tokens: int = 0, status: int = 200) -> httpx.MockTransport:
    """An engine with vLLM's ``/classify`` that serves an exported folder."""
    golden = {one.text: one for one in read_plain_golden(folder)}

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path != "/classify":
            return httpx.Response(404)
        body = json.loads(request.content)
        assert body["use_activation"] is False
        rows = [torch.tensor(golden[text].raw) for text in body["input"]]
        probs = [(activation(row) if activation else row).tolist() for row in rows]
        used = sum(golden[text].num_tokens for text in body["input"]) + tokens
        data = [{"index": i, "probs": p, "num_classes": len(p)} for i, p in enumerate(probs)]
        return httpx.Response(status, json={"object": "list", "data": data, "usage": {"prompt_tokens": used}})

    return httpx.MockTransport(answer)


@pytest.mark.parametrize("form", ["scalar", "params"])
@pytest.mark.parametrize("url", [URL, URL + "/classify"])
def test_an_engine_that_gives_raw_outputs_agrees(folders, form, url):
    found = verify_url(url, folders[form], transport=classify(folders[form]))
    assert found.agrees
    assert found.reader == "/classify"
    assert found.worst.difference < 1e-6


def test_an_engine_with_an_activation_is_off(folders):
    assert not verify_url(URL, folders["scalar"], transport=classify(folders["scalar"], torch.sigmoid)).agrees
    soft = classify(folders["params"], lambda row: row.softmax(-1))
    assert not verify_url(URL, folders["params"], transport=soft).agrees


def test_an_engine_that_doubles_a_bos_is_off(folders):
    found = verify_url(URL, folders["scalar"], transport=classify(folders["scalar"], tokens=4))
    assert found.to_dict()["off"] == ["all: number of tokens"]


def test_an_engine_that_serves_another_form_is_off(folders):
    found = verify_url(URL, folders["params"], transport=classify(folders["params"], lambda row: row[:1]))
    assert found.worst.found is None


def ours(model, calls: list[str]) -> httpx.MockTransport:
    """Our own route, as far as it is asked."""

    def answer(request: httpx.Request) -> httpx.Response:
        calls.append(request.url.path)
        if request.url.path == "/info":
            return httpx.Response(200, json={})
        body = json.loads(request.content)
        data = []
        reward = None
        for group, one in enumerate(body["inputs"]):
            reward = model.predict(one["prompt"], [one["responses"][0]])
            params = {k: v[0].tolist() for k, v in reward.row_parameters().items()}
            said = {"mean": reward.mean.item(), "params": params}
            data.append({"score": reward.mean.item(), "group": group, "distribution": said})
        family = {"name": reward.family, "dtype": "float32", "shared": {}, "options": reward.options()}
        return httpx.Response(200, json={"data": data} | ({"family": family} if "params" in body["include"] else {}))

    return httpx.MockTransport(answer)


@pytest.mark.parametrize("name", ["checkpoint", "scalar", "params"])
def test_our_server_is_held_to_any_folder_of_the_model(folders, name):
    calls: list[str] = []
    found = verify_url(URL, folders[name], transport=ours(make_model(), calls))
    assert found.agrees
    assert found.reader == "/v1/rewards"
    assert calls[-1] == "/v1/rewards"


def test_our_server_with_another_model_is_off(folders):
    other = make_model(tiny_decoder(), "drpo")
    with torch.no_grad():
        other.method.score.weight.mul_(1.1)
    for folder in folders.values():
        assert not verify_url(URL, folder, transport=ours(other, [])).agrees


@pytest.mark.parametrize("name", ["checkpoint", "scalar"])
def test_the_key_of_the_environment_is_borne_by_every_request(folders, monkeypatch, name):
    monkeypatch.setenv("POISE_API_KEY", "secret")
    served, borne = ours(make_model(), []), []

    def answer(request: httpx.Request) -> httpx.Response:
        borne.append(request.headers.get("Authorization"))
        return served.handle_request(request)

    assert verify_url(URL, folders[name], transport=httpx.MockTransport(answer)).agrees
    assert set(borne) == {"Bearer secret"}


def test_a_checkpoint_without_golden_scores_asks_no_server(folders, tmp_path):
    shutil.copytree(folders["checkpoint"], tmp_path / "bare")
    (tmp_path / "bare" / "golden.jsonl").unlink()
    outcome = poise("verify", URL, "--golden", tmp_path / "bare")
    assert outcome.code == 2
    assert f"error: {tmp_path / 'bare'} has no golden scores to check; write it again with this poise" in outcome.err


def test_a_server_that_cannot_answer_is_an_error(folders):
    with pytest.raises(ServerError, match="HTTP 500"):
        verify_url(URL, folders["scalar"], transport=classify(folders["scalar"], status=500))
    with pytest.raises(ServerError, match="no answer"):
        verify_url(URL, folders["scalar"])
    nothing = httpx.MockTransport(lambda request: httpx.Response(404 if request.url.path == "/info" else 200, json={}))
    with pytest.raises(ServerError, match="is this vLLM's route"):
        verify_url(URL, folders["scalar"], transport=nothing)
    with pytest.raises(ConfigError):
        verify_url("localhost:1", folders["checkpoint"])
