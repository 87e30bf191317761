"""Small models behind the real application, asked in process."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import asynccontextmanager, contextmanager

import httpx
import torch
import uvicorn

from poise.methods import method_class
from poise.model import RewardModel
from poise.serving.app import create_app
from poise.serving.hosting import Hosted
from poise.serving.metrics import Metrics
from poise.serving.settings import Settings
from tests.conftest import tiny_decoder, tiny_encoder

URL = "http://poise"
ROUTES = ("/v1/rewards", "/classify", "/pooling", "/v1/embeddings", "/get_reward", "/predict", "/v1/score/evaluation")


def model(method="drpo", backbone=None, **config) -> RewardModel:
    backbone = backbone or tiny_decoder()
    kind = method_class(method)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        head = kind(kind.Config(**config), backbone.hidden_size)
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return RewardModel(backbone, head)


class Place:
    """A served application; ``http`` asks it."""

    def __init__(self, models, **settings):
        self.settings, self.metrics = Settings(**settings), Metrics()
        self.hosted = [Hosted(name, f"runs/{name}", m, self.settings, self.metrics) for name, m in models.items()]
        self.app = create_app(self.hosted, self.settings, self.metrics)

    async def __aenter__(self):
        self._life = self.app.router.lifespan_context(self.app)
        await self._life.__aenter__()
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url=URL, timeout=60)
        return self

    async def __aexit__(self, *error):
        await self.http.aclose()
        await self._life.__aexit__(*error)

    async def post(self, path, body, **options):
        return await self.http.post(path, json=body, **options)

    def counted(self, name, **labels) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


def run(work, models=None, **settings):
    """``await work(place)`` with a server of these models, by default one."""

    async def story():
        async with Place(models or {"rm": model()}, **settings) as place:
            return await asyncio.wait_for(work(place), 60)

    return asyncio.run(story())


@contextmanager
def listening(place: Place):
    """The address of the application on a port of its own, until the block ends."""
    server = uvicorn.Server(uvicorn.Config(place.app, port=0, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(20)


@asynccontextmanager
async def held(hosted: Hosted):
    """The scoring thread stands still until the block ends; what arrives waits."""
    entered, go = threading.Event(), threading.Event()
    score = hosted.batcher._score

    def waiting(jobs):
        entered.set()
        go.wait(30)
        return score(jobs)

    hosted.batcher._score = waiting
    try:
        yield entered
    finally:
        hosted.batcher._score = score
        go.set()


def body(path: str, prompt="hello village", response="the quick fox") -> dict:
    """One response, in the form of each route."""
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    text = f"<|user|>{prompt}<eos><|assistant|>{response}<eos>"
    return {
        "/v1/rewards": {"inputs": [{"prompt": prompt, "responses": [response]}]},
        "/classify": {"messages": messages},
        "/pooling": {"input": text},
        "/v1/embeddings": {"input": text},
        "/get_reward": {"query": [text]},
        "/predict": {"inputs": text},
        "/v1/score/evaluation": {"messages": [text]},
    }[path]


def score_of(path: str, answer) -> float:
    """The one score of an answer."""
    match path:
        case "/v1/rewards":
            return answer["data"][0]["score"]
        case "/classify":
            return answer["data"][0]["probs"][0]
        case "/pooling":
            return answer["data"][0]["data"][0]
        case "/v1/embeddings":
            return answer["data"][0]["embedding"][0]
        case "/get_reward":
            return answer["rewards"][0]
        case "/predict":
            return answer[0]["score"]
        case _:
            return answer["scores"][0]


def encoder_model(method="drpo") -> RewardModel:
    return model(method, tiny_encoder())
