"""The versioned record of one evaluation: what every table, figure and verdict is made from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from poise.errors import DataError
from poise.evaluation.bootstrap import Interval

SCHEMA_VERSION: Literal[1] = 1

__all__ = ["SCHEMA_VERSION", "CurvePoint", "EvaluationData", "EvaluationResult", "Interval", "Record", "ReliabilityBin"]


class Record(BaseModel):
    """A part of a result file: immutable, no unknown fields, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class EvaluationData(Record):
    """What was evaluated. ``label_kind`` is "soft" where raters split in other shares than ½ (votes), else "hard"."""

    source: str
    rows: int = Field(ge=1)
    prompts: int = Field(ge=1)
    rows_dropped: int = Field(default=0, ge=0)
    label_kind: Literal["hard", "soft"]
    undirected: int = Field(default=0, ge=0, description="rows labelled ½: no part in accuracy")


class ReliabilityBin(Record):
    """Mean confidence ``p``, share ``y`` that agreed with the model, its 95 % interval, and the number of pairs."""

    p: float
    y: float
    low: float
    high: float
    count: int


class CurvePoint(Record):
    """A point of a curve: ``y`` at ``x``."""

    x: float
    y: Interval


class EvaluationResult(Record):
    """One model on one set of pairs. Metrics that are undefined on the rows are absent, never NaN."""

    schema_version: Literal[1] = SCHEMA_VERSION
    data: EvaluationData
    metrics: dict[str, Interval]
    tie_rate: float
    baselines: dict[str, Interval] = {}
    reliability: list[ReliabilityBin] = []
    histogram: list[int] = Field(default=[], description="pairs per equal-width bin of confidence on [½, 1]")
    abstention: list[CurvePoint] = Field(default=[], description="accuracy on the rest at a budget of abstentions")
    label_ceiling: float | None = None
    truncation: dict[str, int] = {}
    model: dict[str, str | None] = {}
    resamples: int = 0
    seed: int = 0

    def to_json(self) -> str:
        """Indented JSON, ending in a newline; raises DataError rather than write NaN or infinity."""
        try:
            return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        except ValueError as error:
            raise DataError("the evaluation result holds NaN or infinity; leave undefined metrics out") from error

    @classmethod
    def from_json(cls, text: str, *, where: str = "evaluation result") -> EvaluationResult:
        """Read ``to_json``'s output; raises DataError that names ``where`` and the first field that is wrong."""
        try:
            content = json.loads(text, parse_constant=_refuse_constant)
        except ValueError as error:
            raise DataError(f"{where}: not JSON ({error}); run the evaluation again to rewrite it") from error
        if not isinstance(content, dict) or "schema_version" not in content:
            raise DataError(f"{where}: not an evaluation result; it has no field 'schema_version'")
        if content["schema_version"] != SCHEMA_VERSION:
            raise DataError(
                f"{where}: schema_version is {content['schema_version']!r}, this poise reads {SCHEMA_VERSION}; "
                "evaluate again, or read it with the version that wrote it"
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise DataError(f"{where}: field '{field}': {first['msg']}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``to_json`` to ``path``."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> EvaluationResult:
        """Read what ``save`` wrote."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read as an evaluation result ({error})") from error
        return cls.from_json(text, where=str(path))


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not allowed")
