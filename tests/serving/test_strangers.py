"""Requests that nobody should send, and clients that are slow or leave: answered, logged, nothing kept."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
import threading
import time

import httpx
import pytest
import uvicorn

from poise.serving import log
from poise.serving import server as server_module
from tests.serving.place import ROUTES, Place, body, held, listening, model, run

JSON = {"Content-Type": "application/json"}
DEEP = b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
BODIES = {
    "nothing": b"",
    "no JSON": b"hello",
    "half": b'{"inputs": [',
    "invalid UTF-8": b'{"inputs": ["\xff\xfe"]}',
    "half a surrogate": b'{"inputs": [{"text": "\\ud800"}]}',
    "deep": DEEP,
    "a list": b"[]",
    "null": b"null",
    "NaN": b'{"inputs": NaN, "query": NaN, "input": NaN, "messages": NaN}',
    "a huge number": b'{"inputs": 1e999999, "query": 1e999999, "input": [1e999999], "messages": [1]}',
    "huge ids": b'{"inputs": [{"token_ids": [99999999999999999999999]}], "input": [99999999999999999999999]}',
    "a null byte": b'{"inputs": [{"text": "\\u0000"}], "max": "\\u0000"}',
}


@pytest.fixture
def lines():
    """The server's log, line by line."""
    stream = io.StringIO()
    logger = logging.getLogger(log.NAME)
    before = logger.handlers, logger.propagate, logger.level
    log.start(stream)
    logging.getLogger("uvicorn.error").handlers = []
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logger.handlers, logger.propagate = before[:2]
    logger.setLevel(before[2])


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_cannot_be_meant_is_refused_by_every_route(name):
    async def ask(place):
        answers = [await place.http.post(path, content=BODIES[name], headers=JSON) for path in ROUTES]
        return answers, await place.post("/predict", body("/predict"))

    answers, afterwards = run(ask)
    for answer in answers:
        assert answer.status_code in (400, 413, 422), answer.text
        assert answer.json()["error"]["message"]
    assert afterwards.status_code == 200


def test_a_body_that_never_ends_is_cut_off():
    async def endless():
        while True:
            yield b"x" * 1000

    async def ask(place):
        return await asyncio.gather(*(place.http.post(path, content=endless()) for path in ROUTES))

    assert {answer.status_code for answer in run(ask, body_bytes=10_000)} == {413}


def test_a_body_that_does_not_arrive_is_408():
    async def slow():
        yield b"{"
        await asyncio.sleep(30)

    async def ask(place):
        return await place.http.post("/v1/rewards", content=slow())

    answer = run(ask, body_seconds=0.1)
    assert answer.status_code == 408
    assert answer.headers["connection"] == "close"


def test_an_answer_that_takes_too_long_is_503_and_its_jobs_are_dropped():
    async def ask(place):
        (hosted,) = place.hosted
        async with held(hosted) as entered:
            block = asyncio.ensure_future(place.post("/predict", body("/predict")))
            await asyncio.to_thread(entered.wait, 10)
            late = await place.post("/predict", body("/predict"))
            waiting = hosted.batcher.waiting
        await block
        return late, waiting

    late, waiting = run(ask, request_seconds=0.3)
    assert late.status_code == 503
    assert late.headers["Retry-After"]
    assert waiting == 0


def test_a_client_that_leaves_is_logged_and_nothing_of_its_is_kept(lines):
    async def ask(place):
        (hosted,) = place.hosted
        content, gone = json.dumps(body("/predict")).encode(), asyncio.Event()
        messages = [{"type": "http.request", "body": content, "more_body": False}]

        async def receive():
            if messages:
                return messages.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            raise AssertionError(f"nobody is there to hear {message}")

        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [], "query_string": b""}
        scope |= {"raw_path": b"/predict", "http_version": "1.1", "scheme": "http", "asgi": {"version": "3.0"}}
        async with held(hosted) as entered:
            block = asyncio.ensure_future(place.post("/predict", body("/predict")))
            await asyncio.to_thread(entered.wait, 10)
            request = asyncio.ensure_future(place.app(scope, receive, send))
            while not hosted.batcher.waiting:
                await asyncio.sleep(0.01)
            gone.set()
            await request
            waiting = hosted.batcher.waiting
        await block
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        left = place.counted("poise_clients_left_total"), place.counted("poise_requests_underway")
        return waiting, len([t for t in tasks if "Exchange" in repr(t)]), left

    assert run(ask) == (0, 0, (1, 0))
    assert [line["event"] for line in lines()].count("client left") == 1


def test_a_client_that_gets_its_whole_answer_has_not_left(lines):
    place = Place({"rm": model()})
    with listening(place) as url, httpx.Client() as http:
        for path in ("/", "/page/style.css"):  # the file is closed after the last byte is out
            assert http.get(url + path).status_code == 200
    assert place.counted("poise_requests_total", route="/", status="200") == 1
    assert place.counted("poise_clients_left_total") == 0
    assert "client left" not in [line["event"] for line in lines()]


def test_the_log_is_json_and_holds_no_text_unless_it_is_asked_for(lines):
    async def ask(place):
        await place.post("/v1/rewards", body("/v1/rewards", response="a secret fox"))
        await place.post("/v1/rewards", {"inputs": [{"prompt": "a secret"}]})
        place.hosted[0].batcher._score = lambda jobs: (_ for _ in ()).throw(RuntimeError("a secret"))
        return await place.post("/v1/rewards", body("/v1/rewards", response="a secret fox"))

    failed = run(ask)
    assert failed.status_code == 500
    assert "secret" not in failed.text
    found = lines()
    assert not any("secret" in json.dumps(line) for line in found)
    first = next(line for line in found if line["event"] == "request")
    assert {"time", "id", "route", "status", "ms", "model", "responses", "tokens", "bytes"} <= set(first)
    assert next(line for line in found if line["event"] == "failed")["error"] == "RuntimeError"
    run(ask, log_texts=True)
    assert any("a secret fox" in line.get("body", "") for line in lines())


def test_a_text_that_cannot_be_read_is_named_by_its_number():
    async def ask(place):
        return await place.post("/predict", {"inputs": [["hello village"], ["hello", "there"], [" "]]})

    assert "inputs[2]: the text is empty" in run(ask).json()["error"]["message"]


def test_strange_paths_are_one_counter():
    async def ask(place):
        for number in range(5):
            await place.http.get(f"/nowhere/{number}")
        return place.counted("poise_requests_total", route="other", status="404")

    assert run(ask) == 5


def test_a_head_that_does_not_arrive_closes_the_connection_and_only_that_one(monkeypatch):
    monkeypatch.setattr(server_module, "HEADER_SECONDS", 0.3)
    place = Place({"rm": model()})
    config = uvicorn.Config(place.app, port=0, log_level="error", ws="none", http=server_module.PatientProtocol)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    address = server.servers[0].sockets[0].getsockname()
    try:
        with (
            socket.create_connection(address, timeout=10) as slow,
            socket.create_connection(address, timeout=10) as good,
        ):
            slow.sendall(b"POST /predict HT")
            assert healthy(good)
            assert slow.recv(100) == b"", "closed"
            assert healthy(good)
    finally:
        server.should_exit = True
        thread.join(20)


def healthy(connection) -> bool:
    connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    said = b""
    while not said.endswith(b"}"):  # head and body may come apart
        said += connection.recv(4096)
    return said.startswith(b"HTTP/1.1 200 OK")
