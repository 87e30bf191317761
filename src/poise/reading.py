"""Rows of token ids → states, in batches: what the rows of one prompt share is read once where the model allows it.

A decoder's row is always cut where its prompt ends, also when nothing shares it, so that its kernels see the same shapes
whatever else is read with it: the same text gives the same state alone and in any company. Other models read padded rows
(``Backbone.states``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from poise.backbone import Backbone, Row, plan_batches
from poise.data.packing import Packed, laid_out
from poise.features import Pooling
from poise.tree_attention import packed_states, self_test, trees

# per channel of a packed batch: an MLP's activations then stay in the cache; four times as many took a quarter longer
CPU_TREE_BYTES = 4096

_REFUSALS: WeakKeyDictionary[nn.Module, str | None] = WeakKeyDictionary()


def why_padded(backbone: Backbone) -> str | None:
    """Why rows of this backbone are read one by one, padded; None where shared prompts are read once."""
    if not backbone.causal:
        return "an encoder's prompt tokens see the response"
    if backbone.model not in _REFUSALS:
        with torch.inference_mode(), torch.autocast(backbone.device.type, enabled=False):
            _REFUSALS[backbone.model] = self_test(backbone.model, share=True)
    return _REFUSALS[backbone.model]


def read(backbone: Backbone, rows: Sequence[Row]) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """(row numbers, states of the texts, states at the end of their prompts) batch by batch, [R, H] float32 each.

    As ``Backbone.states``; the longest rows come first.
    """
    if why_padded(backbone) is not None:
        for batch in plan_batches(rows, backbone.max_length, backbone.tokens_per_batch):
            yield batch, *backbone.states([rows[i] for i in batch])
        return
    with trees(backbone.model):
        for batch in plan_trees(rows, batch_tokens(backbone)):
            yield batch, *_tree_states(backbone, [rows[i] for i in batch])


def batch_tokens(backbone: Backbone) -> int:
    """How many tokens ``read`` gives to one forward pass at most: unique ones where prompts are shared, else padded ones."""
    if why_padded(backbone) is not None or backbone.device.type != "cpu":
        return backbone.tokens_per_batch
    return CPU_TREE_BYTES // backbone.dtype.itemsize


def plan_trees(rows: Sequence[Row], budget: int) -> Iterator[list[int]]:
    """Row numbers in batches of at most ``budget`` unique tokens, rows of one prompt together, longest first."""
    batch: list[int] = []
    size = 0
    for prompt, group in sorted(_by_prompt(rows).items(), key=lambda m: -max(len(rows[i].ids) for i in m[1])):
        fresh = len(prompt)
        for number in group:
            own = len(rows[number].ids) - len(prompt)
            if batch and size + fresh + own > budget:
                yield batch
                batch, size, fresh = [], 0, len(prompt)
            batch.append(number)
            size, fresh = size + fresh + own, 0
    if batch:
        yield batch


def _tree_states(backbone: Backbone, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    packed = tree(rows)
    places = [span for _, span in sorted(zip(packed.order, packed.spans, strict=True))]
    # an outer autocast would compute other states than the dtype says, and they would stay in the cache
    with torch.inference_mode(), torch.autocast(backbone.device.type, enabled=False):
        states = packed_states(backbone.model, packed, use_cache=False)
        text = torch.stack([_pooled(states, *place, backbone.pooling) for place in places])
        ends = torch.tensor([max(shared.stop - 1, 0) for shared, _ in places], device=states.device)
        prompt = states[ends].float()
        prompt[[not len(shared) for shared, _ in places]] = 0.0  # no prompt, no state
    return text.cpu(), prompt.cpu()


def tree(rows: Sequence[Row]) -> Packed:
    """One packed row, each prompt once and before all that follow it."""
    return laid_out(rows, [(len(prompt), group) for prompt, group in _by_prompt(rows).items()])


def _by_prompt(rows: Sequence[Row]) -> dict[tuple[int, ...], list[int]]:
    """Row numbers by the tokens of their prompt."""
    members: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        members[row.ids[: row.prompt_length]].append(number)
    return members


def _pooled(states: Tensor, prompt: range, own: range, pooling: Pooling) -> Tensor:
    """The state [H] of one text whose tokens stand in two places; see ``features.pool``."""
    if pooling == "last":
        return states[own.stop - 1 if own else prompt.stop - 1].float()
    if pooling == "cls":
        return states[prompt.start if prompt else own.start].float()
    parts = [own] if pooling == "response_mean" and own else [prompt, own]
    return torch.cat([states[part.start : part.stop] for part in parts]).float().mean(0)
