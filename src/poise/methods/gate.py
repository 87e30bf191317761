"""From beliefs about attributes to one reward: weights that depend on the prompt, and less reward for mere length.

Shared by ``qrm`` (arXiv 2409.10164) and ``attributes`` (ArmoRM, arXiv 2406.12845). Stage 1 learns the attributes from
ratings; stage 2 freezes them and trains the gate on pairs. With fixed ``weights``, or one attribute, there is no gate and
stage 2 ends before its first step.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn.functional import batch_norm, softplus

from poise.data.batch import Batch
from poise.distributions import Link, RewardDistribution
from poise.errors import ConfigError, unknown_choice
from poise.features import Features
from poise.losses import both_ways, weighted_mean
from poise.methods.base import Evidence, Method, chosen_attributes

VERBOSITY = "verbosity"
PENALTIES = (0, 0.01, 0.025, 0.05, 0.075, 0.1, 0.125, *(round(0.05 * i, 2) for i in range(3, 20)))


@dataclass(frozen=True)
class GatedConfig:
    """``attributes``: all of the data's by default. ``weights``, one per attribute, take the place of the gate.

    ``aggregate``: ``quantile`` averages the attributes' quantile functions (what the papers call a mixture: attributes
    that disagree give a middling reward of small spread); ``mixture`` pools them (same mean, and the disagreement shows).
    ``gate_loss``: ``means`` is the papers' logistic of the difference of means; ``distribution`` is −log P(first ≻ second)
    of the whole rewards under a logistic link, which the reward then carries. Rewards lie in [0, 1] and a logistic tells
    them apart badly, so the latter wants ``gate_logit_scale=learned`` (the weights then sum to the scale, not to 1).

    ``gate_layers`` of ``gate_width``, softmax at temperature ``gate_temp`` (QRM-Llama3.1-8B has 5).
    ``verbosity`` names the attribute whose predicted value p_j-fold is taken off attribute j, so that a rank correlation
    of at most ``verbosity_threshold`` is left (see ``verbosity_penalties``); it loses its own weight. "" turns that off;
    data without the attribute has nothing to take off.
    """

    attributes: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    aggregate: Literal["quantile", "mixture"] = "quantile"
    gate_loss: Literal["means", "distribution"] = "means"
    gate_layers: int = 3
    gate_width: int = 1024
    gate_temp: float = 10.0
    gate_logit_scale: Literal["fixed", "learned"] = "fixed"
    gate_norm: Literal["batch", "none"] = "batch"
    gate_dropout: float = 0.0
    verbosity: str = VERBOSITY
    verbosity_threshold: float = 0.03

    def __post_init__(self) -> None:
        if any(w < 0 for w in self.weights) or (self.weights and not sum(self.weights) > 0):
            raise ConfigError(f"weights are {list(self.weights)}; they must not be negative, nor all 0")
        if self.weights and self.attributes and len(self.weights) != len(self.attributes):
            names = ", ".join(self.attributes)
            raise ConfigError(
                f"{len(self.weights)} weights for {len(self.attributes)} attributes ({names}); give as many"
            )
        if self.attributes and self.verbosity not in ("", VERBOSITY, *self.attributes):
            raise ConfigError(unknown_choice("attribute for verbosity", self.verbosity, self.attributes))
        if self.gate_layers < 0 or self.gate_width < 1 or not self.gate_temp > 0 or not 0 <= self.gate_dropout < 1:
            raise ConfigError(
                "the gate needs gate_layers ≥ 0, gate_width ≥ 1, gate_temp > 0 and gate_dropout in [0, 1)"
            )

    @property
    def gating(self) -> bool:
        """Whether this stage trains the gate."""
        raise NotImplementedError

    @property
    def verbosity_index(self) -> int | None:
        """The number of the verbosity attribute, if its influence is taken off."""
        return self.attributes.index(self.verbosity) if self.verbosity in self.attributes else None


GatedConfigT = TypeVar("GatedConfigT", bound=GatedConfig)


class Gate(nn.Module):
    """Prompt states [B, H] → weights [B, A]: layers of Linear, ReLU and BatchNorm or dropout, a softmax over attributes.

    ArmoRM's script takes the softmax over the wrong axis, chosen against rejected: every weight is ½ and nothing is learnt.
    """

    def __init__(self, config: GatedConfig, hidden_size: int, count: int) -> None:
        super().__init__()
        self.temp, self.dropout = config.gate_temp, config.gate_dropout
        widths = [hidden_size, *[config.gate_width] * config.gate_layers]
        plain = config.gate_norm == "none"
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=plain) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in widths[1:] if not plain)
        self.last = nn.Linear(widths[-1], count)
        self.log_scale = nn.Parameter(torch.zeros(())) if config.gate_logit_scale == "learned" else None

    def forward(
        self, prompt: Tensor, allowed: Tensor, learning: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        """Weights that are 0 where ``allowed`` [A] is not; they sum to 1, or to the learnt scale.

        Only a ``learning`` call uses batch statistics and dropout, whatever the module's mode: reading a reward in between
        neither depends on its neighbours nor draws anything.
        """
        x = prompt
        for number, layer in enumerate(self.layers):
            x = layer(x).relu()
            if self.norms:
                x = _normalised(self.norms[number], x, learning)
            if learning and self.dropout:
                kept = torch.rand(x.shape, generator=generator, device=x.device) >= self.dropout
                x = x * kept / (1 - self.dropout)
        logits: Tensor = self.last(x) / self.temp
        weights = logits.masked_fill(~allowed, -torch.inf).softmax(-1)
        return weights if self.log_scale is None else weights * self.log_scale.exp()


@dataclass(frozen=True, eq=False)
class GatedOutput:
    """``values`` [B, A, C]: what is believed about each attribute, in the parameters of the method's family."""

    method: GatedMethod[Any]
    prompt: Tensor | None
    values: Tensor

    @cached_property
    def weights(self) -> Tensor:
        """[B, A]"""
        return self.method.weights(self)

    @cached_property
    def reward(self) -> RewardDistribution:
        """The attributes, debiased and combined by the weights."""
        return self.method.combined(self.method.debiased(self.values), self.weights)


class GatedMethod(Method[GatedConfigT, GatedOutput]):
    """A head for the attributes (the subclass) and a gate. ``penalties`` [A]: p_j; ``learnt`` [A]: what had any rating."""

    needs_prompt_state = True

    penalties: Tensor
    learnt: Tensor
    fixed: Tensor

    def __init__(self, config: GatedConfigT, hidden_size: int) -> None:
        super().__init__(config, hidden_size)
        self.count = max(1, len(config.attributes))  # a recipe is checked before the data names its attributes
        gated = self.count > 1 and not config.weights
        self.gate = Gate(config, hidden_size, self.count) if gated else None
        given = config.weights if len(config.weights) == self.count else (1.0,) * self.count
        self.register_buffer("fixed", torch.tensor(given), persistent=False)
        self.register_buffer("penalties", torch.zeros(self.count))
        self.register_buffer("learnt", torch.ones(self.count, dtype=torch.bool))

    # ── what a subclass says ──

    @abstractmethod
    def values(self, response: Tensor) -> Tensor:
        """What is believed about each attribute [B, A, C], from the scaled states [B, H]."""

    @abstractmethod
    def means(self, values: Tensor) -> Tensor:
        """[..., A, C] → [..., A]."""

    @abstractmethod
    def debiased(self, values: Tensor) -> Tensor:
        """The values without what ``penalties`` take off."""

    @abstractmethod
    def combined(self, values: Tensor, weights: Tensor) -> RewardDistribution:
        """One reward of debiased values [B, A, C] and weights [B, A]."""

    @abstractmethod
    def of_values(self, values: Tensor) -> RewardDistribution:
        """The belief about one attribute, from its values [B, C]."""

    @abstractmethod
    def fit_attributes(self, features: Features, batch: Batch) -> dict[str, float] | None:
        """``fit`` of stage 1."""

    @abstractmethod
    def attribute_loss(self, output: GatedOutput, batch: Batch) -> dict[str, Tensor]:
        """``loss`` of stage 1."""

    # ── the contract ──

    @classmethod
    def for_data(cls, config: GatedConfigT, rated: Sequence[str]) -> GatedConfigT:  # noqa: D102
        return replace(config, attributes=chosen_attributes(config.attributes, rated, cls.name))

    @property
    def learns_from(self) -> tuple[Evidence, ...]:
        """Ratings first, then pairs."""
        return ("pairs",) if self.config.gating else ("ratings",)

    @property
    def attributes(self) -> tuple[str, ...]:
        """The attributes that are predicted and weighed."""
        return self.config.attributes

    def trainable(self, parameter_name: str) -> bool:
        """The gate alone in stage 2, everything else in stage 1."""
        return parameter_name.startswith("gate.") == (self.config.gating and self.gate is not None)

    @property
    def needs_previous(self) -> bool:
        """The gate weighs what has been learnt about the attributes."""
        return self.config.gating

    @property
    def fits_features(self) -> bool:  # noqa: D102
        return True

    @torch.no_grad()
    def fit(self, features: Features, batch: Batch) -> dict[str, float] | None:
        """Attributes that solve themselves do so; the penalties are those of the responses to be weighed."""
        if self.config.gating:
            self.fit_penalties(features.response[torch.unique(batch.pairs)])
            return None if self.gate is not None else {}
        if batch.rated is None or batch.ratings is None or not len(batch.ratings):
            raise ConfigError(
                f"{self.name} learns from rated responses, and there are none; name files in data.ratings"
            )
        self.learnt.copy_(batch.ratings.known.any(0))
        if not (self.fixed * self.learnt).any():
            raise ConfigError(
                "no attribute that counts has a rating in this stage; raise its share or change the weights"
            )
        figures = self.fit_attributes(features, batch)
        if figures is None:
            return None
        self.fit_penalties(features.response[batch.rated])
        return figures | {"attributes_without_ratings": float((~self.learnt).sum())}

    def fit_penalties(self, response: Tensor) -> None:
        """``verbosity_penalties`` of what is predicted for reference responses [n, H]."""
        index = self.config.verbosity_index
        if index is not None and self.learnt[index]:
            means = self.means(self.values(response.to(self.penalties.device) * self.input_scale))
            self.penalties.copy_(verbosity_penalties(means, index, self.config.verbosity_threshold))

    def forward(self, features: Features) -> GatedOutput:  # noqa: D102
        return GatedOutput(self, features.prompt, self.values(features.response * self.input_scale))

    def weights(self, output: GatedOutput) -> Tensor:
        """What each attribute counts for each response, [B, A]."""
        if self.gate is None:
            fixed = self.fixed * self.learnt
            return (fixed / fixed.sum()).expand(len(output.values), -1)
        weights: Tensor = self.gate(self._prompt(output), self.learnt)
        return weights

    def _prompt(self, output: GatedOutput) -> Tensor:
        if output.prompt is None:
            raise ConfigError(
                f"the gate of {self.name} reads the prompt's state; extract features with prompt_states=True"
            )
        return output.prompt * self.input_scale

    @property
    def link(self) -> Link:
        """The link that the reward was trained under; that of means is not one of distributions, so these compare bare."""
        return Link("logistic" if self.config.gate_loss == "distribution" else "step")

    def loss(self, output: GatedOutput, batch: Batch) -> dict[str, Tensor]:  # noqa: D102
        return {"gate": self.gate_loss(output, batch)} if self.config.gating else self.attribute_loss(output, batch)

    def gate_loss(self, output: GatedOutput, batch: Batch) -> Tensor:
        """Of pairs, whose two responses share the weights. It moves the gate only, not the states nor the attributes."""
        if self.gate is None:
            raise ConfigError(f"{self.name} with one attribute or fixed weights has no gate to train; drop that stage")
        prompt = self._prompt(output).detach()[batch.first]
        weights = self.gate(prompt, self.learnt, self.training, batch.generator)
        first, second = self.debiased(output.values.detach())[batch.pairs].unbind(1)
        if self.config.gate_loss == "means":
            difference = (weights * (self.means(first) - self.means(second))).sum(-1)
            won, lost = softplus(-difference), softplus(difference)
        else:
            one, other = self.combined(first, weights), self.combined(second, weights)
            won, lost = -one.log_prob_greater(other), -other.log_prob_greater(one)
        return weighted_mean(both_ways(won, lost, batch.targets.label), batch.targets.weight)

    def steered(self, output: GatedOutput, weights: Tensor) -> RewardDistribution:
        """With these weights in the gate's place, debiased all the same; so verbosity itself cannot be asked for."""
        asked, index = weights.to(output.values), self.config.verbosity_index
        heard = [j for j in range(self.count) if asked[j] > 0 and j != index]
        silent = [self.attributes[j] for j in range(self.count) if asked[j] > 0 and not self.learnt[j]]
        if silent or not heard:
            reason = f"had no ratings of {', '.join(silent)}" if silent else f"takes {self.config.verbosity!r} off"
            raise ConfigError(f"this model {reason}; weigh other attributes")
        return self.combined(self.debiased(output.values), asked.expand(len(output.values), -1))

    def of_attributes(self, output: GatedOutput) -> Mapping[str, RewardDistribution]:
        """As rated, verbosity not taken off; attributes that had no ratings are left out."""
        known = [(j, name) for j, name in enumerate(self.attributes) if self.learnt[j]]
        return {name: self.of_values(output.values[:, j]) for j, name in known}

    @torch.no_grad()
    def diagnostics(self, output: GatedOutput, batch: Batch) -> dict[str, float]:  # noqa: D102
        share = output.weights / output.weights.sum(-1, keepdim=True)
        return {
            "mean_reward": output.reward.mean.mean().item(),
            "sigma": output.reward.std.mean().item(),
            "attributes_in_use": torch.special.entr(share).sum(-1).exp().mean().item(),
        }


def verbosity_penalties(means: Tensor, verbosity: int, threshold: float = 0.03) -> Tensor:
    """p [A] of predicted ratings [n, A]: the smallest of ``PENALTIES`` with Spearman(r_j − p r_verb, r_verb) ≤ ``threshold``.

    1 where none is enough, and for verbosity itself: r'_j = r_j − p_j r_verb is what is left. What does not vary does not
    correlate. The grid is that of ArmoRM's stage 2, whose reference set are the responses of the pairs.
    """
    rewards = means.detach().double().cpu().numpy()
    length = rewards[:, verbosity]
    left = [_spearman(rewards - p * length[:, None], length) for p in PENALTIES]
    enough = np.stack([*(found <= threshold for found in left), np.ones(rewards.shape[1], dtype=bool)])
    penalties = torch.tensor((*PENALTIES, 1.0))[torch.from_numpy(enough.argmax(0))]
    penalties[verbosity] = 1.0
    return penalties


def _spearman(columns: Any, against: Any) -> Any:
    """Rank correlation [A] of columns [n, A] with one [n]; 0 where either is constant."""
    ranks, other = rankdata(columns, axis=0), rankdata(against)
    ranks, other = ranks - ranks.mean(0), other - other.mean()
    size = np.sqrt((ranks**2).sum(0) * (other**2).sum())
    return np.divide(other @ ranks, size, out=np.zeros_like(size), where=size > 0)


def _normalised(norm: nn.Module, x: Tensor, learning: bool) -> Tensor:
    """BatchNorm by the batch's statistics while learning; a single row has none."""
    assert isinstance(norm, nn.BatchNorm1d)
    return batch_norm(
        x, norm.running_mean, norm.running_var, norm.weight, norm.bias, learning and len(x) > 1, eps=norm.eps
    )
