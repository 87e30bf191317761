"""A function of the user's own: ``score(prompts, responses)`` → numbers, or a reward distribution."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from poise.data.records import text_length
from poise.distributions import RewardDistribution
from poise.errors import ConfigError, DataError
from poise.evaluation.belief_table import REWARD
from poise.evaluation.items import plain
from poise.evaluation.predictions import Scored
from poise.scorers.base import Scorer, Texts, point

Scoring = Callable[[list[Any], list[Any]], Any]


class Function(Scorer):
    """``function`` gets prompts and responses, strings or lists of ``{"role", "content"}``, and returns one score each.

    Tokens are not known here: characters stand in their place.
    """

    def __init__(self, function: Scoring, name: str) -> None:
        self.function = function
        self.facts: Mapping[str, Any] = {"name": name, "kind": "function"}

    @classmethod
    def load(cls, place: str, name: str) -> Function:
        """``name`` in a Python file or an importable module; raises ``ConfigError`` where it is not there."""
        module = _module(place)
        found = getattr(module, name, None)
        if not callable(found):
            raise ConfigError(f"{place} has no function {name!r}; give FILE.py:FUNCTION")
        scorer = cls(found, f"{place}:{name}")
        if module.__file__:  # an evaluation that goes on after the function was mended must score all anew
            scorer.facts = {**scorer.facts, "sha256": hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()}
        return scorer

    def score(self, texts: Texts) -> Scored:  # noqa: D102
        prompts, responses = ([plain(text) for text in side] for side in zip(*texts, strict=True))
        found = self.function(prompts, responses)
        belief = found if isinstance(found, RewardDistribution) else point(found, str(self.facts["name"]))
        if len(belief) != len(texts):
            raise DataError(f"{self.facts['name']} gave {len(belief)} scores for {len(texts)} responses; give one each")
        none = [0] * len(texts)
        return Scored({REWARD: belief}, [text_length(p) + text_length(r) for p, r in texts], none, none)


def _module(place: str) -> ModuleType:
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        if spec is None or spec.loader is None:
            raise ConfigError(f"{place} is not a Python file; give FILE.py:FUNCTION")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except (ImportError, OSError, SyntaxError) as error:
        raise ConfigError(f"{place} cannot be imported ({error}); give FILE.py:FUNCTION") from None
    return module
