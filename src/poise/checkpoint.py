"""The checkpoint folder and its version: write it whole or not at all, read it, refuse what is not ours.

config.json          the backbone's own config; everything of ours under the one key ``reward_distribution``
model.safetensors    the backbone, where it is included; with ``score.weight`` where the head is one linear map
head.safetensors     the head, otherwise
tokenizer files      as the model read them in training
golden.jsonl         texts with the scores they had when the checkpoint was written, checked again on load
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from poise import output
from poise.calibration import Calibration
from poise.errors import CheckpointError
from poise.legacy_settings import legacy_settings
from poise.version import __version__

SCHEMA_VERSION = 2
KEY = "reward_distribution"
CONFIG = "config.json"
HEAD = "head.safetensors"
GOLDEN = "golden.jsonl"
SCORE = "score.weight"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BackboneReference(_Strict):
    """Which backbone the head was trained on. ``included``: its weights are in this folder."""

    name: str
    revision: str | None
    dtype: str
    pooling: str
    max_length: int
    truncate: str
    fingerprint: str
    included: bool
    trust_remote_code: bool = False
    readout: str = "response"
    rating_instruction: str | None = None


class GoldenScore(_Strict):
    """A text with what the model said about it when it was saved. ``score`` is the mean; ``params`` is by name.

    ``tolerance`` is how far each value v may be off, in units of 1 + |v|.
    """

    id: str
    messages: list[dict[str, str]]
    input_ids: list[int]
    score: float
    params: dict[str, list[float] | float]
    dtype: str
    tolerance: float


class Metadata(_Strict):
    """Everything that is needed to score as in training, apart from weights and tokenizer.

    ``scales``: (lowest, highest) rating of each attribute that the head knows, as the data had it.
    """

    schema_version: int = SCHEMA_VERSION
    poise_version: str
    method: str
    options: dict[str, Any]
    hidden_size: int
    family: str
    param_names: list[str]
    conversational: bool
    scales: dict[str, tuple[float, float]] = {}
    template_sha256: str
    backbone: BackboneReference
    calibration: Calibration | None = None


def write(
    folder: Path,
    metadata: Metadata,
    head: dict[str, Tensor],
    golden: list[GoldenScore],
    save_backbone: Callable[[Path], None],
) -> None:
    """Write a checkpoint: everything into a temporary sibling first, then one rename.

    ``save_backbone`` puts tokenizer, config.json and (where included) model.safetensors into the folder it is given;
    an empty ``head`` means that the head went into model.safetensors.
    """
    if folder.exists() and not replaceable(folder):
        raise CheckpointError(f"{folder} exists and is not a poise checkpoint; choose another folder")
    with replacing(folder) as temporary:
        save_backbone(temporary)
        path = temporary / CONFIG
        config = json.loads(path.read_text(encoding="utf8")) if path.exists() else {}
        config |= legacy_settings(config) | {KEY: metadata.model_dump(mode="json")}
        path.write_text(_json(config), encoding="utf8")
        if head:
            save_file({name: tensor.contiguous() for name, tensor in head.items()}, temporary / HEAD)
        lines = [g.model_dump_json() for g in golden]
        (temporary / GOLDEN).write_text("\n".join(lines) + "\n", encoding="utf8")


def recalibrate(folder: Path, calibration: Calibration | None) -> None:
    """Put a calibration into a checkpoint, or take it out: config.json is replaced whole, and no other file."""
    metadata = read_metadata(folder).model_copy(update={"calibration": calibration})
    path = folder / CONFIG
    config = json.loads(path.read_text(encoding="utf8")) | {KEY: metadata.model_dump(mode="json")}
    with output.replacing(path) as temporary:
        temporary.write_text(_json(config), encoding="utf8")


def _json(config: dict[str, Any]) -> str:
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n"


def is_checkpoint(folder: Path) -> bool:
    """Whether the folder says that it is a checkpoint of ours, whole or not."""
    try:
        return KEY in json.loads((folder / CONFIG).read_text("utf8"))
    except (OSError, ValueError, TypeError):
        return False


def replaceable(folder: Path) -> bool:
    """Whether nothing but a checkpoint of ours would be lost."""
    return folder.is_dir() and (is_checkpoint(folder) or not any(folder.iterdir()))


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of ``folder`` when the block succeeds and vanishes when it fails."""
    folder = folder.absolute()  # "." has a parent too
    temporary, old = (folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.{end}" for end in ("partial", "old"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        output.settle(temporary)
        if folder.exists():
            folder.rename(old)
        try:
            temporary.rename(folder)
        except BaseException:
            if old.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{folder}: cannot be written ({reason}); choose another folder") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_metadata(folder: Path) -> Metadata:
    """Our part of config.json. Raises ``CheckpointError`` where there is none or it is not understood."""
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder}: not a poise checkpoint (no config.json); give the folder of a trained run")
    try:
        config = json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); the checkpoint is damaged") from None
    if not isinstance(config, dict) or not isinstance(config.get(KEY), dict):
        raise CheckpointError(
            f"{folder}: a model folder, but not a poise checkpoint (no key {KEY!r} in config.json); give the folder of a trained run"
        )
    try:
        return Metadata.model_validate(upgraded(config[KEY], folder))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"{path}: {KEY}.{where}: {first['msg']}; the checkpoint is damaged") from None


def _drop_scalar(old: dict[str, Any]) -> dict[str, Any]:
    """Format 1 named the number that a reward stands for; since utilities have names, whoever asks says which."""
    return {name: value for name, value in old.items() if name != "scalar"}


UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _drop_scalar}
"""From the metadata of each earlier format to the next one's; docs/versions.md says what changed."""


def upgraded(metadata: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Metadata of any known format as that of today. Raises ``CheckpointError`` for one that only a newer poise knows."""
    version = metadata.get("schema_version")
    if not isinstance(version, int) or not (version == SCHEMA_VERSION or version in UPGRADES):
        by = metadata.get("poise_version", "an unknown version")
        raise CheckpointError(
            f"{folder}: checkpoint format {version}, written by poise {by}; this poise ({__version__}) reads formats "
            f"1 to {SCHEMA_VERSION}: install that version or a later one (pip install --upgrade poise)"
        )
    for step in range(version, SCHEMA_VERSION):
        metadata = UPGRADES[step](metadata) | {"schema_version": step + 1}
    return metadata


def read_head(folder: Path) -> dict[str, Tensor]:
    """The head's tensors. A checkpoint without a head is refused: it would score at random."""
    path = folder / HEAD
    try:
        if path.exists():
            tensors: dict[str, Tensor] = load_file(path)
            return tensors
        for shard in sorted(folder.glob("model*.safetensors")):
            with safe_open(shard, framework="pt") as file:
                if SCORE in file.keys():  # noqa: SIM118 — safe_open is no mapping
                    return {SCORE: file.get_tensor(SCORE)}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder}: the head cannot be read ({error}); the checkpoint is damaged") from None
    raise CheckpointError(
        f"{folder}: has no head ({HEAD} or {SCORE}); its scores would be random, so give a whole checkpoint"
    )


def read_golden(folder: Path) -> list[GoldenScore]:
    """The golden scores; none where the file is absent."""
    path = folder / GOLDEN
    if not path.exists():
        return []
    try:
        return [GoldenScore.model_validate_json(line) for line in path.read_text(encoding="utf8").splitlines() if line]
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({str(error).splitlines()[0]}); the checkpoint is damaged"
        ) from None
