"""Whatever can score a response, under one contract: a model of ours, a plain classifier, a judge, a function, a server.

``open_scorer`` reads the specification that the command line takes.
"""

from __future__ import annotations

from pathlib import Path

from poise.errors import ConfigError
from poise.scorers.base import Scorer, point
from poise.scorers.classifier import Classifier
from poise.scorers.endpoint import Endpoint
from poise.scorers.function import Function
from poise.scorers.judge import judge
from poise.scorers.own import Own

__all__ = ["Classifier", "Endpoint", "Function", "Own", "Scorer", "judge", "open_scorer", "point"]

FORMS = (
    "a run or checkpoint folder, a …ForSequenceClassification folder or hub id, judge:MODEL, FILE.py:FUNCTION, http://…"
)


def open_scorer(spec: str, *, device: str = "auto", raw: bool = False) -> Scorer:
    """A scorer by specification; see ``FORMS``. Raises ``ConfigError`` or ``CheckpointError`` for what is none of them.

    ``raw`` leaves the calibration of a run out, here or at a poise server; nothing else that scores has one.
    """
    if spec.startswith(("http://", "https://")):
        return Endpoint(spec, raw=raw)
    if spec.startswith("judge:"):
        return judge(spec.removeprefix("judge:"), device=device)
    file, colon, function = spec.rpartition(":")
    if colon and (file.endswith(".py") or not Path(spec).exists()) and function.isidentifier():
        return Function.load(file, function)
    if not spec.strip():
        raise ConfigError(f"no model was named; give {FORMS}")
    if Classifier.recognises(spec):
        return Classifier.load(spec, device=device)
    return Own.load(spec, device=device, raw=raw)
