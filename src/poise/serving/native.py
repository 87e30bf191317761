"""``POST /v1/rewards``: whole distributions, comparisons within a prompt, any utility."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from poise.data.chat import Encoded
from poise.errors import DataError
from poise.serving.belief import GroupReading, Question
from poise.serving.exchange import answer, house_of, note, parsed
from poise.serving.hosting import Hosted
from poise.serving.schema import MOST_COMPARED, RewardsRequest


async def rewards(request: Request) -> Response:
    """Score responses: per response the score, and what is asked for of its distribution."""
    asked = await parsed(request, RewardsRequest)
    found = house_of(request).find(asked.model, asked.score.spec if asked.score else None)
    question = question_of(asked, found.utility)
    groups = await found.hosted.encode(lambda reader: reader.groups(asked.inputs, asked.truncation))
    if "prob_better" in asked.include and any(len(group) > MOST_COMPARED for group in groups):
        raise DataError(f"prob_better compares at most {MOST_COMPARED} responses to one prompt; send fewer")
    note(request, found.hosted.name, [row for group in groups for row in group])
    readings = await found.hosted.score(groups, question, asked.priority)
    return answer(body_of(request.scope["request_id"], found.hosted, groups, readings, asked))


def question_of(asked: RewardsRequest, utility: Any) -> Question:
    """What the request wants to know, as the scoring thread is asked."""
    include = frozenset(asked.include)
    return Question(
        utility,
        include,
        tuple(asked.quantile_levels) if "quantiles" in include else (),
        None if asked.weights is None else tuple(sorted(asked.weights.items())),
        asked.raw,
    )


def body_of(
    number: str,
    hosted: Hosted,
    groups: Sequence[Sequence[Encoded]],
    readings: Sequence[GroupReading],
    asked: RewardsRequest,
) -> dict[str, Any]:
    """The answer, rows in the order of the inputs."""
    data: list[dict[str, Any]] = []
    comparisons: list[dict[str, Any]] = []
    tokens = 0
    for group, (rows, reading) in enumerate(zip(groups, readings, strict=True)):
        first = len(data)
        for row, said in zip(rows, reading.rows, strict=True):
            tokens += len(row.ids)
            data.append(
                {
                    "index": len(data),
                    "group": group,
                    "object": "reward",
                    "score": said.score,
                    "distribution": said.distribution,
                    "epistemic": said.epistemic,
                    "num_tokens": len(row.ids),
                    "truncated": bool(row.cut or row.cut_response),
                }
            )
        for i, wins in enumerate(reading.wins or ()):
            for j in range(i + 1, len(wins)):
                comparisons.append({"group": group, "i": first + i, "j": first + j, "p_i_gt_j": wins[j]})
    return {
        "id": f"rewards-{number}",
        "object": "list",
        "created": int(time.time()),
        "model": hosted.name,
        "revision": hosted.revision,
        "calibration": None if asked.raw or asked.weights is not None else hosted.calibration,
        "family": readings[0].family if readings else None,
        "data": data,
        "comparisons": comparisons if "prob_better" in asked.include else None,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
