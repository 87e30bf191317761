"""Text → token ids, the one way: training, evaluation and serving all encode through ``ChatEncoder``.

A tokenizer with a chat template renders the conversation and is then applied *without* special tokens, so that no BOS
is doubled. A tokenizer without one (most encoders) gets ``Role: text`` paragraphs and its own special tokens, prompt and
response as a segment pair. What does not fit loses the prompt's far end, never the response.

Special tokens come from the template and the frame alone: spelt out in a message or a segment they are read as text. A
decoder's plain strings are taken as rendered already, and what they spell counts.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from poise.data.records import Conversation, Message, Text, as_messages
from poise.data.specials import Spellings, unused_mark
from poise.errors import ConfigError

ENCODING_VERSION = 1
SHORTEST = 8
BLOCK = 4096  # texts tokenised at once: what a tokenizer returns is many times the size of the ids
Truncate = Literal["prompt", "error", "drop"]
SHORTEN = "raise backbone.max_length or shorten the text"
MEND_ROLES = "mend the rows or the tokenizer's chat template"
SYSTEM = ("system", "developer")
# a rating follows at once, not after the model has reasoned about it; a template that does not know a name ignores it
ANSWER_AT_ONCE = {"enable_thinking": False, "thinking": False}


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of one prompt + response; the first ``prompt_length`` of them belong to the prompt alone.

    ``cut`` counts prompt tokens that were left out, ``cut_response`` response tokens (``encode_beginning``); ``problem``
    says why the text cannot be used (then ``ids`` is empty) and ``remedy`` what to do about it.
    """

    ids: tuple[int, ...]
    prompt_length: int
    cut: int = 0
    problem: str | None = None
    remedy: str = ""
    cut_response: int = 0


class Frame(NamedTuple):
    """Special token ids before the prompt, between prompt and response, and after the response."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]


NO_FRAME = Frame((), (), ())


class Tokens(NamedTuple):
    """A whole text before truncation: its ids without the frame, ``shared`` of which come from the prompt alone."""

    ids: list[int]
    shared: int
    frame: Frame

    @property
    def response_length(self) -> int:
        """What is never cut."""
        return len(self.ids) - self.shared


class TemplateRefusal(Exception):
    """The chat template does not take these roles."""


class ChatEncoder:
    """Renders, tokenises and truncates; identical for training, evaluation and serving.

    Parameters: ``max_length`` in tokens; ``truncate`` = ``prompt`` cuts the prompt's far end (oldest turns first, system
    text last), ``error`` and ``drop`` mark every over-long text as a problem. With ``instruction`` every text goes on
    with that user turn and ends where the assistant's answer to it would begin; like the response, it is never cut.
    """

    def __init__(
        self, tokenizer: Any, max_length: int, truncate: Truncate = "prompt", instruction: str | None = None
    ) -> None:
        if max_length < SHORTEST:
            raise ConfigError(f"max_length is {max_length}; it must be at least {SHORTEST} tokens")
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.truncate = truncate
        self.template: str | None = tokenizer.chat_template
        self.frame = special_frame(tokenizer)
        self._spellings = Spellings(tokenizer)
        self._known_ids: dict[int, int] = {}
        self.instruction = instruction
        if instruction is not None:  # one text that goes on, with nothing at its end
            self.frame = Frame(self.frame.before, (), ())

    @property
    def template_sha256(self) -> str:
        """Hash of everything that decides how text becomes ids, apart from the vocabulary."""
        policy = f"{ENCODING_VERSION}|{tuple(self.frame)}|{self.template or 'plain'}"
        if self.instruction is not None:
            policy += f"|{self.instruction}"
        return hashlib.sha256(policy.encode("utf8")).hexdigest()

    def encode(self, prompt: Text, response: Text) -> Encoded:
        """Encode one text; see ``encode_many``."""
        return self.encode_many([(prompt, response)])[0]

    def encode_many(self, texts: Sequence[tuple[Text, Text]]) -> list[Encoded]:
        """Encode many (prompt, response) pairs, some thousands of them in one call of the tokenizer."""
        blocks = (texts[i : i + BLOCK] for i in range(0, len(texts), BLOCK))
        return [encoded for block in blocks for encoded in self._encode_block(block)]

    def encode_beginning(self, prompt: Text, response: Text) -> Encoded:
        """As much of a response that is too long as fits beside its prompt, or beside half of the room's worth of it.

        For benchmarks, whose rules leave no response out: their own pipelines cut over-long texts at the end.
        """
        whole = self._tokens([(prompt, response)])[0]
        room = self.max_length - sum(map(len, whole.frame))
        limit = max(room // 2, room - whole.shared)
        *before, last = as_messages(response, "assistant")
        low, high = 0, len(last.content)  # number of characters to keep
        while low < high:
            middle = (low + high + 1) // 2
            head = (*before, Message(last.role, last.content[:middle]))
            fits = self._tokens([(prompt, head)])[0].response_length <= limit
            low, high = (middle, high) if fits else (low, middle - 1)
        head = (*before, Message(last.role, last.content[:low]))
        cut = head[0].content if isinstance(response, str) else head
        kept = self._tokens([(prompt, cut)])[0]
        fitted = self._fitted(prompt, cut, kept, "prompt")
        return replace(fitted, cut_response=whole.response_length - kept.response_length)

    def _encode_block(self, texts: Sequence[tuple[Text, Text]]) -> list[Encoded]:
        try:
            return [self._fitted(*text, tokens) for text, tokens in zip(texts, self._tokens(texts), strict=True)]
        except TemplateRefusal as refusal:
            if len(texts) == 1:
                return [Encoded((), 0, problem=str(refusal), remedy=MEND_ROLES)]
            return [self.encode(*text) for text in texts]  # one by one, to tell which

    def ids_of_next(self, words: Sequence[str]) -> list[tuple[int, ...]]:
        """The token ids of each word as the answer to the instruction, or alone where there is none.

        Empty where they depend on what was asked.
        """
        if self.instruction is None:
            return [tuple(ids) for ids in self._tokenise(list(words))]
        found = []
        for prompt, response in (("?", "!"), ((Message("user", "?"),), (Message("assistant", "!"),))):
            text = self._render(prompt, response)
            before, *after = self._tokenise([text, *(text + word for word in words)])
            found.append([tuple(ids[len(before) :]) if ids[: len(before)] == before else () for ids in after])
        return [bare if bare == told else () for bare, told in zip(*found, strict=True)]

    def _tokens(self, texts: Sequence[tuple[Text, Text]]) -> list[Tokens]:
        prompts = list(dict.fromkeys(prompt for prompt, _ in texts))
        heads = dict(zip(prompts, self._tokenise_parts([self._parts(p, None) for p in prompts]), strict=True))
        frames = [self._frame_of(prompt) for prompt, _ in texts]
        tails = self._tokenise_parts(
            [
                self._spellings.cut(_plain(r)) if frame.between else self._parts(p, r)
                for (p, r), frame in zip(texts, frames, strict=True)
            ]
        )
        found = []
        for (prompt, _), frame, tail in zip(texts, frames, tails, strict=True):
            head = heads[prompt]
            if frame.between:  # a segment pair
                found.append(Tokens(head + tail, len(head), frame))
            else:
                found.append(_bare(Tokens(tail, _common_prefix(head, tail), frame)))
        return found

    def _fitted(self, prompt: Text, response: Text, tokens: Tokens, truncate: Truncate | None = None) -> Encoded:
        room = self.max_length - sum(map(len, tokens.frame))
        over = len(tokens.ids) - room
        if over <= 0:
            return self._framed(tokens, cut=0)
        if (truncate or self.truncate) != "prompt":
            problem = f"{len(tokens.ids)} tokens are longer than max_length {self.max_length}"
            return Encoded((), 0, problem=problem, remedy=SHORTEN)
        if isinstance(prompt, str):
            kept = tokens._replace(ids=tokens.ids[over:], shared=tokens.shared - over)
        else:
            kept = self._shortened(prompt, response, room)
        if kept.shared < 0 or len(kept.ids) > room:
            takes = "the response alone takes" if self.instruction is None else "response and instruction alone take"
            problem = f"{takes} {kept.response_length} tokens, more than max_length {self.max_length} leaves"
            return Encoded((), 0, problem=problem, remedy=SHORTEN)
        return self._framed(kept, cut=len(tokens.ids) - len(kept.ids))

    def _framed(self, tokens: Tokens, cut: int) -> Encoded:
        frame, ids = tokens.frame, tokens.ids
        head = (*frame.before, *ids[: tokens.shared], *frame.between)
        whole = (*head, *ids[tokens.shared :], *frame.after)
        # one number object per vocabulary entry: a tokenizer makes one per token, far larger than its place in a tuple
        return Encoded(tuple(map(self._known_ids.setdefault, whole, whole)), len(head), cut)

    def _shortened(self, prompt: Conversation, response: Text, room: int) -> Tokens:
        """Drop whole old exchanges, then the far end of the last one, then of the system text, until it fits."""
        system = tuple(m for m in prompt if m.role in SYSTEM)
        turns = tuple(m for m in prompt if m.role not in SYSTEM)
        # an exchange starts at a user turn: templates refuse answers without a question
        starts = [0, *(i for i, m in enumerate(turns) if i and m.role == "user")]
        kept = next((i for i in starts if self._length(system + turns[i:], response) <= room), starts[-1])
        fitted = system + turns[kept:]
        for index in (*range(len(system), len(fitted)), *range(len(system))):
            if self._length(fitted, response) > room:
                fitted = self._beheaded(fitted, index, response, room)
        return self._tokens([(fitted, response)])[0]

    def _beheaded(self, prompt: Conversation, index: int, response: Text, room: int) -> Conversation:
        """Keep the longest tail of one message with which the whole text fits; nothing of it where none does."""
        role, content = prompt[index]
        before, after = prompt[:index], prompt[index + 1 :]
        low, high = 0, len(content)  # number of characters to cut
        while low < high:
            middle = (low + high) // 2
            if self._length((*before, Message(role, content[middle:]), *after), response) > room:
                low = middle + 1
            else:
                high = middle
        return (*before, Message(role, content[low:]), *after)

    def _length(self, prompt: Conversation, response: Text) -> int:
        return len(self._tokens([(prompt, response)])[0].ids)

    def _frame_of(self, prompt: Text) -> Frame:
        templated = self.template is not None and not isinstance(prompt, str)
        return NO_FRAME if templated else self.frame

    def _parts(self, prompt: Text, response: Text | None) -> list[str]:
        """The rendered text in parts to be tokenised apart: one, or more where a message spells a special token."""
        if isinstance(prompt, str):
            text = self._render(prompt, response)
            return self._spellings.cut(text) if self.frame.between else [text]
        answer = None if response is None else as_messages(response, "assistant")
        contents = [m.content for m in (*prompt, *(answer or ()))]
        if not self._spellings.occur_in(contents):
            return [self._render(prompt, answer)]
        mark = unused_mark(contents)
        marked = None if answer is None else self._spellings.marked(answer, mark)
        return self._render(self._spellings.marked(prompt, mark), marked).split(mark)

    def _tokenise_parts(self, texts: list[list[str]]) -> list[list[int]]:
        ids = iter(self._tokenise(list(itertools.chain.from_iterable(texts))))
        return [list(itertools.chain.from_iterable(itertools.islice(ids, len(parts)))) for parts in texts]

    def _tokenise(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        batch = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        return [list(ids) for ids in batch["input_ids"]]

    def _render(self, prompt: Text, response: Text | None) -> str:
        asked = self.instruction is not None and response is not None
        # the line break keeps the answer's token apart: "Assistant: 9" is cut differently by different tokenizers
        question = f"\n\nUser: {self.instruction}\n\nAssistant:\n" if asked else ""
        if isinstance(prompt, str):
            return prompt + (response if isinstance(response, str) else "") + question
        if self.template is None:
            turns = "\n\n".join(_labelled(m) for m in prompt)
            if self.frame.between:
                return turns
            return f"{turns}\n\nAssistant:" + ("" if response is None else f" {_plain(response)}{question}")
        answer = () if response is None else as_messages(response, "assistant")
        messages = [m._asdict() for m in (*prompt, *answer)]
        if self.instruction is not None and asked:
            messages.append(Message("user", self.instruction)._asdict())
        extra = ANSWER_AT_ONCE if asked else {}
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=asked or response is None, **extra
                )
            )
        except Exception as error:  # templates raise whatever their author chose
            roles = ", ".join(m["role"] for m in messages)
            raise TemplateRefusal(f"the chat template refuses the roles [{roles}] ({error})") from None


def special_frame(tokenizer: Any) -> Frame:
    """The special tokens that poise itself puts around a text which no chat template has framed.

    Encoders: those of a segment pair, ``[CLS] prompt [SEP] response [SEP]``. Decoders: the end-of-text token at the end,
    and the BOS where the tokenizer adds one. Both are read off what the tokenizer does, not off its settings: a BOS can
    come from its post-processor alone.
    """
    one, other, pair = (
        list(tokenizer(*texts, add_special_tokens=special)["input_ids"])
        for texts, special in ((("a",), False), (("b",), False), (("a", "b"), True))
    )
    cls, sep, bos, eos = (getattr(tokenizer, f"{name}_token_id") for name in ("cls", "sep", "bos", "eos"))
    if cls is None or sep is None:
        starts = bos is not None and pair[:1] == [bos]
        return Frame((bos,) if starts else (), (), () if eos is None else (eos,))
    start, end = _find(one, pair), _find(other, pair)
    between = tuple(pair[start + len(one) : end])
    if start > 0 and between:
        return Frame(tuple(pair[:start]), between, tuple(pair[end + len(other) :]))
    return Frame((cls,), (sep,), (sep,))


def _bare(tokens: Tokens) -> Tokens:
    """Without the frame's tokens where the text brings them itself, so that the frame does not double them."""
    ids, shared, frame = tokens
    if frame.before and tuple(ids[: len(frame.before)]) == frame.before:
        ids, shared = ids[len(frame.before) :], max(0, shared - len(frame.before))
    if frame.after and tuple(ids[-len(frame.after) :]) == frame.after:
        ids = ids[: -len(frame.after)]
    return Tokens(ids, min(shared, len(ids)), frame)


def _labelled(message: Message) -> str:
    return f"{message.role.capitalize()}: {message.content}"


def _plain(response: Text) -> str:
    """A response without a template: the assistant's text as it is, further messages with their roles."""
    if isinstance(response, str):
        return response
    first, *more = response
    opening = first.content if first.role == "assistant" else _labelled(first)
    return "\n\n".join([opening, *map(_labelled, more)])


def _find(part: Sequence[int], whole: Sequence[int]) -> int:
    """Where ``part`` starts in ``whole``; -1 where it does not occur."""
    return next((i for i in range(len(whole)) if whole[i : i + len(part)] == part), -1)


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    shared = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        shared += 1
    return shared
