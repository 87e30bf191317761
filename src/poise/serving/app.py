"""The application: models behind routes, with its OpenAPI document."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.staticfiles import StaticFiles

from poise.errors import PoiseError
from poise.serving import compatibility, compatible_schema, native
from poise.serving.compatible_schema import RouteOptions
from poise.serving.exchange import Unreadable, answer, house_of, refusal
from poise.serving.gate import Gate
from poise.serving.hosting import Hosted, House
from poise.serving.log import say
from poise.serving.metrics import CONTENT_TYPE, Metrics
from poise.serving.schema import ErrorAnswer, RewardsAnswer, RewardsRequest
from poise.serving.settings import Settings
from poise.version import __version__

PAGE = Path(__file__).parent / "page"
REFUSALS = {
    400: "The request cannot be read or scored; the message says why",
    401: "The API key is missing or wrong",
    404: "The model is not served here",
    408: "The request took too long to arrive",
    413: "The request is too large",
    422: "The body does not fit the schema",
    500: "The model gave a number that is not finite, or the server failed",
    503: "The queue is full, or the answer took too long; ask again after Retry-After",
}
COMPATIBLE: tuple[tuple[str, Callable[..., Awaitable[Response]], type[BaseModel]], ...] = (
    ("/classify", compatibility.classify, compatible_schema.ClassifyRequest),
    ("/pooling", compatibility.pooling, compatible_schema.PoolingRequest),
    ("/v1/embeddings", compatibility.embeddings, compatible_schema.EmbeddingsRequest),
    ("/get_reward", compatibility.get_reward, compatible_schema.GetRewardRequest),
    ("/predict", compatibility.predict, compatible_schema.PredictRequest),
    ("/v1/score/evaluation", compatibility.score_evaluation, compatible_schema.ScoreEvaluationRequest),
)


def create_app(hosted: list[Hosted], settings: Settings, metrics: Metrics) -> FastAPI:
    """The application for models that are loaded; their threads run from its start-up to its shutdown."""
    house = House(hosted, settings.utility)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for one in house.models:
            one.batcher.start()
        yield
        say("draining", waiting_tokens=sum(one.batcher.waiting for one in house.models))
        for one in house.models:
            await one.close()
        say("stopped")

    app = FastAPI(title="poise", version=__version__, lifespan=lifespan, description=native.__doc__ or "")
    app.state.house, app.state.settings, app.state.metrics = house, settings, metrics
    for one in house.models:
        metrics.watch(one.name, partial(getattr, one.batcher, "waiting"))
    for kind in (PoiseError, HTTPException):
        app.add_exception_handler(kind, refusal)
    app.add_exception_handler(RequestValidationError, _misfit)
    _add_routes(app)
    app.add_middleware(Gate, settings=settings, metrics=metrics)
    if PAGE.is_dir():
        app.add_api_route("/", page, methods=["GET"], include_in_schema=False)
        app.mount("/page", StaticFiles(directory=PAGE), name="page")
    return app


def _add_routes(app: FastAPI) -> None:
    bodies: list[type[BaseModel]] = [RewardsRequest, *(schema for _, _, schema in COMPATIBLE)]
    refusals: dict[int | str, dict[str, Any]] = {
        code: {"description": text, "model": ErrorAnswer} for code, text in REFUSALS.items()
    }
    app.add_api_route(
        "/v1/rewards",
        native.rewards,
        methods=["POST"],
        responses={200: {"model": RewardsAnswer}, **refusals},
        openapi_extra=_body(RewardsRequest),
        tags=["rewards"],
    )
    for path, route, schema in COMPATIBLE:
        app.add_api_route(
            path,
            _with_options(route),
            methods=["POST"],
            responses=refusals,
            openapi_extra=_body(schema),
            tags=["compatibility"],
            name=route.__name__,
            description=route.__doc__,
        )
    for path, look in (("/health", health), ("/v1/models", models), ("/info", info)):
        app.add_api_route(path, look, methods=["GET"], tags=["server"], responses={401: refusals[401]})
    app.add_api_route(
        "/metrics",
        metrics_text,
        methods=["GET"],
        tags=["server"],
        response_class=PlainTextResponse,
        responses={401: refusals[401]},
    )
    app.add_api_route("/ready", ready, methods=["GET"], tags=["server"], responses={503: refusals[503]})
    made = app.openapi

    def openapi() -> dict[str, Any]:
        document = made()
        _, extra = models_json_schema([(b, "validation") for b in bodies], ref_template="#/components/schemas/{model}")
        document["components"].setdefault("schemas", {}).update(extra["$defs"])
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _body(schema: type[BaseModel]) -> dict[str, Any]:
    """How FastAPI describes a body that the route reads by itself, in one step from the bytes."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema.__name__}"}}}
    return {"requestBody": {"required": True, "content": content}}


def _with_options(route: Callable[..., Awaitable[Response]]) -> Callable[..., Awaitable[Response]]:
    async def handler(request: Request, options: Annotated[RouteOptions, Query()]) -> Response:
        return await route(request, options)

    return handler


def _misfit(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return refusal(request, Unreadable(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", 422))


async def page(request: Request) -> Response:
    """The page, whose other files are under ``/page``."""
    return FileResponse(PAGE / "index.html")


async def health(request: Request) -> Response:
    """The process answers."""
    return answer({"status": "ok"})


async def ready(request: Request) -> Response:
    """Every model can score, and the server is not about to stop."""
    house = house_of(request)
    waiting = [one.name for one in house.models if not one.batcher.alive]
    if waiting:
        response = answer({"status": "not ready", "models": waiting})
        response.status_code, response.headers["Retry-After"] = 503, "1"
        return response
    return answer({"status": "ready"})


async def models(request: Request) -> Response:
    """OpenAI: what is served."""
    served = [
        {"id": name, "object": "model", "created": 0, "owned_by": "poise"}
        for one in house_of(request).models
        for name in (one.name, f"{one.name}:params")
    ]
    return answer({"object": "list", "data": served})


async def info(request: Request) -> Response:
    """Models with their families and facts, limits and defaults."""
    house, settings = house_of(request), request.app.state.settings
    limits = {name: getattr(settings, name) for name in ("requests", "body_bytes", "body_seconds", "request_seconds")}
    described = [one.description() for one in house.models]
    return answer({"version": __version__, "utility": house.utility.spec, "models": described, "limits": limits})


async def metrics_text(request: Request) -> Response:
    """Prometheus."""
    return Response(request.app.state.metrics.text(), media_type=CONTENT_TYPE)
