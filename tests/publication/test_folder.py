"""The exported folder, read with transformers alone: same ids, same numbers, whatever the tokenizer's habits."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import processors
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DistilBertConfig,
    DistilBertModel,
    RobertaConfig,
    RobertaModel,
    pipeline,
)

from poise.backbone import Backbone, BackboneConfig
from poise.errors import BackboneError, CheckpointError, ConfigError
from poise.legacy_settings import legacy_settings
from poise.model import IN_MEMORY, RewardModel
from poise.publication import export, folder, verify_folder
from poise.scoring import score_file
from tests.conftest import TEMPLATE, tiny_decoder, tiny_encoder, tiny_tokenizer
from tests.test_model import ANSWERS, PROMPT, make_model

READER = Path(__file__).parents[2] / "bench" / "plain_reader.py"
TEXTS = [
    (f"How do I boil {i} eggs?", f"{answer} {'and again ' * (i % 7)}")
    for i in range(6)
    for answer in (*ANSWERS, "ありがとう 🙏", "")
    if answer
]


def plain(folder: Path):
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def messages(prompt: str, response: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]


@torch.inference_mode()
def in_batches(model, tokenizer, texts, side: str = "right") -> torch.Tensor:
    blocks = [texts[i : i + 8] for i in range(0, len(texts), 8)]
    return torch.cat(
        [model(**tokenizer(block, padding=True, padding_side=side, return_tensors="pt")).logits for block in blocks]
    )


def family(kind: str, tokenizer=None, **settings) -> Backbone:
    tokenizer = tokenizer or tiny_tokenizer(encoder=False, template=TEMPLATE)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    shape |= {"intermediate_size": 64, "max_position_embeddings": 256, "vocab_size": len(tokenizer)}
    config = AutoConfig.for_model(kind, **shape | settings, pad_token_id=tokenizer.pad_token_id, eos_token_id=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = AutoModel.from_config(config)
    return Backbone(base, tokenizer, BackboneConfig(name=IN_MEMORY, dtype="float32"))


# ── equality


def test_every_road_to_a_score_gives_the_same_number(tmp_path):
    """``predict``, ``poise score``, plain transformers in padded batches either way, and its pipeline."""
    model = make_model(method="bt")
    export(model, tmp_path / "out")
    predicted = model.predict([p for p, _ in TEXTS], [r for _, r in TEXTS]).mean
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"prompt": p, "response": r}) + "\n" for p, r in TEXTS), "utf8")
    score_file(model, str(data), tmp_path / "scores.parquet")
    filed = torch.tensor(pyarrow.parquet.read_table(tmp_path / "scores.parquet")["mean"].to_pylist())
    reader, tokenizer = plain(tmp_path / "out")
    rendered = [tokenizer.apply_chat_template(messages(*text), tokenize=False) for text in TEXTS]
    piped = pipeline("text-classification", model=reader, tokenizer=tokenizer, device="cpu")(rendered, batch_size=8)
    roads = {
        "poise score": filed,
        "right": in_batches(reader, tokenizer, rendered)[:, 0],
        "left": in_batches(reader, tokenizer, rendered, "left")[:, 0],
        "pipeline": torch.tensor([one["score"] for one in piped]),
    }
    assert predicted.std() > 0.1
    for road, found in roads.items():
        assert (found - predicted).abs().max() < 1e-5, road


@pytest.mark.parametrize("kind", ["llama", "mistral", "phi3", "gemma", "gemma2", "gemma3_text", "gpt2"])
def test_families_agree(tmp_path, kind):
    settings = {} if kind == "gpt2" else {"head_dim": 8}
    for one in export(make_model(family(kind, **settings)), tmp_path / "out", "both"):
        assert one.verification.agrees
        assert one.verification.worst.difference < 1e-5
        assert len(one.verification.checks) > 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"scalar", "params"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_head_is_kept_in_float32_where_the_backbone_is_not(tmp_path, dtype):
    backbone = tiny_decoder()
    backbone.model.to(dtype)
    model = make_model(backbone)
    (one,) = export(model, tmp_path / "out")
    assert one.verification.agrees
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as file:
        dtypes = {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118 — no mapping
    assert dtypes.pop("score.weight") == torch.float32
    assert set(dtypes.values()) == {dtype}


# ── the tokenizer's habits


def adds_bos(tokenizer):
    """As Llama's: the tokenizer puts a BOS before every text, and the template writes one too."""
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", bos)]
    )
    return tokenizer


@pytest.mark.parametrize("pad_is_eos", [True, False])
@pytest.mark.parametrize("template", ["{{ bos_token }}" + TEMPLATE, None])
def test_no_bos_is_doubled_and_no_text_ends_before_its_end(tmp_path, template, pad_is_eos):
    tokenizer = adds_bos(tiny_tokenizer(encoder=False, template=template, pad_is_eos=pad_is_eos))
    model = make_model(family("llama", tokenizer), method="bt")
    before = dict(model.backbone.tokenizer.special_tokens_map), len(model.backbone.tokenizer)
    export(model, tmp_path / "out")
    assert (dict(model.backbone.tokenizer.special_tokens_map), len(model.backbone.tokenizer)) == before
    reader, words = plain(tmp_path / "out")
    assert reader.config.pad_token_id == words.pad_token_id
    assert words.pad_token_id not in (words.eos_token_id, words.bos_token_id, words.unk_token_id)
    rendered = [words.apply_chat_template(messages(*text), tokenize=False) for text in TEXTS]
    encoded = model.backbone.encode([model._text(p, r, 0) for p, r in TEXTS])
    for text, row in zip(rendered, encoded, strict=True):
        assert words(text)["input_ids"] == list(row.ids)
        assert words(text)["input_ids"].count(words.bos_token_id) == 1
    predicted = model.predict([p for p, _ in TEXTS], [r for _, r in TEXTS]).mean
    assert (in_batches(reader, words, rendered)[:, 0] - predicted).abs().max() < 1e-5


def test_a_pad_token_that_the_template_writes_is_replaced_by_an_idle_one(tmp_path):
    tokenizer = tiny_tokenizer(encoder=False, template="{% for m in messages %}{{ m['content'] }}<pad>{% endfor %}")
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|right_pad|>"]})
    export(make_model(family("llama", tokenizer)), tmp_path / "out")
    reader, words = plain(tmp_path / "out")
    assert words.pad_token == "<|right_pad|>"
    assert reader.config.vocab_size == len(tokenizer)


def test_a_model_of_bare_strings_is_given_its_special_tokens_by_the_tokenizer(tmp_path):
    tokenizer = adds_bos(tiny_tokenizer(encoder=False, pad_is_eos=True))
    model = make_model(family("llama", tokenizer), method="bt", conversational=False)
    export(model, tmp_path / "out")
    reader, words = plain(tmp_path / "out")
    ids = words(PROMPT + " " + ANSWERS[0])["input_ids"]
    assert (ids[0], ids[-1]) == (words.bos_token_id, words.eos_token_id)
    found = in_batches(reader, words, [f"{PROMPT} {answer}" for answer in ANSWERS])[:, 0]
    expected = model.predict(PROMPT + " ", ANSWERS).mean
    assert (found - expected).abs().max() < 1e-5


def test_what_is_too_long_loses_its_far_end(tmp_path):
    export(make_model(), tmp_path / "out")
    words = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert words.model_max_length == 256
    whole, cut = (words("tell me " * 500 + "the end", truncation=t)["input_ids"] for t in (False, True))
    assert cut == whole[-256:]


# ── encoders


def bert_like(kind: str) -> Backbone:
    if kind == "bert":
        return tiny_encoder(pooling="cls")
    tokenizer = tiny_tokenizer(encoder=True)
    size = {"vocab_size": len(tokenizer), "max_position_embeddings": 130, "pad_token_id": 0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "distilbert":
            base = DistilBertModel(DistilBertConfig(**size, dim=32, n_layers=2, n_heads=4, hidden_dim=64))
        else:
            shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
            base = RobertaModel(RobertaConfig(**size, **shape))
    return Backbone(base, tokenizer, BackboneConfig(name=IN_MEMORY, dtype="float32", pooling="cls"))


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta"])
@pytest.mark.parametrize("form", ["scalar", "params"])
def test_an_encoder_that_reads_the_first_token_goes_through_its_own_head(tmp_path, kind, form):
    model = make_model(bert_like(kind), "drpo")
    pooler = {k: v.clone() for k, v in model.backbone.model.state_dict().items()}
    (one,) = export(model, tmp_path / "out", form)
    assert one.verification.worst.difference < 1e-5
    assert all(torch.equal(v, pooler[k]) for k, v in model.backbone.model.state_dict().items())
    reader, words = plain(tmp_path / "out")
    pairs = words([f"User: {PROMPT}"] * len(ANSWERS), ANSWERS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        found = reader(**pairs).logits
    assert (found[:, 0] - model.predict(PROMPT, ANSWERS).mean).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("backbone", "says"),
    [
        (tiny_encoder, "no bert classifier that reads the response_mean state as it is"),
        (lambda: tiny_decoder(pooling="mean"), "no qwen3 classifier with one linear layer on the mean state"),
        (lambda: tiny_decoder(readout="rating"), "would answer a rating instruction"),
    ],
)
def test_a_state_that_no_plain_class_reads_is_refused(tmp_path, backbone, says):
    with pytest.raises(CheckpointError, match=says):
        export(make_model(backbone()), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_form_for_poise_itself_is_left_for_every_model(tmp_path):
    model = make_model(tiny_encoder(), "vrm")
    (one,) = export(model, tmp_path / "out", "poise")
    assert one.verification.agrees
    loaded = RewardModel.load(tmp_path / "out", device="cpu")
    assert torch.equal(loaded.predict(PROMPT, ANSWERS).mean, model.predict(PROMPT, ANSWERS).mean)
    assert "RewardModel.load" in (tmp_path / "out" / "README.md").read_text("utf8")


# ── older names


def test_settings_have_their_older_names_too():
    local = {"rope_type": "default", "rope_theta": 1e4}
    whole = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}
    assert legacy_settings({"rope_parameters": {"full_attention": whole, "sliding_attention": local}}) == {
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    }
    partial = {"rope_type": "default", "rope_theta": 1e5, "partial_rotary_factor": 0.25}
    assert legacy_settings({"model_type": "gpt_neox", "rope_parameters": partial, "dtype": "bfloat16"}) == {
        "torch_dtype": "bfloat16",
        "rotary_emb_base": 1e5,
        "rotary_pct": 0.25,
        "rope_scaling": None,
    }
    assert legacy_settings({"model_type": "gpt2"}) == {}


OTHER = os.environ.get("POISE_OTHER_PYTHON")


@pytest.mark.heavy
@pytest.mark.skipif(not OTHER, reason="POISE_OTHER_PYTHON names no interpreter with another transformers")
def test_another_version_of_transformers_agrees(tmp_path):
    rope = {"rope_type": "default", "rope_theta": 1e6}
    places = []
    for kind in ("llama", "mistral", "phi3", "qwen3", "gemma2", "gemma3_text"):
        local = {"full_attention": rope, "sliding_attention": rope | {"rope_theta": 3e4}}
        settings = {"head_dim": 8, "rope_parameters": local if kind == "gemma3_text" else rope}
        tokenizer = adds_bos(tiny_tokenizer(encoder=False, template="{{ bos_token }}" + TEMPLATE, pad_is_eos=True))
        export(make_model(family(kind, tokenizer, **settings)), tmp_path / kind, "both")
        places += [str(tmp_path / kind / form) for form in ("scalar", "params")]
    done = subprocess.run([str(OTHER), str(READER), *places], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])["folders"]
    for place in places:
        assert all(difference < 1e-5 for difference in found[place].values()), found


# ── refusals and writing


def test_only_its_own_folders_are_replaced(tmp_path):
    model, out = make_model(method="bt"), tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match="exists and is no exported model"):
        export(model, out)
    assert [p.name for p in out.iterdir()] == ["thesis.txt"]
    (out / "thesis.txt").unlink()
    export(model, out)
    export(make_model(), out)
    assert json.loads((out / "config.json").read_text())["poise_export"]["method"] == "drpo"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_plain_transformers_would_read_otherwise_is_never_written(tmp_path, monkeypatch):
    """Whatever the reason."""
    real = folder.plain_classifier

    def wrong(backbone, weight, names):
        return real(backbone, weight * 1.01, names)

    monkeypatch.setattr(folder, "plain_classifier", wrong)
    with pytest.raises(CheckpointError, match=r"plain transformers gives .* poise .*--form poise"):
        export(make_model(), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_unknown_form_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown form 'scaler'; did you mean 'scalar'\?"):
        export(make_model(), tmp_path / "out", "scaler")


def test_weights_that_are_not_there_are_no_random_ones(tmp_path):
    export(make_model(), tmp_path / "out")
    state = load_file(tmp_path / "out" / "model.safetensors")
    del state["score.weight"]
    save_file(state, tmp_path / "out" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks the weights of score.weight"):
        verify_folder(tmp_path / "out")
    (tmp_path / "out" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(BackboneError):
        verify_folder(tmp_path / "out")


def test_the_exported_head_is_named_for_readers(tmp_path):
    export(make_model(method="bt"), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text("utf8"))
    assert config["id2label"] == {"0": "reward"}
    assert config["label2id"] == {"reward": 0}
    assert config["problem_type"] == "regression"
    assert config["use_cache"] is False
    assert config["architectures"] == ["Qwen3ForSequenceClassification"]
    forced = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", num_labels=1)  # as TRL loads it
    assert forced.config.id2label == {0: "reward"}
