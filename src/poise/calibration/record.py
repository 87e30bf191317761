"""What every stored calibration says about itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Stored(BaseModel):
    """Part of a checkpoint's metadata: immutable, and refused where a field is unknown."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Source(Stored):
    """The data of a calibration: a hash of texts and labels in their order, and its size."""

    sha256: str
    rows: int = Field(ge=1)
    prompts: int = Field(ge=1)

    @classmethod
    def of(cls, records: Iterable[Any], prompts: int) -> Source:
        """Of ``records``, each of which says all that matters in its ``repr``."""
        digest, rows = hashlib.sha256(), 0
        for rows, record in enumerate(records, start=1):  # noqa: B007 — counted
            digest.update(repr(record).encode("utf8", "surrogatepass"))
        return cls(sha256=digest.hexdigest(), rows=rows, prompts=prompts)
