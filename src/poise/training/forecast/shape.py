"""What a backbone is before its weights are there: parameters and the memory of a training pass, from its configuration.

The model is built without values. Fake tensors, which have shapes and types only, then go through it once, and what autograd
keeps for the backward pass is counted, whatever the architecture.
"""

from __future__ import annotations

import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AutoConfig, AutoModel

from poise import aliases
from poise.backbone import BackboneConfig, explained, is_causal, loading_options
from poise.errors import BackboneError
from poise.fingerprint import text_settings
from poise.training.finetune import with_lora
from poise.training.recipe import Recipe

MODEL_ID = re.compile(r"^\w[\w.-]*(/\w[\w.-]*)?$")
TOKENS = 257
"""Read by the fake pass. A prime: what has a multiple of so many bytes grows with the tokens, the rest are weights."""
LAYERS = 4
"""As many layers are read, the others are like them; families that mix kinds of layers do so within four."""
WHOLE = "poise_whole"
COMPUTED = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Activations:
    """Bytes that wait for the backward pass: per token in all layers, in the largest one, at the layers' inputs and outside.

    ``copies``: bytes of weights converted to bfloat16, whatever the number of tokens.
    """

    layers: float
    layer: float
    inputs: float
    outside: float
    copies: float


@dataclass(frozen=True)
class Shape:
    """Numbers of parameters: all, those of the input embedding (looked up, not multiplied), those that ``update`` trains.

    ``tied``: the language-model head, which is not among them, shares the embedding's weights.
    """

    model_type: str
    hidden_size: int
    causal: bool
    parameters: int
    embedding: int
    trained: int
    tied: bool = True
    activations: Activations | None = None


def at_hand(config: BackboneConfig) -> Path | None:
    """Where a backbone's files are on this machine: its folder, or the hub's cache; None where they are not."""
    source = aliases.resolve(config.name)
    if Path(source).is_dir():
        return Path(source)
    if not MODEL_ID.match(source):
        raise BackboneError(f"backbone {config.name!r} is no folder here and no hub id; check the path")
    found = try_to_load_from_cache(source, "config.json", revision=config.revision)
    return Path(found).parent if isinstance(found, str) else None


def settings_of(config: BackboneConfig) -> Any:
    """The model's configuration, from this machine or else from the hub; nothing is kept. Raises ``BackboneError``."""
    folder = at_hand(config)
    if folder is not None:
        with explained(config.name, str(folder)):
            return AutoConfig.from_pretrained(folder, trust_remote_code=config.trust_remote_code)
    with tempfile.TemporaryDirectory(prefix="poise-") as place, explained(config.name, config.name):
        return AutoConfig.from_pretrained(config.name, cache_dir=place, **loading_options(config))


def shape_of(settings: Any, recipe: Recipe, computes_bf16: bool) -> Shape:
    """Count the parameters, and for training through the backbone what a pass keeps. Raises ``BackboneError``."""
    update, dtype = recipe.training.update, COMPUTED.get(recipe.backbone.dtype, torch.float32)
    trusted = recipe.backbone.trust_remote_code
    with explained(recipe.backbone.name, recipe.backbone.name), torch.device("meta"):
        model: Any = AutoModel.from_config(settings, dtype=dtype, trust_remote_code=trusted)
        if model._supports_attention_backend:
            model.set_attn_implementation(WHOLE)
        model.requires_grad_(update == "full")
        if update == "lora":
            with_lora(model, recipe)
    return Shape(
        model_type=settings.model_type,
        hidden_size=text_settings(settings).hidden_size,
        causal=is_causal(settings),
        parameters=sum(p.numel() for name, p in model.named_parameters() if "lora_" not in name),
        embedding=model.get_input_embeddings().weight.numel(),
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        tied=bool(getattr(text_settings(settings), "tie_word_embeddings", True)),
        activations=None if update == "head" else _activations(model, computes_bf16),
    )


def _activations(model: Any, computes_bf16: bool) -> Activations | None:
    """None for an architecture that cannot be read with fake tensors."""
    layers = max((m for m in model.modules() if isinstance(m, nn.ModuleList)), key=len, default=None)
    if layers is None:
        return None
    count = len(layers)
    del layers[LAYERS:]
    saved, inputs = Saved(), list[int]()
    for number, layer in enumerate(layers):
        layer.register_forward_pre_hook(partial(_entered, saved, inputs, number))
        layer.register_forward_hook(lambda *_: saved.enter(None))
    precision = torch.autocast("cpu", torch.bfloat16) if computes_bf16 else nullcontext()
    try:
        with FakeTensorMode():
            _fake(model.train())
            with saved.counted(model), precision:
                ids = torch.zeros(1, TOKENS, dtype=torch.long)
                model(input_ids=ids, **({"use_cache": False} if is_causal(model.config) else {}))
    except Exception:  # architectures raise whatever they choose where a value is asked for
        return None
    inner = [saved.per_token(number) for number in range(len(layers))]
    scale = count / len(layers)
    return Activations(
        layers=sum(inner) * scale,
        layer=max(inner),
        inputs=sum(inputs) / TOKENS * scale,
        outside=saved.per_token(None),
        copies=sum(saved.constant(number) for number in range(len(layers))) * scale + saved.constant(None),
    )


def whole_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Of a row that is one text, as ``tree_attention`` would: heads repeated, no mask. The signature is transformers'."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    causal = getattr(module, "is_causal", True)
    return scaled_dot_product_attention(query, key, value, scale=scaling, is_causal=causal).transpose(1, 2), None


AttentionInterface.register(WHOLE, whole_attention)


def _fake(model: nn.Module) -> None:
    """Put fake tensors in the place of all weights, which are on no device; tied ones stay tied."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for own in (module._parameters, module._buffers):
            for name, old in own.items():
                if old is not None and id(old) not in made:
                    new = torch.empty(old.shape, dtype=old.dtype)
                    made[id(old)] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
                if old is not None:
                    own[name] = made[id(old)]  # type: ignore[assignment]


class Saved:
    """Bytes of the distinct tensors that autograd saves, by the layer that saved them first."""

    def __init__(self) -> None:
        self.layer: int | None = None
        self.sizes: dict[int | None, dict[int, int]] = defaultdict(dict)
        self.kept: list[Any] = []

    def enter(self, layer: int | None) -> None:
        """What is saved from here on belongs to that layer, or to none."""
        self.layer = layer

    @contextmanager
    def counted(self, model: nn.Module) -> Iterator[None]:
        """Counts in the block; the model's own weights are no cost of a pass."""
        own = {p.untyped_storage()._cdata for p in (*model.parameters(), *model.buffers())}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            known = storage._cdata in own or any(storage._cdata in part for part in self.sizes.values())
            if not known:
                self.kept.append(storage)  # a freed one could give its address to another
                self.sizes[self.layer][storage._cdata] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield

    def per_token(self, layer: int | None) -> float:
        """Bytes that grow with the tokens, by token."""
        return sum(size for size in self.sizes[layer].values() if size % TOKENS == 0) / TOKENS

    def constant(self, layer: int | None) -> int:
        """Bytes that do not."""
        return sum(size for size in self.sizes[layer].values() if size % TOKENS)


def _entered(saved: Saved, inputs: list[int], number: int, _: nn.Module, given: tuple[Any, ...]) -> None:
    inputs.append(sum(one.numel() * one.element_size() for one in given if isinstance(one, Tensor)))
    saved.enter(number)
