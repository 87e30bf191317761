"""Several reward models as one: where they disagree, they do not know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from poise.distributions import Mixture, RewardDistribution
from poise.errors import ConfigError
from poise.features import Features
from poise.model import Prompt, Response, RewardModel


class Ensemble:
    """Reward models, or the folders they were saved in, that judge the same texts; each may have its own backbone.

    With ``reference``, (prompt, response) texts, every member is shifted and stretched so that its mean rewards of these
    texts have the mean 0 and the geometric mean of the members' standard deviations: do that before taking the worst of
    members whose rewards have units of their own. For members with a link other than the step, this changes how sure each
    is by itself. Raises ``ConfigError`` for fewer than two models, for different links, and for reference texts of which a
    member thinks alike.

    Members count uncalibrated: how sure each should be alone says little about how sure they should be together.
    """

    def __init__(
        self,
        models: Sequence[RewardModel | str | Path],
        *,
        reference: Sequence[tuple[Prompt, Response]] = (),
        device: str = "auto",
    ) -> None:
        if len(models) < 2:
            raise ConfigError(f"an ensemble needs at least 2 models, got {len(models)}")
        loaded = (m if isinstance(m, RewardModel) else RewardModel.load(m, device=device) for m in models)
        self.models = tuple(model.raw() for model in loaded)
        _require_one_link(self.models)
        self.scales, self.shifts = torch.ones(len(models)), torch.zeros(len(models))
        if reference:
            prompts, responses = ([text[side] for text in reference] for side in (0, 1))
            means = torch.stack([model.predict(prompts, responses).mean for model in self.models])
            self.scales, self.shifts = _to_common_scale(means.cpu())

    def predict(self, prompts: Prompt | Sequence[Prompt], responses: Response | Sequence[Response]) -> Mixture:
        """The reward distributions [B] of B responses, compared member by member; arguments as in ``RewardModel``.

        ``split()`` tells the variance within the members from that between them.
        """
        return self.joined([model.predict(prompts, responses) for model in self.models])

    def joined(self, rewards: Sequence[RewardDistribution]) -> Mixture:
        """The members' rewards [B] of the same texts, in the order of ``models``, as one reward on the common scale."""
        affine = zip(rewards, self.scales.tolist(), self.shifts.tolist(), strict=True)
        return Mixture.from_members([r.affine(scale, shift) for r, scale, shift in affine], coupling="paired")


def _require_one_link(models: Sequence[RewardModel]) -> None:
    links = []
    for model in models:
        blank = torch.zeros(1, model.backbone.hidden_size)
        links.append(model.predict_features(Features(blank, blank)).link)
    for number, (model, link) in enumerate(zip(models, links, strict=True)):
        if link != links[0]:
            raise ConfigError(
                f"model 0 ({models[0].method.name}) turns reward differences into preferences by {links[0]}, model {number} "
                f"({model.method.name}) by {link}; an ensemble needs one link"
            )


def _to_common_scale(means: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift [M] that bring reference rewards [M, N] to mean 0 and to the geometric mean of their deviations."""
    deviations = means.std(1, correction=0)
    for number, deviation in enumerate(deviations.tolist()):
        if not deviation > 0:
            raise ConfigError(
                f"model {number} gives all reference texts the same reward; give more and different texts"
            )
    scales = deviations.log().mean().exp() / deviations
    return scales, -scales * means.mean(1)
