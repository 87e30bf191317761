"""Ask a reward server: ``Client`` and ``AsyncClient`` over one protocol (``protocol.py``).

with Client("http://127.0.0.1:8000") as client:
    rewards = client.rewards("What is 2 + 2?", ["4", "5"], utility="cvar:0.1", include=["params"])
    rewards.scores, rewards.distribution.std
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from poise.client.answers import Comparison, Rewards, Row
from poise.client.protocol import Flow, Options, Protocol, Text, Wait, grouped

__all__ = ["AsyncClient", "Client", "Comparison", "Options", "Rewards", "Row"]

T = TypeVar("T")


class Client(Protocol):
    """A reward server, asked one request after the other; safe to share between threads."""

    def __init__(self, url: str, **settings: Any) -> None:
        super().__init__(url, **settings)
        self._http = self._httpx.Client(**self._settings)

    def rewards(
        self, prompts: Text | Sequence[Text], responses: Text | Sequence[Text], **options: Unpack[Options]
    ) -> Rewards:
        """What the server says about B responses; texts as in ``RewardModel.predict``: one prompt, or one per response.

        Neighbours with one prompt are a group. A long list is sent in several requests, cut between groups.
        """
        return self._run(self._rewards(grouped(prompts, responses), options))

    def rewards_of(self, inputs: Sequence[Mapping[str, Any]], **options: Unpack[Options]) -> Rewards:
        """The same for inputs of any form that the route takes: messages, text, token_ids, prompt with responses."""
        return self._run(self._rewards(inputs, options))

    def info(self) -> dict[str, Any]:
        """The server's models, limits and defaults."""
        found: dict[str, Any] = self._run(self._ask("GET", "/info"))
        return found

    def _run(self, flow: Flow[T]) -> T:
        reply: Any = None
        while True:
            try:
                step = flow.send(reply)
            except StopIteration as done:
                result: T = done.value
                return result
            if isinstance(step, Wait):
                time.sleep(step.seconds)
                continue
            try:
                reply = self._http.request(step.method, step.url, content=step.body)
            except self._httpx.TransportError as error:
                reply = error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class AsyncClient(Protocol):
    """A reward server, asked from coroutines, any number of them at once; methods as those of ``Client``."""

    def __init__(self, url: str, **settings: Any) -> None:
        super().__init__(url, **settings)
        self._http = self._httpx.AsyncClient(**self._settings)

    async def rewards(  # noqa: D102
        self, prompts: Text | Sequence[Text], responses: Text | Sequence[Text], **options: Unpack[Options]
    ) -> Rewards:
        return await self._run(self._rewards(grouped(prompts, responses), options))

    async def rewards_of(self, inputs: Sequence[Mapping[str, Any]], **options: Unpack[Options]) -> Rewards:  # noqa: D102
        return await self._run(self._rewards(inputs, options))

    async def info(self) -> dict[str, Any]:  # noqa: D102
        found: dict[str, Any] = await self._run(self._ask("GET", "/info"))
        return found

    async def _run(self, flow: Flow[T]) -> T:
        reply: Any = None
        while True:
            try:
                step = flow.send(reply)
            except StopIteration as done:
                result: T = done.value
                return result
            if isinstance(step, Wait):
                await asyncio.sleep(step.seconds)
                continue
            try:
                reply = await self._http.request(step.method, step.url, content=step.body)
            except self._httpx.TransportError as error:
                reply = error

    async def close(self) -> None:  # noqa: D102
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()
