"""The routes of other servers, so that their clients can ask this one: thin adapters around the same queue.

vLLM ``/classify`` and ``/pooling``, OpenAI ``/v1/embeddings``, OpenRLHF ``/get_reward``, TEI ``/predict``, LLaMA-Factory
``/v1/score/evaluation``. Where a protocol has no place for it, ``?model=``, ``?utility=``, ``?raw=`` and ``?truncation=`` say it.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit
from starlette.requests import Request
from starlette.responses import Response

from poise.data.chat import Encoded
from poise.errors import ConfigError, DataError
from poise.serving.belief import Question, Reading
from poise.serving.compatible_schema import (
    ClassifyRequest,
    EmbeddingsRequest,
    GetRewardRequest,
    PoolingRequest,
    PredictRequest,
    RouteOptions,
    ScoreEvaluationRequest,
    VllmRequest,
)
from poise.serving.exchange import answer, house_of, note, parsed
from poise.serving.hosting import Hosted
from poise.serving.rendered import Cut
from poise.serving.schema import Input

LABEL = "reward"
LOW = 0.05


class Scored(NamedTuple):
    """What a route has to put into its own form."""

    hosted: Hosted
    rows: list[Encoded]
    readings: list[Reading]

    @property
    def usage(self) -> dict[str, int]:
        """Tokens read."""
        tokens = sum(len(row.ids) for row in self.rows)
        return {"prompt_tokens": tokens, "total_tokens": tokens}

    def numbers(self) -> list[list[float]]:
        """The score alone, or all parameters where they were asked for."""
        return [said.values if said.values is not None else [said.score] for said in self.readings]


async def classify(request: Request, options: RouteOptions) -> Response:
    """VLLM: ``probs`` are the score itself, never its sigmoid; ``NAME:params`` or ``?params=true`` gives all parameters."""
    asked = await parsed(request, ClassifyRequest)
    scored = await _of_vllm(request, options, asked)
    data = [
        {"index": i, "label": LABEL, "probs": numbers, "num_classes": len(numbers)}
        for i, numbers in enumerate(scored.numbers())
    ]
    return answer(_listed(request, "classify", scored, data))


async def pooling(request: Request, options: RouteOptions) -> Response:
    """VLLM: ``data`` are all parameters of the distribution, in the order of ``param_names`` in ``/info``."""
    asked = await parsed(request, PoolingRequest)
    scored = await _of_vllm(request, options.model_copy(update={"params": True}), asked)
    form = asked.encoding_format
    data = [
        {"index": i, "object": "pooling", "data": _written(numbers, form)} for i, numbers in enumerate(scored.numbers())
    ]
    return answer(_listed(request, "pool", scored, data))


async def embeddings(request: Request, options: RouteOptions) -> Response:
    """OpenAI, as veRL reads SGLang: the embedding is the score."""
    asked = await parsed(request, EmbeddingsRequest)
    scored = await _of_vllm(request, options, asked)
    form = asked.encoding_format
    data = [
        {"index": i, "object": "embedding", "embedding": _written(numbers, form)}
        for i, numbers in enumerate(scored.numbers())
    ]
    return answer(_listed(request, "embd", scored, data))


async def get_reward(request: Request, options: RouteOptions) -> Response:
    """OpenRLHF: ``query`` is prompt and response with their special tokens; ``scores`` are the rewards squashed to 0 … 1."""
    asked = await parsed(request, GetRewardRequest)
    queries = [asked.query] if isinstance(asked.query, str) else asked.query
    prompts = [asked.prompts] if isinstance(asked.prompts, str) else asked.prompts or []
    cut = Cut(options.truncation)
    scored = await _score(request, options, None, lambda reader: reader.strings(queries, cut, prompts), spread=True)
    rewards = [said.score for said in scored.readings]
    logs = {
        "reward_std": [said.distribution["std"] for said in scored.readings],
        "reward_q05": [said.distribution["quantiles"]["values"][0] for said in scored.readings],
    }
    return answer({"rewards": rewards, "scores": expit(rewards).tolist(), "extra_logs": logs})


async def predict(request: Request, options: RouteOptions) -> Response:
    """TEI: one list for a text, ``[text]`` or ``[prompt, response]``, a list of lists for a list of these. Never squashed."""
    asked = await parsed(request, PredictRequest)
    side = asked.truncation_direction.lower() if asked.truncate else options.truncation
    given = [_text_or_pair(parts) for parts in asked.batch]
    scored = await _score(request, options, None, lambda reader: _rows(reader.groups(given, side)))
    found = [[{"score": said.score, "label": LABEL}] for said in scored.readings]
    return answer(found[0] if asked.alone else found)


async def score_evaluation(request: Request, options: RouteOptions) -> Response:
    """LLaMA-Factory: rendered conversations; with ``max_length`` longer ones lose their end, as there."""
    asked = await parsed(request, ScoreEvaluationRequest)
    if not asked.messages:
        raise DataError("messages is empty; give at least one rendered conversation")
    cut = Cut(options.truncation) if asked.max_length is None else Cut("right", asked.max_length)
    scored = await _score(request, options, asked.model, lambda reader: reader.strings(asked.messages, cut))
    scores = [said.score for said in scored.readings]
    number = f"scoreval-{request.scope['request_id']}"
    return answer({"id": number, "object": "score.evaluation", "model": scored.hosted.name, "scores": scores})


async def _of_vllm(request: Request, options: RouteOptions, asked: VllmRequest) -> Scored:
    length = asked.truncate_prompt_tokens
    side = options.truncation if length is None else asked.truncation_side or "left"
    cut = Cut(side, None if length in (None, -1) else length, asked.add_special_tokens)
    score = partial(_score, request, options, asked.model, priority=asked.priority, parameters=True)
    if asked.messages is not None:
        given = [Input(messages=asked.chat())]
        return await score(lambda reader: _rows(reader.groups(given, side)))
    texts = asked.texts()
    return await score(lambda reader: reader.strings(texts, cut))


async def _score(
    request: Request,
    options: RouteOptions,
    model: str | None,
    encode: Any,
    *,
    priority: int = 0,
    spread: bool = False,
    parameters: bool = False,
) -> Scored:
    """``parameters``: the route has a place for all of them, and gives these instead of the score where they are asked for."""
    found = house_of(request).find(options.model or model, options.utility)
    values = parameters and (found.values or options.params)
    if found.utility.grouped and not values:
        raise ConfigError(
            f"{found.utility.spec} looks at all responses to a prompt, and on this route they come one by one; ask /v1/rewards, "
            "or for another utility with ?utility=mean"
        )
    include = frozenset(("std", "quantiles")) if spread else frozenset[str]()
    question = Question(found.utility, include, (LOW,) if spread else (), None, options.raw, values)
    rows: list[Encoded] = await found.hosted.encode(encode)
    note(request, found.hosted.name, rows)
    groups = await found.hosted.score([[row] for row in rows], question, priority)
    return Scored(found.hosted, rows, [group.rows[0] for group in groups])


def _text_or_pair(parts: Sequence[str]) -> Input:
    return Input(text=parts[0]) if len(parts) == 1 else Input(prompt=parts[0], responses=[parts[1]])


def _rows(groups: Sequence[Sequence[Encoded]]) -> list[Encoded]:
    return [row for group in groups for row in group]


def _listed(request: Request, kind: str, scored: Scored, data: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": f"{kind}-{request.scope['request_id']}",
        "object": "list",
        "created": int(time.time()),
        "model": scored.hosted.name,
        "data": data,
        "usage": scored.usage,
    }


def _written(numbers: list[float], form: str) -> list[float] | str:
    """As numbers, or as the base64 of little-endian float32, which OpenAI's own client asks for."""
    if form == "float":
        return numbers
    return base64.b64encode(np.asarray(numbers, dtype="<f4").tobytes()).decode()
