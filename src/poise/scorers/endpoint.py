"""A server that scores: ``POST`` of prompts with their responses, a number (or a distribution) for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from poise.client import Client, Options
from poise.data.records import text_length
from poise.errors import PoiseError, ServerError
from poise.evaluation.belief_table import REWARD
from poise.evaluation.predictions import Scored
from poise.scorers.base import Scorer, Texts, point

INFO_SECONDS = 10.0


class Endpoint(Scorer):
    """``{"inputs": [{"prompt", "responses"}]}`` → ``{"data": [{"score", …}]}``, one entry per response in order.

    A poise server gives whole distributions, and cuts what is too long at its end, which is counted, as benchmarks want it;
    any other may give ``num_tokens`` and ``truncated``. An overloaded server is asked again after its Retry-After. The
    revision that a poise server names is among the ``facts``: another model at the same address is another scorer. ``raw``
    asks for rewards without the calibration, which then is no such fact.
    """

    def __init__(self, url: str, *, raw: bool = False) -> None:
        self.url = url
        self.options = Options(include=["params"], truncation="right")
        self.facts: Mapping[str, Any] = {"name": url, "kind": "endpoint"} | self._served()
        if raw:  # said only then: another server may not know the word
            self.options["raw"] = True
            self.facts = {name: fact for name, fact in self.facts.items() if name != "calibration"} | {"raw": True}

    def score(self, texts: Texts) -> Scored:  # noqa: D102
        prompts, responses = ([text[side] for text in texts] for side in (0, 1))
        with Client(self.url) as client:
            said = client.rewards(prompts, responses, **self.options)
        now = {"revision": said.revision, "calibration": said.calibration}
        if any(self.facts.get(name, fact) != fact for name, fact in now.items()):
            raise ServerError(f"{self.url} changed its model or calibration while it was asked; evaluate again")
        characters = (text_length(p) + text_length(r) for p, r in texts)
        tokens = [n if row.num_tokens is None else row.num_tokens for row, n in zip(said.rows, characters, strict=True)]
        belief = point(said.scores, self.url) if said.distribution is None else said.distribution
        return Scored({REWARD: belief}, tokens, [int(row.truncated) for row in said.rows], [0] * len(texts))

    def _served(self) -> dict[str, Any]:
        """What a poise server says of the model that answers where none is named; nothing of any other server."""
        try:
            with Client(self.url, tries=1, timeout=INFO_SECONDS) as client:
                model, *_ = client.info()["models"]
                return {"model": model["name"], "revision": model["revision"], "calibration": model["calibration"]}
        except (PoiseError, LookupError, TypeError, ValueError):
            return {}
