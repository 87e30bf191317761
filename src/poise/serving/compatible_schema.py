"""The requests of other servers' routes, as far as they matter here; keys that do not are let through."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from poise.errors import ConfigError
from poise.serving.schema import MOST_INPUTS, ChatMessage

Ids = Annotated[list[int], Field(min_length=1)]
TextOrPair = Annotated[list[str], Field(min_length=1, max_length=2)]
Priority = Annotated[int, Field(ge=-(2**31), lt=2**31)]


class RouteOptions(BaseModel):
    """What may be said in the address of any route that has no place for it in its body."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    utility: str | None = None
    raw: bool = False
    params: bool = False
    truncation: Literal["error", "left", "right"] = "error"


class Lenient(BaseModel):
    """Clients send keys of their own servers that change nothing here."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class TextPart(Lenient):
    """A piece of a message's content; only text can be read."""

    type: Literal["text"]
    text: str


class PartedMessage(Lenient):
    """A message whose content may come in parts."""

    role: str = Field(min_length=1, max_length=64)
    content: str | list[TextPart]

    def whole(self) -> ChatMessage:
        """The parts as one text."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return ChatMessage(role=self.role, content=content)


class VllmRequest(Lenient):
    """What vLLM's pooling routes share: ``input`` in one of four forms, or ``messages``."""

    model: str | None = None
    input: str | list[str] | list[Ids] | Ids | None = None
    messages: Annotated[list[PartedMessage], Field(min_length=2, max_length=MOST_INPUTS)] | None = None
    add_special_tokens: bool = True
    truncate_prompt_tokens: int | None = Field(default=None, ge=-1)
    truncation_side: Literal["left", "right"] | None = None
    chat_template: None = None
    priority: Priority = 0

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.input is None) == (self.messages is None):
            raise ValueError("give input or messages")
        if isinstance(self.input, list) and len(self.input) > MOST_INPUTS and not isinstance(self.input[0], int):
            raise ValueError(f"at most {MOST_INPUTS} inputs at once")
        if self.truncate_prompt_tokens == 0:
            raise ValueError("truncate_prompt_tokens must be at least 1, or -1 for what the model reads")
        return self

    def texts(self) -> list[str | list[int]]:
        """``input`` as a list of strings or of token ids."""
        given = self.input
        if given is None:
            raise ConfigError("there is no input; give input or messages")
        if isinstance(given, str):
            return [given]
        if given and isinstance(given[0], int):
            return [[number for number in given if isinstance(number, int)]]
        return [one for one in given if not isinstance(one, int)]

    def chat(self) -> list[ChatMessage]:
        """``messages`` with whole contents."""
        return [message.whole() for message in self.messages or ()]


class ClassifyRequest(VllmRequest):
    """``POST /classify``; activations are accepted and never applied."""


class PoolingRequest(VllmRequest):
    """``POST /pooling``."""

    task: Literal["classify"] | None = None
    encoding_format: Literal["float", "base64"] = "float"


class EmbeddingsRequest(VllmRequest):
    """``POST /v1/embeddings``."""

    encoding_format: Literal["float", "base64"] = "float"


class GetRewardRequest(Lenient):
    """``POST /get_reward``."""

    query: str | Annotated[list[str], Field(max_length=MOST_INPUTS)]
    prompts: str | list[str] | None = None


class PredictRequest(Lenient):
    """``POST /predict``, with TEI's ``inputs``: a text, a list of one or two strings, or a batch of such lists.

    ``raw_scores`` is accepted, and scores are always raw.
    """

    inputs: str | TextOrPair | Annotated[list[TextOrPair], Field(max_length=MOST_INPUTS)]
    truncate: bool | None = None
    truncation_direction: Literal["right", "left", "Right", "Left"] = "right"

    @field_validator("inputs", mode="before")
    @classmethod
    def _one_form(cls, given: Any) -> Any:
        strings = [one for one in given if isinstance(one, str)] if isinstance(given, list) else []
        if strings and not len(strings) == len(given) <= 2:
            raise ValueError(
                "a list of strings is one text or a prompt and its response; a batch is [[text], [prompt, response]]"
            )
        return given

    @property
    def alone(self) -> list[str]:
        """The strings of what is no batch, whose answer is one list."""
        return [one for one in ([self.inputs] if isinstance(self.inputs, str) else self.inputs) if isinstance(one, str)]

    @property
    def batch(self) -> list[list[str]]:
        """One text, or a prompt and its response, each."""
        return [self.alone] if self.alone else [one for one in self.inputs if isinstance(one, list)]


class ScoreEvaluationRequest(Lenient):
    """``POST /v1/score/evaluation``."""

    model: str | None = None
    messages: list[str] = Field(max_length=MOST_INPUTS)
    max_length: int | None = Field(default=None, ge=1)
