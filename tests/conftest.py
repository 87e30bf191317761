"""Tiny backbones built in memory and the data folder's location. Nothing is downloaded."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

from poise.backbone import Backbone, BackboneConfig
from poise.model import IN_MEMORY

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CORPUS = [
    "the quick brown fox jumps over the lazy dog and says hello to everyone in the small village by the sea",
    "What is 2 + 2? How do I boil an egg? Put it in boiling water for eight minutes. Tell me a story about it.",
]
ROLES = ["<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]


@pytest.fixture(scope="session", autouse=True)
def _private_cache(tmp_path_factory):
    """No test reads or writes the user's cache."""
    os.environ["POISE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Two threads that wait for each other on a busy machine make tiny models a hundred times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def _interruptible():
    """A shell lets what it runs in the background ignore Ctrl-C; tests that send one must be heard all the same."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real preferences beside the project; tests that need it skip where it is absent."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real preference data (../shared/data) is not here")
    return folder


def tiny_tokenizer(*, encoder: bool, template: str | None = None, pad_is_eos: bool = False) -> PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"] if encoder else ["<pad>", "<unk>", "<eos>", *ROLES]
    core = Tokenizer(models.BPE(unk_token=special[1]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    if encoder:
        names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        inputs = ["input_ids", "token_type_ids", "attention_mask"]
    else:
        names = {"pad_token": "<eos>" if pad_is_eos else "<pad>", "unk_token": "<unk>", "eos_token": "<eos>"}
        inputs = ["input_ids", "attention_mask"]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, model_input_names=inputs, **names)
    tokenizer.chat_template = template
    return tokenizer


def tiny_encoder(**options) -> Backbone:
    tokenizer = tiny_tokenizer(encoder=True)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertModel(config)
    return Backbone(model, tokenizer, BackboneConfig(name=IN_MEMORY, dtype="float32", **options))


def tiny_decoder(template: str | None = TEMPLATE, *, pad_is_eos: bool = False, **options) -> Backbone:
    tokenizer = tiny_tokenizer(encoder=False, template=template, pad_is_eos=pad_is_eos)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=64,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen3Model(config)
    return Backbone(model, tokenizer, BackboneConfig(name=IN_MEMORY, dtype="float32", **options))


def on_disk(backbone: Backbone, folder: Path) -> Path:
    """The folder, with the backbone in it as others would save it."""
    backbone.model.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)
    return folder


def written(path: Path, rows: Iterable[dict]) -> str:
    """The path of a JSON lines file with these rows."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(params=["encoder", "decoder"])
def backbone(request) -> Backbone:
    return tiny_encoder() if request.param == "encoder" else tiny_decoder()
