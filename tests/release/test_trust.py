"""What SECURITY.md promises: no pickles, no code from models, no connection that nobody asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from poise import RewardModel
from poise.backbone import Backbone, BackboneConfig
from poise.checkpoint import KEY
from poise.errors import BackboneError, CheckpointError
from poise.model_folder import TRUST
from poise.scorers import open_scorer
from tests.conftest import on_disk, tiny_encoder, written
from tests.test_model import make_model

CODE = """
from pathlib import Path
from transformers import BertConfig, BertModel

Path({ran!r}).write_text("code of a model has run")


class OwnModel(BertModel):
    config_class = BertConfig
"""


@pytest.fixture
def own_code(tmp_path) -> tuple[Path, Path]:
    """(a backbone that comes with code of its own, the file that this code writes when it runs)."""
    folder, ran = tmp_path / "backbone", tmp_path / "ran"
    made = tiny_encoder()
    made.model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    (folder / "own.py").write_text(CODE.format(ran=str(ran)))
    config = json.loads((folder / "config.json").read_text())
    # the type is one that transformers does not know, so the code is the only way
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.BertConfig", "AutoModel": "own.OwnModel"}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder, ran


def test_code_of_a_backbone_does_not_run_unless_it_is_trusted(own_code):
    folder, ran = own_code
    assert BackboneConfig().trust_remote_code is False
    with pytest.raises(BackboneError, match=r"set backbone\.trust_remote_code=true if you trust it"):
        Backbone.load(BackboneConfig(name=str(folder), device="cpu"))
    assert not ran.exists()


def test_a_checkpoint_cannot_trust_code_on_behalf_of_who_loads_it(tmp_path, monkeypatch):
    make_model(tiny_encoder()).save(tmp_path / "theirs")
    path = tmp_path / "theirs" / "config.json"
    config = json.loads(path.read_text())
    config[KEY]["backbone"]["trust_remote_code"] = True
    path.write_text(json.dumps(config))
    name = config[KEY]["backbone"]["name"]
    with pytest.raises(CheckpointError, match=f"if you have read and trust that code, set {TRUST}={name}"):
        RewardModel.load(path.parent, device="cpu")
    monkeypatch.setenv(TRUST, f"another,{name}")
    assert len(RewardModel.load(path.parent, device="cpu").predict("What?", "That.")) == 1


@pytest.mark.parametrize("damaged", ["head", "backbone", "classifier"])
def test_pickles_are_refused_and_never_read(tmp_path, damaged):
    """A pickle that would write a file if anything unpickled it."""
    make_model(tiny_encoder()).save(tmp_path / "model")
    folder, ran = tmp_path / "model", tmp_path / "ran"
    weights = "head.safetensors" if damaged == "head" else "model.safetensors"

    class Trap:
        def __reduce__(self):
            return os.system, (f"touch {ran}",)

    load_file(folder / weights)
    (folder / weights).unlink()
    for name in ("pytorch_model.bin", "head.bin"):
        torch.save({"weight": Trap()}, folder / name)
    if damaged == "classifier":
        config = json.loads((folder / "config.json").read_text())
        del config[KEY]
        config |= {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "reward"}}
        (folder / "config.json").write_text(json.dumps(config))
    says = {"head": "has no head", "backbone": "no safetensors weights", "classifier": "no safetensors weights"}
    with pytest.raises((BackboneError, CheckpointError), match=says[damaged]):
        open_scorer(str(folder), device="cpu")
    assert not ran.exists()


def test_nothing_is_sent_anywhere(tmp_path):
    """A process in which a connection is an error trains, saves, loads, scores and evaluates from local files."""
    on_disk(tiny_encoder(), tmp_path / "backbone")
    rows = [{"prompt": f"What is {i}?", "chosen": f"It is {i}.", "rejected": "No idea."} for i in range(30)]
    written(tmp_path / "pairs.jsonl", rows)
    code = """
        import socket

        asked = []
        def refused(*arguments, **_):
            asked.append(arguments)
            raise OSError("no connection is to be opened")
        socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refused

        import torch
        torch.set_num_threads(1)
        import poise
        from poise.cli.main import main
        import sys
        backbone = {"name": "backbone", "dtype": "float32"}
        poise.train({"data": {"train": "pairs.jsonl"}, "backbone": backbone, "method": "bt"}, out="run")
        print(poise.RewardModel.load("run").predict("What is 1?", ["It is 1.", "No idea."]).mean)
        sys.argv = ["poise", "score", "run", "pairs.jsonl", "--out", "scores.parquet"]
        try:
            main()
        except SystemExit as stop:
            assert not stop.code, stop.code
        from huggingface_hub import constants
        assert constants.HF_HUB_DISABLE_TELEMETRY, "the hub's client may report"
        assert not asked, asked
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path,
        env=environment | {"OMP_NUM_THREADS": "1", "POISE_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "tensor([" in done.stdout
