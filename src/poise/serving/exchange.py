"""Bytes → what a route works on, and back: one reading, one writing and one form of error for all routes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from poise.data.chat import Encoded
from poise.errors import PoiseError
from poise.serving.batching import Full, TooLarge
from poise.serving.hosting import House, UnknownModel

SchemaT = TypeVar("SchemaT", bound=BaseModel)


class NotFinite(PoiseError):
    """A number that JSON does not have."""


class Unreadable(PoiseError):
    """A body that is not the JSON of its route's schema; ``status`` is 400 where it is no JSON at all, else 422."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def house_of(request: Request) -> House:
    """The models of this server."""
    house: House = request.app.state.house
    return house


async def parsed(request: Request, schema: type[SchemaT]) -> SchemaT:
    """The request's body by its schema. Raises ``Unreadable``."""
    try:
        return schema.model_validate_json(await request.body())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        status = 400 if first["type"] == "json_invalid" else 422
        raise Unreadable(f"{place + ': ' if place else ''}{first['msg']}", status) from None


def answer(body: Any) -> Response:
    """As JSON, numbers with all their digits. Raises ``NotFinite`` for NaN and infinity: clients read them as no score."""
    try:
        text = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        raise NotFinite("the model gave a number that is not finite for this request; check the model") from None
    return Response(text.encode("utf8", "replace"), media_type="application/json")


def note(request: Request, model: str, rows: Sequence[Encoded]) -> None:
    """For the log line: what was read, not what it said."""
    request.scope["poise"] = {"model": model, "responses": len(rows), "tokens": sum(len(row.ids) for row in rows)}


def refusal(_: Request, error: Exception) -> Response:
    """An exception as an answer."""
    headers = {}
    if isinstance(error, HTTPException):
        return _error(error.status_code, "HTTPError", str(error.detail), dict(error.headers or {}))
    if isinstance(error, Full):
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    status = {Full: 503, TooLarge: 413, UnknownModel: 404, NotFinite: 500}.get(type(error), 400)
    if isinstance(error, Unreadable):
        status = error.status
    return _error(status, type(error).__name__, str(error), headers)


def _error(status: int, kind: str, message: str, headers: dict[str, str]) -> Response:
    body = {"error": {"message": message, "type": kind, "code": status}}
    return Response(json.dumps(body).encode(), status, headers, "application/json")
