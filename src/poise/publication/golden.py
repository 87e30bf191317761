"""golden.jsonl of an exported folder: texts with the outputs they must have, whoever computes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from poise.checkpoint import GOLDEN
from poise.errors import CheckpointError
from poise.golden import first_parameters
from poise.model import RewardModel
from poise.publication.forms import PlainForm
from poise.publication.texts import GoldenText

TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05, "float16": 0.01}
ENGINE_TOLERANCE = {"float32": 0.01, "bfloat16": 0.05, "float16": 0.02}


class PlainGolden(BaseModel):
    """One text. ``raw`` [K]: the outputs of the plain model, the reward first where there is one.

    ``rendered``: the text is what the chat template makes of the messages. ``pool_index`` is the token whose state is read. ``tolerance`` and, for other kernels, ``engine_tolerance`` say how far a
    value v may be off, in units of 1 + |v|.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    messages: list[dict[str, str]]
    text: str
    rendered: bool
    text_pair: str | None
    input_ids: list[int]
    num_tokens: int
    pool_index: int
    raw: list[float]
    params: dict[str, list[float] | float]
    dtype: str
    tolerance: float
    engine_tolerance: float


@torch.inference_mode()
def golden_of(model: RewardModel, form: PlainForm, texts: Sequence[GoldenText]) -> list[PlainGolden]:
    """What poise itself says about the texts, in the outputs of ``form``."""
    found = []
    dtype = str(model.backbone.dtype).removeprefix("torch.")
    for text in texts:
        raw = form.outputs(model.features([text.encoded]).response)
        reward = None if form.reads is None else form.reads.belief(raw)
        values = {} if reward is None else first_parameters(reward)
        last = len(text.input_ids) - 1
        found.append(
            PlainGolden(
                id=text.id,
                messages=[m._asdict() for m in text.messages],
                text=text.text,
                rendered=text.rendered,
                text_pair=text.text_pair,
                input_ids=list(text.input_ids),
                num_tokens=len(text.input_ids),
                pool_index=last if model.backbone.pooling == "last" else 0,
                raw=raw[0].tolist(),
                params=values,
                dtype=dtype,
                tolerance=TOLERANCE[dtype],
                engine_tolerance=ENGINE_TOLERANCE[dtype],
            )
        )
    return found


def write_golden(folder: Path, golden: Sequence[PlainGolden]) -> None:
    """Write golden.jsonl."""
    lines = "".join(one.model_dump_json() + "\n" for one in golden)
    (folder / GOLDEN).write_text(lines, encoding="utf8")


def read_plain_golden(folder: Path) -> list[PlainGolden]:
    """Read golden.jsonl. Raises ``CheckpointError`` where there is none or it is not understood."""
    path = folder / GOLDEN
    try:
        lines = path.read_text(encoding="utf8").splitlines()
        golden = [PlainGolden.model_validate_json(line) for line in lines if line]
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has no {GOLDEN}; export the run again") from None
    except (OSError, ValueError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: cannot be read ({reason}); export the run again") from None
    if not golden:
        raise CheckpointError(f"{path} has no golden scores; export the run again")
    return golden
