"""A reward model of ours: whole distributions, and what it says about rated attributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from poise.evaluation.belief_table import REWARD
from poise.evaluation.encoding import conversation, encode
from poise.evaluation.predictions import Scored
from poise.extraction import Progress
from poise.feature_cache import FeatureCache
from poise.model import RewardModel
from poise.model_folder import run_of
from poise.scorers.base import Scorer, Texts, scored


class Own(Scorer):
    """A ``RewardModel``; ``cache`` keeps its features, ``progress`` hears of their tokens."""

    def __init__(
        self, model: RewardModel, name: str, cache: FeatureCache | None = None, progress: Progress | None = None
    ) -> None:
        self.model, self.cache, self.progress = model, cache, progress
        self.facts: Mapping[str, Any] = {"name": name, "kind": "poise"} | model.facts()

    @classmethod
    def load(cls, folder: str, *, device: str = "auto", raw: bool = False) -> Own:
        """From a run or checkpoint folder; ``raw`` leaves its calibration out."""
        return cls(RewardModel.load(folder, device=device, raw=raw), run_of(folder).name)

    def score(self, texts: Texts) -> Scored:  # noqa: D102
        meant = [conversation(*text) if self.model.conversational else text for text in texts]
        encoded = encode(self.model.backbone.encoder, meant, str(self.facts["name"]))
        features = self.model.features(encoded, self.cache, self.progress)
        beliefs = {REWARD: self.model.predict_features(features)}
        if self.model.scales:
            beliefs |= self.model.rate_features(features)
        return replace(scored(beliefs, encoded), states=features.response.float().cpu().numpy())
