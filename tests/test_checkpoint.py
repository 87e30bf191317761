"""The checkpoint folder: exact in a new process, plain where it can be, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from poise import checkpoint
from poise.backbone import Backbone, BackboneConfig
from poise.checkpoint import GOLDEN, HEAD, KEY
from poise.errors import BackboneError, CheckpointError, PoiseError
from poise.model import RewardModel
from tests.conftest import on_disk, tiny_decoder, tiny_encoder
from tests.test_model import ANSWERS, PROMPT, equal, make_model


@pytest.fixture
def saved(tmp_path) -> Path:
    """A decoder with a Gaussian head, its backbone included."""
    make_model().save(tmp_path / "decoder")
    return tmp_path / "decoder"


@pytest.fixture
def referring(tmp_path) -> tuple[Path, Path]:
    """(checkpoint, backbone folder): an encoder that the checkpoint only names."""
    made = tiny_encoder()
    on_disk(made, tmp_path / "backbone")
    backbone = Backbone.load(BackboneConfig(name=str(tmp_path / "backbone"), dtype="float32", device="cpu"))
    make_model(backbone).save(tmp_path / "model")
    return tmp_path / "model", tmp_path / "backbone"


def edit(folder: Path, **changes) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config[KEY] |= changes
    path.write_text(json.dumps(config))


def load(folder, **options) -> RewardModel:
    return RewardModel.load(folder, device="cpu", **options)


# ── round trip


@pytest.mark.heavy
def test_a_new_process_predicts_the_same_bits(tmp_path):
    expected = {}
    for method in ("bt", "drpo"):
        for make in (tiny_encoder, tiny_decoder):
            model, name = make_model(make(), method), f"{method}-{make.__name__}"
            model.save(tmp_path / name)
            reward = model.predict(PROMPT, ANSWERS)
            expected[name] = {k: [v.hex() for v in x.flatten().tolist()] for k, x in reward.parameters().items()}
            assert equal(load(tmp_path / name).predict(PROMPT, ANSWERS), reward)
    code = """
        import json, pathlib, sys
        import torch
        torch.set_num_threads(1)
        from poise import RewardModel
        given = json.load(sys.stdin)
        print(json.dumps({
            name: {k: [v.hex() for v in x.flatten().tolist()] for k, x in
                   RewardModel.load(pathlib.Path(sys.argv[1]) / name, device="cpu").predict(*given).parameters().items()}
            for name in sys.argv[2:]
        }))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path), *expected],
        input=json.dumps([PROMPT, ANSWERS]),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert json.loads(done.stdout) == expected


@pytest.mark.parametrize("conversational", [True, False])
def test_how_strings_are_meant_is_remembered(tmp_path, conversational):
    model = make_model(conversational=conversational)
    model.save(tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert loaded.conversational == conversational
    assert equal(loaded.predict(PROMPT, "no"), model.predict(PROMPT, "no"))


def test_limits_pooling_and_truncation_are_remembered(tmp_path):
    make_model(tiny_encoder(max_length=40, pooling="mean", truncate="drop")).save(tmp_path / "m")
    backbone = load(tmp_path / "m").backbone
    assert (backbone.max_length, backbone.pooling, backbone.config.truncate) == (40, "mean", "drop")


def test_a_run_folder_stands_for_its_checkpoint(tmp_path):
    make_model().save(tmp_path / "run" / "checkpoint")
    assert len(load(tmp_path / "run").predict(PROMPT, "no")) == 1


def test_a_learnt_link_survives(tmp_path):
    from poise.methods import method_class

    kind = method_class("bt")
    model = RewardModel(tiny_decoder(), kind(kind.Config(loss="davidson"), 32))
    with torch.no_grad():
        model.method.raw_tie.fill_(2.5)
    model.save(tmp_path / "m")
    a, b = (m.predict(PROMPT, ANSWERS) for m in (model, load(tmp_path / "m")))
    assert torch.equal(a[:2].prob_tie(a[2:]), b[:2].prob_tie(b[2:]))


def test_a_scale_that_was_not_folded_survives(tmp_path):
    model = make_model()
    model.method.input_scale.fill_(7.0)
    model.save(tmp_path / "m")
    assert equal(load(tmp_path / "m").predict(PROMPT, ANSWERS), model.predict(PROMPT, ANSWERS))


def test_a_loaded_model_can_be_saved_again_even_in_place(saved, tmp_path):
    """Its backbone lives in that folder: a reference to it would be a reference to nothing."""
    expected = load(saved).predict(PROMPT, ANSWERS)
    load(saved).save(tmp_path / "copy")
    load(saved).save(saved)
    moved = saved.rename(tmp_path / "moved")
    for folder in (moved, tmp_path / "copy"):
        assert equal(load(folder).predict(PROMPT, ANSWERS), expected)


def test_a_backbone_without_a_name_must_be_included(tmp_path):
    with pytest.raises(CheckpointError, match="'in-memory' exists nowhere else; save with include_backbone=True"):
        make_model().save(tmp_path / "m", include_backbone=False)
    assert not (tmp_path / "m").exists()


def test_a_reference_is_small_and_does_not_depend_on_the_working_folder(referring, tmp_path, monkeypatch):
    folder, backbone = referring
    assert not (folder / "model.safetensors").exists()
    monkeypatch.chdir(tmp_path)
    named = Backbone.load(BackboneConfig(name=backbone.name, dtype="float32", device="cpu"))
    make_model(named).save("relative")
    monkeypatch.chdir(backbone)
    assert equal(load(tmp_path / "relative").predict(PROMPT, "no"), load(folder).predict(PROMPT, "no"))


def test_include_backbone_makes_the_folder_whole(referring, tmp_path):
    folder, backbone = referring
    model = load(folder)
    expected = model.predict(PROMPT, ANSWERS)
    model.save(tmp_path / "whole", include_backbone=True)
    shutil.rmtree(backbone)
    whole = load(tmp_path / "whole")
    assert equal(whole.predict(PROMPT, ANSWERS), expected)
    whole.save(tmp_path / "again")
    assert equal(load(tmp_path / "again").predict(PROMPT, ANSWERS), expected), "it was the only copy of the weights"
    with pytest.raises(BackboneError):
        load(folder)


# ── plain transformers


@pytest.mark.parametrize("method", ["bt", "drpo"])
@pytest.mark.parametrize("pad_is_eos", [False, True])
def test_a_decoder_with_a_linear_head_is_a_plain_classifier(tmp_path, method, pad_is_eos):
    model = make_model(tiny_decoder(pad_is_eos=pad_is_eos), method)
    model.save(tmp_path)
    plain, info = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    assert plain.config.problem_type == "regression"
    assert plain.config.architectures == ["Qwen3ForSequenceClassification"]
    assert plain.config.num_labels == (1 if method == "bt" else 2)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    reward = model.predict(PROMPT, ANSWERS).mean
    talks = [[{"role": "user", "content": PROMPT}, {"role": "assistant", "content": a}] for a in ANSWERS]
    ids = [tokenizer.apply_chat_template(t, tokenize=True, return_dict=False) for t in talks]
    with torch.inference_mode():
        alone = torch.cat([plain(input_ids=torch.tensor([row])).logits[:, 0] for row in ids])
        assert (alone - reward).abs().max() < 1e-5
        batch = tokenizer.pad({"input_ids": ids}, return_tensors="pt", padding_side="right")
        if pad_is_eos:
            with pytest.raises(ValueError, match="batch sizes > 1"):  # better than pooling before the last EOS
                plain(**batch)
        else:
            assert (plain(**batch).logits[:, 0] - reward).abs().max() < 1e-5


@pytest.mark.parametrize("rope", [{"rope_type": "default"}, {"rope_type": "linear", "factor": 2.0}])
def test_older_readers_find_the_rotary_settings_under_their_names(tmp_path, rope):
    """transformers 4 takes theta 10,000 without a word where ``rope_theta`` is absent."""
    made = tiny_decoder()
    config = made.model.config
    config.rope_parameters = {"rope_theta": 1e6, **rope}
    with torch.random.fork_rng():
        backbone = Backbone(type(made.model)(config), made.tokenizer, made.config)
    model = make_model(backbone)
    model.save(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["rope_theta"] == 1e6
    assert written["rope_scaling"] == (None if rope["rope_type"] == "default" else rope)
    assert written["torch_dtype"] == written["dtype"] == "float32"
    loaded = load(tmp_path)
    assert equal(loaded.predict(PROMPT, ANSWERS), model.predict(PROMPT, ANSWERS))
    assert loaded.backbone.model.config.rope_parameters == config.rope_parameters


@pytest.mark.parametrize("make", [lambda: tiny_encoder(pooling="last"), lambda: tiny_decoder(pooling="mean")])
def test_what_no_plain_classifier_can_say_is_saved_beside_it(tmp_path, make):
    model = make_model(make())
    model.save(tmp_path)
    assert (tmp_path / HEAD).exists()
    assert "score.weight" not in load_file(tmp_path / "model.safetensors")
    assert equal(load(tmp_path).predict(PROMPT, ANSWERS), model.predict(PROMPT, ANSWERS))


def test_saving_leaves_the_model_as_it_was(tmp_path):
    model = make_model()
    before, config = model.predict(PROMPT, ANSWERS), model.backbone.model.config.to_dict()
    model.save(tmp_path)
    assert equal(model.predict(PROMPT, ANSWERS), before)
    assert model.backbone.model.config.to_dict() == config


# ── refusals


def test_a_missing_head_is_refused(saved, referring):
    weights = load_file(saved / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"has no head .*its scores would be random"):
        load(saved)
    folder, _ = referring
    (folder / HEAD).unlink()
    with pytest.raises(CheckpointError, match="has no head"):
        load(folder)


def test_a_head_that_does_not_fit_is_refused(referring):
    folder, _ = referring
    save_file({"score.weight": torch.zeros(3, 32), "input_scale": torch.ones(())}, folder / HEAD)
    with pytest.raises(CheckpointError, match="the head does not fit method 'drpo'"):
        load(folder)
    (folder / HEAD).write_bytes(b"not a tensor")
    with pytest.raises(CheckpointError, match="the head cannot be read"):
        load(folder)


def test_a_changed_backbone_is_refused(referring):
    folder, backbone = referring
    weights = load_file(backbone / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][5, 0] += 1e-3
    save_file(weights, backbone / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="is not the one of training"):
        load(folder)


def test_a_changed_chat_template_is_refused(saved):
    path = saved / "chat_template.jinja"
    path.write_text(path.read_text().replace("<eos>", "<eos><eos>"))
    with pytest.raises(CheckpointError, match="chat template is not the one of training"):
        load(saved)


@pytest.mark.parametrize("row", [0, 1])
def test_a_head_that_does_not_reproduce_its_golden_scores_is_refused(saved, row):
    """Row 1 is the spread: a check of means alone would let it through."""
    weights = load_file(saved / "model.safetensors")
    weights["score.weight"][row] += 0.05
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"the golden text 'short' has (score|std) "):
        load(saved)
    assert len(load(saved, verify=False).predict(PROMPT, "no")) == 1


def test_a_golden_text_that_is_tokenised_differently_is_refused(saved):
    path = saved / GOLDEN
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [g["id"] for g in lines] == ["short", "plain", "multi-turn", "non-ascii"]
    lines[3]["input_ids"][2] += 1
    path.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(CheckpointError, match="'non-ascii' is tokenised differently"):
        load(saved)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "the checkpoint is damaged"),
        (lambda f: (f / "config.json").write_text('{"model_type": "qwen3"}'), "not a poise checkpoint"),
        (lambda f: (f / "config.json").write_text(json.dumps({KEY: 3})), "not a poise checkpoint"),
        (lambda f: edit(f, schema_version=99), "checkpoint format 99"),
        (lambda f: edit(f, hidden_size=None), "hidden_size"),
        (lambda f: edit(f, surprise=1), "surprise"),
        (lambda f: edit(f, method="qqq"), "qqq"),
        (lambda f: edit(f, options={"wrong": 1}), "the head does not fit"),
        (lambda f: (f / GOLDEN).write_text("{}"), "cannot be read"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x"), "the checkpoint is damaged"),
    ],
)
def test_damage_is_one_message(saved, damage, says):
    damage(saved)
    with pytest.raises(PoiseError) as error:
        load(saved)
    assert says in str(error.value)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="not a poise checkpoint"):
        load(tmp_path / "nothing")


# ── writing


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize("moment", ["write", "rename"])
def test_an_interrupted_write_leaves_the_old_checkpoint(saved, monkeypatch, moment):
    before = contents(saved)

    def interrupted(*_):
        raise KeyboardInterrupt

    if moment == "write":
        monkeypatch.setattr(checkpoint, "save_file", interrupted)
        model = make_model(tiny_encoder())
        with pytest.raises(KeyboardInterrupt):
            model.save(saved)
    else:
        rename = Path.rename

        def full(path, target):
            if path.name.endswith(".partial"):
                raise OSError(28, "No space left on device")
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", full)
        with pytest.raises(CheckpointError, match="No space left"):
            make_model(method="bt").save(saved)
    monkeypatch.undo()
    assert contents(saved) == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name], "something was left behind"
    load(saved)


def test_a_checkpoint_is_replaced_whole(saved):
    make_model(tiny_encoder(), "bt").save(saved)
    assert load(saved).method.name == "bt"
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_folders_that_are_not_checkpoints_are_never_replaced(tmp_path, monkeypatch):
    (tmp_path / "thesis.txt").write_text("years of work")
    model = make_model()
    monkeypatch.chdir(tmp_path)
    for target in (tmp_path, ".", tmp_path / "thesis.txt"):
        with pytest.raises(CheckpointError, match="exists and is not a poise checkpoint; choose another"):
            model.save(target)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    model.save(tmp_path / "empty")
    monkeypatch.chdir(tmp_path / "empty")
    model.save(".")


def test_a_place_that_cannot_be_written_is_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        make_model().save(tmp_path / "file" / "model")
