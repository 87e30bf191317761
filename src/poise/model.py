"""A reward model as a thing: backbone + method. Texts in, a ``RewardDistribution`` out."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from poise import checkpoint, model_folder
from poise.backbone import Backbone
from poise.calibration import Calibration
from poise.checkpoint import GoldenScore
from poise.data import rows
from poise.data.chat import Encoded
from poise.data.ratings import Scales
from poise.data.records import Message, Text, as_messages
from poise.distributions import RewardDistribution
from poise.errors import CheckpointError, ConfigError, DataError, unknown_choice
from poise.extraction import Progress, extract
from poise.feature_cache import FeatureCache
from poise.features import Features
from poise.golden import check_golden_scores, golden_scores
from poise.methods import Method
from poise.model_folder import ModelParts

Prompt = str | Sequence[Mapping[str, str] | Message]
Response = str | Sequence[Mapping[str, str] | Message]


class RewardModel:
    """Reads prompt and response, returns what it believes about the reward.

    ``conversational`` says how plain strings are meant: as a user and an assistant message (as in training on
    conversations), or as bare text that is simply joined. ``scales`` are the (lowest, highest) ratings of the method's
    attributes in the training data. ``own_backbone``: its weights exist nowhere else, so ``save`` includes them.
    ``calibration`` is applied to every prediction.
    """

    def __init__(
        self,
        backbone: Backbone,
        method: Method[Any, Any],
        *,
        conversational: bool = True,
        scales: Scales | None = None,
        own_backbone: bool = False,
        calibration: Calibration | None = None,
    ) -> None:
        self.backbone = backbone
        self.method = method.eval()
        self.conversational = conversational
        self.scales = dict(scales or {})
        self.calibration = calibration
        self._sole_copy = own_backbone or backbone.config.name == IN_MEMORY

    @torch.inference_mode()
    def predict(
        self,
        prompts: Prompt | Sequence[Prompt],
        responses: Response | Sequence[Response],
        *,
        weights: Mapping[str, float] | None = None,
        cache: FeatureCache | None = None,
        progress: Progress | None = None,
    ) -> RewardDistribution:
        """The reward distributions [B] of B responses.

        ``prompts`` is one prompt for all responses, or one per response. A prompt or response is a string or a list of
        ``{"role", "content"}`` messages. ``weights`` (attribute → weight, at least 0, made to sum to 1) steers a method
        that knows attributes. Raises ``DataError`` where a text is empty or a response does not fit, and ``ConfigError``
        for weights that the method does not know.
        """
        features = self.features(self._encode(prompts, responses), cache, progress)
        return self.predict_features(features, weights=weights)

    @torch.inference_mode()
    def predict_ratings(
        self,
        prompts: Prompt | Sequence[Prompt],
        responses: Response | Sequence[Response],
        *,
        cache: FeatureCache | None = None,
        progress: Progress | None = None,
    ) -> dict[str, RewardDistribution]:
        """What raters would say about each attribute [B], on the scale of the training data; arguments as in ``predict``.

        Raises ``ConfigError`` where the method knows no attributes.
        """
        return self.rate_features(self.features(self._encode(prompts, responses), cache, progress))

    @torch.inference_mode()
    def predict_encoded(
        self, encoded: Sequence[Encoded], *, cache: FeatureCache | None = None, progress: Progress | None = None
    ) -> RewardDistribution:
        """The reward distributions [B] of texts that were encoded by this model's backbone."""
        return self.predict_features(self.features(encoded, cache, progress))

    @torch.inference_mode()
    def predict_features(self, features: Features, *, weights: Mapping[str, float] | None = None) -> RewardDistribution:
        """The reward distributions [B] of features; ``weights`` as in ``predict``.

        A reward steered by ``weights`` is not calibrated: nobody was asked what is better by them.
        """
        if weights is None:
            reward = self._in_blocks(features, lambda output: {"reward": output.reward})["reward"]
            return self.calibration.apply(reward) if self.calibration else reward
        given = attribute_weights(weights, self.method.attributes)
        return self._in_blocks(features, lambda output: {"reward": self.method.steered(output, given)})["reward"]

    @torch.inference_mode()
    def rate_features(self, features: Features) -> dict[str, RewardDistribution]:
        """``predict_ratings`` from features."""
        beliefs = self._in_blocks(features, self.method.of_attributes)
        if not beliefs:
            raise ConfigError(f"this {self.method.name} model predicts no ratings; train a method that learns them")
        ratings = {
            name: beliefs[name].affine(high - low, low) for name, (low, high) in self.scales.items() if name in beliefs
        }
        return self.calibration.apply_ratings(ratings) if self.calibration else ratings

    def _in_blocks(
        self, features: Features, read: Callable[[Any], Mapping[str, RewardDistribution]]
    ) -> dict[str, RewardDistribution]:
        """What ``read`` takes from the head's output [B]; the head runs in float32, row block by row block."""
        # fixed blocks: a matrix product rounds by its shape, and a row's score must not depend on its neighbours
        found: dict[str, list[RewardDistribution]] = {}
        with torch.autocast(features.response.device.type, enabled=False):
            for i in range(0, len(features), BLOCK):
                block = features[i : i + BLOCK]
                for name, belief in read(self.method(_padded(block))).items():
                    found.setdefault(name, []).append(belief[: len(block)])
        return {name: RewardDistribution.concatenate(blocks) for name, blocks in found.items()}

    def features(
        self, encoded: Sequence[Encoded], cache: FeatureCache | None = None, progress: Progress | None = None
    ) -> Features:
        """What the head reads of texts that were encoded by this model's backbone."""
        states = self.method.needs_prompt_state
        return extract(self.backbone, encoded, cache, prompt_states=states, progress=progress)

    def _encode(self, prompts: Any, responses: Any) -> list[Encoded]:
        encoded = self.backbone.encode(self._texts(prompts, responses))
        for number, row in enumerate(encoded):
            if row.problem:
                raise DataError(f"response {number}: {row.problem}; {row.remedy}")
        return encoded

    def _texts(self, prompts: Any, responses: Any) -> list[tuple[Text, Text]]:
        many = [responses] if _is_text(responses) else list(responses)
        each = [prompts] * len(many) if _is_text(prompts) else list(prompts)
        if not many:
            raise DataError("no response was given; give at least one")
        if len(each) != len(many):
            raise DataError(f"{len(each)} prompts for {len(many)} responses; give one prompt, or one per response")
        return [self._text(p, r, i) for i, (p, r) in enumerate(zip(each, many, strict=True))]

    def _text(self, prompt: Any, response: Any, number: int) -> tuple[Text, Text]:
        try:
            given = rows.text(prompt, "prompt")
            if self.conversational:
                given = as_messages(given, "user")
            return rows.aligned(given, rows.text(response, "response"))
        except rows.RowError as error:
            raise DataError(f"response {number}: {error}") from None

    def save(self, folder: str | Path, *, include_backbone: bool | None = None) -> None:
        """Write a checkpoint folder, whole or not at all, the calibration included.

        A frozen backbone that can be loaded by name is referred to (name, revision, hash of its weights) unless
        ``include_backbone`` is set; one that came from a checkpoint is included again. A decoder with a linear head
        becomes a plain ``…ForSequenceClassification`` folder where transformers has that class.
        """
        backbone = self.backbone
        include = self._sole_copy if include_backbone is None else include_backbone
        if self._sole_copy and not include:
            raise CheckpointError(
                f"{folder}: the backbone {backbone.config.name!r} exists nowhere else; save with include_backbone=True"
            )
        blank = torch.zeros(1, backbone.hidden_size)
        family = self.raw().predict_features(Features(blank, blank))
        parts = ModelParts(backbone, self.method, self.conversational, self.scales, self.calibration, include)
        model_folder.write(Path(folder), parts, family, self.golden_scores())

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "auto", verify: bool = True, raw: bool = False) -> RewardModel:
        """Load a checkpoint, or a run folder that holds one; ``raw`` leaves its calibration out.

        Refuses (``CheckpointError``) a missing head, a backbone whose weights are not those of training, and, with
        ``verify``, a model that does not reproduce its golden scores.
        """
        path = model_folder.checkpoint_in(folder)
        golden = checkpoint.read_golden(path) if verify else []
        parts = model_folder.read(path, device)
        calibration = None if raw else parts.calibration
        model = cls(
            parts.backbone,
            parts.method,
            conversational=parts.conversational,
            scales=parts.scales,
            own_backbone=parts.included,
            calibration=calibration,
        )
        model.check_golden_scores(golden, str(path))
        return model

    def calibrated(self, calibration: Calibration | None) -> RewardModel:
        """This model with another calibration; backbone and method are the same objects."""
        return RewardModel(
            self.backbone,
            self.method,
            conversational=self.conversational,
            scales=self.scales,
            own_backbone=self._sole_copy,
            calibration=calibration,
        )

    def raw(self) -> RewardModel:
        """This model without its calibration."""
        return self.calibrated(None)

    def facts(self) -> dict[str, Any]:
        """On what its numbers depend, ready for JSON."""
        backbone = self.backbone
        digest = hashlib.sha256()
        for name, tensor in sorted(self.method.state_dict().items()):
            digest.update(
                name.encode() + tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            )
        return {
            "method": self.method.name,
            "head_sha256": digest.hexdigest(),
            "backbone": backbone.config.name,
            "revision": backbone.config.revision,
            "fingerprint": backbone.fingerprint(),
            "dtype": str(backbone.dtype).removeprefix("torch."),
            "pooling": backbone.pooling,
            "max_length": backbone.max_length,
            "template_sha256": backbone.encoder.template_sha256,
            "scales": {attribute: list(scale) for attribute, scale in self.scales.items()},
            **({"calibration_sha256": self.calibration.sha256} if self.calibration else {}),
        }

    def golden_scores(self) -> list[GoldenScore]:
        """What this model, uncalibrated, says about fixed texts (short, multi-turn, non-ASCII, long)."""
        return golden_scores(self.backbone, self.raw().predict_encoded)

    def check_golden_scores(self, golden: Sequence[GoldenScore], where: str) -> None:
        """Compare with what the checkpoint recorded; raises ``CheckpointError`` beyond the tolerance."""
        check_golden_scores(self.backbone, self.raw().predict_encoded, golden, where)


IN_MEMORY = "in-memory"
BLOCK = 256


def attribute_weights(weights: Mapping[str, float], attributes: Sequence[str]) -> Tensor:
    """Weights [A] in the order of ``attributes`` that sum to 1; what is not named has none."""
    if not attributes:
        raise ConfigError("this model has no attributes to weigh; leave out weights=")
    for name, weight in weights.items():
        if name not in attributes:
            raise ConfigError(unknown_choice("attribute", name, attributes))
        if not isinstance(weight, Real) or not 0 <= weight < math.inf:
            raise ConfigError(f"the weight of {name!r} is {weight!r}; it must be a finite number of at least 0")
    total = sum(weights.values())
    if not total > 0:
        raise ConfigError("the weights add up to 0; give at least one attribute a weight")
    return torch.tensor([weights.get(name, 0.0) / total for name in attributes])


def _padded(features: Features) -> Features:
    missing = BLOCK - len(features)
    if missing == 0:
        return features

    def filled(states: Tensor) -> Tensor:
        return nn.functional.pad(states, (0, 0, 0, missing))

    return Features(filled(features.response), None if features.prompt is None else filled(features.prompt))


def _is_text(value: Any) -> bool:
    """A string or one conversation (a list of messages), as opposed to a list of texts."""
    if isinstance(value, (str, Mapping, Message)):
        return True
    return isinstance(value, Sequence) and bool(value) and isinstance(value[0], (Mapping, Message))
