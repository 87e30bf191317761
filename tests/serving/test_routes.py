"""Every route says what ``model.predict`` says."""

from __future__ import annotations

import asyncio
import base64
import struct

import numpy as np
import pytest
import torch

from poise.client import AsyncClient
from poise.utility import parse_utility
from tests.conftest import tiny_decoder
from tests.serving.place import ROUTES, URL, body, encoder_model, model, run, score_of

CLOSE = {"rel": 1e-5, "abs": 1e-5}
PROMPTS = ["hello village", "tell me about the sea", "hello village"]
RESPONSES = ["the quick fox", "it is small", "eight minutes in boiling water"]
PLAIN = "User: {}\n\nAssistant: {}"


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("method", ["bt", "drpo", "vrm", "oprm"])
def test_a_route_gives_the_score_of_predict(path, method):
    served = model(method, **({"head": "linear"} if method == "oprm" else {}))

    async def ask(place):
        return [(await place.post(path, body(path, p, r))).json() for p, r in zip(PROMPTS, RESPONSES, strict=True)]

    expected = served.predict(PROMPTS, RESPONSES)
    parameters = next(iter(expected.row_parameters().values())).reshape(3, -1)
    first = parameters[:, 0] if path == "/pooling" else expected.mean
    assert [score_of(path, one) for one in run(ask, {"rm": served})] == pytest.approx(first.tolist(), **CLOSE)


@pytest.mark.parametrize("path", ROUTES[2:])
@pytest.mark.parametrize("kind", ["encoder", "decoder without a template"])
def test_rendered_texts_without_a_template(path, kind):
    served = encoder_model("bt") if kind == "encoder" else model("bt", tiny_decoder(None))
    ending = "" if kind == "encoder" else "<eos>"

    def plain(p, r):
        text = PLAIN.format(p, r) + ending
        name, value = next((k, v) for k, v in body(path).items() if k != "model")
        return {name: [text] if isinstance(value, list) else text}

    async def ask(place):
        return [(await place.post(path, plain(p, r))).json() for p, r in zip(PROMPTS, RESPONSES, strict=True)]

    expected = served.predict(PROMPTS, RESPONSES).mean.tolist()
    assert [score_of(path, one) for one in run(ask, {"rm": served})] == pytest.approx(expected, **CLOSE)


def test_token_ids_pairs_and_the_prompt_apart():
    served = model("vrm")
    rows = served.backbone.encode(
        [served._text(p, r, 0) for p, r in zip(PROMPTS, RESPONSES, strict=True)]  # as predict reads them
    )
    expected = served.predict(PROMPTS, RESPONSES).mean.tolist()

    async def ask(place):
        ids = [list(row.ids) for row in rows]
        by_input = await place.post("/classify", {"input": ids})
        one = await place.post("/v1/embeddings", {"input": ids[0]})
        native = await place.post("/v1/rewards", {"inputs": [{"token_ids": i} for i in ids]})
        told = [{"token_ids": list(row.ids), "prompt_length": row.prompt_length} for row in rows]
        told = await place.post("/v1/rewards", {"inputs": told})
        pairs = await place.post("/predict", {"inputs": [[p, r] for p, r in zip(PROMPTS, RESPONSES, strict=True)]})
        return by_input.json(), one.json(), native.json(), told.json(), pairs.json()

    by_input, one, native, told, pairs = run(ask, {"rm": served})
    assert [entry["probs"] for entry in by_input["data"]] == [[pytest.approx(e, **CLOSE)] for e in expected]
    assert one["data"][0]["embedding"] == pytest.approx(expected[:1], **CLOSE)
    for answer in (native, told):
        assert [entry["score"] for entry in answer["data"]] == pytest.approx(expected, **CLOSE)
    assert [entry[0]["score"] for entry in pairs] == pytest.approx(expected, **CLOSE)


def test_a_list_of_strings_is_one_text_or_one_pair():
    """As TEI reads ``inputs`` (router/src/http/types.rs): what is no batch is answered with one list."""
    served, (prompt, response) = model("bt"), body_texts()
    rendered = body("/predict")["inputs"]
    forms = [rendered, [rendered], [prompt, response], [[prompt, response]], [[rendered], [prompt, response]]]
    strange = [[rendered] * 3, [rendered, [prompt, response]], [[prompt, response], rendered], [[rendered] * 3], [[]]]

    async def ask(place):
        good = [await place.post("/predict", {"inputs": inputs}) for inputs in forms]
        return good, [await place.post("/predict", {"inputs": inputs}) for inputs in strange]

    good, refused = run(ask, {"rm": served})
    entry = {"score": pytest.approx(served.predict(prompt, [response]).mean.item(), **CLOSE), "label": "reward"}
    assert [answer.json() for answer in good] == [[entry], [entry], [entry], [[entry]], [[entry], [entry]]]
    assert {answer.status_code for answer in refused} == {422}
    for answer in refused[:3]:
        assert "a batch is [[text], [prompt, response]]" in answer.json()["error"]["message"]


def test_a_model_that_reads_the_prompt_apart_refuses_a_text_without_an_assistant_turn():
    served = model("vrm")

    async def ask(place):
        lost = await place.post("/get_reward", {"query": ["the quick fox"]})
        told = await place.post("/get_reward", {"query": ["hello village the fox"], "prompts": ["hello village"]})
        return lost, told

    lost, told = run(ask, {"rm": served})
    assert lost.status_code == 400
    assert "send messages, or prompt and responses" in lost.json()["error"]["message"]
    assert told.status_code == 200


def test_what_decoding_drops_after_the_last_token_is_put_back():
    template = (
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<eos>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    served = model("bt", tiny_decoder(template))
    text = "<|user|>hello village<eos>\n<|assistant|>the quick fox<eos>"

    async def ask(place):
        return [(await place.post("/get_reward", {"query": [t]})).json()["rewards"][0] for t in (text, text + "\n")]

    assert run(ask, {"rm": served}) == [pytest.approx(served.predict(*body_texts()).mean.item(), **CLOSE)] * 2


def body_texts():
    return "hello village", "the quick fox"


def test_the_native_route_gives_the_whole_distribution():
    served = model("qrm")
    reward = served.predict("hello village", RESPONSES)
    include = ["mean", "std", "quantiles", "params", "prob_better"]

    async def ask(place):
        async with AsyncClient(URL, transport=place.http._transport) as client:
            return await client.rewards("hello village", RESPONSES, include=include, quantile_levels=[0.1, 0.9])

    said = run(ask, {"rm": served})
    assert [row.mean for row in said.rows] == pytest.approx(reward.mean.tolist(), **CLOSE)
    assert [row.std for row in said.rows] == pytest.approx(reward.std.tolist(), **CLOSE)
    levels = torch.tensor([0.1, 0.9], dtype=torch.float64)
    for row, expected in zip(said.rows, reward.quantile(levels).tolist(), strict=True):
        assert list(row.quantiles.values()) == pytest.approx(expected, **CLOSE)
    assert type(said.distribution) is type(reward)
    for name, tensor in reward.parameters().items():
        torch.testing.assert_close(said.distribution.parameters()[name], tensor, rtol=1e-5, atol=1e-5)
    wins = reward[:, None].prob_greater(reward[None, :])
    assert len(said.comparisons) == 3
    for pair in said.comparisons:
        assert pair.p_i_gt_j == pytest.approx(wins[pair.i, pair.j].item(), abs=1e-5)


@pytest.mark.parametrize("spec", ["lcb:1", "cvar:0.1", "entropic:0.5", "quantile:0.1", "win_rate", "p_best"])
def test_every_utility_over_http(spec):
    served = model("drpo")
    expected = parse_utility(spec)(served.predict("hello village", RESPONSES), torch.zeros(3, dtype=torch.long))
    name, _, number = spec.partition(":")
    scores = [{"utility": spec}] + ([{"utility": name, "args": {"x": float(number)}}] if number else [])
    inputs = [{"prompt": "hello village", "responses": RESPONSES}]

    async def ask(place):
        return [(await place.post("/v1/rewards", {"inputs": inputs, "score": score})).json() for score in scores]

    for answer in run(ask, {"rm": served}):
        assert [row["score"] for row in answer["data"]] == pytest.approx(expected.tolist(), **CLOSE)


ALONE = [path for path in ROUTES if path != "/v1/rewards"]


@pytest.mark.parametrize("path", ALONE)
def test_what_compares_responses_is_refused_where_they_come_one_by_one(path):
    async def ask(place):
        by_server = await place.post(path, body(path))
        return by_server, await place.post(f"{path}?utility=p_best", body(path))

    if path == "/pooling":
        assert [answer.status_code for answer in run(ask, utility="win_rate")] == [200, 200], "it has no score"
        return
    for spec, answer in zip(("win_rate", "p_best"), run(ask, utility="win_rate"), strict=True):
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["type"] == "ConfigError"
        assert f"{spec} looks at all responses to a prompt" in error["message"]


def test_a_server_for_comparisons_still_answers_what_compares_nothing():
    async def ask(place):
        by_name = await place.post("/classify", body("/classify") | {"model": "rm:p_best"})
        told = await place.post("/classify?params=true&utility=p_best", body("/classify"))
        mean = await place.post("/get_reward?utility=mean", body("/get_reward"))
        hidden = await place.post("/get_reward?params=true", body("/get_reward"))
        return [answer.status_code for answer in (by_name, told, mean, hidden)]

    assert run(ask, utility="win_rate") == [400, 200, 200, 400]


def test_several_models_and_utilities_by_name_and_by_address():
    models = {"a": model("drpo"), "b": encoder_model("bt")}

    async def ask(place):
        path, said = "/classify", []
        for name in (None, "a", "runs/b", "a:lcb:1", "a:params"):
            said.append((await place.post(path, body(path) | {"model": name})).json()["data"][0]["probs"])
        said.append((await place.post(f"{path}?utility=lcb:1&model=a", body(path))).json()["data"][0]["probs"])
        unknown = await place.post(path, body(path) | {"model": "c"})
        return said, unknown, (await place.http.get("/v1/models")).json()

    said, unknown, listed = run(ask, models)
    (a, b), texts = models.values(), body_texts()
    reward = a.predict(*texts)
    lower = (reward.mean - reward.std).tolist()
    expected = [reward.mean.tolist()] * 2 + [b.predict(*texts).mean.tolist(), lower]
    expected += [[t.item() for t in reward.row_parameters().values()], lower]
    assert said == [pytest.approx(one, **CLOSE) for one in expected]
    assert unknown.status_code == 404
    assert "choose from a, b" in unknown.json()["error"]["message"]
    assert {"a", "b", "b:params"} <= {one["id"] for one in listed["data"]}


def test_base64_is_what_the_openai_client_decodes():
    async def ask(place):
        plain = await place.post("/v1/embeddings", body("/v1/embeddings"))
        packed = await place.post("/v1/embeddings", body("/v1/embeddings") | {"encoding_format": "base64"})
        return plain.json()["data"][0]["embedding"], packed.json()["data"][0]["embedding"]

    plain, packed = run(ask)
    assert struct.unpack("<f", base64.b64decode(packed)) == (np.float32(plain[0]),)


def test_weights_steer_a_request_and_nobody_elses():
    served = model("qrm", attributes=("helpful", "safe"))
    names = served.method.attributes
    weights = [{names[0]: 1.0}, {names[0]: 1.0, names[1]: 3.0}, None]
    inputs = [{"prompt": "hello village", "responses": RESPONSES}]

    async def ask(place):
        requests = [place.post("/v1/rewards", {"inputs": inputs, "weights": w}) for w in weights]
        wrong = await place.post("/v1/rewards", {"inputs": inputs, "weights": {"charm": 1.0}})
        return [one.json() for one in await asyncio.gather(*requests)], wrong

    said, wrong = run(ask, {"rm": served})
    for answer, given in zip(said, weights, strict=True):
        expected = served.predict("hello village", RESPONSES, weights=given).mean.tolist()
        assert [row["score"] for row in answer["data"]] == pytest.approx(expected, **CLOSE)
    assert wrong.status_code == 400
    assert "unknown attribute 'charm'" in wrong.json()["error"]["message"]
