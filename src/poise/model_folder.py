"""A reward model on disk: backbone, method and what makes them score as in training, to and from a checkpoint folder."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from poise import checkpoint
from poise.backbone import Backbone, BackboneConfig, quiet
from poise.calibration import Calibration
from poise.checkpoint import SCORE, BackboneReference, GoldenScore, Metadata
from poise.data.ratings import Scales
from poise.distributions import RewardDistribution
from poise.errors import CheckpointError, ConfigError
from poise.export import sequence_classifier
from poise.methods import Method, method_class
from poise.version import __version__

CHECKPOINT = "checkpoint"
TRUST = "POISE_TRUST_REMOTE_CODE"
"""Names the backbones (separated by commas) whose own code may run when a checkpoint that asks for it is loaded."""


@dataclass(frozen=True)
class ModelParts:
    """What a checkpoint holds of a model. ``included``: the backbone's weights are in the folder."""

    backbone: Backbone
    method: Method[Any, Any]
    conversational: bool
    scales: Scales
    calibration: Calibration | None
    included: bool


def checkpoint_in(folder: str | Path) -> Path:
    """A checkpoint folder, or that of the run folder that holds one."""
    path = Path(folder)
    return path / CHECKPOINT if (path / CHECKPOINT).is_dir() else path


def run_of(folder: str | Path) -> Path:
    """The run folder that a checkpoint lies in, else the folder itself; absolute, so that it has a name."""
    path = Path(os.path.abspath(folder))
    return path.parent if path.name == CHECKPOINT else path


def write(folder: Path, parts: ModelParts, family: RewardDistribution, golden: list[GoldenScore]) -> None:
    """Write a checkpoint, whole or not at all; ``family`` is any uncalibrated prediction."""
    backbone, method = parts.backbone, parts.method
    classifier = sequence_classifier(backbone, method) if parts.included else None
    metadata = Metadata(
        poise_version=__version__,
        method=method.name,
        options=dict(vars(method.config)),
        hidden_size=backbone.hidden_size,
        family=family.family,
        param_names=list(family.parameters()),
        conversational=parts.conversational,
        scales=dict(parts.scales),
        template_sha256=backbone.encoder.template_sha256,
        backbone=BackboneReference(
            name=_lasting_name(backbone.config.name),
            revision=backbone.config.revision,
            dtype=str(backbone.dtype).removeprefix("torch."),
            pooling=backbone.pooling,
            max_length=backbone.max_length,
            truncate=backbone.config.truncate,
            fingerprint=backbone.fingerprint(),
            included=parts.included,
            trust_remote_code=backbone.config.trust_remote_code,
            readout="rating" if backbone.config.readout == "rating" else "response",
            rating_instruction=backbone.encoder.instruction,
        ),
        calibration=parts.calibration,
    )

    def save_backbone(target: Path) -> None:
        with quiet():
            backbone.tokenizer.save_pretrained(target)
            if classifier is not None:
                classifier.save_pretrained(target)
            elif parts.included:
                backbone.model.save_pretrained(target)  # type: ignore[operator]

    state = {} if classifier is not None else method.state_dict()
    checkpoint.write(folder, metadata, state, golden, save_backbone)


def read(path: Path, device: str) -> ModelParts:
    """Raises ``CheckpointError`` for a missing head, and for a backbone or template that is not that of training."""
    metadata = checkpoint.read_metadata(path)
    known = metadata.backbone
    method = _method(path, metadata)
    backbone = Backbone.load(
        BackboneConfig(
            name=str(path) if known.included else known.name,
            revision=None if known.included else known.revision,
            dtype=known.dtype,  # type: ignore[arg-type]
            pooling=known.pooling,  # type: ignore[arg-type]
            max_length=known.max_length,
            truncate=known.truncate,  # type: ignore[arg-type]
            device=device,
            trust_remote_code=_trusted(path, known),
            readout=known.readout,  # type: ignore[arg-type]
            rating_instruction=known.rating_instruction,
        )
    )
    if backbone.fingerprint() != known.fingerprint:
        raise CheckpointError(
            f"{path}: the backbone {known.name!r} is not the one of training (its weights differ); restore it"
        )
    if backbone.encoder.template_sha256 != metadata.template_sha256:
        raise CheckpointError(f"{path}: the tokenizer's chat template is not the one of training; restore its files")
    backbone.config = replace(backbone.config, name=known.name)
    return ModelParts(backbone, method, metadata.conversational, metadata.scales, metadata.calibration, known.included)


def _trusted(path: Path, known: BackboneReference) -> bool:
    """Whoever wrote a checkpoint trusted the code of its backbone; whoever loads it has not been asked yet."""
    if not known.trust_remote_code:
        return False
    if known.name not in os.environ.get(TRUST, "").split(","):
        raise CheckpointError(
            f"{path}: loading it would run code that comes with its backbone {known.name!r}; if you have read and trust that "
            f"code, set {TRUST}={known.name}"
        )
    return True


def _method(path: Path, metadata: Metadata) -> Method[Any, Any]:
    try:
        kind = method_class(metadata.method)
    except ConfigError as error:
        raise CheckpointError(
            f"{path}: {error}; a method of your own must be registered before its models are loaded"
        ) from None
    try:
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in metadata.options.items()}
        method = kind(kind.Config(**options), metadata.hidden_size)
        head = checkpoint.read_head(path)
        state = method.state_dict() | head if set(head) == {SCORE} else head
        method.load_state_dict(state)
    except (TypeError, RuntimeError, ConfigError) as error:
        first = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path}: the head does not fit method {metadata.method!r} ({first}); the checkpoint is damaged"
        ) from None
    return method


def _lasting_name(name: str) -> str:
    """A folder by its full path: the checkpoint will be read from elsewhere."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name
