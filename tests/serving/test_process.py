"""A real server process under load: killed and started again, and told to stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from poise.client import AsyncClient
from tests.serving.place import model

pytestmark = pytest.mark.heavy
PROMPTS = [f"tell me about number {i}" for i in range(40)]
RESPONSES = [f"the number {i} is small" for i in range(40)]


def start(folder, port, log):
    command = [sys.executable, "-m", "poise", "serve", str(folder), "--port", str(port), "--device", "cpu"]
    return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})


async def until_there(port):
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return


def test_killed_and_started_again_then_told_to_stop(tmp_path):
    served = model("bt")
    served.save(tmp_path / "rm", include_backbone=True)
    expected = served.predict(PROMPTS, RESPONSES).mean.tolist()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    log = (tmp_path / "log").open("ab")
    servers = [start(tmp_path / "rm", port, log)]
    right, stop = [], asyncio.Event()

    async def customer(client, number):
        while not stop.is_set():
            row = (number + len(right)) % len(PROMPTS)
            said = await client.rewards(PROMPTS[row], RESPONSES[row])
            right.append(said.scores[0] == pytest.approx(expected[row], abs=1e-5))

    async def story():
        await asyncio.wait_for(until_there(port), 60)
        async with AsyncClient(f"http://127.0.0.1:{port}", tries=20) as client:
            customers = [asyncio.ensure_future(customer(client, n)) for n in range(8)]
            await answered(50)
            servers[0].send_signal(signal.SIGKILL)
            servers[0].wait()
            before = len(right)
            servers.append(start(tmp_path / "rm", port, log))
            await answered(before + 50)
            stop.set()
            await asyncio.gather(*customers)
            # a long request of one group is taken, then the server is told to stop: it is answered before the process ends
            last = asyncio.ensure_future(client.rewards(PROMPTS[0], RESPONSES * 10))
            await asyncio.sleep(0.05)
            servers[1].send_signal(signal.SIGTERM)
            return await last

    async def answered(count):
        until = time.monotonic() + 60
        while len(right) < count:
            assert time.monotonic() < until
            await asyncio.sleep(0.02)

    try:
        last = asyncio.run(asyncio.wait_for(story(), 100))
        assert servers[1].wait(30) in (0, -signal.SIGTERM)
    finally:
        for server in servers:
            server.kill()
        log.close()
    assert all(right)
    assert last.scores == pytest.approx(served.predict(PROMPTS[0], RESPONSES).mean.tolist() * 10, abs=1e-5)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text("utf8").splitlines()]
    events = [line["event"] for line in lines]
    assert events[-3:].count("stopped") == 1
    assert "draining" in events
    said = next(line for line in lines if line["event"] == "model")
    assert said["template_sha256"] == served.backbone.encoder.template_sha256
    assert said["golden_scores"] == "reproduced"
