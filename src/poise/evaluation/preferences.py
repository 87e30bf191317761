"""A reward model on preference pairs: predictions first, every number from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from poise.data.records import text_length
from poise.distributions import RewardDistribution
from poise.evaluation.metrics.rows import FloatArray
from poise.evaluation.pairwise import JudgedPairs, evaluate_pairs
from poise.evaluation.remarkable import remarkable
from poise.evaluation.result import EvaluationResult
from poise.model import RewardModel
from poise.pairing import PairFeatures


@dataclass(frozen=True)
class PairPredictions:
    """What a model said about P pairs: the two beliefs [P] each, P(first ≻ second) with half ties, P(tie), the labels."""

    first: RewardDistribution
    second: RewardDistribution
    p: FloatArray
    tie: FloatArray
    label: FloatArray


@torch.inference_mode()
def predict_pairs(model: RewardModel, data: PairFeatures, labels: str = "soft") -> PairPredictions:
    """Predictions for every pair of ``data``."""
    reward = model.predict_features(data.features)
    first, second = reward[data.pairs[:, 0]], reward[data.pairs[:, 1]]
    return PairPredictions(
        first=first,
        second=second,
        # float64 before the comparison: in float32 a sure 1 − p is 0, and the NLL would depend on which side stands first
        p=first.to(torch.float64).prob_greater(second.to(torch.float64)).numpy(),
        tie=first.to(torch.float64).prob_tie(second.to(torch.float64)).numpy(),
        label=data.targets(labels).label.double().numpy(),
    )


def evaluate_predictions(
    model: RewardModel,
    data: PairFeatures,
    predictions: PairPredictions,
    *,
    source: str,
    dropped: int = 0,
    resamples: int = 1000,
    seed: int = 0,
) -> EvaluationResult:
    """All pairwise measures with bootstrap intervals by prompt. ``dropped`` adds rows that were left out earlier."""
    sizes = [
        [text_length(text) for text in side]
        for side in zip(*((p.chosen, p.rejected) for p in data.preferences), strict=True)
    ]
    pairs = JudgedPairs(predictions.p, predictions.label, predictions.tie, list(data.prompts), (sizes[0], sizes[1]))
    return evaluate_pairs(
        pairs,
        resamples=resamples,
        seed=seed,
        source=source,
        rows_dropped=dropped + len(data.dropped),
        truncation={"responses_whose_prompt_was_cut": data.truncated},
        model=described(model),
    )


def described(model: RewardModel) -> Mapping[str, str | None]:
    """What a number depends on, to stand beside it."""
    backbone = model.backbone
    return {
        "method": model.method.name,
        "backbone": backbone.config.name,
        "revision": backbone.config.revision,
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "pooling": backbone.pooling,
        "max_length": str(backbone.max_length),
        "template_sha256": backbone.encoder.template_sha256[:16],
    }


def remarkable_pairs(predictions: PairPredictions, each: int = 2) -> Sequence[tuple[str, int]]:
    """(title, row) of the pairs to look at: most certain and right, most certain and wrong, most uncertain."""
    return remarkable(predictions.p, predictions.label, each)
