"""A reward model in the terms of transformers: a plain ``…ForSequenceClassification`` that any engine can load."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from poise.backbone import Backbone
from poise.checkpoint import SCORE
from poise.errors import CheckpointError
from poise.methods import Method

# the classification heads of encoders that read the first token: (first layer, last layer, activation between them)
ENCODER_HEADS = {
    "bert": ("bert.pooler.dense", "classifier", "tanh"),
    "roberta": ("classifier.dense", "classifier.out_proj", "tanh"),
    "xlm-roberta": ("classifier.dense", "classifier.out_proj", "tanh"),
    "camembert": ("classifier.dense", "classifier.out_proj", "tanh"),
    "distilbert": ("pre_classifier", "classifier", "relu"),
    "electra": ("classifier.dense", "classifier.out_proj", "gelu"),
    "deberta-v2": ("pooler.dense", "classifier", "gelu"),
}
NEARLY_LINEAR = 2.0**-16  # tanh(εx)/ε is x to float32's precision for |x| < 20


class PlainClassifier(NamedTuple):
    """A classifier that shares its backbone's modules, and what its state is beside theirs."""

    model: Any
    head: dict[str, Tensor]

    def state(self) -> dict[str, Tensor]:
        """Everything to be saved."""
        return {**self.model.state_dict(), **self.head}


def sequence_classifier(backbone: Backbone, method: Method[Any, Any]) -> Any | None:
    """The whole model as transformers' own sequence classifier, or None where it cannot be said in its terms.

    It can where the head is one linear map on the last token and nothing else (no scale, no learnt link).
    """
    head = method.linear_head()
    linear_only = head is not None and set(method.state_dict()) == {SCORE, "input_scale"} and method.input_scale == 1
    if head is None or not linear_only or backbone.pooling != "last":
        return None
    names = ["reward"] if head.out_features == 1 else [f"param_{i}" for i in range(head.out_features)]
    model = _decoder_class(backbone, names)
    if model is not None:
        model.score = head
    return model


def plain_classifier(backbone: Backbone, weight: Tensor, names: Sequence[str]) -> PlainClassifier:
    """The classifier with outputs ``weight`` [K, H] · state.

    Raises ``CheckpointError`` where transformers has no class that reads the state this backbone is read by.
    """
    if backbone.encoder.instruction is not None:
        raise CheckpointError(
            "the head reads the state in which the model would answer a rating instruction, which no plain classifier asks"
        )
    config: Any = backbone.model.config
    kind: str = config.model_type
    if backbone.causal:
        model = _decoder_class(backbone, names) if backbone.pooling == "last" else None
        if model is None:
            raise CheckpointError(
                f"transformers has no {kind} classifier with one linear layer on the {backbone.pooling} state; "
                "train a decoder with pooling: last"
            )
        return PlainClassifier(model, {SCORE: weight.float().cpu()})
    if kind not in ENCODER_HEADS or backbone.pooling != "cls":
        raise CheckpointError(
            f"transformers has no {kind} classifier that reads the {backbone.pooling} state as it is; encoders that can "
            f"be exported are {', '.join(sorted(ENCODER_HEADS))} with pooling: cls"
        )
    return _encoder_class(backbone, weight, names, ENCODER_HEADS[kind])


def _settings(backbone: Backbone, names: Sequence[str]) -> Any:
    config: Any = type(backbone.model.config).from_dict(backbone.model.config.to_dict())  # type: ignore[union-attr, operator]
    config.num_labels = len(names)
    config.id2label, config.label2id = dict(enumerate(names)), {n: i for i, n in enumerate(names)}
    config.problem_type = "regression"
    config.use_cache = False
    return config


def _decoder_class(backbone: Backbone, names: Sequence[str]) -> Any | None:
    config = _settings(backbone, names)
    # transformers pools before the first pad id from the right: where that is the end of the text, it must know no pad
    tokenizer = backbone.tokenizer
    config.pad_token_id = None if tokenizer.pad_token_id == tokenizer.eos_token_id else tokenizer.pad_token_id
    try:
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config)
    except ValueError:  # no such class for this architecture
        return None
    if not isinstance(getattr(model, "score", None), nn.Linear) or model.score.bias is not None:
        return None
    setattr(model, model.base_model_prefix, backbone.model)
    return model


def _encoder_class(
    backbone: Backbone, weight: Tensor, names: Sequence[str], layers: tuple[str, str, str]
) -> PlainClassifier:
    """The family's own head, with weights under which its activation drops out.

    relu(x) − relu(−x) = x, the same for gelu, and tanh is the identity near 0.
    """
    first, last, activation = layers
    outputs, width = weight.shape
    paired = activation != "tanh"
    if outputs * (1 + paired) > width:
        raise CheckpointError(f"{outputs} outputs do not fit through a head of width {width}; export the scalar form")
    model = AutoModelForSequenceClassification.from_config(_settings(backbone, names))
    setattr(model, model.base_model_prefix, backbone.model)
    inner, outer = torch.zeros(width, width, dtype=torch.float64), torch.zeros(outputs, width, dtype=torch.float64)
    rows = torch.arange(outputs)
    if paired:
        inner[rows], inner[outputs + rows] = weight.double(), -weight.double()
        outer[rows, rows], outer[rows, outputs + rows] = 1.0, -1.0
    else:
        inner[rows], outer[rows, rows] = NEARLY_LINEAR * weight.double(), 1 / NEARLY_LINEAR
    head = {
        f"{first}.weight": inner.float(),
        f"{first}.bias": torch.zeros(width),
        f"{last}.weight": outer.float(),
        f"{last}.bias": torch.zeros(outputs),
    }
    return PlainClassifier(model, head)
