"""From what the model says about the pairs to what becomes of them: the rules, one after the other.

A pair that is left out is left out for one reason, the first that applies: contamination, repetition, a label that looks
wrong, two camps of raters, the mix. Nothing here reads a text but the search for repeats.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from poise.curation.judge import FloatArray, Judgement
from poise.curation.repeats import Finding
from poise.data.difficulty import kinds_of_pairs
from poise.data.records import Preference
from poise.errors import ConfigError

Mislabels = Literal["keep", "drop", "flip", "soft", "review"]
Disputed = Literal["keep", "drop", "review"]
GROUPS = ("easy", "boundary", "hard")
NOT_JUDGED = "not judged"
KEPT = ("keep", "flip", "soft")


@dataclass(frozen=True)
class Rules:
    """``boundary``: the confidence |2P − 1| below which a pair is one. ``mislabels``: what becomes of pairs whose label is
    wrong with probability ``doubt`` or more; ``disputed``: of those where a belief has two peaks. ``mix``: shares of easy,
    boundary and hard pairs, or the word drpo: as many easy ones as others. ``seed`` decides which pairs a mix leaves out.
    """

    boundary: float = 0.2
    mislabels: Mislabels = "keep"
    doubt: float = 0.8
    disputed: Disputed = "keep"
    mix: tuple[float, float, float] | Literal["drpo"] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.boundary <= 1:
            raise ConfigError(f"boundary is {self.boundary}; a confidence lies between 0 and 1")
        if not 0.5 < self.doubt <= 1:
            raise ConfigError(
                f"doubt is {self.doubt}; below or at 0.5 the label is the likelier one: give more, up to 1"
            )
        if isinstance(self.mix, tuple) and (min(self.mix) < 0 or not sum(self.mix) > 0):
            raise ConfigError(f"mix is {self.mix}; give three shares that are not negative, such as 0.3,0.6,0.1")


@dataclass(frozen=True)
class Decision:
    """What becomes of one pair. ``pair`` is as it came, ``changed`` as it goes on where that differs; ``p`` is P(chosen ≻ rejected) of the pair
    as it came, NaN where it was not judged; ``doubt`` the probability that its label is wrong by ``p`` alone;
    ``information`` the bits that a person's answer about the label is expected to give; ``kind`` names the rule.
    """

    pair: Preference
    p: float
    group: str
    doubt: float
    information: float
    disputed: bool
    action: str = "keep"
    kind: str = ""
    reason: str = ""
    changed: Preference | None = None

    @property
    def written(self) -> Preference:
        """The pair as it goes on."""
        return self.changed or self.pair

    @property
    def confidence(self) -> float:
        """|2P − 1|."""
        return abs(2 * self.p - 1)

    @property
    def kept(self) -> bool:
        """Whether the pair is in the curated data."""
        return self.action in KEPT


def decide(
    pairs: Sequence[Preference], judgement: Judgement, findings: Sequence[Finding | None], rules: Rules
) -> tuple[Decision, ...]:
    """A decision for every pair, in order; ``findings`` [P] say what is wrong with a pair whatever the model says.

    ConfigError where the mix asks for a group of which there is no pair.
    """
    label = np.array([pair.label for pair in pairs])
    doubt = label * (1 - judgement.p) + (1 - label) * judgement.p
    noise = wrong_labels(judgement.p, label)
    bits = information(doubt, noise)
    kinds = kinds_of_pairs(torch.from_numpy(judgement.p), torch.from_numpy(label), rules.boundary).tolist()
    decided = []
    for i, (pair, finding) in enumerate(zip(pairs, findings, strict=True)):
        judged = bool(judgement.judged[i])
        group = GROUPS[kinds[i]] if judged else NOT_JUDGED
        disputed = bool(judgement.disputed[i])
        plain = Decision(pair, float(judgement.p[i]), group, float(doubt[i]), float(bits[i]), disputed)
        decided.append(_by_rule(plain, finding, rules))
    return tuple(_mixed(decided, rules))


def wrong_labels(p: FloatArray, label: FloatArray) -> float:
    """The share of wrong labels by confident learning (Northcutt et al. 2021), with one threshold for both directions.

    Right for a judge who is right: one who errs counts its own errors among them, so it is an upper bound.
    A label is counted as right or wrong where the model gives it, or its opposite, at least its mean probability of
    labels. NaN without a judged and directed label.
    """
    directed = ~np.isnan(p) & (label != 0.5)
    said = np.where(label > 0.5, p, 1 - p)[directed]
    if not len(said):
        return float("nan")
    right, wrong = (said >= said.mean()).sum(), (1 - said >= said.mean()).sum()
    return float(wrong / (right + wrong))


def information(doubt: FloatArray, noise: float) -> FloatArray:
    """Entropy [bit] of whether a label is wrong, with the share of wrong labels as prior: what an answer tells at most."""
    wrong = doubt * noise / (doubt * noise + (1 - doubt) * (1 - noise))
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = -np.nan_to_num(wrong * np.log2(wrong)) - np.nan_to_num((1 - wrong) * np.log2(1 - wrong))
    return np.where(np.isnan(doubt), 0.0, bits)


def flipped(pair: Preference) -> Preference:
    """The opposite statement: the texts change places under their label; what said how much better one is goes."""
    return replace(
        pair,
        chosen=pair.rejected,
        rejected=pair.chosen,
        strength=None,
        margin=None,
        attributes={name: (second, first) for name, (first, second) in pair.attributes.items()},
        quality=(pair.quality[1], pair.quality[0]),
    )


def softened(pair: Preference, p: float) -> Preference:
    """The pair with the model's probability for a label."""
    return replace(pair, p_chosen=p, tie=False, votes=None, strength=None, margin=None)


def _by_rule(one: Decision, finding: Finding | None, rules: Rules) -> Decision:
    """Everything that can be said of a pair alone."""
    if finding is not None:
        return replace(one, action="drop", kind=finding.kind, reason=finding.reason)
    if one.group == NOT_JUDGED:
        return replace(one, kind=NOT_JUDGED, reason="kept as it is: the model was trained on its prompt")
    said = f"P(label) = {1 - one.doubt:.2f}"
    if one.group == "hard" and one.doubt >= rules.doubt and rules.mislabels != "keep":
        how = {
            "drop": "left out",
            "flip": "chosen and rejected changed places",
            "soft": f"its label is now {one.p:.2f}",
            "review": "set aside for people",
        }[rules.mislabels]
        changed = None
        if rules.mislabels in ("flip", "soft"):
            changed = flipped(one.pair) if rules.mislabels == "flip" else softened(one.pair, one.p)
        reason = f"the label looks wrong ({said}): {how}"
        return replace(one, action=rules.mislabels, kind="mislabelled", reason=reason, changed=changed)
    if one.disputed and rules.disputed != "keep":
        reason = "a belief about its responses has two peaks, as where people fall into two camps"
        return replace(one, action=rules.disputed, kind="disputed", reason=reason)
    why = {
        "easy": f"the model is sure of the label ({said})",
        "boundary": f"the model is not sure ({said})",
        "hard": f"the model prefers the other response ({said})",
    }[one.group]
    return replace(one, kind="kept", reason=why + ("; its belief has two peaks" if one.disputed else ""))


def _mixed(decided: Sequence[Decision], rules: Rules) -> list[Decision]:
    """Left out until the groups have their shares: as few as possible, drawn by ``seed``."""
    if rules.mix is None:
        return list(decided)
    there = Counter(one.group for one in decided if one.kept and one.group in GROUPS)
    room = _room([there[group] for group in GROUPS], rules.mix)
    draw = np.random.default_rng(rules.seed)
    out = set()
    for group, wanted in zip(GROUPS, room, strict=True):
        mine = [i for i, one in enumerate(decided) if one.kept and one.group == group]
        out |= {mine[j] for j in draw.permutation(len(mine))[wanted:]}
    return [
        replace(
            one, action="drop", kind="mix", reason=f"one of more {one.group} pairs than the mix takes", changed=None
        )
        if i in out
        else one
        for i, one in enumerate(decided)
    ]


def _room(there: Sequence[int], mix: tuple[float, float, float] | Literal["drpo"]) -> list[int]:
    """How many of each group stay: the most that have the shares of ``mix``."""
    if mix == "drpo":
        others = there[1] + there[2]
        return [min(there[0], others) if others else there[0], there[1], there[2]]
    for group, count, share in zip(GROUPS, there, mix, strict=True):
        if share and not count:
            raise ConfigError(f"the mix asks for {group} pairs, but none is there; give 0 as their share")
    total = min(count / share for count, share in zip(there, mix, strict=True) if share)
    return [min(count, round(total * share)) for count, share in zip(there, mix, strict=True)]
