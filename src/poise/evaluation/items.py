"""What is scored: a prompt with its candidate responses, as plain data that predictions are saved beside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from poise.data.records import Message, Text
from poise.evaluation.benchmark import Item


def flat_texts(items: Sequence[Item]) -> list[tuple[Text, Text]]:
    """(prompt, response) of every response, item by item."""
    return [(item.prompt, response) for item in items for response in item.responses]


def item_json(item: Item) -> str:
    """Everything of an item but its responses."""
    head = {"prompt": plain(item.prompt), "better": item.better, "meta": dict(item.meta)}
    return json.dumps(head, ensure_ascii=False, sort_keys=True)


def text_json(text: Text) -> str:
    """A text as JSON: a string, or a list of messages."""
    return json.dumps(plain(text), ensure_ascii=False)


def item_of(name: str, head: str, responses: Sequence[str]) -> Item:
    """The inverse of ``item_json`` and ``text_json``."""
    found: Mapping[str, Any] = json.loads(head)
    return Item(
        id=name,
        prompt=_text(found["prompt"]),
        responses=tuple(_text(json.loads(response)) for response in responses),
        better=tuple((int(i), int(j)) for i, j in found["better"]),
        meta=found["meta"],
    )


def plain(text: Text) -> str | list[dict[str, str]]:
    """A string, or messages as JSON has them."""
    return text if isinstance(text, str) else [message._asdict() for message in text]


def _text(given: str | list[dict[str, str]]) -> Text:
    return given if isinstance(given, str) else tuple(Message(**message) for message in given)
