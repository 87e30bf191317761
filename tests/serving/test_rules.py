"""The nine rules that every route keeps."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
import torch

from poise.errors import CheckpointError
from poise.serving import hosting
from poise.serving.metrics import Metrics
from poise.serving.settings import Settings
from tests.conftest import tiny_decoder, tiny_tokenizer
from tests.serving.place import ROUTES, body, held, model, run, score_of

WITH_BOS = (
    "{{ '<|tool|>' }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_1_requests_of_all_routes_are_scored_in_one_round():
    async def ask(place):
        (hosted,) = place.hosted
        async with held(hosted) as entered:
            first = asyncio.ensure_future(place.post(ROUTES[0], body(ROUTES[0])))
            await asyncio.to_thread(entered.wait, 10)
            rest = [asyncio.ensure_future(place.post(path, body(path))) for path in ROUTES]
            while hosted.batcher.waiting < 9 * len(ROUTES):
                await asyncio.sleep(0.01)
        answers = [(await one).status_code for one in (first, *rest)]
        return (
            answers,
            place.counted("poise_round_tokens_count", model="rm"),
            place.counted("poise_responses_total", model="rm"),
        )

    answers, rounds, responses = run(ask)
    assert answers == [200] * (1 + len(ROUTES))
    assert (rounds, responses) == (2, 1 + len(ROUTES))


@pytest.mark.parametrize("path", ROUTES)
def test_2_a_full_queue_is_503_with_retry_after_and_recovers(path):
    async def ask(place):
        (hosted,) = place.hosted
        async with held(hosted) as entered:
            taken = [asyncio.ensure_future(place.post(path, body(path)))]
            await asyncio.to_thread(entered.wait, 10)
            taken.append(asyncio.ensure_future(place.post(path, body(path))))
            while not hosted.batcher.waiting:
                await asyncio.sleep(0.01)
            refused = await place.post(path, body(path))
        return refused, [(await one).status_code for one in taken], (await place.post(path, body(path))).status_code

    refused, taken, afterwards = run(ask, waiting_tokens=12)
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) >= 1
    assert refused.json()["error"]["type"] == "Full"
    assert taken == [200, 200]
    assert afterwards == 200


def test_2_too_many_requests_under_way_are_503_as_well():
    async def ask(place):
        async with held(place.hosted[0]) as entered:
            first = asyncio.ensure_future(place.post("/predict", body("/predict")))
            await asyncio.to_thread(entered.wait, 10)
            refused = [await place.post(path, body(path)) for path in ROUTES]
            looked = await place.http.get("/health")
        await first
        return refused, looked

    refused, looked = run(ask, requests=1)
    assert {one.status_code for one in refused} == {503}
    assert all(one.headers["Retry-After"] for one in refused)
    assert looked.status_code == 200


def test_3_special_tokens_are_added_where_asked_and_never_doubled():
    backbone = tiny_decoder(WITH_BOS)
    backbone.tokenizer.bos_token = "<|tool|>"
    served = model("bt", backbone)
    bare = "<|user|>hello village<eos><|assistant|>the quick fox<eos>"
    whole = f"<|tool|>{bare}"

    async def ask(place):
        said = {}
        for name, text in (("bare", bare), ("whole", whole), ("doubled", "<|tool|>" + whole)):
            said["classify", name] = await place.post("/classify", {"input": text})
            said["embeddings", name] = await place.post("/v1/embeddings", {"input": text})
            said["as it is", name] = await place.post("/classify", {"input": text, "add_special_tokens": False})
            said["get_reward", name] = await place.post("/get_reward", {"query": [text]})
            said["llamafactory", name] = await place.post("/v1/score/evaluation", {"messages": [text]})
        said["messages", ""] = await place.post("/classify", body("/classify"))
        return {key: answer.json() for key, answer in said.items()}, place.counted(
            "poise_doubled_bos_total", model="rm"
        )

    said, doubled = run(ask, {"rm": served})
    tokens = {key: answer["usage"]["total_tokens"] for key, answer in said.items() if "usage" in answer}
    right = score_of("/classify", said["messages", ""])
    assert tokens["classify", "bare"] == tokens["classify", "whole"] == tokens["messages", ""]
    assert tokens["as it is", "bare"] == tokens["classify", "bare"] - 1
    for name in ("bare", "whole"):
        assert score_of("/classify", said["classify", name]) == pytest.approx(right, rel=1e-6)
        assert score_of("/v1/embeddings", said["embeddings", name]) == pytest.approx(right, rel=1e-6)
    for route, path in (("get_reward", "/get_reward"), ("llamafactory", "/v1/score/evaluation")):
        assert score_of(path, said[route, "whole"]) == pytest.approx(right, rel=1e-6)
        assert score_of(path, said[route, "bare"]) == pytest.approx(
            score_of("/classify", said["as it is", "bare"]), rel=1e-6
        )
        assert abs(score_of(path, said[route, "bare"]) - right) > 1e-6
    assert doubled == 5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_4_a_score_that_is_not_finite_fails_its_request_alone(value):
    served = model("bt")
    predicted = served.predict_features

    def broken(features, *, weights=None):
        reward = predicted(features, weights=weights)
        spoilt = torch.where(reward.mean == marked, torch.tensor(value), reward.mean)
        return type(reward)(spoilt, reward.link, validate=False)

    marked = served.predict("hello village", "the quick fox").mean
    served.predict_features = broken

    async def ask(place):
        async with held(place.hosted[0]) as entered:
            block = asyncio.ensure_future(place.post("/predict", body("/predict", response="a dog")))
            await asyncio.to_thread(entered.wait, 10)
            bad = [asyncio.ensure_future(place.post(path, body(path))) for path in ROUTES]
            good = asyncio.ensure_future(place.post("/predict", body("/predict", response="a dog")))
            await asyncio.sleep(0.1)
        return [await one for one in bad], await good, await block

    bad, good, _ = run(ask, {"rm": served})
    assert {one.status_code for one in bad} == {500}
    assert {one.json()["error"]["type"] for one in bad} == {"NotFinite"}
    assert good.status_code == 200
    assert np.isfinite(score_of("/predict", good.json()))


def test_5_what_is_too_long_is_refused_or_cut_and_said():
    served = model("bt", tiny_decoder(max_length=32))
    prompt, response = "the quick brown fox jumps " * 8, "hello"

    def asked(p, r, **options):
        return {"inputs": [{"prompt": p, "responses": [r]}], **options}

    async def ask(place):
        said = {}
        for name, (p, r) in {"prompt": (prompt, response), "response": (response, prompt)}.items():
            for truncation in ("error", "left", "right"):
                said[name, truncation] = await place.post("/v1/rewards", asked(p, r, truncation=truncation))
        for path in ROUTES:
            said[path, "error"] = await place.post(path, body(path, prompt=prompt))
        for path in ROUTES[1:]:
            said[path, "left"] = await place.post(f"{path}?truncation=left", body(path, prompt=prompt))
        long = body("/v1/score/evaluation", response=prompt) | {"max_length": 16}
        said["max_length", ""] = await place.post("/v1/score/evaluation", long)
        return said, place.counted("poise_truncated_total", model="rm")

    said, truncated = run(ask, {"rm": served})
    assert {one.status_code for (_, t), one in said.items() if t == "error"} == {400}
    assert "send truncation" in said["prompt", "error"].json()["error"]["message"]
    assert said["response", "left"].status_code == 400, "the response is cut on right only"
    cut = [said["prompt", "left"], said["prompt", "right"], said["response", "right"]]
    for row in (one.json()["data"][0] for one in cut):
        assert row["truncated"] is True
        assert 24 <= row["num_tokens"] <= 32
    expected = served.predict(prompt, response).mean.item()
    assert cut[0].json()["data"][0]["score"] == pytest.approx(expected, rel=1e-5)
    assert {said[path, "left"].status_code for path in ROUTES[1:]} == {200}
    assert said["max_length", ""].status_code == 200
    assert truncated == len(cut) + len(ROUTES[1:]) + 1


@pytest.mark.parametrize("method", ["bt", "drpo", "qrm", "vrm"])
def test_6_the_same_bytes_have_the_same_score_in_any_company(method):
    served = model(method)
    include = ["mean", "std", "quantiles", "params"]
    alone = {"inputs": [{"prompt": "hello village", "responses": ["the quick fox"]}], "include": include}

    async def ask(place):
        first = (await place.post("/v1/rewards", alone)).json()["data"]
        async with held(place.hosted[0]) as entered:
            block = asyncio.ensure_future(place.post("/predict", body("/predict")))
            await asyncio.to_thread(entered.wait, 10)
            other = [
                asyncio.ensure_future(
                    place.post(
                        "/v1/rewards",
                        {"include": include, "inputs": [{"prompt": p, "responses": ["the lazy dog " * n, "a fox"]}]},
                    )
                )
                for n, p in enumerate(["hello village", "a story", "hello", "hello village by the sea"], 1)
            ]
            again = asyncio.ensure_future(place.post("/v1/rewards", alone))
            await asyncio.sleep(0.1)
        await asyncio.gather(block, *other)
        return first, (await again).json()["data"]

    first, again = run(ask, {"rm": served})
    assert first == again


def test_7_a_model_that_does_not_score_as_it_was_saved_is_not_served(tmp_path):
    folder = tmp_path / "rm"
    model("bt").save(folder, include_backbone=True)
    hosting.load([str(folder)], Settings(), Metrics(), device="cpu", raw=False)
    path = folder / "golden.jsonl"
    lines = [json.loads(line) for line in path.read_text("utf8").splitlines()]
    lines[1]["score"] += 0.1
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf8")
    with pytest.raises(CheckpointError, match="golden"):
        hosting.load([str(folder)], Settings(), Metrics(), device="cpu", raw=False)


def test_7_what_is_served_is_said_with_the_hash_of_its_template():
    served = model("bt")

    async def ask(place):
        return (await place.http.get("/info")).json()

    (said,) = run(ask, {"rm": served})["models"]
    assert said["template_sha256"] == served.backbone.encoder.template_sha256
    assert said["param_names"] == ["value"]


def test_8_extras_have_one_set_of_keys_and_all_digits():
    served = model("bt")
    texts = [(f"hello {i}", f"the fox {i}") for i in range(20)]
    expected = served.predict(*map(list, zip(*texts, strict=True))).mean.numpy()

    async def ask(place):
        return [(await place.post("/get_reward", body("/get_reward", *text))).json() for text in texts]

    said = run(ask, {"rm": served})
    assert {tuple(one["extra_logs"]) for one in said} == {("reward_std", "reward_q05")}
    found = np.array([one["rewards"][0] for one in said])
    assert (found.astype(np.float32) == found).all(), "every digit of a float32"
    assert np.abs(found - expected).max() <= 1e-5
    assert len(set(found.tolist())) == len(set(expected.tolist()))
    assert all(0 <= one["scores"][0] <= 1 for one in said)
    assert (np.argsort([one["scores"][0] for one in said]) == np.argsort(found)).all()


def test_8_empty_lists_are_answered_with_empty_lists():
    async def ask(place):
        return [
            (await place.post("/get_reward", {"query": []})).json(),
            (await place.post("/v1/rewards", {"inputs": []})).json()["data"],
            (await place.post("/predict", {"inputs": []})).json(),
            (await place.post("/v1/score/evaluation", {"messages": []})).status_code,
        ]

    logs = {"reward_std": [], "reward_q05": []}
    assert run(ask) == [{"rewards": [], "scores": [], "extra_logs": logs}, [], [], 400]


def test_9_keys_sizes_health_and_readiness():
    async def ask(place):
        path = "/predict"
        key = {"Authorization": "Bearer secret"}
        said = {
            "no key": await place.post(path, body(path)),
            "wrong key": await place.post(path, body(path), headers={"Authorization": "Bearer Secret"}),
            "key": await place.post(path, body(path), headers=key),
            "metrics": await place.http.get("/metrics"),
            "large": await place.post(path, {"inputs": "x" * 3000}, headers=key),
            "health": await place.http.get("/health"),
            "ready": await place.http.get("/ready"),
        }
        await place.hosted[0].batcher.close()
        said["closing"] = await place.post(path, body(path), headers=key)
        return said | {"health then": await place.http.get("/health"), "ready then": await place.http.get("/ready")}

    said = {name: answer.status_code for name, answer in run(ask, api_key="secret", body_bytes=2000).items()}
    assert said == {
        "no key": 401,
        "wrong key": 401,
        "key": 200,
        "metrics": 401,
        "large": 413,
        "health": 200,
        "ready": 200,
        "closing": 503,
        "health then": 200,
        "ready then": 503,
    }


def test_9_the_tokenizer_of_these_tests_spells_its_special_tokens():
    """The texts above rely on it: a rendered text must become the ids of the conversation."""
    ids = tiny_tokenizer(encoder=False)("<|user|>", add_special_tokens=False)["input_ids"]
    assert len(ids) == 1
