"""What a request holds → token ids, for one model: conversations through its own encoder, rendered texts as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from poise.data import rows
from poise.data.chat import SHORTEN, ChatEncoder, Encoded
from poise.data.records import Message, Text
from poise.errors import DataError
from poise.model import RewardModel
from poise.serving.rendered import Cut, RenderedReader, Truncation
from poise.serving.schema import Input

CHARACTERS_PER_TOKEN = 100


class TextReader:
    """Encodes as ``model.predict`` does; what is too long is refused, or cut where the request says so.

    Not for several threads at once: tokenizers are not.
    """

    def __init__(self, model: RewardModel) -> None:
        known = model.backbone.encoder
        self.conversational, self.max_length = model.conversational, known.max_length
        settings = known.tokenizer, known.max_length
        self._strict = ChatEncoder(*settings, "error", known.instruction)
        self._cutting = ChatEncoder(*settings, "prompt", known.instruction)
        self.rendered = RenderedReader(self._cutting, apart=model.method.needs_prompt_state)

    def groups(self, inputs: Sequence[Input], truncation: Truncation) -> list[list[Encoded]]:
        """Every input as a group of responses to one prompt. Raises ``DataError`` with the input's number."""
        texts: list[tuple[Text, Text]] = []
        sizes: list[int] = []
        groups: list[list[Encoded]] = []
        for number, given in enumerate(inputs):
            try:
                found = self._texts(given)
                if found is None:
                    groups.append([self._rendered(given, Cut(truncation))])
                else:
                    texts += found
                    groups.append([])
                sizes.append(len(found or ()))
            except rows.RowError as error:
                raise DataError(f"inputs[{number}]: {error}") from None
            except DataError as error:
                raise DataError(f"inputs[{number}]: {error}") from None
        numbers = [number for number, size in enumerate(sizes) for _ in range(size)]
        for number, one in zip(numbers, self._conversations(texts, numbers, truncation), strict=True):
            groups[number].append(one)
        return groups

    def strings(self, texts: Sequence[str | Sequence[int]], cut: Cut, prompts: Sequence[str] = ()) -> list[Encoded]:
        """Rendered texts or token ids, one group each. Raises ``DataError`` with the text's number."""
        known = prompts if len(prompts) == len(texts) else [None] * len(texts)
        found = []
        for number, (text, prompt) in enumerate(zip(texts, known, strict=True)):
            try:
                found.append(self._string(text, cut, prompt))
            except DataError as error:
                raise DataError(f"text {number}: {error}") from None
        return found

    def _string(self, text: str | Sequence[int], cut: Cut, prompt: str | None) -> Encoded:
        if not isinstance(text, str):
            return self.rendered.token_ids(text, cut)
        self._require_short(text)
        return self.rendered.text(text, cut, prompt)

    def _rendered(self, given: Input, cut: Cut) -> Encoded:
        if given.text is not None:
            return self._string(given.text, cut, None)
        assert given.token_ids is not None
        return self.rendered.token_ids(given.token_ids, cut, given.prompt_length)

    def _texts(self, given: Input) -> list[tuple[Text, Text]] | None:
        """The (prompt, response) texts of an input; None where it was rendered already."""
        prompt: Any = given.prompt
        responses: Sequence[Any] = given.responses or ()
        if given.messages is not None:
            if len(given.messages) < 2:
                raise DataError("messages need a prompt and, last, the response to it")
            prompt, responses = given.messages[:-1], [given.messages[-1:]]
        if prompt is None:
            return None
        asked = rows.text(_plain(prompt), "prompt")
        if self.conversational and isinstance(asked, str):
            asked = (Message("user", asked),)
        found = [rows.aligned(asked, rows.text(_plain(r), "response")) for r in responses]
        for part in (found[0][0], *(response for _, response in found)):
            for text in [part] if isinstance(part, str) else [message.content for message in part]:
                self._require_short(text)
        return found

    def _conversations(
        self, texts: Sequence[tuple[Text, Text]], numbers: Sequence[int], truncation: Truncation
    ) -> list[Encoded]:
        encoder = self._cutting if truncation == "left" else self._strict
        found = encoder.encode_many(texts)
        for place, (text, one) in enumerate(zip(texts, found, strict=True)):
            if one.problem and one.remedy == SHORTEN and truncation == "right":
                found[place] = one = self._cutting.encode_beginning(*text)
            if one.problem:
                remedy = "shorten it, or send truncation" if one.remedy == SHORTEN else one.remedy
                raise DataError(f"inputs[{numbers[place]}]: {one.problem}; {remedy}")
        return found

    def _require_short(self, text: str) -> None:
        """Cutting tokenises again and again: a text that is absurdly long would hold up everybody."""
        limit = CHARACTERS_PER_TOKEN * self.max_length
        if len(text) > limit:
            raise DataError(
                f"a text has {len(text)} characters, and this model reads {self.max_length} tokens; send at most {limit}"
            )


def _plain(text: Any) -> Any:
    return text if isinstance(text, str) else [message.model_dump() for message in text]
