"""Texts that a framework has rendered already → what was said: the conversation, and the completion without its end marks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from operator import eq
from typing import Any

from transformers import AutoTokenizer

from poise.errors import ConfigError, DataError

BARRED = r"<\|[^|<>\s]{1,40}\|>|<\uff5c[^\uff5c<>\s]{1,40}\uff5c>"  # DeepSeek's bars are full-width
# [|…|] not in general: a formula may end in E[|X|]
END_MARK = re.compile(
    rf"(?:{BARRED}|</s>|<(?:seed:)?eos>|<end_of_turn>|<turn\|>|<pad>|\[(?:EOS|PAD)\]|\[\|endofturn\|\])\Z"
)
END_WIDTH = 44  # characters that an end mark takes at most
LEADING = r"\s*(?:(?:<[^<>|\s]{1,40}>|\[[^\[\]|\s]{1,40}\])\s*)*?"  # <s>, <bos>, [gMASK]<sop>
OPENING = r"\[INST\]|<start_of_turn>|<\|turn>|<seed:bos>|<(?:SPECIAL|extra_id)_\d+>|\[\|(?:system|user)\|\]"
RENDERED = re.compile(rf"{LEADING}(?:{BARRED}|{OPENING})")
REQUESTS = ({"add_generation_prompt": True}, {"add_generation_prompt": True, "enable_thinking": False})
OVERLAP = 64  # characters by which a prompt is found again in a query that was decoded from its tokens

Messages = list[dict[str, str]]


def completion_of(query: str, prompt: str, special: Sequence[str] = ()) -> str:
    """What follows the prompt, without end marks and ``special`` tokens at its end.

    The prompt may have lost its beginning or a space, or stand after a special token.
    """
    return _without_end_marks(query[_end_of_prompt(query, prompt) :], special)


def plain(prompt: str) -> str:
    """The prompt itself; ``ConfigError`` where it begins as chat templates do, for it would be rendered a second time."""
    if RENDERED.match(prompt):
        raise ConfigError(
            f"the prompt was rendered with a chat template already: {prompt[:80]!r}; give the policy's tokenizer, or its "
            "name or folder, as template, so that the conversation is read back from it"
        )
    return prompt


class Template:
    """Reads rendered prompts back into messages, for one tokenizer's chat template; what it reads renders to the same text.

    ``tokenizer`` is one, or its name or folder. Raises ``ConfigError`` where its template cannot be taken apart.
    """

    def __init__(self, tokenizer: Any) -> None:
        if isinstance(tokenizer, str):
            tokenizer = _loaded(tokenizer)
        self._tokenizer = tokenizer
        ask, answer, again = _said("user", "Qx1"), _said("assistant", "Ax2"), _said("user", "Qx3")
        turns = self._render([ask, answer, again])
        places = [turns.find(mark) for mark in ("Qx1", "Ax2", "Qx3")]
        if not -1 < places[0] < places[1] < places[2]:
            raise ConfigError(
                "the chat template does not show user and assistant messages in order; give plain prompts"
            )
        self._opening = turns[: places[0]]
        self._to_assistant, self._to_user = turns[places[0] + 3 : places[1]], turns[places[1] + 3 : places[2]]
        if not self._to_assistant or not self._to_user:
            raise ConfigError("the chat template puts nothing between messages; leave template out, prompts are plain")
        wholes = [self._render([ask], **options) for options in REQUESTS]
        self._system = self._system_marks()
        self._requests = [whole[whole.find("Qx1") + 3 :] for whole in wholes]
        self.special = tuple(tokenizer.all_special_tokens)

    def messages(self, prompt: str) -> Messages:
        """The conversation that renders to ``prompt``, with the request for an answer; ``DataError`` where none does."""
        found = self.find(prompt)
        if found is None:
            raise DataError(
                f"the prompt was not rendered by this chat template: {prompt[:80]!r}; give the policy's own as template=, or "
                "leave template out where prompts are plain"
            )
        return found

    def find(self, prompt: str) -> Messages | None:
        """As ``messages``; None where no conversation renders to ``prompt``."""
        for request, options in zip(self._requests, REQUESTS, strict=True):
            if prompt.endswith(request):
                for found in self._readings(prompt.removesuffix(request)):
                    if self._renders(found, prompt, options):
                        return found
        return None

    def _readings(self, body: str) -> list[Messages]:
        found = [self._turns([], body.removeprefix(self._opening))]
        system = self._system
        if system is not None and body.startswith(system[0]) and system[1] in body:
            said, _, rest = body[len(system[0]) :].partition(system[1])
            found.append(self._turns([_said("system", said)], rest))
        return found

    def _turns(self, before: Messages, text: str) -> Messages:
        """Contents between alternating marks, the user's first."""
        messages, rest = list(before), text
        while True:
            role = "user" if len(messages) % 2 == len(before) % 2 else "assistant"
            said, mark, rest = rest.partition(self._to_assistant if role == "user" else self._to_user)
            messages.append(_said(role, said))
            if not mark:
                return messages

    def _system_marks(self) -> tuple[str, str] | None:
        """What stands before a system text, and between it and the user's; None where the template takes none."""
        try:
            whole = self._render([_said("system", "Sx4"), _said("user", "Qx1")])
        except Exception:  # templates raise whatever their author chose
            return None
        before, _, rest = whole.partition("Sx4")
        return (before, rest.partition("Qx1")[0]) if "Qx1" in rest else None

    def _renders(self, messages: Messages, prompt: str, options: Mapping[str, bool]) -> bool:
        try:
            return self._render(messages, **options) == prompt
        except Exception:  # as above: a wrong reading may be what it refuses
            return False

    def _render(self, messages: Messages, **options: bool) -> str:
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False, **options))


def _end_of_prompt(query: str, prompt: str) -> int:
    """Where most of the prompt ends; the first such place, for a completion may repeat it."""
    if query.startswith(prompt):
        return len(prompt)
    tail, limit = prompt[-OVERLAP:], len(prompt) + OVERLAP
    ends = [found.start() + len(tail) for found in re.finditer(f"(?={re.escape(tail)})", query[:limit])]
    if not ends:
        raise DataError(f"the query does not begin with its prompt: {query[:80]!r} after {prompt[:80]!r}")
    shared = [sum(1 for _ in takewhile(bool, map(eq, query[end - 1 :: -1], prompt[::-1]))) for end in ends]
    return ends[shared.index(max(shared))]


def _without_end_marks(text: str, special: Sequence[str]) -> str:
    """One after the other, since a pattern for all of them takes quadratic time on a completion full of spaces."""
    while True:
        said = text.rstrip()
        widths = [len(token) for token in special if said.endswith(token)]
        if found := END_MARK.search(said, max(0, len(said) - END_WIDTH)):
            widths.append(len(said) - found.start())
        if not widths:
            return text
        text = said[: len(said) - max(widths)].rstrip()


def _said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _loaded(name: str) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"template: no tokenizer can be loaded from {name!r} ({str(error).splitlines()[0]})"
        ) from None
    if tokenizer.chat_template is None:
        raise ConfigError(
            f"template: the tokenizer of {name!r} has no chat template; leave template out for plain prompts"
        )
    return tokenizer
