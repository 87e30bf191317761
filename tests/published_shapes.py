"""Configurations with the published shapes of the models that the recipes name; no weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import LlamaConfig, ModernBertConfig, PretrainedConfig, Qwen2Config, Qwen3Config

QWEN3 = {"vocab_size": 151936, "head_dim": 128, "num_key_value_heads": 8, "max_position_embeddings": 40960}
QWEN2 = {"vocab_size": 151936, "max_position_embeddings": 32768}
LLAMA = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}


def qwen3(hidden: int, inner: int, layers: int, heads: int, tied: bool) -> Qwen3Config:
    sizes = {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }
    return Qwen3Config(**QWEN3, **sizes, tie_word_embeddings=tied)


def qwen2(hidden: int, inner: int, layers: int, heads: int, groups: int, **more: int) -> Qwen2Config:
    sizes = {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }
    return Qwen2Config(**{**QWEN2, **sizes, "num_key_value_heads": groups, **more})


SHAPES: dict[str, PretrainedConfig] = {
    "Qwen/Qwen3-0.6B": qwen3(1024, 3072, 28, 16, True),
    "Qwen/Qwen3-4B": qwen3(2560, 9728, 36, 32, True),
    "Qwen/Qwen3-4B-Instruct-2507": qwen3(2560, 9728, 36, 32, True),
    "Qwen/Qwen3-8B": qwen3(4096, 12288, 36, 32, False),
    "Qwen/Qwen2.5-3B-Instruct": qwen2(2048, 11008, 36, 16, 2),
    "Qwen/Qwen2.5-14B-Instruct": qwen2(5120, 13824, 48, 40, 8, vocab_size=152064),
    "meta-llama/Llama-3.1-8B-Instruct": LlamaConfig(**LLAMA, max_position_embeddings=131072),
    "Skywork/Skywork-Reward-Llama-3.1-8B-v0.2": LlamaConfig(**LLAMA, max_position_embeddings=131072),
    "sfairXC/FsfairX-LLaMA3-RM-v0.1": LlamaConfig(**LLAMA, max_position_embeddings=8192),
    "answerdotai/ModernBERT-base": ModernBertConfig(),
    "answerdotai/ModernBERT-large": ModernBertConfig(
        hidden_size=1024, intermediate_size=2624, num_hidden_layers=28, num_attention_heads=16
    ),
}


def on_the_hub(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The hub's cache holds these configurations, and nothing else can be asked for."""

    def cached(name: str, file: str, revision: str | None = None) -> str | None:
        place = folder / name.replace("/", "--")
        if name in SHAPES and not place.exists():
            SHAPES[name].save_pretrained(place)
        return str(place / file) if name in SHAPES else None

    monkeypatch.setattr("poise.training.forecast.shape.try_to_load_from_cache", cached)
