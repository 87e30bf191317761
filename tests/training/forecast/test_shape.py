"""Shapes against models that are built, published totals, and activations worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import BertConfig, LlamaConfig, Qwen3Config

from poise.backbone import BackboneConfig
from poise.errors import BackboneError
from poise.live import LiveBackbone
from poise.training.finetune import with_lora
from poise.training.forecast import shape
from poise.training.recipe import parse_recipe
from tests.conftest import tiny_decoder, tiny_encoder
from tests.published_shapes import LLAMA, SHAPES


def recipe(update: str = "full", **backbone):
    return parse_recipe(
        {"data": {"train": "x"}, "method": "bt", "backbone": backbone or "minilm", "training": {"update": update}}
    )


@pytest.mark.parametrize("update", ["head", "full", "lora"])
def test_parameters_are_those_of_the_model_that_is_built(backbone, update):
    found = shape.shape_of(backbone.model.config, recipe(update), False)
    model = backbone.model.requires_grad_(update == "full")
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.embedding == model.get_input_embeddings().weight.numel()
    model = with_lora(model, recipe(update)) if update == "lora" else model
    assert found.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert (found.hidden_size, found.causal) == (backbone.hidden_size, backbone.causal)


def test_parameters_are_the_published_ones():
    """Totals of the model cards, where a card counts an untied output layer too; the model without it is what is trained."""
    untied = {"Qwen/Qwen3-8B": 151936 * 4096, "meta-llama/Llama-3.1-8B-Instruct": 128256 * 4096}
    published = {
        "Qwen/Qwen3-0.6B": 0.6e9,
        "Qwen/Qwen3-4B": 4.0e9,
        "Qwen/Qwen3-8B": 8.2e9,
        "meta-llama/Llama-3.1-8B-Instruct": 8.03e9,
        "answerdotai/ModernBERT-base": 149e6,
        "answerdotai/ModernBERT-large": 395e6,
    }
    for name, total in published.items():
        found = shape.shape_of(SHAPES[name], recipe("head"), False)
        assert found.parameters + untied.get(name, 0) == pytest.approx(total, rel=0.01), name


def test_activations_of_a_llama_layer_by_hand():
    """bfloat16 products over a float32 stream. Kept of each token, in bytes:

    two norms, each its input and what it multiplies (4 + 4 per H); the inputs of q, k, v, gate and up in bfloat16 (5 × 2 H); q
    and the attention's output, read again by o (2 + 2 per H); k and v, repeated for all heads (2 + 2 per H); gate, its
    activation, up and their product (4 × 2 I). Beyond that only a few numbers a token (the norms' scales, the attention's normalisers).
    """
    h, kv, inner, layers = 4096, 1024, 14336, 32
    config = LlamaConfig(**LLAMA, max_position_embeddings=8192)
    found = shape.shape_of(config, recipe(), True).activations
    expected = layers * (26 * h + 4 * h + 4 * h + 8 * inner)
    assert found.layers == pytest.approx(expected, rel=0.01)
    assert found.layer == pytest.approx(found.layers / layers, rel=0.01)
    assert found.inputs == layers * 4 * h
    linear = layers * (2 * h * h + 2 * h * kv + 3 * h * inner)
    assert found.copies == pytest.approx(2 * linear, rel=1e-3)


def test_a_count_with_fake_tensors_is_that_of_a_real_pass():
    real = tiny_decoder()
    found = shape.shape_of(real.model.config, recipe(), False).activations
    live = LiveBackbone(real, layout="tree")
    live.model.requires_grad_(True).train()
    (text,) = real.encode([("What is 2 + 2?", "It is 4, and it was always so. " * 8)])
    rows, saved = live.collate([replace(text, prompt_length=0)], [0]), shape.Saved()
    with live.attached(), saved.counted(live.model):
        live(rows)
    assert sum(saved.sizes[None].values()) / rows.tokens == pytest.approx(found.layers + found.outside, rel=0.08)


def test_families_that_mix_layers_and_encoders_are_read():
    for name in ("answerdotai/ModernBERT-base", "Qwen/Qwen3-0.6B"):
        assert shape.shape_of(SHAPES[name], recipe(), True).activations.layers > 0
    assert shape.shape_of(BertConfig(), recipe(), True).activations.layers > 0


def test_where_a_backbone_is(tmp_path, monkeypatch):
    backbone = tiny_encoder()
    backbone.model.save_pretrained(tmp_path / "model")
    config = BackboneConfig(name=str(tmp_path / "model"))
    assert shape.at_hand(config) == tmp_path / "model"
    assert shape.settings_of(config).hidden_size == backbone.hidden_size
    monkeypatch.setattr(shape, "try_to_load_from_cache", lambda *_, **__: None)
    assert shape.at_hand(BackboneConfig(name="Qwen/Qwen3-0.6B")) is None
    with pytest.raises(BackboneError, match="no folder here and no hub id; check the path"):
        shape.at_hand(BackboneConfig(name="./no/such/folder"))


def test_only_the_configuration_is_asked_of_the_hub_and_it_is_not_kept(tmp_path, monkeypatch):
    asked = []

    def from_pretrained(name, **options):
        asked.append((name, options["cache_dir"]))
        return Qwen3Config()

    monkeypatch.setattr(shape, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(shape.AutoConfig, "from_pretrained", from_pretrained)
    shape.settings_of(BackboneConfig(name="Qwen/Qwen3-0.6B"))
    ((name, place),) = asked
    assert name == "Qwen/Qwen3-0.6B"
    assert not shape.Path(place).exists()
