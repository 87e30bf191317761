"""What a client says and understands, without waiting or sending: the same for coroutines and for threads."""

from __future__ import annotations

import email.utils
import importlib
import itertools
import json
import os
import random
import time
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, TypeVar

from poise import errors
from poise.client.answers import Rewards, joined, read
from poise.errors import ConfigError, PoiseError, ServerError

if TYPE_CHECKING:
    import httpx

ROUTE = "/v1/rewards"
PER_REQUEST = 64
RETRIED = (429, 502, 503, 504)
TOO_LARGE = 413
KEY = "POISE_API_KEY"
FIRST_WAIT, LONGEST_WAIT, CONNECT_SECONDS, CONNECTIONS = 0.25, 30.0, 10.0, 256
Text = str | Sequence[Mapping[str, str] | tuple[str, str]]
T = TypeVar("T")


class Options(TypedDict, total=False):
    """What may be said with a request; what is left out is the server's own choice.

    ``include`` names what is wanted beside the scores: mean, std, quantiles, params (then ``Rewards.distribution`` is
    there) and prob_better (then ``Rewards.comparisons``). ``weights`` steer a model that knows attributes. ``raw`` leaves
    the calibration out. ``truncation`` of what is too long: error, left (the prompt's far end) or right.
    """

    model: str
    utility: str
    include: Sequence[Literal["mean", "std", "quantiles", "params", "prob_better"]]
    quantile_levels: Sequence[float]
    weights: Mapping[str, float]
    raw: bool
    truncation: Literal["error", "left", "right"]
    priority: int


class TooLarge(ServerError):
    """More at once than this server ever takes (413)."""


class Ask(NamedTuple):
    """A request to be sent."""

    method: str
    url: str
    body: bytes | None


class Wait(NamedTuple):
    """A pause in seconds."""

    seconds: float


Flow = Generator[Ask | Wait, Any, T]
"""Yields what is to be done, is sent the reply (a response, or the transport's error), returns the result."""


class Protocol:
    """What both clients say and understand.

    ``url`` is the server's address, or that of a route which answers as ``/v1/rewards`` does. Connection errors and 429,
    502, 503 and 504 are tried again, ``tries`` times in all, after the server's Retry-After or a growing pause; scoring
    has no effect on the server, so asking twice is safe. What is too large for it at once (413) is sent in halves, down to
    single groups. Without ``api_key`` the environment's ``POISE_API_KEY`` is borne. Raises ``ServerError`` where no usable
    answer comes within ``timeout`` seconds or the tries; what the server refuses is raised as it was there (``ConfigError``,
    ``DataError``).
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        timeout: float = 120.0,
        tries: int = 8,
        transport: Any = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"{url!r} is no address; give http://HOST:PORT of a reward server")
        if tries < 1:
            raise ConfigError(f"tries is {tries}; it must be at least 1")
        self._httpx = require_httpx()
        try:
            self._httpx.URL(url)
        except self._httpx.InvalidURL as error:
            raise ConfigError(f"{url!r} is no address ({error}); give http://HOST:PORT of a reward server") from None
        base, path = _split(url)
        self.url, self._base, self.model, self.tries = url, base, model, tries
        self._route = path if path.strip("/") else ROUTE
        self._timeout = timeout
        self._settings: dict[str, Any] = {
            "headers": {"Content-Type": "application/json"} | authorization(api_key),
            "timeout": self._httpx.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS), pool=None),
            "limits": self._httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
            "transport": transport,
        }

    def _rewards(self, inputs: Sequence[Mapping[str, Any]], options: Options) -> Flow[Rewards]:
        body: dict[str, Any] = {"truncation": "error"} | dict(options)
        if body.get("model", self.model) is not None:
            body.setdefault("model", self.model)
        if "utility" in body:
            body["score"] = {"utility": body.pop("utility")}
        parts: list[Rewards] = []
        for block in _blocks(inputs):
            parts += yield from self._parts(block, body)
        return joined(parts, self.url)

    def _parts(self, block: Sequence[Mapping[str, Any]], body: Mapping[str, Any]) -> Flow[list[Rewards]]:
        """The answers for one block, to the whole or to its halves."""
        try:
            answer = yield from self._ask("POST", self._route, {"inputs": _plain(block), **body})
        except TooLarge:
            if len(block) == 1:
                raise
        else:
            return [read(answer, sum(map(_size, block)), self.url)]
        middle = len(block) // 2
        first = yield from self._parts(block[:middle], body)
        return first + (yield from self._parts(block[middle:], body))

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Flow[Any]:
        content = None if body is None else json.dumps(body).encode()
        problem = ""
        for attempt in range(self.tries):
            reply = yield Ask(method, self._base + path, content)
            pause = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt) * random.uniform(0.5, 1.0)
            if isinstance(reply, Exception):
                problem = f"{type(reply).__name__}: {reply}" if str(reply) else type(reply).__name__
                if isinstance(reply, self._httpx.ReadTimeout):
                    raise ServerError(
                        f"{self.url}: no answer within {self._timeout:g} s; send less at once or raise timeout"
                    ) from None
            elif reply.status_code not in RETRIED:
                return self._understood(reply)
            else:
                problem = f"HTTP {reply.status_code}, {_message(reply)}"
                pause = _retry_after(reply.headers.get("Retry-After"), pause)
            if attempt + 1 < self.tries:
                yield Wait(pause)
        raise ServerError(f"{self.url}: no answer after {self.tries} tries ({problem}); check address and server")

    def _understood(self, reply: httpx.Response) -> Any:
        if reply.status_code >= 400:
            kind = _said(reply).get("type")
            known = getattr(errors, kind, None) if isinstance(kind, str) else None
            otherwise = TooLarge if reply.status_code == TOO_LARGE else ServerError
            raised = known if isinstance(known, type) and issubclass(known, PoiseError) else otherwise
            raise raised(f"{self.url}: HTTP {reply.status_code}, {_message(reply)}")
        try:
            return reply.json()
        except ValueError:
            raise ServerError(
                f"{self.url}: expected JSON, got {reply.text[:200]!r}; is this a reward server?"
            ) from None


def grouped(prompts: Any, responses: Any) -> list[dict[str, Any]]:
    """Inputs of the route for one prompt or B prompts and B responses; neighbours with equal prompts are one group."""
    many = [responses] if _is_text(responses) else list(responses)
    each = [prompts] * len(many) if _is_text(prompts) else list(prompts)
    if len(each) != len(many):
        raise ConfigError(f"{len(each)} prompts for {len(many)} responses; give one prompt, or one per response")
    pairs = itertools.groupby(zip(each, many, strict=True), lambda pair: pair[0])
    return [{"prompt": prompt, "responses": [response for _, response in group]} for prompt, group in pairs]


def _is_text(value: Any) -> bool:
    """A string or one conversation, as opposed to a list of them."""
    return isinstance(value, str) or (bool(value) and (isinstance(value[0], Mapping) or hasattr(value[0], "_asdict")))


def _plain(value: Any) -> Any:
    """What JSON has: named messages, which it would take for lists, as mappings, however deep they lie."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if hasattr(value, "_asdict"):
        return value._asdict()
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def _size(group: Mapping[str, Any]) -> int:
    return len(group["responses"]) if "responses" in group else 1


def _blocks(inputs: Sequence[Mapping[str, Any]]) -> Generator[list[Mapping[str, Any]]]:
    """Inputs in requests of about ``PER_REQUEST`` responses, no group cut in two."""
    block: list[Mapping[str, Any]] = []
    for group in inputs:
        if block and sum(map(_size, block)) + _size(group) > PER_REQUEST:
            yield block
            block = []
        block.append(group)
    if block:
        yield block


def _split(url: str) -> tuple[str, str]:
    """(scheme://host:port, path)."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host}", slash + path


def _said(reply: httpx.Response) -> Mapping[str, Any]:
    try:
        error = reply.json().get("error")
    except (ValueError, AttributeError):
        return {}
    return error if isinstance(error, Mapping) else {}


def _message(reply: httpx.Response) -> str:
    return str(_said(reply).get("message") or reply.text[:200] or reply.reason_phrase)


def _retry_after(value: str | None, otherwise: float) -> float:
    """Seconds of a Retry-After header, a number or a date."""
    if value is None:
        return otherwise
    try:
        return max(0.0, float(value))
    except ValueError:
        try:
            return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
        except ValueError:
            return otherwise


def authorization(api_key: str | None = None) -> dict[str, str]:
    """The header that bears a key, that of the environment where none is given; nothing without one."""
    key = os.environ.get(KEY) if api_key is None else api_key
    return {"Authorization": f"Bearer {key}"} if key else {}


def require_httpx() -> Any:
    """The module; raises ``ConfigError`` with the install command where it is absent."""
    try:
        return importlib.import_module("httpx")
    except ImportError:
        raise ConfigError(
            "asking a server needs httpx, which is not installed; run: pip install 'poise[client]'"
        ) from None
