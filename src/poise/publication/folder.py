"""The exported folder: weights, settings, tokenizer, golden scores and card, checked by plain transformers before it is there.

config.json          the family's own, older names beside the newer; everything of ours under ``poise_export``
model.safetensors    the backbone and ``score.weight`` [K, H] in float32
golden.jsonl         texts with the outputs that any engine must give for them
README.md            the model card, its figures in ``figures/``
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from poise import checkpoint
from poise.backbone import quiet
from poise.checkpoint import replaceable, replacing
from poise.errors import CheckpointError, ConfigError, unknown_choice
from poise.export import PlainClassifier, plain_classifier
from poise.legacy_settings import legacy_settings
from poise.model import RewardModel
from poise.publication.card import About, write_card
from poise.publication.forms import PlainForm, params_form, scalar_form
from poise.publication.golden import golden_of, write_golden
from poise.publication.texts import golden_texts, plain_tokenizer
from poise.publication.verification import Verification, verify_folder
from poise.version import __version__

Form = Literal["scalar", "params", "both", "poise"]
FORMS = get_args(Form)
KEY, SCHEMA_VERSION = "poise_export", 1


@dataclass(frozen=True)
class Export:
    """A folder that was written, in which form, and how well it reproduces the golden scores."""

    folder: Path
    form: str
    verification: Verification


def export(model: RewardModel, out: str | Path, form: str = "scalar", about: About | None = None) -> list[Export]:
    """Write the model for others; ``both`` makes ``scalar/`` and ``params/`` in ``out``.

    Raises ``CheckpointError``, with nothing written, where the form cannot say what the model says, or where plain
    transformers does not reproduce the golden scores.
    """
    folder, about = Path(out), about or About()
    if form not in FORMS:
        raise ConfigError(unknown_choice("form", form, FORMS))
    if form == "poise":
        return [_export_checkpoint(model, folder, about)]
    kinds = ("scalar", "params") if form == "both" else (form,)
    forms = [scalar_form(model) if kind == "scalar" else params_form(model) for kind in kinds]
    places = [folder / kind if form == "both" else folder for kind in kinds]
    for place in places:
        _check_place(place)
    return [_export_plain(model, one, place, about) for one, place in zip(forms, places, strict=True)]


def _check_place(folder: Path) -> None:
    if folder.exists() and not (is_export(folder) or replaceable(folder)):
        raise CheckpointError(f"{folder} exists and is no exported model; choose another folder")


def is_export(folder: Path) -> bool:
    """Whether the folder says that it was exported by poise."""
    try:
        return KEY in json.loads((folder / "config.json").read_text("utf8"))
    except (OSError, ValueError, TypeError):
        return False


def _export_checkpoint(model: RewardModel, folder: Path, about: About) -> Export:
    model.save(folder, include_backbone=True)
    write_card(folder, model, None, about)
    return Export(folder, "poise", verify_folder(folder, device="cpu"))


def _export_plain(model: RewardModel, form: PlainForm, folder: Path, about: About) -> Export:
    classifier = plain_classifier(model.backbone, form.weight, form.names)
    with replacing(folder) as temporary:
        with quiet():
            tokenizer = plain_tokenizer(model, temporary)
            golden = golden_of(model, form, golden_texts(model, tokenizer))
            state = _with_rows(classifier, len(tokenizer))
            classifier.model.config.pad_token_id = tokenizer.pad_token_id
            classifier.model.save_pretrained(temporary, state_dict=state)
        _settle_config(temporary / "config.json", _facts(model, form))
        write_golden(temporary, golden)
        verification = verify_folder(temporary, device="cpu")
        if not verification.agrees:
            worst = verification.worst
            raise CheckpointError(
                f"{folder}: plain transformers gives {worst.found} for the golden text {worst.text!r} ({worst.value}), "
                f"poise {worst.known}; this family or tokenizer cannot be exported, use --form poise"
            )
        write_card(temporary, model, form, about, golden)
    return Export(folder, form.kind, verification)


def _with_rows(classifier: PlainClassifier, tokens: int) -> dict[str, Tensor]:
    """The state, with input embeddings of 0 for tokens that the tokenizer has beyond them."""
    state, model = classifier.state(), classifier.model
    embedding = model.get_input_embeddings().weight
    missing = tokens - embedding.shape[0]
    if missing > 0:
        grown = torch.cat([embedding.detach(), embedding.new_zeros(missing, embedding.shape[1])])
        state |= {name: grown for name, tensor in model.named_parameters() if tensor is embedding}
        model.config.get_text_config().vocab_size = tokens
    return state


def _settle_config(path: Path, facts: Mapping[str, Any]) -> None:
    config = json.loads(path.read_text(encoding="utf8"))
    config.pop(checkpoint.KEY, None)  # a backbone that came with a checkpoint brings its key along
    config |= legacy_settings(config) | {KEY: dict(facts)}
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf8")


def _facts(model: RewardModel, form: PlainForm) -> dict[str, Any]:
    """What readers of the outputs need to know."""
    backbone = model.backbone
    return {
        "schema_version": SCHEMA_VERSION,
        "poise_version": __version__,
        "form": form.kind,
        "method": model.method.name,
        "names": list(form.names),
        "offset": form.offset,
        "temperature": form.temperature,
        "read_out": None if form.reads is None else asdict(form.reads),
        "pooling": backbone.pooling,
        "max_length": backbone.max_length,
        "template_sha256": backbone.encoder.template_sha256,
    }
