"""What a policy practises on: prompts to answer, and written responses to learn from."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from poise.data import rows
from poise.data.records import Text
from poise.data.sources import read_rows
from poise.data.splits import held_out, prompt_key
from poise.errors import DataError
from poise.evaluation.items import plain
from poise.policy.recipe import PolicyRecipe

RESPONSES = ("completion", "response", "chosen")


@dataclass(frozen=True)
class Tasks:
    """Prompts as TRL reads them (strings or messages), each once, and what the reader should know about them.

    ``held_out``: the keys of all prompts that nothing is trained on, those that are too long to evaluate on included.
    """

    train: list[Any]
    evaluate: list[Any]
    notes: list[str]
    held_out: frozenset[str]


def read_tasks(recipe: PolicyRecipe, tokenizer: Any) -> Tasks:
    """The training and the held-out prompts of a recipe. Raises ``DataError`` where one of them is empty."""
    given = recipe.prompts
    train = _distinct(prompt for source in given.train for prompt in _prompts(source))
    if given.evaluate:
        evaluate = _distinct(prompt for source in given.evaluate for prompt in _prompts(source))
        train = {key: prompt for key, prompt in train.items() if key not in evaluate}
    else:
        flags = dict(zip(train, held_out(list(train), given.evaluate_fraction), strict=True))
        evaluate = {key: prompt for key, prompt in train.items() if flags[key]}
        train = {key: prompt for key, prompt in train.items() if not flags[key]}
    notes: list[str] = []
    kept: list[list[Any]] = []
    for part in (train, evaluate):
        fitting = [p for p in part.values() if given.max_tokens is None or _tokens(p, tokenizer) <= given.max_tokens]
        if len(fitting) < len(part):
            notes.append(
                f"{len(part) - len(fitting):,} prompts have more than {given.max_tokens} tokens and are left out"
            )
        kept.append([plain(prompt) for prompt in fitting])
    for name, prompts in zip(("train", "evaluate"), kept, strict=True):
        if not prompts:
            raise DataError(f"no prompt is left to {name} on; give more data, another share or a larger max_tokens")
    if any(isinstance(prompt, list) for prompt in kept[0] + kept[1]) and tokenizer.chat_template is None:
        raise DataError(f"the prompts are messages and {recipe.policy!r} has no chat template; give plain text prompts")
    return Tasks(kept[0], kept[1], notes, frozenset(evaluate))


def written(sources: Sequence[str], without: Collection[str]) -> tuple[list[dict[str, Any]], int]:
    """Rows for TRL's SFTTrainer, prompt and completion, and how many were left out because their prompt is one of ``without``."""
    found, left = [], 0
    for source in sources:
        for number, row in read_rows(source):
            prompt, response = _prompt(row, number, source), _response(row, number, source)
            if prompt_key(prompt) in without:
                left += 1
                continue
            prompt, response = rows.aligned(prompt, response)
            found.append({"prompt": plain(prompt), "completion": plain(response)})
    if not found:
        raise DataError(f"every row of {', '.join(sources)} has a prompt that is held out; give more data to imitate")
    return found, left


def _prompts(source: str) -> Iterator[Text]:
    for number, row in read_rows(source):
        yield _prompt(row, number, source)


def _prompt(row: Mapping[str, Any], number: int, source: str) -> Text:
    try:
        if row.get("prompt") is None and "chosen" in row and "rejected" in row:
            return rows.preference(row, number, source).prompt
        return rows.text(row.get("prompt"), "prompt")
    except rows.RowError as error:
        raise DataError(f"{source}, row {number}: {error}") from None


def _response(row: Mapping[str, Any], number: int, source: str) -> Text:
    name = next((name for name in RESPONSES if row.get(name) is not None), None)
    if name is None:
        raise DataError(f"{source}, row {number} has no response; give one of the columns {', '.join(RESPONSES)}")
    try:
        if name == "chosen" and "rejected" in row:
            return rows.preference(row, number, source).chosen
        return rows.text(row[name], name)
    except rows.RowError as error:
        raise DataError(f"{source}, row {number}: {error}") from None


def _distinct(prompts: Iterator[Text]) -> dict[str, Text]:
    found: dict[str, Text] = {}
    for prompt in prompts:
        found.setdefault(prompt_key(prompt), prompt)
    return found


def _tokens(prompt: Text, tokenizer: Any) -> int:
    if isinstance(prompt, str):
        return len(tokenizer(prompt)["input_ids"])
    given = tokenizer.apply_chat_template(plain(prompt), add_generation_prompt=True, return_dict=True)
    return len(given["input_ids"])
