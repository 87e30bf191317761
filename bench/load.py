"""A load generator that costs little: prepared requests over raw sockets, answers compared with known scores."""

from __future__ import annotations

import asyncio
import itertools
import re
import time

SCORE = re.compile(rb'"score":\s*(-?[0-9.e+-]+)')


class Connection:
    """One keep-alive connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reader: asyncio.StreamReader | None = None

    async def ask(self, request: bytes) -> tuple[int, float | None]:
        """(status, score where there is one)."""
        if self.reader is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        lower = head.lower()
        at = lower.index(b"content-length:") + 15
        body = await self.reader.readexactly(int(lower[at : lower.index(b"\r\n", at)]))
        if b"connection: close" in lower:
            self.close()
        found = SCORE.search(body)
        return int(head[9:12]), None if found is None else float(found[1])

    def close(self) -> None:
        if self.reader is not None:
            self.writer.close()
            self.reader = None


def share(latencies: list[float], part: float) -> float:
    ordered = sorted(latencies)
    return round(ordered[min(len(ordered) - 1, int(part * len(ordered)))], 4) if ordered else float("nan")


async def closed_loop(
    port: int, requests: list[bytes], scores: list[float], clients: int, seconds: float, tolerance: float
) -> dict:
    """So many clients, each asking again as soon as it is answered; they take the rows in turn."""
    turn, latencies, errors = itertools.cycle(range(len(requests))), [], 0
    start = time.perf_counter()

    async def client() -> None:
        nonlocal errors
        connection = Connection(port)
        while (began := time.perf_counter()) < start + seconds:
            row = next(turn)
            status, score = await connection.ask(requests[row])
            ended = time.perf_counter()
            right = status == 200 and score is not None and abs(score - scores[row]) <= tolerance * (1 + abs(score))
            errors += not right
            if ended <= start + seconds:
                latencies.append(ended - began)
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    quantiles = {f"p{p}_s": share(latencies, p / 100) for p in (50, 95, 99)}
    return {"per_s": round(len(latencies) / seconds, 1), "errors": errors, **quantiles}


async def open_loop(
    port: int, requests: list[bytes], scores: list[float], rate: float, seconds: float, tolerance: float
) -> dict:
    """Requests at a fixed rate, whatever becomes of them."""
    idle: list[Connection] = []
    counts = {"sent": 0, "answered": 0, "refused": 0, "errors": 0}
    latencies: list[float] = []

    async def ask(row: int) -> None:
        connection = idle.pop() if idle else Connection(port)
        began = time.perf_counter()
        try:
            status, score = await connection.ask(requests[row])
        except (OSError, asyncio.IncompleteReadError):
            counts["errors"] += 1
            return
        idle.append(connection)
        if status == 503:
            counts["refused"] += 1
        elif status == 200 and score is not None and abs(score - scores[row]) <= tolerance * (1 + abs(score)):
            counts["answered"] += 1
            latencies.append(time.perf_counter() - began)
        else:
            counts["errors"] += 1

    tasks, start = [], time.perf_counter()
    for number in itertools.count():
        due = start + number / rate
        if due > start + seconds:
            break
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.ensure_future(ask(number % len(requests))))
        counts["sent"] += 1
    await asyncio.gather(*tasks)
    for connection in idle:
        connection.close()
    return counts | {"p99_s": share(latencies, 0.99)}


async def one(port: int, request: bytes, score: float, tolerance: float) -> float:
    """Seconds of one request by itself; an AssertionError where its answer is wrong."""
    connection = Connection(port)
    began = time.perf_counter()
    status, found = await connection.ask(request)
    seconds = time.perf_counter() - began
    assert status == 200
    assert found is not None
    assert abs(found - score) <= tolerance * (1 + abs(score))
    connection.close()
    return round(seconds, 4)
