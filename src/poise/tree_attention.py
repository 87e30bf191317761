"""Attention over packed rows: every text sees its own tokens and the prefix it shares, nothing else.

One function is registered with transformers under ``NAME`` and receives the ``Packed`` row through the model's keyword
arguments; without a mask function of that name transformers builds no mask. Exact against separate padded passes, forward
and backward: ``self_test`` shows it for a model before anything relies on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from poise.data.packing import Packed, pack

NAME = "poise_tree"
PLAIN_LAYERS = {"full_attention", "sliding_attention"}


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    packed: Packed | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Attention of one packed row: query, key, value [1, heads, T, D] → [1, T, heads, D].

    The signature is transformers'. Causal where ``module.is_causal`` says so; each segment is one attention of its own
    tokens to prefix + own tokens, causal from the end. Attention weights are never dropped out, whatever the model's settings.
    """
    assert packed is not None
    assert query.shape[0] == 1
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    # split, not slices: its backward is one concatenation, that of a slice a whole zero-filled row
    queries, keys, values = (torch.split(part, packed.segments, 2) for part in (query, key, value))
    causal = getattr(module, "is_causal", True)
    out, at, start = [], 0, 0
    for group in packed.groups:
        for offset, size in enumerate((group.prefix, *group.branches)):
            seen = keys[at + offset], values[at + offset]
            if offset == 1 and group.prefix and not key.requires_grad:  # prefix and first branch stand side by side
                whole = group.prefix + size
                seen = key.narrow(2, start, whole), value.narrow(2, start, whole)
            elif offset and group.prefix:
                seen = torch.cat([keys[at], seen[0]], 2), torch.cat([values[at], seen[1]], 2)
            if size:
                out.append(_attend(queries[at + offset], *seen, causal, scaling, sliding_window, softcap))
        at += 1 + len(group.branches)
        start += group.tokens
    return torch.cat([part.transpose(1, 2) for part in out], 1), None


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    causal: bool,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    size, seen = query.shape[2], key.shape[2]
    windowed = window is not None and window < seen
    plain = not windowed and (not causal or size == seen)
    mask = None if plain else _mask(size, seen, causal, window if windowed else None, query.device)
    if softcap is None:
        return scaled_dot_product_attention(query, key, value, mask, scale=scaling, is_causal=plain and causal)
    scores = query @ key.transpose(2, 3) * (query.shape[3] ** -0.5 if scaling is None else scaling)
    scores = softcap * torch.tanh(scores / softcap)
    mask = _mask(size, seen, causal, window, query.device) if mask is None else mask
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1, dtype=torch.float32)
    return weights.to(value.dtype) @ value


def _mask(size: int, seen: int, causal: bool, window: int | None, device: torch.device) -> Tensor:
    """Which keys [size, seen] each query may see, where the queries are the last ``size`` of the tokens; a view."""
    whole = 1 << (seen - 1).bit_length()
    return _square(whole, causal, window, device)[seen - size : seen, :seen]


@lru_cache(maxsize=8)
def _square(size: int, causal: bool, window: int | None, device: torch.device) -> Tensor:
    """``_mask`` of all tokens. A window of w reaches to distance w − 1, in a bidirectional model to either side."""
    place = torch.arange(size, device=device)
    distance = place[:, None] - place
    near = distance.abs() < (size if window is None else window)
    return near & (distance >= 0) if causal else near


AttentionInterface.register(NAME, tree_attention)


@contextmanager
def trees(model: Any) -> Iterator[None]:
    """Let a model attend by ``tree_attention`` for a while; its forward then needs ``packed=`` and no mask."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def packed_states(model: Any, packed: Packed, first_position: int = 0, **inputs: Any) -> Tensor:
    """Last hidden states [T, H] of a packed row, with gradients; inside ``trees``.

    ``first_position`` is the number that the model gives to the first token of a text.
    """
    device = next(model.parameters()).device
    output = model(
        input_ids=packed.ids[None].to(device),
        position_ids=packed.positions[None].to(device) + first_position,
        attention_mask=None,
        packed=packed,
        **inputs,
    )
    states: Tensor = output.last_hidden_state[0]
    return states


def refusal(model: Any) -> str | None:
    """Why a model cannot be packed, as far as its configuration tells; None where ``self_test`` has the last word."""
    settings = model.config.get_text_config()
    others = set(getattr(settings, "layer_types", None) or PLAIN_LAYERS) - PLAIN_LAYERS
    if others:
        return f"it has layers of another kind ({', '.join(sorted(others))})"
    if not getattr(model, "_supports_attention_backend", False):
        return "its attention cannot be exchanged"
    return None


@torch.no_grad()
def self_test(model: Any, *, share: bool, first_position: int = 0) -> str | None:
    """Why packed rows are not exact for this model, or None: one small tree against each text alone."""
    reason = refusal(model)
    if reason is not None:
        return reason
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config().vocab_size
    drawn = torch.randint(0, vocabulary, (60,), generator=generator).tolist()
    texts = [(drawn[:20] + drawn[20:29], 20), (drawn[:20] + drawn[29:40], 20), (drawn[40:], 5)]
    packed = pack(texts, [0, 0, 1], share=share)
    device, training = next(model.parameters()).device, model.training
    model.eval()
    extra = {"use_cache": False} if share else {}
    try:
        alone = [model(input_ids=torch.tensor([ids], device=device), **extra).last_hidden_state[0] for ids, _ in texts]
        with trees(model):
            states = packed_states(model, packed, first_position, **extra)
    except Exception as error:  # code of any architecture may refuse the row in its own way
        return f"it refuses packed rows ({type(error).__name__}: {str(error).splitlines()[0][:120]})"
    finally:
        model.train(training)
    worst = 0.0
    for branch, (shared, own) in enumerate(packed.spans):
        expected = alone[packed.order[branch]].float()
        found = states[[*shared, *own]].float()
        worst = max(worst, ((found - expected).abs().max() / expected.abs().max().clamp(min=1e-6)).item())
    allowed = 1e-4 if states.dtype == torch.float32 else 0.05
    return None if worst < allowed else f"packed rows differ from separate ones by {worst:.1e} of the largest state"
