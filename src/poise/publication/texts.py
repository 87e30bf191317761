"""A tokenizer that gives plain transformers the ids that poise reads, with a pad token that no text ends with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import processors
from transformers import AutoTokenizer

from poise.data.chat import Encoded, Frame
from poise.data.records import Message, Text
from poise.golden import GOLDEN_TEXTS
from poise.model import RewardModel

PAD = "<|poise_pad|>"
# what transformers 4 and 5 both know as "all of it stands in tokenizer.json"
PLAIN_CLASS = "PreTrainedTokenizerFast"


@dataclass(frozen=True)
class GoldenText:
    """A golden text as plain transformers are given it: ``text``, with encoders the response apart as ``text_pair``.

    ``rendered``: it is what the chat template makes of the messages.
    """

    id: str
    messages: tuple[Message, ...]
    text: str
    text_pair: str | None
    rendered: bool
    encoded: Encoded

    @property
    def input_ids(self) -> tuple[int, ...]:
        """The token ids, as poise has them."""
        return self.encoded.ids


def golden_texts(model: RewardModel, tokenizer: Any) -> list[GoldenText]:
    """Those golden texts that fit the model uncut; a model of bare strings gets their contents joined."""
    found = []
    for name, messages in GOLDEN_TEXTS:
        prompt: Text = messages[:-1]
        response: Text = messages[-1:]
        if not model.conversational:
            prompt, response = "\n\n".join(m.content for m in messages[:-1]) + "\n\n", messages[-1].content
        encoded = model.backbone.encode([(prompt, response)])[0]
        if encoded.problem or encoded.cut:
            continue
        text, pair, rendered = _as_given(model, tokenizer, messages)
        found.append(GoldenText(name, messages, text, pair, rendered, encoded))
    return found


def _as_given(model: RewardModel, tokenizer: Any, messages: tuple[Message, ...]) -> tuple[str, str | None, bool]:
    *before, last = messages
    if model.backbone.encoder.frame.between and model.backbone.encoder.template is None:
        turns = [f"{m.role.capitalize()}: {m.content}" if model.conversational else m.content for m in before]
        return "\n\n".join(turns) + ("" if model.conversational else "\n\n"), last.content, False
    if not model.conversational:
        return "\n\n".join(m.content for m in messages), None, False
    return str(tokenizer.apply_chat_template([m._asdict() for m in messages], tokenize=False)), None, True


def plain_tokenizer(model: RewardModel, folder: Path) -> Any:
    """The model's tokenizer, written to ``folder`` with what plain readers need, and read back.

    A rendered conversation is tokenised to what the template wrote and nothing else, so that no reader doubles a BOS; bare
    strings and segment pairs get their special tokens from the tokenizer. What does not fit loses its far end.
    """
    encoder, causal = model.backbone.encoder, model.backbone.causal
    model.backbone.tokenizer.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = model.backbone.max_length
    rendered = model.conversational and (causal or encoder.template is not None)
    tokenizer.backend_tokenizer.post_processor = None if rendered else _frame_processor(tokenizer, encoder.frame)
    if rendered and encoder.template is None:
        tokenizer.chat_template = _plain_template(tokenizer, encoder.frame)
    if causal:
        _set_pad(model, tokenizer)
    tokenizer.save_pretrained(folder)
    segments = ["token_type_ids"] if model.backbone.segments else []
    _mend_settings(folder, inputs=["input_ids", *segments, "attention_mask"])
    return AutoTokenizer.from_pretrained(folder)


def _frame_processor(tokenizer: Any, frame: Frame) -> Any:
    before, between, after = (tokenizer.convert_ids_to_tokens(list(ids)) for ids in frame)
    named = zip((*before, *between, *after), (i for ids in frame for i in ids), strict=True)
    second = [f"{t}:1" for t in ("$B", *after)]
    return processors.TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A", *between, *second],
        special_tokens=list(dict(named).items()),
    )


def _plain_template(tokenizer: Any, frame: Frame) -> str:
    """How poise renders a conversation for a decoder without a chat template, as one."""
    before, after = (
        "".join(f"{{{{ {json.dumps(t)} }}}}" for t in tokenizer.convert_ids_to_tokens(list(ids)))
        for ids in (frame.before, frame.after)
    )
    turn = "{% if not loop.first %}{{ '\\n\\n' }}{% endif %}{{ m['role'] | capitalize }}: {{ m['content'] }}"
    asked = "{% if add_generation_prompt %}{{ '\\n\\nAssistant:' }}{% else %}" + after + "{% endif %}"
    return before + "{% for m in messages %}" + turn + "{% endfor %}" + asked


def _set_pad(model: RewardModel, tokenizer: Any) -> None:
    """Keep the pad token where no text can end with it, else take an idle one that is there, else add one."""
    named = (getattr(tokenizer, f"{name}_token_id") for name in ("eos", "bos", "unk", "sep", "cls"))
    taken = {*named, *(i for text in golden_texts(model, tokenizer) for i in text.input_ids)}
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in taken:
        return
    added = tokenizer.added_tokens_decoder.items()
    idle = (str(token) for i, token in added if token.special and "pad" in str(token).lower() and i not in taken)
    tokenizer.add_special_tokens({"pad_token": next(idle, PAD)})


def _mend_settings(folder: Path, inputs: Sequence[str]) -> None:
    """Settings that transformers 4 misreads: classes that it lacks or that rebuild the frame, a list of extra tokens.

    It also adds token types where ``inputs`` are not spelt out, which decoders refuse or, worse, add up.
    """
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text("utf8"))
    settings |= {"tokenizer_class": PLAIN_CLASS, "add_bos_token": False, "add_eos_token": False}
    settings |= {"padding_side": "right", "truncation_side": "left", "model_input_names": list(inputs)}
    for passing in ("is_local", "local_files_only", "backend"):
        settings.pop(passing, None)
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf8")
