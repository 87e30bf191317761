"""One data row (a mapping of columns) → one record, or a complaint that names what is wrong and how to mend it.

The column names are TRL's, standard (strings) and conversational (lists of messages), with explicit or implicit prompt,
plus ours: votes, p_chosen, tie, strength, ratings, attributes, annotator, subset.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from poise.data.records import QUALITIES, Message, Preference, Ranking, Rating, Text, Votes, as_messages

ROLES = ("system", "developer", "user", "assistant", "tool")
HH_MARKER = "\n\nAssistant:"
PROMPT_ENDS = (re.compile(r"\n"), re.compile(r"[.?!…] "))
"""Where a prompt may end within the text that two plain strings share: a line, else a sentence."""
LARGEST = 1e30  # targets are float32


class RowError(ValueError):
    """A row that cannot be used: what is wrong with it, and the remedy."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}")
        self.problem = problem
        self.remedy = remedy


def preference(row: Mapping[str, Any], number: int = 0, source: str = "") -> Preference:
    """Read a preference row; raises ``RowError``."""
    for column in ("chosen", "rejected"):
        if column not in row:
            raise RowError(
                f"column {column!r} is missing (found {_names(row)})",
                "rename your columns to prompt, chosen, rejected",
            )
    prompt, chosen, rejected = _pair_texts(row)
    votes, tie = _votes(row.get("votes")), _flag(row.get("tie"), "tie")
    p_chosen = _number(row.get("p_chosen"), "p_chosen", low=0.0, high=1.0)
    if tie:
        _require_tie(votes, p_chosen)
    return Preference(
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        votes=votes,
        p_chosen=p_chosen,
        tie=tie,
        strength=_strength(row.get("strength")),
        margin=_number(row.get("margin"), "margin"),
        attributes=_pair_attributes(row.get("attributes")),
        quality=_quality(row.get("quality")),
        **_provenance(row, number, source),
        annotator=_label(row.get("annotator"), "annotator"),
    )


def rating(row: Mapping[str, Any], number: int = 0, source: str = "") -> Rating:
    """Read a rating row (``prompt``, ``response`` or ``completion``, ``ratings`` or ``attributes``)."""
    name = "response" if "response" in row else "completion"
    if name not in row:
        raise RowError(f"column 'response' is missing (found {_names(row)})", "rename the answer column to response")
    prompt, response = aligned(text(row.get("prompt"), "prompt"), text(row[name], name), response_name=name)
    given = row.get("attributes") if row.get("ratings") is None else row["ratings"]
    meta = row.get("meta") or {}
    scale = row.get("scale", meta.get("scale") if isinstance(meta, Mapping) else None)
    return Rating(
        prompt=prompt,
        response=response,
        ratings=_ratings(given),
        scale=_scale(scale),
        annotators=_annotators(row.get("annotators")),
        **_provenance(row, number, source),
    )


def ranking(row: Mapping[str, Any], number: int = 0, source: str = "") -> Ranking:
    """Read a ranking row: ``prompt``, ``responses`` and ``ranks`` (1 is best; equal ranks are ties)."""
    responses, ranks = row.get("responses") or (), row.get("ranks") or ()
    if not _is_list(responses) or len(responses) < 2:
        raise RowError("'responses' is not a list of at least two", "give one list of responses a row")
    if not _is_list(ranks, len(responses)):
        raise RowError(f"'ranks' does not have {len(responses)} entries", "give one rank per response, 1 is best")
    prompt = text(row.get("prompt"), "prompt")
    read = [
        aligned(prompt, text(r, f"responses[{i}]"), response_name=f"responses[{i}]") for i, r in enumerate(responses)
    ]
    if len({isinstance(response, str) for _, response in read}) > 1:
        raise RowError("'responses' are of different kinds", "give all as strings or all as messages")
    return Ranking(
        prompt=read[0][0],
        responses=tuple(response for _, response in read),
        ranks=tuple(_required(r, f"ranks[{i}]") for i, r in enumerate(ranks)),
        annotator=_label(row.get("annotator"), "annotator"),
        **_provenance(row, number, source),
    )


def text(value: Any, name: str) -> Text:
    """A string or a list of messages; anything else is a ``RowError``."""
    if isinstance(value, str):
        return _sound(value, name)
    if isinstance(value, (Mapping, Message)):
        value = [value]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise RowError(f"{name!r} is missing (null)", "fill it in or remove the row")
    if hasattr(value, "tolist") and not isinstance(value, (bytes, bytearray)):
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, (bytes, bytearray)):
        raise RowError(f"{name!r} is {type(value).__name__}, not text", "give a string or a list of messages")
    if not value:
        raise RowError(f"{name!r} is an empty list", "give at least one message")
    return tuple(_message(m, f"{name}[{i}]") for i, m in enumerate(value))


def _message(value: Any, name: str) -> Message:
    if isinstance(value, Message):
        value = value._asdict()
    if not isinstance(value, Mapping) or "role" not in value or "content" not in value:
        raise RowError(f"{name} is not a message", 'give {"role": …, "content": …}')
    role, content = value["role"], value["content"]
    if role not in ROLES:
        raise RowError(f"{name} has role {role!r}", f"use one of {', '.join(ROLES)}")
    if isinstance(content, Sequence) and not isinstance(content, str):
        texts = [p.get("text") for p in content if isinstance(p, Mapping) and p.get("type") == "text"]
        parts = [t for t in texts if isinstance(t, str)]
        if len(parts) != len(content):
            raise RowError(
                f"{name} has content that is not text", "poise reads text only: remove images and other parts"
            )
        content = "".join(parts)
    if not isinstance(content, str):
        raise RowError(f"{name}.content is {type(content).__name__}, not a string", "give the text of the message")
    return Message(str(role), _sound(content, name))


def _sound(value: str, name: str) -> str:
    """Refuse half a surrogate pair, which JSON can spell but no tokenizer or file can hold."""
    try:
        value.encode("utf8")
    except UnicodeEncodeError as error:
        raise RowError(
            f"{name!r} holds half a character ({value[error.start]!a} at {error.start})", "mend its encoding"
        ) from None
    return value


def _pair_texts(row: Mapping[str, Any]) -> tuple[Text, Text, Text]:
    chosen, rejected = text(row["chosen"], "chosen"), text(row["rejected"], "rejected")
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise RowError("'chosen' and 'rejected' are of different kinds", "give both as strings or both as messages")
    given = row.get("prompt")
    full = not isinstance(chosen, str) and chosen[0].role != "assistant"
    if given is None and "prompt" in row and not full:
        text(given, "prompt")  # a null among explicit prompts is a hole, not the implicit form
    if given is None or full:
        prompt, chosen, rejected = _implicit(chosen, rejected)
        if given is not None and full:
            _require_same_prompt(prompt, text(given, "prompt"))
        given = prompt
    prompt = text(given, "prompt")
    prompt, chosen = aligned(prompt, chosen, response_name="chosen")
    _, rejected = aligned(prompt, rejected, response_name="rejected")
    return prompt, chosen, rejected


def aligned(prompt: Text, response: Text, *, response_name: str = "response") -> tuple[Text, Text]:
    """Bring prompt and response to one kind (both strings or both conversations) and refuse empty ones.

    A conversation is empty where its last user message is: nothing was asked.
    """
    if not (isinstance(prompt, str) and isinstance(response, str)):
        prompt, response = as_messages(prompt, "user"), as_messages(response, "assistant")
    if not isinstance(prompt, str) and not any(m.role == "user" for m in prompt):
        raise RowError("'prompt' has no user message", "a conversation needs at least one user turn")
    asked = prompt if isinstance(prompt, str) else [m.content for m in prompt if m.role == "user"][-1]
    if not asked.strip():
        raise RowError("'prompt' is empty", "remove the row or fill in the prompt")
    if isinstance(response, str):
        empty = not response.strip()
    else:
        if response[0].role not in ("assistant", "tool"):
            raise RowError(
                f"{response_name!r} starts with role {response[0].role!r}", "a response is an assistant message"
            )
        empty = not any(m.content.strip() for m in response)
    if empty:
        raise RowError(f"{response_name!r} is empty", "remove the row or fill in the response")
    return prompt, response


def _implicit(chosen: Text, rejected: Text) -> tuple[Text, Text, Text]:
    """Split two full texts into their shared prompt and the two responses; concatenation gives the originals back."""
    if isinstance(chosen, str) and isinstance(rejected, str):
        cut = _string_cut(chosen, rejected)
        return chosen[:cut], chosen[cut:], rejected[cut:]
    assert not isinstance(chosen, str)
    assert not isinstance(rejected, str)
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    shared = min(shared, len(chosen) - 1, len(rejected) - 1)
    while shared and "user" not in {chosen[shared - 1].role, rejected[shared - 1].role}:
        shared -= 1  # a response starts right after a user turn
    if not shared:
        raise RowError(
            "prompt mismatch: 'chosen' and 'rejected' do not start with the same messages",
            "both must answer the same prompt",
        )
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _string_cut(chosen: str, rejected: str) -> int:
    """Where the prompt ends: after the last shared HH marker, else the last shared line, else the last shared sentence.

    Only the marker is certain. Answers that begin with the same line or sentence lend it to the prompt, so two pairs of
    one prompt may get different prompts, and fall on different sides of a split; a column ``prompt`` avoids that.
    """
    both = zip(chosen, rejected, strict=False)
    shared = chosen[: next((i for i, (a, b) in enumerate(both) if a != b), min(len(chosen), len(rejected)))]
    marker = shared.rfind(HH_MARKER)
    if marker >= 0:
        return marker + len(HH_MARKER)
    for end in PROMPT_ENDS:
        cut = max((found.end() for found in end.finditer(shared)), default=0)
        if shared[:cut].strip():
            return cut
    raise RowError(
        "cannot tell where the prompt ends: column 'prompt' is missing, and 'chosen' and 'rejected' do not begin with "
        "a line or sentence in common",
        "add a column prompt",
    )


def _require_same_prompt(shared: Text, given: Text) -> None:
    said = {m.content.strip() for m in shared if isinstance(m, Message)}
    if given != shared and not (isinstance(given, str) and given.strip() in said):
        raise RowError(
            "prompt mismatch: 'prompt' is not how 'chosen' and 'rejected' begin",
            "remove the prompt column or put only the answers in chosen and rejected",
        )


def _votes(value: Any) -> Votes | None:
    if value is None:
        return None
    if isinstance(value, Mapping):
        unknown = set(value) - {"chosen", "rejected", "tie"}
        if unknown:
            raise RowError(f"'votes' has unknown keys {sorted(map(str, unknown))}", "use chosen, rejected, tie")
        counts = [value.get("chosen"), value.get("rejected"), value.get("tie") or 0]
    elif _is_list(value, 2, 3):
        counts = [*value, 0][:3]
    else:
        raise RowError(f"'votes' is {value!r}", 'give {"chosen": 3, "rejected": 1, "tie": 1} or [3, 1, 1]')
    votes = Votes(*(_required(c, "votes", low=0.0) for c in counts))
    if votes.total <= 0:
        raise RowError("'votes' are all zero", "remove the votes or the row")
    return votes


def _require_tie(votes: Votes | None, p_chosen: float | None) -> None:
    """What else a row called a tie says about its label must not contradict that."""
    if p_chosen is not None and p_chosen != 0.5:
        raise RowError(f"'tie' is true, but 'p_chosen' is {p_chosen:g}", "remove one of them, or give p_chosen 0.5")
    if votes is not None and not votes.tie and votes.chosen != votes.rejected:
        raise RowError(
            f"'tie' is true, but 'votes' are {votes.chosen:g} to {votes.rejected:g} without a tie",
            "remove one of them",
        )


def _strength(value: Any) -> float | None:
    strength = _number(value, "strength")
    if strength is not None and strength < 0:
        raise RowError(
            f"'strength' is {strength:g}, below 0",
            "it says how much better the preferred response is: swap chosen and rejected and give its absolute value",
        )
    return strength


def _pair_attributes(value: Any) -> dict[str, tuple[float, float]]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise RowError("'attributes' is not a mapping", 'give {"helpfulness": [chosen, rejected]}')
    result = {}
    for name, both in value.items():
        if both is None:
            continue
        if not _is_list(both, 2):
            raise RowError(f"attribute {name!r} is {both!r}", "give two numbers: [chosen, rejected]")
        result[str(name)] = (_required(both[0], str(name)), _required(both[1], str(name)))
    return result


def _quality(value: Any) -> tuple[str | None, str | None]:
    if value is None:
        return None, None
    if isinstance(value, Mapping):
        value = [value.get("chosen"), value.get("rejected")]
    if not _is_list(value, 2) or any(v not in (None, *QUALITIES) for v in value):
        raise RowError(
            f"'quality' is {value!r}", f"give [chosen, rejected], each one of {', '.join(QUALITIES)} or null"
        )
    return value[0], value[1]


def _ratings(value: Any) -> dict[str, tuple[float, ...]]:
    if value is None:
        raise RowError("column 'ratings' is missing", 'give {"helpfulness": [4, 5, 3]} or a list of numbers')
    if not isinstance(value, Mapping):
        value = {"overall": value}
    result = {}
    for name, given in value.items():
        if given is None:
            continue
        many = given if _is_list(given) else [given]
        result[str(name)] = tuple(_required(v, f"ratings[{name}]") for v in many)
    if not any(result.values()):
        raise RowError("'ratings' holds no number", "remove the row or give at least one rating")
    return result


def _scale(value: Any) -> tuple[float, float] | None:
    if not _is_list(value, 2):
        return None  # meta.scale may be a description in words
    low, high = (_required(v, "scale") for v in value)
    if not low < high:
        raise RowError(f"'scale' is {value!r}", "give [lowest, highest]")
    return low, high


def _is_list(value: Any, *lengths: int) -> bool:
    """Whether a value is a list, of one of these lengths where any is given."""
    return isinstance(value, Sequence) and not isinstance(value, str) and (not lengths or len(value) in lengths)


def _number(value: Any, name: str, low: float = -math.inf, high: float = math.inf) -> float | None:
    return None if value is None else _required(value, name, low, high)


def _required(value: Any, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        given: Any = value
        try:
            value = float(given) if isinstance(given, str) else float(given.item())
        except (AttributeError, ValueError, TypeError):
            raise RowError(f"{name!r} is {value!r}, not a number", "give a number or leave it out") from None
    if not abs(value) <= LARGEST:  # NaN included
        raise RowError(f"{name!r} is {value!r:.30}", "give a finite number or leave it out")
    if not low <= value <= high:
        raise RowError(f"{name!r} is {value:g}", f"it must lie between {low:g} and {high:g}")
    return float(value)


def _flag(value: Any, name: str) -> bool:
    if value is None:
        return False
    if isinstance(value, bool) or value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.lower() in ("true", "false", "1", "0", ""):
        return value.lower() in ("true", "1")
    raise RowError(f"{name!r} is {value!r}", "give true or false")


def _label(value: Any, name: str) -> str | None:
    if value is not None and not isinstance(value, (str, int)):
        raise RowError(f"{name!r} is {type(value).__name__}", "give a string")
    return None if value is None else str(value)


def _annotators(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not _is_list(value):
        raise RowError(f"'annotators' is {value!r}", "give a list with one name per rater")
    return tuple(map(str, value))


def _provenance(row: Mapping[str, Any], number: int, source: str) -> dict[str, Any]:
    meta = row.get("meta")
    return {
        "subset": _label(row.get("subset"), "subset"),
        "meta": dict(meta) if isinstance(meta, Mapping) else {},
        "row": number,
        "source": source,
    }


def _names(row: Mapping[str, Any]) -> str:
    return ", ".join(map(str, row)) or "no columns"
