"""People of the simulated world judge whatever a tiny policy writes: ratings from 1 to 5, and votes on pairs.

Their groups, shares and noise are the world's (``poise.data.simulate.raters``); what a response is worth to each group, its
faults included, is read from the text by the gold reader. Overall they rate by what they usually read: the world's cut-points
lie around the mean worth of the responses at hand, so that neither end of the scale is crowded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.tiny_policy import Policy, read_gold
from poise.data.simulate import WorldConfig, raters
from poise.data.simulate.raters import Group
from poise.data.simulate.responders import ATTRIBUTES

RATED = ("overall", *ATTRIBUTES)
WORLD = WorldConfig()
# Of one mind about what an answer says, at odds about its manners and its length, which the average person does not mind.
DIVIDED = (
    Group("practical", 0.40, (2.5, 3.0, 2.0, -3.0, -5.0)),
    Group("cautious", 0.35, (2.5, 3.0, 2.0, 1.0, 1.5)),
    Group("sociable", 0.25, (2.5, 3.0, 2.0, 3.5, 6.0)),
)
PEOPLE: Mapping[str, tuple[Group, ...]] = {"world": raters.GROUPS, "divided": DIVIDED}


def ratings(
    policy: Policy, topics: Sequence[str], texts: Sequence[str], people: int, seed: int, groups: Sequence[Group]
) -> list[dict[str, Any]]:
    """Every response that says something, rated overall and per attribute: rows of a rating file."""
    gold, worths, shares, _, levels = read_gold(policy.tokenizer, topics, texts, groups)
    draw = np.random.default_rng([seed, 4])
    who = raters.draw_groups(shares, draw.random((len(worths), people)))
    noise = draw.standard_normal((len(worths), people, len(RATED)))
    worth = np.take_along_axis(worths, who, axis=1) - gold.mean()
    overall = raters.draw_ratings(worth, noise[..., 0], raters.OVERALL_CUTS, raters.OVERALL_NOISE)
    each = raters.draw_ratings(levels[:, None], noise[..., 1:], raters.LEVEL_CUTS, raters.LEVEL_NOISE)
    given = np.concatenate([overall[..., None], each], axis=2)
    return [
        {
            "prompt": f"{topic} ",
            "response": text,
            "ratings": dict(zip(RATED, row.T.tolist(), strict=True)),
            "scale": [1, 5],
        }
        for topic, text, row in zip(topics, texts, given, strict=True)
        if text
    ]


def pairs(
    policy: Policy, topics: Sequence[str], texts: Sequence[str], people: int, seed: int, groups: Sequence[Group]
) -> list[dict[str, Any]]:
    """Neighbouring responses to one topic, two by two, with ``people`` votes: rows of preferences, the winner chosen."""
    _, worths, shares, _, _ = read_gold(policy.tokenizer, topics, texts, groups)
    draw = np.random.default_rng([seed, 5])
    who = raters.draw_groups(shares[::2], draw.random((len(worths) // 2, people)))
    margin = np.take_along_axis(worths[::2] - worths[1::2], who, axis=1)
    wins = (draw.random(margin.shape) < raters.choice_probabilities(margin, WORLD.temperature, 0.0)[0]).sum(1)
    rows = []
    for topic, first, second, won in zip(topics[::2], texts[::2], texts[1::2], wins.tolist(), strict=True):
        (chosen, most), (rejected, least) = sorted(((first, won), (second, people - won)), key=lambda v: -v[1])
        if chosen and rejected:
            votes = {"chosen": most, "rejected": least}
            rows.append({"prompt": f"{topic} ", "chosen": chosen, "rejected": rejected, "votes": votes})
    return rows
