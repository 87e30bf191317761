"""What people said: preferences between two responses, ratings of one response, rankings of several.

A text is either a plain string or a conversation (a tuple of messages). ``row`` and ``source`` remember where a record
came from, so that every later complaint can name its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias


class Message(NamedTuple):
    """One turn of a conversation; ``role`` is system, user, assistant or tool."""

    role: str
    content: str


QUALITIES = ("bad", "normal", "good")
"""Coarse quality labels of a single response, from worst to best."""

Conversation: TypeAlias = tuple[Message, ...]
Text: TypeAlias = str | Conversation


def as_messages(text: Text, role: str) -> Conversation:
    """A plain string as one message of that role; a conversation as it is."""
    return (Message(role, text),) if isinstance(text, str) else text


def text_length(text: Text) -> int:
    """Characters of a text, roles not counted."""
    return len(text) if isinstance(text, str) else sum(len(m.content) for m in text)


@dataclass(frozen=True, slots=True)
class Votes:
    """How many raters preferred which response."""

    chosen: float
    rejected: float
    tie: float = 0.0

    @property
    def total(self) -> float:
        """Number of raters."""
        return self.chosen + self.rejected + self.tie

    @property
    def share(self) -> float:
        """Share of the raters for ``chosen``; a tie counts half. In [0, 1]."""
        return (self.chosen + 0.5 * self.tie) / self.total


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """Two responses to one prompt, and which of them people preferred.

    ``strength`` is how much better ``chosen`` is, on the data's own scale; ``margin`` is subtracted from the reward
    difference by the margin losses. ``attributes`` maps a name to (chosen, rejected) ratings. ``quality`` is the coarse
    label (bad, normal, good) of each response, where it has one.
    """

    prompt: Text
    chosen: Text
    rejected: Text
    votes: Votes | None = None
    p_chosen: float | None = None
    tie: bool = False
    strength: float | None = None
    margin: float | None = None
    attributes: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    quality: tuple[str | None, str | None] = (None, None)
    annotator: str | None = None
    subset: str | None = None
    meta: Mapping[str, object] = field(default_factory=dict)
    row: int = 0
    source: str = ""

    @property
    def label(self) -> float:
        """Share of people who prefer ``chosen``, in [0, 1]: the stated share, else the votes, else 1 (½ for a tie)."""
        if self.p_chosen is not None:
            return self.p_chosen
        if self.votes is not None:
            return self.votes.share
        return 0.5 if self.tie else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """One response with the ratings it received: attribute → one number per rater (lists may differ in length)."""

    prompt: Text
    response: Text
    ratings: Mapping[str, tuple[float, ...]]
    scale: tuple[float, float] | None = None
    annotators: tuple[str, ...] = ()
    subset: str | None = None
    meta: Mapping[str, object] = field(default_factory=dict)
    row: int = 0
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Several responses to one prompt with their ranks (1 is best; equal ranks are ties)."""

    prompt: Text
    responses: tuple[Text, ...]
    ranks: tuple[float, ...]
    annotator: str | None = None
    subset: str | None = None
    meta: Mapping[str, object] = field(default_factory=dict)
    row: int = 0
    source: str = ""
