"""Golden scores over HTTP: our server's ``/v1/rewards``, else the ``/classify`` that vLLM has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from poise import checkpoint
from poise.client import Client
from poise.client.protocol import authorization
from poise.errors import CheckpointError, ServerError
from poise.model_folder import checkpoint_in
from poise.publication.folder import KEY
from poise.publication.golden import PlainGolden, read_plain_golden
from poise.publication.verification import Check, Verification, compared, made

CLASSIFY, INFO, SECONDS = "/classify", "/info", 120.0


def verify_url(url: str, folder: Path, *, transport: httpx.BaseTransport | None = None) -> Verification:
    """Have a server score the golden texts of ``folder``: an exported folder, a checkpoint or a run.

    A checkpoint's are asked of ``/v1/rewards``; an exported folder's of that too where the server is ours, else of
    ``/classify``. Raises ``ServerError`` where no usable answer comes, and ``CheckpointError`` for a folder without golden
    scores.
    """
    path = checkpoint_in(folder)
    with httpx.Client(timeout=SECONDS, transport=transport, headers=authorization()) as http:
        if checkpoint.is_checkpoint(path):
            return made(url, "/v1/rewards", _of_checkpoint(url, path, transport))
        golden = read_plain_golden(path)
        if urlsplit(url).path.rstrip("/") != CLASSIFY and _is_ours(http, url):
            return made(url, "/v1/rewards", _rewards(url, golden, path, transport))
        return made(url, CLASSIFY, _classify(http, _base(url) + CLASSIFY, golden))


def _base(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _is_ours(http: httpx.Client, url: str) -> bool:
    try:
        return http.get(_base(url) + INFO).status_code == httpx.codes.OK
    except httpx.TransportError as error:
        raise ServerError(f"{url}: no answer ({type(error).__name__}); check address and server") from None


def _of_checkpoint(url: str, folder: Path, transport: httpx.BaseTransport | None) -> list[Check]:
    golden = checkpoint.read_golden(folder)
    if not golden:
        raise CheckpointError(f"{folder} has no golden scores to check; write it again with this poise")
    inputs = [{"prompt": one.messages[:-1], "responses": [one.messages[-1:]]} for one in golden]
    with Client(url, transport=transport) as client:
        said = client.rewards_of(inputs, raw=True, include=["mean", "params"])
    assert said.distribution is not None
    values = {name: tensor.tolist() for name, tensor in said.distribution.row_parameters().items()}
    checks: list[Check] = []
    for i, one in enumerate(golden):
        found = {"score": said.rows[i].mean, **{name: rows[i] for name, rows in values.items()}}
        checks += compared(one.id, {"score": one.score, **one.params}, found, one.tolerance)
        checks += _tokens(one.id, len(one.input_ids), said.rows[i].num_tokens)
    return checks


def _rewards(url: str, golden: list[PlainGolden], folder: Path, transport: httpx.BaseTransport | None) -> list[Check]:
    """The mean reward that an exported folder's first output stands for."""
    facts = json.loads((folder / "config.json").read_text("utf8"))[KEY]
    inputs = [{"prompt": one.messages[:-1], "responses": [one.messages[-1:]]} for one in golden]
    with Client(url, transport=transport) as client:
        rows = client.rewards_of(inputs, include=["mean"]).rows
    checks: list[Check] = []
    for one, row in zip(golden, rows, strict=True):
        known = (one.raw[0] + facts["offset"]) * facts["temperature"]
        checks += compared(one.id, {"mean": known}, {"mean": row.mean}, one.engine_tolerance)
        checks += _tokens(one.id, one.num_tokens, row.num_tokens)
    return checks


def _classify(http: httpx.Client, url: str, golden: list[PlainGolden]) -> list[Check]:
    """Raw outputs; engines that apply a softmax or a sigmoid all the same are off."""
    answer = _posted(http, url, {"input": [one.text for one in golden], "use_activation": False})
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list) or len(data) != len(golden) or any("probs" not in entry for entry in data):
        raise ServerError(f'{url}: expected {{"data": [{{"probs"}}]}}, got {str(answer)[:200]}; is this vLLM\'s route?')
    checks: list[Check] = []
    for one, entry in zip(golden, data, strict=True):
        found = [float(value) for value in entry["probs"]]
        same = {"raw": found} if len(found) == len(one.raw) else {}
        checks += compared(one.id, {"raw": one.raw}, same, one.engine_tolerance)
    total = answer.get("usage", {}).get("prompt_tokens")
    return checks + _tokens("all", sum(one.num_tokens for one in golden), total)


def _posted(http: httpx.Client, url: str, body: dict[str, Any]) -> Any:
    try:
        reply = http.post(url, json=body)
    except httpx.TransportError as error:
        raise ServerError(f"{url}: no answer ({type(error).__name__}); check address and server") from None
    if reply.status_code != httpx.codes.OK:
        raise ServerError(f"{url}: HTTP {reply.status_code}, {reply.text[:200]}; check the server and its model")
    return reply.json()


def _tokens(text: str, known: int, found: int | None) -> list[Check]:
    return [] if found is None else [Check(text, "number of tokens", known, found, 0.0)]
