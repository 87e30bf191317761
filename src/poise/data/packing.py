"""Many texts in one row, what they share only once: the prompt's tokens, then each of its responses.

A group is the texts that begin with the same tokens: their longest common prefix stands once, followed by what is each
text's own. Token by token, all layers but attention then run on unique tokens only; ``tree_attention`` keeps the texts apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

SHORTEST_SHARED = 8  # a prefix of fewer tokens costs more in extra segments than it saves


class Group(NamedTuple):
    """``prefix`` tokens, then branches of so many tokens each; with ``prefix`` 0 every branch is a text of its own."""

    prefix: int
    branches: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens of the group in the row."""
        return self.prefix + sum(self.branches)


@dataclass(frozen=True)
class Packed:
    """A row of T tokens that holds R texts.

    ids, positions: [T]; ``groups`` in the order of the row; ``order`` [R]: which text each branch is, in the order of the
    row; ``prompt_lengths`` [R] of the texts, in the order of the branches.
    """

    ids: Tensor
    positions: Tensor
    groups: tuple[Group, ...]
    order: tuple[int, ...]
    prompt_lengths: tuple[int, ...]

    @property
    def segments(self) -> list[int]:
        """Sizes of the pieces of the row in order: prefix, branches, next prefix, …"""
        return [size for group in self.groups for size in (group.prefix, *group.branches)]

    @cached_property
    def spans(self) -> tuple[tuple[range, range], ...]:
        """(places of the shared tokens, places of the own tokens) of each branch, in the order of the row."""
        found, start = [], 0
        for group in self.groups:
            shared = range(start, start + group.prefix)
            edges = [shared.stop]
            for size in group.branches:
                edges.append(edges[-1] + size)
            found += [(shared, range(a, b)) for a, b in pairwise(edges)]
            start = edges[-1]
        return tuple(found)

    def place(self, branch: int, position: int) -> int:
        """Where in the row token ``position`` of a branch's text stands."""
        shared, own = self.spans[branch]
        return shared[position] if position < len(shared) else own[position - len(shared)]


def pack(texts: Sequence[tuple[Sequence[int], int]], keys: Sequence[object], *, share: bool = True) -> Packed:
    """Texts (token ids, prompt length) in one row; those with equal ``keys`` share their longest common prefix.

    Every text keeps at least its last token to itself. ``share=False`` lays them side by side.
    """
    members: dict[object, list[int]] = {}
    for number, key in enumerate(keys):
        members.setdefault(key if share else number, []).append(number)
    return laid_out(texts, [(_shared([texts[i][0] for i in group]), group) for group in members.values()])


def laid_out(texts: Sequence[tuple[Sequence[int], int]], groups: Iterable[tuple[int, Sequence[int]]]) -> Packed:
    """Texts (token ids, prompt length) in one row, by groups of (how many first tokens they share, their numbers)."""
    ids: list[int] = []
    positions: list[int] = []
    made: list[Group] = []
    order: list[int] = []
    for prefix, group in groups:
        ids += texts[group[0]][0][:prefix]
        positions += range(prefix)
        for i in group:
            own = texts[i][0][prefix:]
            ids += own
            positions += range(prefix, prefix + len(own))
        made.append(Group(prefix, tuple(len(texts[i][0]) - prefix for i in group)))
        order += group
    return Packed(
        ids=torch.tensor(ids),
        positions=torch.tensor(positions),
        groups=tuple(made),
        order=tuple(order),
        prompt_lengths=tuple(texts[i][1] for i in order),
    )


def _shared(texts: Sequence[Sequence[int]]) -> int:
    """Number of leading tokens that all share, less than the length of the shortest; 0 where it is not worth a segment."""
    ordered = sorted(map(tuple, texts))
    first, last = ordered[0], ordered[-1]  # of sorted sequences these two differ earliest
    limit = min(map(len, texts)) - 1 if len(texts) > 1 else 0
    shared = next((place for place in range(limit) if first[place] != last[place]), limit)
    return shared if shared >= SHORTEST_SHARED else 0
