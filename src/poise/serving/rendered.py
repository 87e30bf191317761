"""Texts and token ids that were rendered elsewhere → the same ``Encoded`` as the conversation itself would give.

RL frameworks send whole conversations as one string. Its ids are those of the tokenizer without special tokens; where the
assistant's last turn begins is found by what the template puts before it. Without that, a model that reads the prompt apart
cannot be asked, and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from poise.data.chat import ANSWER_AT_ONCE, ChatEncoder, Encoded
from poise.errors import DataError

Truncation = Literal["error", "left", "right"]
SEND_PARTS = "send messages, or prompt and responses"
PLAIN_OPENING = "\n\nAssistant:"


class Marks(NamedTuple):
    """What stands before the assistant's turn and after it, the request for a rating, and special tokens at both ends."""

    opening: str | None
    closing: str
    request: str | None
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()


class Cut(NamedTuple):
    """How a text is brought to size, and whether special tokens that it lacks at its ends are added."""

    truncation: Truncation = "error"
    limit: int | None = None
    add_special_tokens: bool = False


class RenderedReader:
    """Reads for one model; ``apart`` says that its head reads the state of the prompt, which then must be known."""

    def __init__(self, encoder: ChatEncoder, *, apart: bool) -> None:
        self.encoder, self.tokenizer = encoder, encoder.tokenizer
        self.segments = bool(encoder.frame.between)
        self.apart = apart or self.segments
        self.bos: int | None = self.tokenizer.bos_token_id
        self.vocabulary = len(self.tokenizer)
        self.marks = self._marks()
        self.opening_ids = self._ids(self.marks.opening) if self.marks.opening else []

    def text(self, text: str, cut: Cut, prompt: str | None = None) -> Encoded:
        """Encode one string; ``prompt`` is the beginning of it, where that is known. Raises ``DataError``."""
        if not text.strip():
            raise DataError(f"the text is empty; {SEND_PARTS}")
        at = self._split(text, prompt)
        if self.segments:
            return self._segments(text, at, cut)
        marks = self.marks
        if marks.closing and not text.endswith(marks.closing) and text.endswith(marks.closing.rstrip()):
            text += marks.closing[len(marks.closing.rstrip()) :]  # decoders of ids drop the template's last line break
        ids, head = self._ids(self._asked(text)), self._ids(text[:at]) if at else []
        shared = next((i for i, (a, b) in enumerate(zip(head, ids, strict=False)) if a != b), min(len(head), len(ids)))
        return self._fitted(self._framed(ids, shared, cut), cut)

    def token_ids(self, ids: Sequence[int], cut: Cut, prompt_length: int | None = None) -> Encoded:
        """Take token ids as they are; the first ``prompt_length`` are the prompt's. Raises ``DataError``."""
        if not ids:
            raise DataError("token_ids is empty; give at least one")
        if not 0 <= min(ids) <= max(ids) < self.vocabulary:
            raise DataError(f"token ids must lie in 0 … {self.vocabulary - 1}; use this model's tokenizer")
        if prompt_length is not None and not 0 <= prompt_length <= len(ids):
            raise DataError(f"prompt_length is {prompt_length} of {len(ids)} tokens; it must lie within them")
        if prompt_length is None:
            prompt_length = _last(self.opening_ids, ids)
        if prompt_length is None:
            self._require_known()
        return self._fitted(self._framed(list(ids), prompt_length or 0, cut), cut)

    def doubled_bos(self, encoded: Encoded) -> bool:
        """Whether two BOS stand at the beginning, which no model was trained on."""
        return self.bos is not None and encoded.ids[:2] == (self.bos, self.bos)

    def _split(self, text: str, prompt: str | None) -> int:
        """Where the response begins, 0 if nobody can tell and it does not matter."""
        if prompt and text.startswith(prompt) and len(prompt) < len(text):
            return len(prompt)
        opening = self.marks.opening
        at = text.rfind(opening) if opening else -1
        if opening and at > 0:
            return at + len(opening)
        self._require_known()
        return 0

    def _require_known(self) -> None:
        if self.apart:
            raise DataError(f"no assistant turn was found, and this model reads the prompt apart; {SEND_PARTS}")

    def _segments(self, text: str, at: int, cut: Cut) -> Encoded:
        """An encoder's segment pair, with its own special tokens: no state is the text's without them."""
        prompt, response = text[:at].removesuffix(PLAIN_OPENING), text[at:].removeprefix(" ")
        encoder = self.encoder
        if cut.limit is not None and cut.limit < encoder.max_length:
            raise DataError("an encoder's texts are cut to its max_length only; leave out the other limit")
        found = encoder.encode(prompt, response)
        if (found.cut or found.problem) and cut.truncation == "right":
            found = encoder.encode_beginning(prompt, response)
        if found.problem or (found.cut and cut.truncation == "error"):
            raise DataError(f"{found.problem or 'the text is too long'}; shorten it, or send truncation")
        return found

    def _asked(self, text: str) -> str:
        if self.encoder.instruction is None:
            return text
        if self.marks.request is None:
            raise DataError(f"this model is asked for a rating after the conversation; {SEND_PARTS}")
        return text + self.marks.request

    def _framed(self, ids: list[int], shared: int, cut: Cut) -> tuple[list[int], int]:
        """With the special tokens that training put at both ends, where they are wanted and not there."""
        before, after = self.marks.before, self.marks.after
        if cut.add_special_tokens and before and tuple(ids[: len(before)]) != before:
            ids, shared = [*before, *ids], shared + len(before)
        if cut.add_special_tokens and after and tuple(ids[-len(after) :]) != after:
            ids = [*ids, *after]
        return ids, shared

    def _fitted(self, text: tuple[list[int], int], cut: Cut) -> Encoded:
        ids, shared = text
        limit = min(cut.limit or self.encoder.max_length, self.encoder.max_length)
        over = len(ids) - limit
        if over <= 0:
            return Encoded(tuple(ids), shared)
        if cut.truncation == "error":
            raise DataError(f"{len(ids)} tokens are more than {limit}; shorten the text, or send truncation")
        if cut.truncation == "right":
            if self.encoder.instruction is not None:
                raise DataError(f"the end of this text is the request for a rating and cannot be cut; {SEND_PARTS}")
            return Encoded(tuple(ids[:limit]), min(shared, limit), cut_response=over)
        kept = 1 if ids[0] == self.bos else 0
        if shared and over > shared - kept:
            raise DataError(f"the response alone takes {len(ids) - shared} of {limit} tokens; shorten it, or cut right")
        return Encoded((*ids[:kept], *ids[kept + over :]), max(0, shared - over), cut=over)

    def _ids(self, text: str) -> list[int]:
        found = self.tokenizer([text], add_special_tokens=False, return_attention_mask=False, verbose=False)
        return list(found["input_ids"][0])

    def _marks(self) -> Marks:
        """Read off what the template does with a small conversation."""
        ask, answer = {"role": "user", "content": "Qx7"}, {"role": "assistant", "content": "Ax7"}
        encoder = self.encoder
        if encoder.template is None:
            request = None if encoder.instruction is None else f"\n\nUser: {encoder.instruction}\n\nAssistant:\n"
            return Marks(PLAIN_OPENING, "", request, encoder.frame.before, encoder.frame.after)
        try:
            asked, answered = self._render([ask]), self._render([ask, answer])
            opening = _after(asked, self._render([ask], add_generation_prompt=True))
            request = None
            if encoder.instruction is not None:
                turn = {"role": "user", "content": encoder.instruction}
                whole = self._render([ask, answer, turn], add_generation_prompt=True, **ANSWER_AT_ONCE)
                request = _after(answered, whole)
        except (
            Exception
        ):  # templates raise whatever their author chose; such a model cannot read rendered texts by itself
            return Marks(None, "", None)
        bos = self.tokenizer.bos_token
        before = (self.tokenizer.bos_token_id,) if bos and answered.startswith(bos) else ()
        return Marks(opening or None, answered.rpartition("Ax7")[2], request, before)

    def _render(self, messages: list[dict[str, str]], **options: Any) -> str:
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, **options))


def _after(start: str, whole: str) -> str | None:
    return whole[len(start) :] if whole.startswith(start) else None


def _last(part: Sequence[int], whole: Sequence[int]) -> int | None:
    """Where the last occurrence of ``part`` ends."""
    size = len(part)
    if not size:
        return None
    wanted, places = list(part), range(len(whole) - size, -1, -1)
    return next((i + size for i in places if whole[i] == wanted[0] and list(whole[i : i + size]) == wanted), None)
