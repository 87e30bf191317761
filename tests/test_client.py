"""The client by itself: what it sends, how it tries again, what it makes of answers; one protocol for both forms."""

from __future__ import annotations

import asyncio
import email.utils
import json
import time

import httpx
import pytest

from poise.client import AsyncClient, Client
from poise.client import protocol as protocol_module
from poise.data.records import Message
from poise.errors import ConfigError, DataError, ServerError

URL = "http://server"


class Server:
    """Answers in order: a status, an exception, a response, or what scores the request."""

    def __init__(self, *answers):
        self.answers, self.bodies, self.paths, self.headers = list(answers), [], [], []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.bodies.append(json.loads(request.content) if request.content else None)
        self.paths.append(request.url.path)
        self.headers.append(request.headers)
        answer = self.answers.pop(0) if self.answers else 200
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            return answer
        if answer != 200:
            return httpx.Response(answer, json={"error": {"message": "busy", "type": "Full"}})
        texts = [(g, r) for g, group in enumerate(self.bodies[-1]["inputs"]) for r in group.get("responses", ["text"])]
        data = [{"score": float(len(r)), "group": g, "num_tokens": 3} for g, r in texts]
        return httpx.Response(200, json={"model": "rm", "data": data})


@pytest.fixture(params=["sync", "async"])
def ask(request, monkeypatch):
    """``ask(server, work)``: ``work(client)`` with either client; the pauses it made are in ``ask.pauses``."""

    def asked(server, work, **settings):
        transport = httpx.MockTransport(server)
        if request.param == "sync":
            with Client(URL, transport=transport, **settings) as client:
                return work(client)

        async def story():
            async with AsyncClient(URL, transport=transport, **settings) as client:
                return await work(client)

        return asyncio.run(story())

    asked.pauses = []

    async def no_sleep(seconds):
        asked.pauses.append(seconds)

    monkeypatch.setattr(time, "sleep", asked.pauses.append)
    monkeypatch.setattr("poise.client.asyncio.sleep", no_sleep)
    return asked


def scores(client):
    return client.rewards("a prompt", ["one", "three"])


def test_neighbours_with_one_prompt_are_a_group(ask):
    server = Server()
    prompts = ["p", "p", [{"role": "user", "content": "q"}], "p"]
    answers = ["a", "bb", [Message("assistant", "ccc")], "dddd"]
    said = ask(server, lambda client: client.rewards(prompts, answers, utility="lcb:1", weights={"safe": 1.0}))
    (sent,) = server.bodies
    assert [len(group["responses"]) for group in sent["inputs"]] == [2, 1, 1]
    assert sent["inputs"][1]["responses"] == [[{"role": "assistant", "content": "ccc"}]]
    assert (sent["score"], sent["weights"]) == ({"utility": "lcb:1"}, {"safe": 1.0})
    assert server.paths == ["/v1/rewards"]
    assert said.scores == [1, 2, 1, 4]
    assert [row.group for row in said.rows] == [0, 0, 1, 2]


def test_named_messages_are_mappings_wherever_they_stand(ask):
    server, asked, said = Server(), Message("user", "q"), Message("assistant", "a")
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    inputs = [{"messages": (asked, said)}, {"prompt": [asked], "responses": [[said]]}, {"token_ids": (3, 4)}]
    ask(server, lambda client: client.rewards_of(inputs))
    messages, pair, ids = server.bodies[0]["inputs"]
    assert (messages, ids) == ({"messages": turns}, {"token_ids": [3, 4]})
    assert pair == {"prompt": turns[:1], "responses": [turns[1:]]}


def test_long_lists_are_sent_in_parts_cut_between_groups(ask):
    server = Server()
    prompts = [f"prompt {i // 30}" for i in range(150)]
    said = ask(server, lambda client: client.rewards(prompts, ["x" * (1 + i % 7) for i in range(150)]))
    assert [sum(len(g["responses"]) for g in body["inputs"]) for body in server.bodies] == [60, 60, 30]
    assert said.scores == [1 + i % 7 for i in range(150)]
    assert [row.group for row in said.rows] == [i // 30 for i in range(150)]


@pytest.mark.parametrize(
    "failures", [(503,), (502, 504, 429), (httpx.ConnectError("refused"),), (httpx.ReadError(""), 503)]
)
def test_what_passes_is_tried_again(ask, failures):
    server = Server(*failures)
    assert ask(server, scores).scores == [3, 5]
    assert len(server.bodies) == len(failures) + 1
    assert len(ask.pauses) == len(failures)
    assert all(body == server.bodies[0] for body in server.bodies)


def test_pauses_grow_and_retry_after_is_honoured(ask):
    date = email.utils.formatdate(time.time() + 50, usegmt=True)
    later = [httpx.Response(503, headers={"Retry-After": value}) for value in ("7", date, "soon")]
    assert ask(Server(*later, 503, 503), scores).scores == [3, 5]
    first, second, *others = ask.pauses
    assert first == 7
    assert 45 < second <= 50
    for attempt, pause in enumerate(others, 2):
        assert 0.5 * 0.25 * 2**attempt <= pause <= 0.25 * 2**attempt


def test_after_the_tries_it_says_why(ask):
    server = Server(*[503] * 20)
    with pytest.raises(ServerError, match=r"after 3 tries \(HTTP 503, busy\); check address and server"):
        ask(server, scores, tries=3)
    assert len(server.bodies) == 3
    with pytest.raises(ServerError, match="ConnectError: refused"):
        ask(Server(*[httpx.ConnectError("refused")] * 2), scores, tries=2)


def test_a_server_that_is_too_slow_is_not_asked_again(ask):
    server = Server(httpx.ReadTimeout("slow"))
    with pytest.raises(ServerError, match="no answer within 5 s"):
        ask(server, scores, timeout=5)
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("kind", "raised"),
    [("ConfigError", ConfigError), ("DataError", DataError), ("Unheard", ServerError), ("Path", ServerError)],
)
def test_a_refusal_is_raised_as_it_was_there(ask, kind, raised):
    refusal = httpx.Response(400, json={"error": {"message": "unknown utility 'cvr'", "type": kind}})
    with pytest.raises(raised, match="HTTP 400, unknown utility 'cvr'"):
        ask(Server(refusal), scores)


@pytest.mark.parametrize(
    "answer",
    [
        *(b"<html>", b"[]", b'{"data": [{"score": 1}]}', b'{"data": [{}, {}]}', b"null"),
        *(b'{"data": [1.5, 2.5]}', b'{"data": [{"score": 1}, {"score": null}]}', b'{"data": {"score": 1}}'),
        b'{"data": [{"score": 1}, {"score": 2}], "family": {"name": "gaussian"}}',
    ],
)
def test_an_answer_that_is_none_is_an_error(ask, answer):
    with pytest.raises(ServerError, match="is this a reward server"):
        ask(Server(httpx.Response(200, content=answer)), scores)


class Small(Server):
    """Takes at most so many groups at once."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def __call__(self, request):
        answer = super().__call__(request)
        if len(self.bodies[-1]["inputs"]) <= self.most:
            return answer
        return httpx.Response(413, json={"error": {"message": "send it in parts", "type": "TooLarge"}})


@pytest.mark.parametrize("most", [1, 3, 20, 64])
def test_what_is_too_large_at_once_is_halved_between_groups(ask, most):
    server = Small(most)
    lengths = [1 + i % 7 for i in range(100)]
    said = ask(server, lambda client: client.rewards([f"p{i}" for i in range(100)], ["x" * n for n in lengths]))
    assert said.scores == lengths
    assert [row.group for row in said.rows] == list(range(100))
    taken = [[one["prompt"] for one in body["inputs"]] for body in server.bodies if len(body["inputs"]) <= most]
    assert [prompt for part in taken for prompt in part] == [f"p{i}" for i in range(100)], "each is scored once"
    assert not ask.pauses


def test_one_group_that_is_too_large_is_an_error(ask):
    server = Small(0)
    with pytest.raises(ServerError, match="HTTP 413, send it in parts"):
        ask(server, lambda client: client.rewards(["p", "p", "q"], ["a", "b", "c"]))
    assert [len(body["inputs"]) for body in server.bodies] == [2, 1]


@pytest.mark.parametrize("changed", [{"revision": "b"}, {"calibration": {"id": "1", "method": "temperature"}}])
def test_parts_of_one_answer_come_from_one_model(ask, changed):
    said = [{"model": "rm", "revision": "a", "calibration": None, "data": [{"score": 1.0}] * 64}]
    said.append(said[0] | changed)
    with pytest.raises(ServerError, match="changed its model or calibration while it was asked; ask again"):
        ask(
            Server(*(httpx.Response(200, json=one) for one in said)),
            lambda client: client.rewards([f"p{i}" for i in range(128)], ["x"] * 128),
        )


@pytest.mark.parametrize(
    ("known", "given", "sent"),
    [
        ("environment", None, "Bearer environment"),
        ("environment", "given", "Bearer given"),
        ("environment", "", None),
        ("", None, None),
        (None, None, None),
    ],
)
def test_the_key_of_the_environment_is_borne_unless_one_is_given(ask, monkeypatch, known, given, sent):
    if known is None:
        monkeypatch.delenv("POISE_API_KEY", raising=False)
    else:
        monkeypatch.setenv("POISE_API_KEY", known)
    server = Server()
    ask(server, scores, api_key=given)
    assert server.headers[0].get("Authorization") == sent


def test_key_model_and_a_route_of_ones_own(ask):
    server = Server()
    ask(server, lambda client: client.rewards_of([{"text": "hello"}]), api_key="secret", model="rm")
    assert server.headers[0]["Authorization"] == "Bearer secret"
    assert server.bodies[0]["model"] == "rm"
    with Client(f"{URL}/score/it", transport=httpx.MockTransport(server)) as client:
        client.rewards("p", "r")
    assert server.paths == ["/v1/rewards", "/score/it"]


def test_what_cannot_be_meant_is_refused_before_anything_is_sent(ask):
    with pytest.raises(ConfigError, match="give http://HOST:PORT"):
        Client("localhost:8000")
    with pytest.raises(ConfigError, match="'http://localhost:PORT' is no address"):
        Client("http://localhost:PORT")
    with pytest.raises(ConfigError, match="2 prompts for 3 responses"):
        ask(Server(), lambda client: client.rewards(["p", "q"], ["a", "b", "c"]))


def test_nothing_to_score_asks_nobody(ask):
    server = Server()
    assert ask(server, lambda client: client.rewards([], [])).scores == []
    assert not server.bodies


def test_without_httpx_it_says_what_to_install(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(protocol_module.importlib, "import_module", missing)
    with pytest.raises(ConfigError, match=r"pip install 'poise\[client\]'"):
        Client(URL)
