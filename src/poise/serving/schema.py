"""The requests and answers of the native route, as everybody outside sees them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MOST_INPUTS, MOST_RESPONSES, MOST_COMPARED, MOST_LEVELS = 4096, 4096, 256, 999
Include = Literal["mean", "std", "quantiles", "params", "prob_better"]
Level = Annotated[float, Field(gt=0, lt=1)]


class Strict(BaseModel):
    """Unknown keys are refused: a misspelt option must not be an ignored one."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class ChatMessage(Strict):
    """One turn of a conversation."""

    role: str = Field(min_length=1, max_length=64)
    content: str


Messages = Annotated[list[ChatMessage], Field(min_length=1)]


class Input(Strict):
    """One of: messages (the last is the response), prompt with responses, a rendered text, or token ids."""

    messages: Messages | None = None
    prompt: str | Messages | None = None
    responses: Annotated[list[str | Messages], Field(min_length=1, max_length=MOST_RESPONSES)] | None = None
    text: str | None = None
    token_ids: Annotated[list[int], Field(min_length=1)] | None = None
    prompt_length: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        given = {name for name in type(self).model_fields if getattr(self, name) is not None}
        forms = ({"messages"}, {"prompt", "responses"}, {"text"}, {"token_ids"}, {"token_ids", "prompt_length"})
        if given not in forms:
            raise ValueError(
                f"an input is messages, or prompt and responses, or text, or token_ids; got {', '.join(sorted(given)) or 'nothing'}"
            )
        return self


class ScoreOptions(Strict):
    """Which utility turns a reward into the score: ``cvar:0.1``, or ``cvar`` with its number in ``args``."""

    utility: str = Field(max_length=100)
    args: dict[str, float] = Field(default={}, max_length=1)

    @property
    def spec(self) -> str:
        """As ``parse_utility`` reads it."""
        return ":".join([self.utility, *(repr(value) for value in self.args.values())])


class RewardsRequest(Strict):
    """``POST /v1/rewards``."""

    model: str | None = None
    inputs: list[Input] = Field(max_length=MOST_INPUTS)
    include: list[Include] = Field(default=["mean", "std"], max_length=20)
    quantile_levels: list[Level] = Field(default=[0.05, 0.5, 0.95], min_length=1, max_length=MOST_LEVELS)
    score: ScoreOptions | None = None
    weights: dict[str, float] | None = Field(default=None, max_length=1000)
    raw: bool = False
    truncation: Literal["error", "left", "right"] = "error"
    priority: int = Field(default=0, ge=-(2**31), lt=2**31)


class QuantileValues(BaseModel):
    """Quantiles of one reward."""

    levels: list[float]
    values: list[float]


class Distribution(BaseModel):
    """What is believed about one reward; only what was asked for."""

    family: str
    params: dict[str, Any] | None = None
    mean: float | None = None
    std: float | None = None
    quantiles: QuantileValues | None = None
    support: tuple[float, float] | None = None


class RewardRow(BaseModel):
    """One response. ``epistemic``: the spread between the members of an ensemble; ``truncated``: not all of it was read."""

    index: int
    group: int
    object: Literal["reward"]
    score: float
    distribution: Distribution
    epistemic: float | None
    num_tokens: int
    truncated: bool


class ComparedRows(BaseModel):
    """P(row i is better than row j) + ½ P(tie) within a group; i and j are indices of ``data``."""

    group: int
    i: int
    j: int
    p_i_gt_j: float


class Usage(BaseModel):
    """Tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class Family(BaseModel):
    """With the rows' ``params``, what restores the distributions (``poise.distributions.restore``)."""

    name: str
    dtype: str
    shared: dict[str, Any]
    options: dict[str, Any]


class CalibrationFacts(BaseModel):
    """Which calibration the numbers went through."""

    id: str
    method: str


class RewardsAnswer(BaseModel):
    """The answer of ``/v1/rewards``, one row per response in the order they were given."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    revision: str
    calibration: CalibrationFacts | None
    family: Family | None
    data: list[RewardRow]
    comparisons: list[ComparedRows] | None
    usage: Usage


class ErrorBody(BaseModel):
    """What was wrong and what to do; ``type`` names an exception of ``poise.errors`` where there is one."""

    message: str
    type: str
    code: int


class ErrorAnswer(BaseModel):
    """Every answer that is not 2xx."""

    error: ErrorBody
