"""The backbone: the same state whatever a text is scored with, and a clear refusal of what cannot be used."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from importlib import metadata

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertModel

from poise import aliases
from poise.aliases import MINILM_HUB_ID, MINILM_PACKAGE, minilm_folder, resolve
from poise.backbone import QUANTUM, Backbone, BackboneConfig, Row, is_causal, load_encoder, padded_length, plan_batches
from poise.data.records import Message
from poise.errors import BackboneError, ConfigError
from poise.extraction import extract
from tests.conftest import on_disk, tiny_decoder, tiny_encoder
from tests.test_model import make_model

try:
    metadata.version(MINILM_PACKAGE)
    HAS_MINILM = True
except metadata.PackageNotFoundError:
    HAS_MINILM = False
needs_minilm = pytest.mark.skipif(not HAS_MINILM, reason=f"{MINILM_PACKAGE} is not installed")


def texts_for(backbone: Backbone, count: int, seed: int = 0):
    """Texts of many lengths, among them some that fill their padded length exactly."""
    pick = random.Random(seed)
    words = ["fox", "egg", "water", "village", "by the sea", "hello", "2 + 2"]

    def some(most: int) -> str:
        return " ".join(pick.choice(words) for _ in range(pick.randint(1, most)))

    return backbone.encode([((Message("user", some(25)),), (Message("assistant", some(20)),)) for _ in range(count)])


# ── batch invariance


@pytest.mark.parametrize("make", [tiny_encoder, tiny_decoder])
def test_a_text_has_the_same_state_alone_and_in_any_company(make):
    backbone = make()
    texts = texts_for(backbone, 40)
    assert any(len(t.ids) % QUANTUM == 0 for t in texts), "the case without padding must occur"
    together = extract(backbone, texts, prompt_states=True)
    order = list(range(len(texts)))
    random.Random(1).shuffle(order)
    shuffled = extract(backbone, [texts[i] for i in order], prompt_states=True)
    alone = [extract(backbone, [text], prompt_states=True) for text in texts]
    for kind in ("response", "prompt"):
        whole = getattr(together, kind)
        assert (whole[order] - getattr(shuffled, kind)).abs().max() < 1e-5
        assert (whole - torch.cat([getattr(a, kind) for a in alone])).abs().max() < 1e-5


@needs_minilm
@pytest.mark.heavy
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_minilm_gives_the_same_state_alone_and_in_any_company(dtype):
    """In bfloat16 a kernel that saw another shape would differ by about 1e-2."""
    backbone = Backbone.load(BackboneConfig(dtype=dtype, device="cpu"))
    texts = texts_for(backbone, 24)
    together = extract(backbone, texts).response
    for i, text in enumerate(texts):
        assert (extract(backbone, [text]).response[0] - together[i]).abs().max() < 1e-5
    pairs = extract(backbone, texts[:7][::-1]).response
    assert (pairs - together[:7].flip(0)).abs().max() < 1e-5


@pytest.mark.parametrize("make", [tiny_encoder, tiny_decoder])
def test_right_padding_changes_nothing(make):
    """Against transformers' own forward pass without any padding."""
    backbone = make(pooling="mean")
    for text in texts_for(backbone, 12, seed=2):
        inputs = {"input_ids": torch.tensor([text.ids])}
        if backbone.segments:
            second = len(text.ids) - text.prompt_length
            inputs["token_type_ids"] = torch.tensor([[0] * text.prompt_length + [1] * second])
        with torch.inference_mode():
            expected = backbone.model(**inputs).last_hidden_state[0].mean(0)
        state, _ = backbone.states([Row(text.ids, text.prompt_length)])
        assert (state[0] - expected).abs().max() < 1e-5


rows = st.lists(st.integers(1, 100).map(lambda n: Row((1,) * n, 0)), max_size=40)


@settings(deadline=None, derandomize=True, max_examples=80)
@given(rows=rows, budget=st.sampled_from([16, 64, 300]))
def test_the_plan_holds_every_row_once_and_each_batch_has_one_shape(rows, budget):
    plan = list(plan_batches(rows, 100, budget))
    assert sorted(i for batch in plan for i in batch) == list(range(len(rows)))
    widths = []
    for batch in plan:
        (width,) = {padded_length(len(rows[i].ids), 100) for i in batch}
        assert len({len(rows[i].ids) == width for i in batch}) == 1, "rows with and without padding run other kernels"
        assert len(batch) == 1 or len(batch) * width <= budget
        widths.append(width)
    assert widths == sorted(widths, reverse=True)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(length=st.integers(1, 600), limit=st.integers(8, 600))
def test_the_padded_length_depends_on_the_row_alone(length, limit):
    width = padded_length(length, limit)
    assert width >= length
    assert width % QUANTUM == 0 or width in (limit, length)
    assert width <= max(limit, length)


# ── which models


TINY = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
SMALL = {"n_layer": 1, "n_head": 2, "n_embd": 16, "vocab_size": 32}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}


@pytest.mark.parametrize(
    ("name", "options", "causal"),
    [
        ("Bert", TINY, False),
        ("ModernBert", {**TINY, **SPECIAL}, False),
        ("Roberta", TINY, False),
        ("DebertaV2", TINY, False),
        ("Bert", {**TINY, "is_decoder": True}, True),
        ("Qwen3", {**TINY, "head_dim": 8, "num_key_value_heads": 2}, True),
        ("Llama", TINY, True),
        ("Mistral", {**TINY, "num_key_value_heads": 2}, True),
        ("GPT2", SMALL, True),
    ],
)
def test_who_sees_the_future(name, options, causal):
    config = getattr(transformers, f"{name}Config")(**options)
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{name}Model")(config).eval()
    assert is_causal(model.config) == causal
    ids = torch.randint(3, 32, (1, 6))
    changed = torch.cat([ids[:, :-1], (ids[:, -1:] + 1) % 29 + 3], 1)
    with torch.inference_mode():
        a, b = (model(input_ids=x).last_hidden_state[0, 0] for x in (ids, changed))
    assert torch.equal(a, b) == causal, "what is_causal says is not what the model does"


def test_an_embedding_model_on_a_decoders_architecture_is_no_decoder():
    config = transformers.Gemma3TextConfig(
        **TINY, head_dim=8, num_key_value_heads=1, use_bidirectional_attention=True, sliding_window=8
    )
    assert not is_causal(config)


def test_an_encoder_decoder_is_refused():
    config = transformers.T5Config(vocab_size=32, d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8)
    with pytest.raises(BackboneError, match="t5 is an encoder-decoder; choose an encoder or a decoder"):
        is_causal(config)


@pytest.fixture
def folder(tmp_path):
    backbone = tiny_encoder()
    on_disk(backbone, tmp_path)
    return tmp_path


def load(folder, **options) -> Backbone:
    return Backbone.load(BackboneConfig(name=str(folder), dtype="float32", device="cpu", **options))


def test_a_folder_loads_to_the_same_states_and_fingerprint(folder):
    loaded, made = load(folder), tiny_encoder()
    assert loaded.fingerprint() == made.fingerprint()
    texts = texts_for(made, 5)
    assert texts_for(loaded, 5) == texts
    assert torch.equal(extract(loaded, texts).response, extract(made, texts).response)
    encoder = load_encoder(loaded.config)
    assert (encoder.max_length, encoder.template_sha256) == (loaded.max_length, loaded.encoder.template_sha256)


def test_the_fingerprint_follows_weights_and_pooling_but_not_the_unread_pooler(folder):
    known = load(folder).fingerprint()
    assert load(folder, pooling="cls").fingerprint() != known
    changed = load(folder)
    next(changed.model.parameters()).data[0, 0] += 1e-6
    assert changed.fingerprint() != known
    weights = {k: v for k, v in load(folder).model.state_dict().items() if "pooler" not in k}
    transformers.modeling_utils.safe_save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert load(folder).fingerprint() == load(folder).fingerprint() == known, "a random pooler must not show"


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (tiny_encoder, "layer_norm_eps", 1e-6),
        (tiny_encoder, "hidden_act", "relu"),
        (tiny_decoder, "rms_norm_eps", 1e-5),
        (tiny_decoder, "rope_parameters", {"rope_type": "default", "rope_theta": 1e6}),
        (tiny_decoder, "rope_parameters", {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}),
    ],
)
def test_the_fingerprint_follows_settings_that_change_states_without_a_weight(make, name, value):
    backbone = make()
    known = backbone.fingerprint()
    setattr(backbone.model.config, name, value)
    assert backbone.fingerprint() != known


def stretched_decoder() -> Backbone:
    """Its positions are scaled, which a checkpoint says twice: once for transformers 4."""
    made = tiny_decoder()
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e6}
    model = transformers.Qwen3Model(type(made.model.config)(**made.model.config.to_dict() | {"rope_parameters": rope}))
    return Backbone(model, made.tokenizer, made.config)


@pytest.mark.parametrize("make", [tiny_encoder, tiny_decoder, stretched_decoder])
def test_the_fingerprint_does_not_follow_how_a_model_is_stored(tmp_path, make):
    """Neither names nor the keys that a checkpoint adds for others, nor what its head is called there."""
    backbone = make()
    make_model(backbone, "bt").save(tmp_path / "checkpoint", include_backbone=True)
    path = tmp_path / "checkpoint" / "config.json"
    stored = json.loads(path.read_text())
    assert bool(stored.get("rope_scaling")) == (make is stretched_decoder)
    assert load(path.parent).fingerprint() == backbone.fingerprint()
    path.write_text(json.dumps({**stored, "id2label": {0: "x"}, "a_setting_of_later": 1, "use_cache": True}))
    assert load(path.parent).fingerprint() == backbone.fingerprint()


def test_missing_weights_are_refused_not_drawn(folder):
    weights = {k: v for k, v in load(folder).model.state_dict().items() if "layer.1" not in k}
    transformers.modeling_utils.safe_save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError, match=r"lacks 16 weights \(first: encoder.layer.1"):
        load(folder)


def test_pickled_weights_are_refused(folder):
    torch.save(load(folder).model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match="no safetensors weights"):
        load(folder)


def test_damaged_weights_are_one_message(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BackboneError, match="cannot load backbone"):
        load(folder)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(BackboneError, match=r"has no config.json; give the folder of a saved"):
        load(tmp_path)


def test_a_limit_beyond_the_models_is_refused(folder):
    with pytest.raises(ConfigError, match="reads at most 128 tokens"):
        load(folder, max_length=129)
    assert load(folder, max_length=64).max_length == 64
    assert load(folder).max_length == 128


def test_roberta_counts_its_positions_from_the_pad_id(tmp_path):
    """Its 66 positions are enough for 64 tokens; a text of the full length must not run out of them."""
    tokenizer = tiny_encoder().tokenizer
    config = transformers.RobertaConfig(
        **{**TINY, "vocab_size": len(tokenizer)}, max_position_embeddings=66, pad_token_id=1, type_vocab_size=1
    )
    transformers.RobertaModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    backbone = load(tmp_path)
    assert backbone.max_length == 64
    (text,) = backbone.encode([("fox " * 200, "egg")])
    assert len(text.ids) == 64
    assert torch.isfinite(extract(backbone, [text]).response).all()


# ── the alias


@needs_minilm
def test_minilm_is_found_without_importing_its_package():
    top_level = {str(f).split("/")[0] for f in metadata.files(MINILM_PACKAGE) or [] if str(f).endswith(".py")}
    assert top_level
    code = (
        "import sys, poise.aliases as a, json; folder = a.minilm_folder();"
        "print(json.dumps([str(folder), (folder / 'config.json').exists(), sorted({m.split('.')[0] for m in sys.modules})]))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    found, exists, modules = json.loads(out)
    assert exists
    assert not top_level & set(modules)
    assert not {"torch", "transformers"} & set(modules)
    assert resolve("minilm") == found


@needs_minilm
def test_weights_that_are_not_the_pinned_ones_are_refused(monkeypatch):
    monkeypatch.setattr(aliases, "MINILM_SHA256", "0" * 64)
    with pytest.raises(BackboneError, match="has SHA-256 53aa51172d14…, expected 000000000000…; reinstall"):
        resolve("minilm")


def test_a_package_without_its_weights_is_refused(monkeypatch):
    monkeypatch.setattr(aliases.metadata, "files", lambda _: [])
    with pytest.raises(BackboneError, match="installed without its weights; reinstall it"):
        resolve("minilm")


def test_without_the_package_the_alias_is_the_hub_id(monkeypatch):
    def absent(_):
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(aliases.metadata, "files", absent)
    assert minilm_folder() is None
    assert resolve("minilm") == MINILM_HUB_ID


def test_other_names_mean_themselves():
    assert resolve("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    assert BertModel is type(tiny_encoder().model)
