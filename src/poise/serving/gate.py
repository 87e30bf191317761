"""What stands before every route: keys, limits, clients that are slow or leave, counting and the log.

A request's body is read here, whole, under a limit in bytes and in seconds. While it is answered the connection is watched:
who leaves has what still waits of theirs taken out of the queue.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from poise.serving.log import say
from poise.serving.metrics import Metrics
from poise.serving.settings import Settings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
OPEN = ("/", "/health", "/ready")
OPEN_BELOW = "/page/"
UNMATCHED = "other"
RETRY_SECONDS = 1


class Refused(Exception):
    """A request that is answered here, and not by a route."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


class Left(Exception):
    """The client is gone."""


class Gate:
    """ASGI middleware around the whole application."""

    def __init__(self, app: App, settings: Settings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self._underway = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Exchange(scope, receive, send, self.settings)
        self._underway += 1
        self.metrics.began()
        try:
            await self._answer(request)
        except Left:
            self.metrics.left()
            say("client left", **request.facts())
        else:
            self.metrics.answered(request.route(), request.status, time.perf_counter() - request.start)
            request.log()
        finally:
            self._underway -= 1

    async def _answer(self, request: Exchange) -> None:
        try:
            self._admit(request)
            await request.run(self.app)
        except Refused as refusal:
            await request.refuse(refusal)
        except Left:
            raise
        except Exception:  # a route's own error: who asked learns that much, the log where it was
            say("failed", logging.ERROR, error=True, **request.facts())
            if not request.status:
                await request.refuse(Refused(500, "InternalError", "the server failed; its log says where"))

    def _admit(self, request: Exchange) -> None:
        key = self.settings.api_key
        path = request.scope["path"]
        if key is not None and path not in OPEN and not path.startswith(OPEN_BELOW):
            given = request.header(b"authorization")
            if not hmac.compare_digest(given, f"Bearer {key}".encode()):
                raise Refused(401, "Unauthorized", "the API key is missing or wrong; send Authorization: Bearer KEY")
        if self._underway > self.settings.requests and request.scope["method"] == "POST":
            raise Refused(503, "Full", f"{self.settings.requests} requests are under way; ask again")


class Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, settings: Settings) -> None:
        self.scope, self.settings = scope, settings
        self.start = time.perf_counter()
        self.id = uuid.uuid4().hex[:16]
        self.status = 0
        self.answered = False
        self.body = b""
        self._receive, self._send = receive, send
        scope["request_id"] = self.id

    def header(self, name: bytes) -> bytes:
        """A request header, or nothing."""
        found: bytes = next((value for key, value in self.scope["headers"] if key == name), b"")
        return found

    async def run(self, app: App) -> None:
        """Read the body, then answer, watching the connection. Raises ``Refused`` or ``Left``."""
        self.body = await self._read()
        work = asyncio.ensure_future(app(self.scope, self._replay(), self.send))
        gone = asyncio.ensure_future(self._receive())
        try:
            limit = self.settings.request_seconds
            done, _ = await asyncio.wait({work, gone}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if work in done or self.answered:  # connections also end when the answer is out
                await work
            elif gone in done:
                raise Left
            else:
                raise Refused(
                    503, "Timeout", f"there was no answer within {limit:g} s; ask again, or send less at once"
                )
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def _read(self) -> bytes:
        limit = self.settings.body_bytes
        too_large = Refused(413, "TooLarge", f"the request is larger than {limit} bytes; send it in parts")
        declared = self.header(b"content-length")
        if declared.isdigit() and int(declared) > limit:
            raise too_large
        parts, size, more = [], 0, True
        try:
            async with asyncio.timeout(self.settings.body_seconds):
                while more:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise Left
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limit:
                        raise too_large
                    more = message.get("more_body", False)
        except TimeoutError:
            seconds = self.settings.body_seconds
            raise Refused(408, "Slow", f"the request took longer than {seconds:g} s to arrive; send it again") from None
        return b"".join(parts)

    def _replay(self) -> Receive:
        given = False

        async def receive() -> Message:
            nonlocal given
            if given:  # files are sent by whoever also listens for a client that leaves; that is seen here
                await asyncio.Event().wait()
            given = True
            return {"type": "http.request", "body": self.body, "more_body": False}

        return receive

    async def send(self, message: Message) -> None:
        """Pass on, with the request's id."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self.id.encode())]
        await self._send(message)
        self.answered = message["type"] == "http.response.body" and not message.get("more_body", False)

    async def refuse(self, refusal: Refused) -> None:
        """Answer with an error, and close a connection of which not everything was read."""
        if self.status:
            return
        error = {"message": str(refusal), "type": refusal.kind, "code": refusal.status}
        headers = [(b"content-type", b"application/json")]
        if refusal.status == 503:
            headers.append((b"retry-after", str(RETRY_SECONDS).encode()))
        if refusal.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if self.scope["method"] == "POST" and not self.body:
            headers.append((b"connection", b"close"))
        body = json.dumps({"error": error}).encode()
        headers.append((b"content-length", str(len(body)).encode()))
        await self.send({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def route(self) -> str:
        """The route as it is declared, never a stranger's path: one counter each."""
        return getattr(self.scope.get("route"), "path", UNMATCHED)

    def facts(self) -> dict[str, Any]:
        """For the log."""
        milliseconds = round(1000 * (time.perf_counter() - self.start), 1)
        found: dict[str, Any] = {
            "id": self.id,
            "method": self.scope["method"],
            "route": self.route(),
            "ms": milliseconds,
        }
        found |= self.scope.get("poise", {})
        return found

    def log(self) -> None:
        """One line per request; health checks and pages say nothing."""
        if self.scope["method"] == "GET" and self.status < 400:
            return
        facts = self.facts() | {"status": self.status, "bytes": len(self.body)}
        if self.settings.log_texts:
            facts["body"] = self.body.decode("utf8", "replace")
        say("request", logging.INFO if self.status < 500 else logging.WARNING, **facts)
