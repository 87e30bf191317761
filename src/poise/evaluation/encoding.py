"""Texts of an evaluation as token ids: none is left out, and what was cut is counted."""

from __future__ import annotations

from collections.abc import Sequence

from poise.data.chat import SHORTEN, ChatEncoder, Encoded
from poise.data.records import Text, as_messages
from poise.errors import DataError


def conversation(prompt: Text, response: Text) -> tuple[Text, Text]:
    """Plain strings as messages. A benchmark may hold a blank response, which is scored like any other."""
    return as_messages(prompt, "user"), as_messages(response, "assistant")


def encode(encoder: ChatEncoder, texts: Sequence[tuple[Text, Text]], name: str) -> list[Encoded]:
    """Encode texts of which none is left out: a response that is too long loses its end, and that is counted.

    Raises ``DataError`` for a text that cannot be read at all.
    """
    encoded = encoder.encode_many(texts)
    for number, (text, one) in enumerate(zip(texts, encoded, strict=True)):
        if one.remedy == SHORTEN:
            encoded[number] = one = encoder.encode_beginning(*text)
        if one.problem:
            raise DataError(f"{name}: {one.problem}; {one.remedy}")
    return encoded
