"""Utilities by name: ``parse_utility("cvar:0.1")``. A utility turns a reward distribution into one number per response."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from poise.distributions import RewardDistribution
from poise.errors import ConfigError, unknown_choice
from poise.utility import formulas, groups

Unit = Literal["reward", "probability", "utility"]


@dataclass(frozen=True)
class Utility:
    """Reward distributions [B] → one number each [B], higher is better; ``spec`` is the text that ``parse_utility`` reads.

    ``unit``: in units of the reward, a probability, or neither. A ``grouped`` one looks at all responses to a prompt and
    needs ``prompts`` [B], a number of the prompt for each response (``ConfigError`` without).
    """

    spec: str
    unit: Unit
    grouped: bool
    of: Callable[[RewardDistribution], Tensor] = field(repr=False, compare=False)

    def __call__(self, reward: RewardDistribution, prompts: Tensor | None = None) -> Tensor:
        """[B]; raises ``UnsupportedOperation`` or ``ConfigError`` where the reward cannot say."""
        if not self.grouped:
            return self.of(reward)
        found = torch.empty(reward.shape, dtype=reward.dtype, device=reward.device)
        for _, rows in by_prompt(self.spec, reward, prompts):
            found[rows] = self.of(reward[rows])
        return found


@dataclass(frozen=True)
class ReferenceUtility(Utility):
    """P(better than a reference answer), the mean over the references of the prompt; see ``against_references``."""

    references: RewardDistribution = field(repr=False, compare=False)
    reference_prompts: Tensor | None = field(repr=False, compare=False)

    def __call__(self, reward: RewardDistribution, prompts: Tensor | None = None) -> Tensor:
        """[B], probabilities."""
        if self.reference_prompts is None:
            return self.of(reward)
        found = torch.empty(reward.shape, dtype=reward.dtype, device=reward.device)
        for number, rows in by_prompt(self.spec, reward, prompts):
            own = (self.reference_prompts == number).nonzero().flatten().to(reward.device)
            if not len(own):
                raise ConfigError(f"prompt {number} has no reference answer; give at least one for every prompt")
            found[rows] = _mean_win(reward[rows], self.references[own])
        return found


def against_references(references: RewardDistribution, prompts: Tensor | None = None) -> ReferenceUtility:
    """Probability of beating reference answers of rewards [M], a reward for RL that is bounded (PAR, Fu et al. 2025).

    ``prompts`` [M] are the numbers of the prompts that the references answer; without, all answer every prompt. Ties count
    half; links and couplings are those of the rewards, so Bradley–Terry gives the mean of Λ(r − r_reference).
    """
    if len(references.shape) != 1 or not len(references):
        raise ConfigError(f"give references as one batch [M] with M >= 1, got the shape {list(references.shape)}")
    if prompts is not None and prompts.shape != references.shape:
        raise ConfigError(f"{len(references)} references need as many prompt numbers, got {list(prompts.shape)}")
    mean_win = partial(_mean_win, references=references)
    return ReferenceUtility("against_references", "probability", prompts is not None, mean_win, references, prompts)


def _mean_win(reward: RewardDistribution, references: RewardDistribution) -> Tensor:
    return reward[..., None].prob_greater(references).mean(-1)


def by_prompt(spec: str, reward: RewardDistribution, prompts: Tensor | None) -> list[tuple[int, Tensor]]:
    """(number, rows [n]) of every prompt."""
    if prompts is None:
        raise ConfigError(
            f"{spec} looks at all responses to a prompt; pass prompts, the prompt number of each response"
        )
    if prompts.shape != reward.shape or prompts.dim() != 1:
        raise ConfigError(f"{spec} needs one prompt number per reward: {list(prompts.shape)}, {list(reward.shape)}")
    numbers, counts = torch.unique(prompts, return_counts=True)
    ends = counts.cumsum(0)[:-1].cpu()
    rows = torch.tensor_split(torch.argsort(prompts, stable=True).to(reward.device), ends)
    return list(zip(numbers.tolist(), rows, strict=True))


# ── by name ──


@dataclass(frozen=True)
class Number:
    """What stands behind the colon: its letter, what it may be, in words and as a test."""

    letter: str
    allowed: str
    holds: Callable[[float], bool]
    example: str


@dataclass(frozen=True)
class Kind:
    """A utility that has a name; ``of`` takes the number first, where there is one."""

    name: str
    summary: str
    of: Callable[..., Tensor]
    number: Number | None = None
    unit: Unit = "reward"
    grouped: bool = False

    @property
    def form(self) -> str:
        """How it is written: ``cvar:a``."""
        return f"{self.name}:{self.number.letter}" if self.number else self.name


def _lower_bound(k: float, reward: RewardDistribution) -> Tensor:
    return formulas.confidence_bound(-k, reward)


def _lower_epistemic_bound(k: float, reward: RewardDistribution) -> Tensor:
    return formulas.epistemic_bound(-k, reward)


_K = Number("k", "a number of at least 0", lambda k: k >= 0, "1")
_SHARE = Number("a", "a share above 0 and up to 1", lambda a: 0 < a <= 1, "0.1")
_LEVEL = Number("q", "a level strictly between 0 and 1", lambda q: 0 < q < 1, "0.05")

KINDS: tuple[Kind, ...] = (
    Kind("mean", "expected reward", formulas.mean),
    Kind("lcb", "mean − k·std, all spread", _lower_bound, _K),
    Kind("ucb", "mean + k·std, all spread", formulas.confidence_bound, _K),
    Kind("lcb_epistemic", "mean − k·std between the members of an ensemble", _lower_epistemic_bound, _K),
    Kind("ucb_epistemic", "mean + k·std between the members of an ensemble", formulas.epistemic_bound, _K),
    Kind("wco", "least mean of the members of an ensemble (worst case)", formulas.worst_member),
    Kind(
        "uwo",
        "mean − c·variance between the members of an ensemble",
        formulas.variance_penalty,
        Number("c", "a number of at least 0", lambda c: c >= 0, "0.5"),
    ),
    Kind("quantile", "the q-quantile", formulas.quantile, _LEVEL),
    Kind("cvar", "mean of the worst share a", formulas.cvar, _SHARE),
    Kind("cvar_upper", "mean of the best share a", formulas.upper_cvar, _SHARE),
    Kind(
        "entropic",
        "certainty equivalent −(1/λ) log E e^(−λr); λ < 0 seeks risk",
        formulas.entropic,
        Number("λ", "any number", lambda _: True, "1"),
    ),
    Kind(
        "exponential",
        "−E e^(−λr), the utility of QRM",
        formulas.exponential,
        Number("λ", "a number above 0", lambda x: x > 0, "1"),
        unit="utility",
    ),
    Kind(
        "shrinkage",
        "mean, shrunk towards the prompt's by what an ensemble does not know",
        groups.shrinkage,
        grouped=True,
    ),
    Kind(
        "win_rate",
        "mean P(better) over the prompt's other responses",
        groups.win_rate,
        unit="probability",
        grouped=True,
    ),
    Kind("p_best", "P(best of the prompt's responses)", groups.probability_best, unit="probability", grouped=True),
)


def parse_utility(spec: str | Utility) -> Utility:
    """The utility that ``name`` or ``name:number`` means (``docs/guides/utilities.md`` lists them).

    Raises ``ConfigError`` for an unknown name (naming the nearest), and for a number that is missing, unreadable or out of
    range. A ``Utility`` is returned as it is.
    """
    if isinstance(spec, Utility):
        return spec
    name, colon, given = spec.strip().partition(":")
    kinds = {kind.name: kind for kind in KINDS}
    if name not in kinds:
        raise ConfigError(unknown_choice("utility", name, kinds))
    kind = kinds[name]
    if kind.number is None:
        if colon:
            raise ConfigError(f"utility {spec!r}: {name} takes no number; write {name}")
        return Utility(name, kind.unit, kind.grouped, kind.of)
    return Utility(f"{name}:{given.strip()}", kind.unit, kind.grouped, partial(kind.of, _number(kind, given)))


def _number(kind: Kind, given: str) -> float:
    assert kind.number is not None
    wanted = f"{kind.form} needs {kind.number.allowed}, as in {kind.name}:{kind.number.example}"
    try:
        value = float(given)
    except ValueError:
        raise ConfigError(f"utility {kind.name}:{given} has no readable number; {wanted}") from None
    if not math.isfinite(value) or not kind.number.holds(value):
        raise ConfigError(f"utility {kind.name}:{given} is out of range; {wanted}")
    return value
