"""The adapters, called as their frameworks call them: OpenRLHF, veRL, ms-swift."""

from __future__ import annotations

import asyncio
import importlib.util
import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
import torch
from starlette.testclient import TestClient
from tokenizers import decoders

from poise import as_reward_function
from poise.client import Client
from poise.errors import ConfigError, DataError, ServerError
from poise.methods import method_class
from poise.model import RewardModel
from poise.policy.adapters import ms_swift, openrlhf, verl
from poise.policy.adapters.rendered import Template
from poise.policy.adapters.together import MOST, Together
from poise.policy.scorer import FIGURES, Scorer
from poise.utility import parse_utility
from tests.conftest import TEMPLATE, tiny_decoder, tiny_encoder, tiny_tokenizer
from tests.policy.test_rendered import CHATML
from tests.serving.place import Place

ASKED = "What is 2 + 2?"


def gaussian(**options) -> RewardModel:
    """Random weights, away from a zero start."""
    torch.manual_seed(0)
    drpo = method_class("drpo")
    made = drpo(drpo.Config(), 32)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return RewardModel(tiny_decoder(**options), made)


@pytest.fixture(scope="module")
def model() -> RewardModel:
    return gaussian()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "drpo"
    model.save(path)
    return path


def lower(model, prompt, response) -> float:
    reward = model.predict(prompt, response)
    return (reward.mean - reward.std).item()


# ── OpenRLHF ──


def test_openrlhf_loads_the_file_and_calls_it_in_threads(model, folder, tmp_path):
    file = tmp_path / "reward_func.py"
    file.write_text(
        "from poise.policy.adapters import openrlhf\n"
        f"reward_func = openrlhf.reward_func({str(folder)!r}, 'lcb:1', too_long='truncate-prompt', empty=-3.0)\n"
    )
    spec = importlib.util.spec_from_file_location("reward_func", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    answers = [f"It is {i}." for i in range(40)]

    async def episodes():
        call = [asyncio.to_thread(module.reward_func, [f"{ASKED}{a}<eos>"], [ASKED], [None]) for a in answers]
        return await asyncio.gather(*call)

    found = asyncio.run(episodes())
    expected = [lower(model, ASKED, a) for a in answers]
    # each answer becomes one tensor [1] of the episode, extra logs their first number
    assert [torch.tensor([one["rewards"]]).shape for one in found] == [(1,)] * 40
    assert [one["rewards"].item() for one in found] == pytest.approx(expected, abs=1e-6)
    assert [one["scores"].item() for one in found] == pytest.approx([1 / (1 + math.exp(-r)) for r in expected])
    assert all(set(one["extra_logs"]) == {f"reward_{name}" for name in FIGURES} for one in found)
    assert all(value.flatten()[0].isfinite() for one in found for value in one["extra_logs"].values())


def test_openrlhf_empty_lists_and_empty_completions(model):
    function = openrlhf.reward_func(model, empty=-3.0)
    nothing = function([], [], [])
    assert nothing["rewards"].tolist() == nothing["scores"].tolist() == []
    assert all(value.tolist() == [] for value in nothing["extra_logs"].values())
    silent = function([f"{ASKED}<eos>"], [ASKED], [None])
    assert silent["rewards"].tolist() == [-3.0]
    assert set(silent["extra_logs"]) == set(nothing["extra_logs"])


@pytest.mark.parametrize("template", [TEMPLATE, CHATML], ids=["plain", "chatml"])
@pytest.mark.parametrize(
    "messages",
    [
        [("user", ASKED)],
        [("system", "Be short."), ("user", ASKED)],
        [("user", "Hi"), ("assistant", "Hello\n\nthere"), ("user", ASKED)],
        [("system", "Be short."), ("user", "Hi"), ("assistant", "Hello"), ("user", ASKED)],
    ],
    ids=["one", "system", "turns", "system and turns"],
)
def test_rendered_prompts_are_read_back(template, messages, model):
    policy = tiny_tokenizer(encoder=False, template=template)
    asked = [{"role": role, "content": content} for role, content in messages]
    for options in ({}, {"enable_thinking": False}):
        prompt = policy.apply_chat_template(asked, tokenize=False, add_generation_prompt=True, **options)
        read = Template(policy).messages(prompt)
        assert read[-len(asked) :] == asked
        assert policy.apply_chat_template(read, tokenize=False, add_generation_prompt=True, **options) == prompt
    function = openrlhf.reward_func(model, template=policy)
    found = function([f"{prompt}It is 4.<|im_end|>"], [prompt], [None])
    assert found["rewards"].tolist() == pytest.approx(model.predict(read, "It is 4.").mean.tolist())


def test_openrlhf_refuses_what_it_would_render_twice(model, caplog):
    policy = tiny_tokenizer(encoder=False, template=CHATML)
    prompt = policy.apply_chat_template(
        [{"role": "user", "content": ASKED}], tokenize=False, add_generation_prompt=True
    )
    with pytest.raises(ConfigError, match=r"rendered with a chat template already.*give the policy's tokenizer"):
        openrlhf.reward_func(model)([f"{prompt}4<|im_end|>"], [prompt], [None])
    assert "no reward: the prompt was rendered" in caplog.text  # OpenRLHF itself hides it
    with pytest.raises(DataError, match="does not begin with its prompt"):
        openrlhf.reward_func(model)(["something else"], [ASKED], [None])
    assert "no reward: the query does not begin" in caplog.text


def test_openrlhf_takes_the_templates_special_tokens_off_the_end(model):
    policy = tiny_tokenizer(encoder=False, template=CHATML)
    policy.add_special_tokens({"eos_token": "«end»"})
    prompt = policy.apply_chat_template(
        [{"role": "user", "content": ASKED}], tokenize=False, add_generation_prompt=True
    )
    function = openrlhf.reward_func(model, template=policy, empty=-3.0)
    found = function([f"{prompt}It is 4.«end»<pad><pad>", f"{prompt}«end»"], [prompt, prompt], [None, None])
    assert found["rewards"].tolist() == pytest.approx([model.predict(ASKED, "It is 4.").mean.item(), -3.0])


# ── one at a time, together ──


def test_single_calls_are_scored_together(model, monkeypatch):
    scorer = Scorer(model)
    sizes, score, gate = [], scorer.score, threading.Event()

    def counted(prompts, completions):
        gate.wait(10)
        sizes.append(len(prompts))
        return score(prompts, completions)

    monkeypatch.setattr(scorer, "score", counted)
    together = Together(scorer)
    with ThreadPoolExecutor(2 * MOST) as pool:
        calls = [pool.submit(together.score, [ASKED], [f"{i}"]) for i in range(2 * MOST)]
        while together._waiting.qsize() < MOST:  # all but the first wait
            pass
        gate.set()
        found = [call.result()[0].reward for call in calls]
    assert found == pytest.approx(model.predict(ASKED, [f"{i}" for i in range(2 * MOST)]).mean.tolist(), abs=1e-6)
    assert len(sizes) <= 5
    assert max(sizes) <= MOST


def test_only_the_culprit_fails(model, caplog):
    together = Together(Scorer(model))

    async def three():
        asked = [together.score_one(ASKED, text) for text in ("4", " ", "5")]
        return await asyncio.gather(*asked, return_exceptions=True)

    first, culprit, last = asyncio.run(three())
    assert [first.reward, last.reward] == pytest.approx(model.predict(ASKED, ["4", "5"]).mean.tolist(), abs=1e-6)
    assert isinstance(culprit, DataError)
    assert "no reward: completion 0 is empty" in caplog.text


def test_what_one_at_a_time_cannot_serve_is_refused(model):
    with pytest.raises(ConfigError, match="win_rate looks at all responses to a prompt"):
        openrlhf.reward_func(model, "win_rate")
    with pytest.raises(ConfigError, match="empty is 'none', but this framework needs a reward"):
        openrlhf.reward_func(model, empty="none")


# ── veRL ──


class Item:
    """A row of veRL's DataProto: tensors in ``batch``, everything else in ``non_tensor_batch``."""

    def __init__(self, batch, non_tensor_batch):
        self.batch, self.non_tensor_batch = batch, non_tensor_batch


class Data:
    """As much of DataProto as reward managers use: slices are data, a number is a row."""

    def __init__(self, batch, non_tensor_batch):
        self.batch, self.non_tensor_batch = batch, non_tensor_batch

    def __len__(self):
        return len(self.batch["responses"])

    def __getitem__(self, index):
        kind = Data if isinstance(index, slice) else Item
        return kind(*({n: v[index] for n, v in part.items()} for part in (self.batch, self.non_tensor_batch)))


def rollouts(tokenizer, answers) -> Data:
    """Left-padded prompts and right-padded responses, as veRL lays them out."""
    asked = [{"role": "user", "content": ASKED}]
    prompt = tokenizer(ASKED).input_ids
    ids = [[*tokenizer(a).input_ids, tokenizer.eos_token_id] if a else [] for a in answers]
    width = max(map(len, ids)) + 2
    responses = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in ids])
    prompts = torch.tensor([[tokenizer.pad_token_id] * 3 + prompt] * len(ids))
    mask = [[0] * 3 + [1] * len(prompt) + [1] * len(row) + [0] * (width - len(row)) for row in ids]
    raw = np.empty(len(ids), dtype=object)
    raw[:] = [np.array(asked, dtype=object)] * len(ids)
    batch = {"prompts": prompts, "responses": responses, "attention_mask": torch.tensor(mask)}
    return Data(batch, {"raw_prompt": raw, "data_source": np.array(["x"] * len(ids))})


def test_verl_manager(model, folder):
    answers = ["It is 4.", "", *(f"Say {i}" for i in range(20))]
    config = {"reward": {"poise": {"model": str(folder), "utility": "lcb:1", "empty": -3.0}}}
    tokenizer = tiny_tokenizer(encoder=False)
    tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()  # what it encodes it also spells
    manager = verl.RewardManager(
        config=config, tokenizer=tokenizer, compute_score=None, reward_router_address=None, reward_model_tokenizer=None
    )
    data = rollouts(tokenizer, answers)

    async def worker():
        return await asyncio.gather(*(manager.run_single(data[i : i + 1]) for i in range(len(data))))

    outputs = asyncio.run(worker())
    scores = [one["reward_score"] for one in outputs]
    assert scores[1] == -3.0
    assert scores[::2] == pytest.approx([lower(model, ASKED, a) for a in answers[::2]], abs=1e-6)
    assert {tuple(one["reward_extra_info"]) for one in outputs} == {tuple(f"reward_{name}" for name in FIGURES)}
    placed = verl.RewardManager.assemble_rm_scores(data, scores)
    assert placed.shape == data.batch["responses"].shape
    assert placed.sum(1).tolist() == pytest.approx(scores)
    ends = [max(len(tokenizer(a).input_ids), 0) if a else 0 for a in answers]
    assert placed[torch.arange(len(ends)), torch.tensor(ends)].tolist() == pytest.approx(scores)
    with pytest.raises(ConfigError, match=r"add \+reward.poise.model="):
        verl.RewardManager(config={"reward": {}}, tokenizer=tokenizer, compute_score=None)
    with pytest.raises(ConfigError, match="unknown option of the reward 'utilty'; did you mean 'utility'"):
        verl.RewardManager(config={"reward": {"poise": {"model": "x", "utilty": "mean"}}}, tokenizer=tokenizer)


def test_verl_compute_score(model, folder):
    given = {"data_source": "x", "solution_str": "It is 4.", "ground_truth": "4", "model": str(folder)}
    found = verl.compute_score(**given, extra_info={"prompt": ASKED}, reward_router_address="127.0.0.1:1")
    assert found["score"] == pytest.approx(model.predict(ASKED, "It is 4.").mean.item(), abs=1e-6)
    assert set(found) == {"score", *(f"reward_{name}" for name in FIGURES)}
    with pytest.raises(ConfigError, match="not given the prompt"):
        verl.compute_score(**given, extra_info={})


# ── ms-swift ──


def test_ms_swift_orm(model):
    made = ms_swift.orm(model, "cvar:0.1", empty="none")
    reward = made(args=object())
    assert type(reward).__name__ == "drpo_cvar:0.1"
    asked = [{"role": "system", "content": "Be short."}, {"role": "user", "content": ASKED}]
    completions = ["4", "", "5"]
    rows = {
        "messages": [[*asked, {"role": "assistant", "content": text}] for text in completions],
        "request_id": ["a", "b", "c"],
        "trainer_state": None,
        "solution": ["4"] * 3,
    }
    found = reward(completions, **rows)
    assert found[1] is None
    assert [found[0], found[2]] == pytest.approx(parse_utility("cvar:0.1")(model.predict(asked, ["4", "5"])).tolist())
    assert reward([], messages=[]) == []
    with pytest.raises(DataError, match="completion 0 is not the last of its messages"):
        reward(["4"], messages=[asked])


def test_encoders_read_what_openrlhf_rendered():
    """An encoder takes the conversation, not the rendered text: its reward is that of ``predict``."""
    torch.manual_seed(0)
    bt = method_class("bt")
    made = bt(bt.Config(), 32)
    torch.nn.init.normal_(made.score.weight)
    model = RewardModel(tiny_encoder(), made)
    policy = tiny_tokenizer(encoder=False, template=CHATML)
    prompt = policy.apply_chat_template(
        [{"role": "user", "content": ASKED}], tokenize=False, add_generation_prompt=True
    )
    found = openrlhf.reward_func(model, template=policy)([f"{prompt}4<|im_end|>"], [prompt], [None])
    assert found["rewards"].item() == model.predict(ASKED, "4").mean.item()


# ── a server instead of a model ──


@contextmanager
def client_of(model, busy=lambda call: call == 0) -> Iterator[tuple[Client, list[int]]]:
    """Of a real server of ours in this process that is ``busy`` at some calls; and the statuses it answered."""
    statuses: list[int] = []

    def handler(request: httpx.Request) -> httpx.Response:
        if busy(len(statuses)):
            statuses.append(503)
            return httpx.Response(503, headers={"Retry-After": "0"})
        answer = web.post(request.url.path, content=request.content)
        statuses.append(answer.status_code)
        return httpx.Response(answer.status_code, content=answer.content)

    with TestClient(Place({"rm": model}).app) as web:
        yield Client("http://poise", transport=httpx.MockTransport(handler)), statuses


@pytest.mark.parametrize("too_long", ["error", "truncate-prompt", "none"])
def test_a_server_gives_the_rewards_of_its_model(too_long):
    model = gaussian(max_length=64)
    with client_of(model) as (client, statuses):
        far = as_reward_function(client, "lcb:1", too_long=too_long, empty=-1.0)
        near = as_reward_function(model, "lcb:1", too_long=too_long, empty=-1.0)
        assert far.__name__ == "server_lcb:1"
        assert statuses == [503, 200]
        given = {"prompts": [ASKED, ASKED, "Hi " * 80], "completions": ["4", "", "5"]}
        if too_long == "error":
            for function in (far, near):
                with pytest.raises(DataError, match="longer than max_length 64"):
                    function(**given)
            given = {name: texts[:2] for name, texts in given.items()}
        expected, found = near(**given), far(**given)
        assert [reward is None for reward in found] == [reward is None for reward in expected]
        assert [r for r in found if r is not None] == pytest.approx([r for r in expected if r is not None], abs=1e-6)


def asked_by_openrlhf(client, answers):
    function = openrlhf.reward_func(client, "lcb:1")

    async def episodes():
        calls = [asyncio.to_thread(function, [f"{ASKED}{a}<eos>"], [ASKED], [None]) for a in answers]
        return await asyncio.gather(*calls, return_exceptions=True)

    return [one if isinstance(one, Exception) else one["rewards"].item() for one in asyncio.run(episodes())]


def asked_by_verl(client, answers):
    tokenizer = tiny_tokenizer(encoder=False)
    tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    manager = verl.RewardManager({"reward": {"poise": {"model": client, "utility": "lcb:1"}}}, tokenizer)
    data = rollouts(tokenizer, answers)

    async def worker():
        calls = [manager.run_single(data[i : i + 1]) for i in range(len(data))]
        return await asyncio.gather(*calls, return_exceptions=True)

    return [one if isinstance(one, Exception) else one["reward_score"] for one in asyncio.run(worker())]


@pytest.mark.parametrize("ask", [asked_by_openrlhf, asked_by_verl])
def test_an_overloaded_server_answers_everyone_in_the_end(ask, model):
    """Busy at two calls of three: a crowd of single samples waits, none is lost, none gets another's reward."""
    answers = [f"It is {i}." for i in range(30)]
    with client_of(model, busy=lambda call: call % 3 < 2) as (client, statuses):
        found = ask(client, answers)
    assert found == pytest.approx([lower(model, ASKED, a) for a in answers], abs=1e-5)
    assert statuses.count(503) >= 4


@pytest.mark.parametrize("ask", [asked_by_openrlhf, asked_by_verl])
def test_a_server_that_stays_busy_gives_no_reward_instead_of_a_wrong_one(ask, model, caplog):
    with client_of(model, busy=lambda call: call > 0) as (client, _):
        found = ask(client, ["4", "5"])
    assert all(isinstance(error, ServerError) and "HTTP 503" in str(error) for error in found), found
    assert "no reward: http://poise: no answer" in caplog.text


def test_verl_places_the_scores_of_an_empty_batch():
    tokenizer = tiny_tokenizer(encoder=False)
    nothing = rollouts(tokenizer, ["4"])[0:0]
    assert verl.RewardManager.assemble_rm_scores(nothing, []).shape == nothing.batch["responses"].shape


def test_a_server_that_gives_scores_alone_is_refused_at_once():
    scores = httpx.MockTransport(lambda request: httpx.Response(200, json={"data": [{"score": 1.0}] * 2}))
    with pytest.raises(ServerError, match="gives scores alone"):
        Scorer(Client("http://other", transport=scores))
