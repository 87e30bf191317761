"""A plain ``…ForSequenceClassification`` checkpoint with one output: the form in which most reward models are published."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from poise import aliases
from poise.backbone import (
    BackboneConfig,
    Row,
    device_of,
    dtype_of,
    explained,
    load_encoder,
    loading_options,
    padded_inputs,
    plan_batches,
)
from poise.checkpoint import is_checkpoint
from poise.data.chat import ChatEncoder
from poise.errors import BackboneError
from poise.evaluation.belief_table import REWARD
from poise.evaluation.encoding import conversation, encode
from poise.evaluation.predictions import Scored
from poise.scorers.base import Scorer, Texts, point, scored

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class Classifier(Scorer):
    """Scores are the raw logit, never its sigmoid, so that differences mean what they meant in training.

    Whatever the precision of the model, its head computes in float32: bfloat16 has eight bits, and would tie close responses.
    """

    def __init__(self, model: Any, encoder: ChatEncoder, config: BackboneConfig) -> None:
        self.model, self.encoder = _with_exact_head(model.eval()), encoder
        tokenizer = encoder.tokenizer
        self.segments = "token_type_ids" in tokenizer.model_input_names
        self.facts: Mapping[str, Any] = {
            "name": config.name,
            "kind": "sequence classifier",
            "revision": config.revision,
            "dtype": str(model.dtype).removeprefix("torch."),
            "max_length": encoder.max_length,
            "template_sha256": encoder.template_sha256,
        }
        if (
            model.config.pad_token_id is None
        ):  # the model finds a text's end by this id, and refuses batches without one
            model.config.pad_token_id = tokenizer.pad_token_id
        self.pad = model.config.pad_token_id

    @staticmethod
    def recognises(name: str) -> bool:
        """Whether a folder says that it is such a model and not one of ours; or the name is a hub id."""
        folder = Path(name)
        if not folder.exists():
            return HUB_ID.fullmatch(name) is not None
        try:
            settings = json.loads((folder / "config.json").read_text("utf8"))
            return not is_checkpoint(folder) and str(settings["architectures"][0]).endswith("ForSequenceClassification")
        except (OSError, ValueError, TypeError, LookupError):
            return False

    @classmethod
    def load(cls, name: str, *, device: str = "auto") -> Classifier:
        """From a folder or a hub id. Raises ``BackboneError`` for a random head, or one with several outputs."""
        config, place = BackboneConfig(name=name), device_of(device)
        source = aliases.resolve(name)
        with explained(name, source):
            settings = AutoConfig.from_pretrained(source, **loading_options(config))
            if settings.num_labels != 1:
                raise BackboneError(
                    f"{name!r} is a classifier with {settings.num_labels} outputs; a reward is one: give a model with "
                    "num_labels=1, or a function that reads its outputs"
                )
            model, info = AutoModelForSequenceClassification.from_pretrained(
                source,
                dtype=dtype_of("auto", place),
                use_safetensors=True,
                output_loading_info=True,
                **loading_options(config),
            )
        if info["missing_keys"]:
            raise BackboneError(
                f"{name!r} lacks the weights of {min(info['missing_keys'])}, which would be random; give a reward model"
            )
        return cls(model.to(place), load_encoder(config), config)

    @torch.inference_mode()
    def score(self, texts: Texts) -> Scored:  # noqa: D102
        meant = texts if self.encoder.template is None else [conversation(*text) for text in texts]
        encoded = encode(self.encoder, meant, str(self.facts["name"]))
        scores = torch.empty(len(texts))
        rows = [Row(one.ids, one.prompt_length) for one in encoded]
        for batch in plan_batches(rows, self.encoder.max_length):
            scores[batch] = self._logits([rows[i] for i in batch])
        return scored({REWARD: point(scores.numpy(), str(self.facts["name"]))}, encoded)

    def _logits(self, rows: list[Row]) -> torch.Tensor:
        if self.pad is None:  # without an id to find ends by, one row at a time and nothing padded
            return torch.cat([self._run({"input_ids": torch.tensor([row.ids])}) for row in rows])
        inputs = padded_inputs(rows, self.encoder.max_length, segments=self.segments, pad=self.pad)
        return self._run(inputs)

    def _run(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        logits: torch.Tensor = self.model(**{k: v.to(self.model.device) for k, v in inputs.items()}).logits
        return logits[:, 0].float().cpu()


def _with_exact_head(model: Any) -> Any:
    """The model with everything after its backbone in float32."""
    for name, part in model.named_children():
        if name != model.base_model_prefix:
            part.float().register_forward_pre_hook(lambda _, states: tuple(one.float() for one in states))
    return model
