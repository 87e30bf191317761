"""A backbone that is being trained: encoded texts → ``Features`` with gradients, each unique token once where it can be.

Three layouts: ``tree`` (decoders: what texts of one prompt share stands once), ``packed`` (all texts in one row, nothing
shared: encoders, whose prompt tokens see the response) and ``padded`` (any model). The best that passes its self-test on
the model at hand is taken; the scores are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from poise.backbone import COUNTS_FROM_PAD, Backbone, Row, padded_inputs, plan_batches, prompt_row
from poise.data.chat import Encoded
from poise.data.packing import Packed, pack
from poise.errors import BackboneError
from poise.features import Features, Pooling
from poise.tree_attention import packed_states, self_test, trees

Layout = Literal["tree", "packed", "padded"]


@dataclass(frozen=True)
class Pool:
    """Which tokens of the flat states make which row: ``place`` [M] of a token, ``row`` [M] it belongs to, R ``rows``."""

    place: Tensor
    row: Tensor
    rows: int

    def __call__(self, states: Tensor) -> Tensor:
        """Means over the tokens of each row: [T, H] → [R, H], float32; 0 for a row without tokens."""
        row = self.row.to(states.device)
        total = torch.zeros(self.rows, states.shape[1], device=states.device)
        total = total.index_add(0, row, states[self.place.to(states.device)].float())
        count = torch.bincount(row, minlength=self.rows).clamp(min=1)
        return total / count[:, None]


@dataclass(frozen=True)
class Rows:
    """One micro-batch of R texts, ready for the model: ``inputs`` of each forward pass and how its states are read."""

    inputs: tuple[dict[str, Tensor], ...]
    packed: Packed | None
    response: Pool
    prompt: Pool | None
    tokens: int


class LiveBackbone(nn.Module):
    """The model of a ``Backbone`` with gradients. ``layout="auto"`` tests what it can do; ``why`` says what it could not."""

    def __init__(self, backbone: Backbone, *, prompt_states: bool = False, layout: Layout | Literal["auto"] = "auto"):
        super().__init__()
        model: Any = backbone.model
        self.model = model
        self.causal, self.pooling, self.segments = backbone.causal, backbone.pooling, backbone.segments
        self.max_length, self.budget = backbone.max_length, backbone.tokens_per_batch
        self.prompt_states = prompt_states
        settings = model.config.get_text_config()
        counts_from_pad = settings.model_type in COUNTS_FROM_PAD
        self.first_position = settings.pad_token_id + 1 if counts_from_pad else 0
        self.layout, self.why = self._choose(layout)

    def _choose(self, wanted: Layout | Literal["auto"]) -> tuple[Layout, str | None]:
        best: Layout = "tree" if self.causal else "packed"
        if wanted == "padded":
            return "padded", None
        if wanted == "tree" and not self.causal:
            raise BackboneError(
                "layout 'tree' is for decoders: an encoder's prompt tokens see the response; use packed"
            )
        layout = best if wanted == "auto" else wanted
        reason = self_test(self.model, share=layout == "tree", first_position=self.first_position)
        if reason is None:
            return layout, None
        if wanted != "auto":
            raise BackboneError(f"layout {wanted!r} cannot be used for this backbone: {reason}; use layout=auto")
        return "padded", reason

    def collate(self, texts: Sequence[Encoded], keys: Sequence[object]) -> Rows:
        """R texts as one micro-batch; those with equal ``keys`` answer one prompt."""
        rows = [Row(text.ids, text.prompt_length) for text in texts]
        extra: dict[object, int] = {}
        if self.prompt_states and not self.causal:  # an encoder reads each prompt as a text of its own
            for key, text in zip(keys, texts, strict=True):
                if key not in extra:
                    extra[key] = len(rows)
                    rows.append(prompt_row(text))
        if self.layout == "padded":
            return self._padded(rows, len(texts), [extra.get(key) for key in keys])
        groups = [*keys, *(("prompt", key) for key in extra)]
        packed = pack([(row.ids, row.prompt_length) for row in rows], groups, share=self.layout == "tree")
        places: list[Any] = [None] * len(rows)
        for branch, number in enumerate(packed.order):
            shared, own = packed.spans[branch]
            places[number] = [*shared, *own]
        inputs: dict[str, Tensor] = {}
        if self.segments:
            kinds = torch.zeros(len(packed.ids), dtype=torch.long)
            for row, place in zip(rows, places, strict=True):
                kinds[place[row.prompt_length :]] = 1
            inputs["token_type_ids"] = kinds[None]
        return self._rows((inputs,), packed, rows, places, len(texts), [extra.get(key) for key in keys])

    def _padded(self, rows: list[Row], responses: int, prompts: list[int | None]) -> Rows:
        inputs, places, start = [], [range(0)] * len(rows), 0
        for batch in plan_batches(rows, self.max_length, self.budget):
            inputs.append(padded_inputs([rows[i] for i in batch], self.max_length, segments=self.segments))
            width = inputs[-1]["input_ids"].shape[1]
            for i in batch:
                places[i] = range(start, start + len(rows[i].ids))
                start += width
        return self._rows(tuple(inputs), None, rows, places, responses, prompts)

    def _rows(
        self,
        inputs: tuple[dict[str, Tensor], ...],
        packed: Packed | None,
        rows: list[Row],
        places: list[Any],
        responses: int,
        prompts: list[int | None],
    ) -> Rows:
        read = [_read(self.pooling, row, place) for row, place in zip(rows, places, strict=True)]
        prompt = None
        if self.prompt_states and self.causal:
            prompt = _pool(
                [place[row.prompt_length - 1 : row.prompt_length] for row, place in zip(rows, places, strict=True)]
            )
        elif self.prompt_states:
            prompt = _pool([read[number] if number is not None else [] for number in prompts])
        tokens = len(packed.ids) if packed is not None else sum(len(row.ids) for row in rows)
        return Rows(inputs, packed, _pool(read[:responses]), prompt, tokens)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Forward *and backward* passes happen in here: activation checkpointing attends once more in the backward."""
        with nullcontext() if self.layout == "padded" else trees(self.model):
            yield

    def forward(self, rows: Rows) -> Features:
        """The states of a micro-batch's texts: response [R, H] and, where asked for, prompt [R, H]; float32.

        Inside ``attached``.
        """
        device = next(self.model.parameters()).device
        extra: dict[str, Any] = {"use_cache": False} if self.causal else {}
        given = [{name: tensor.to(device) for name, tensor in part.items()} for part in rows.inputs]
        if rows.packed is not None:
            states = packed_states(self.model, rows.packed, self.first_position, **given[0], **extra)
        else:
            states = torch.cat([self.model(**part, **extra).last_hidden_state.flatten(0, 1) for part in given])
        return Features(rows.response(states), None if rows.prompt is None else rows.prompt(states))


def _read(pooling: Pooling, row: Row, place: Any) -> Any:
    """The places of the tokens that a text's state is the mean of."""
    if pooling == "cls":
        return place[:1]
    if pooling == "last":
        return place[-1:]
    if pooling == "response_mean" and row.prompt_length < len(row.ids):
        return place[row.prompt_length :]
    return place


def _pool(places: Sequence[Any]) -> Pool:
    flat = torch.tensor([place for part in places for place in part], dtype=torch.long)
    sizes = torch.tensor([len(part) for part in places])
    return Pool(flat, torch.arange(len(places)).repeat_interleave(sizes), len(places))
