"""The reference: how a model's scores were distributed when it was trained, as sketches of a few thousand numbers.

``reference.json`` lies in the checkpoint folder and travels with the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from poise.errors import CheckpointError
from poise.evaluation.metrics.rows import FloatArray
from poise.model import RewardModel
from poise.monitoring.observe import Observed
from poise.output import replacing

FILE = "reference.json"
RESOLUTION = 2048
"""Values of a sketch at most; more rows are stored as so many quantiles."""
DIGITS = 6


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Sketch(_Strict):
    """``rows`` numbers as their sorted ``values``, or as quantiles at (i + ½)/RESOLUTION where there were more.

    ``effective`` is how many independent rows they are worth: fewer where those of one prompt resemble each other.
    """

    values: list[float]
    rows: int
    prompts: int
    effective: float

    @property
    def blur(self) -> float:
        """How far the sketch's distribution function may be off."""
        return 0.0 if self.rows == len(self.values) else 0.5 / len(self.values)


class Reference(_Strict):
    """Sketches by measure, of what the head with the hash ``head_sha256`` said about ``source``."""

    schema_version: Literal[1] = 1
    source: str
    head_sha256: str
    measures: dict[str, Sketch]


def reference_of(model: RewardModel, observed: Mapping[str, Observed], source: str) -> Reference:
    """The reference of a model from what it said about responses that stand for its use."""
    measures = {name: sketch(one) for name, one in observed.items()}
    return Reference(source=source, head_sha256=str(model.facts()["head_sha256"]), measures=measures)


def sketch(observed: Observed) -> Sketch:
    """One measure, small enough to keep."""
    values, rows = np.sort(observed.values), len(observed.values)
    if rows > RESOLUTION:
        values = np.quantile(values, (np.arange(RESOLUTION) + 0.5) / RESOLUTION, method="inverted_cdf")
    return Sketch(
        values=[float(f"{value:.{DIGITS}g}") for value in values],
        rows=rows,
        prompts=len(set(observed.prompts)),
        effective=effective_rows(observed),
    )


def effective_rows(observed: Observed) -> float:
    """n over the design effect: how much larger the variance of the distribution function is, by prompt, than for
    independent rows, on average over its deciles (Kish 1965; never below 1).
    """
    values, rows = observed.values, len(observed.values)
    numbers: dict[object, int] = {}
    group = np.array([numbers.setdefault(prompt, len(numbers)) for prompt in observed.prompts])
    if len(numbers) < 2:
        return 1.0
    sizes = np.bincount(group)
    clustered = independent = 0.0
    for level in np.linspace(0.1, 0.9, 9):
        below = (values <= np.quantile(values, level)).astype(np.float64)
        share = below.mean()
        deviations: FloatArray = np.bincount(group, below) - share * sizes
        clustered += float((deviations**2).sum()) / rows**2 * len(numbers) / (len(numbers) - 1)
        independent += float(share * (1 - share)) / rows
    return rows / max(1.0, clustered / independent) if independent > 0 else float(len(numbers))


def write_reference(folder: Path, reference: Reference) -> None:
    """Into a checkpoint folder, in place of an earlier one."""
    with replacing(folder / FILE) as temporary:
        temporary.write_text(reference.model_dump_json() + "\n", encoding="utf8")


def read_reference(folder: Path, model: RewardModel) -> Reference:
    """The reference in a checkpoint folder. CheckpointError where there is none, or it is another model's."""
    path = folder / FILE
    make = "make one with poise monitor RUN DATA --make-reference, on data that stands for the model's use"
    if not path.exists():
        raise CheckpointError(f"{folder} holds no reference ({FILE}) to compare with; {make}")
    try:
        reference = Reference.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CheckpointError(f"{path}: not a reference of poise ({str(error).splitlines()[0]}); {make}") from None
    if reference.head_sha256 != model.facts()["head_sha256"]:
        raise CheckpointError(f"{path}: the reference of another model, whose rewards are on another scale; {make}")
    return reference
