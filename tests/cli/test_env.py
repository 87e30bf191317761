"""``poise env``: what a bug report needs, in both forms."""

from __future__ import annotations

import json
import platform
from importlib import metadata

import torch

from poise.cli import env
from poise.feature_cache import default_cache
from poise.version import __version__
from tests.cli.place import poise


def test_it_says_what_is_here(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    found = json.loads(poise("env", "--json").out)
    assert (found["poise"], found["python"]) == (__version__, platform.python_version())
    assert found["packages"]["torch"] == torch.__version__
    assert found["packages"]["transformers"] == metadata.version("transformers")
    assert found["processor"]["threads"] == torch.get_num_threads()
    assert found["environment"]["OMP_NUM_THREADS"] == "1"
    assert len(found["gpus"]) == torch.cuda.device_count()
    text = poise("env").out
    assert "secret" not in text + json.dumps(found)
    for part in (f"poise {__version__}", f"torch {torch.__version__}", "extras:", str(default_cache())):
        assert part in text


def test_sizes_of_caches_are_those_of_their_files(tmp_path, monkeypatch):
    monkeypatch.setenv("POISE_CACHE", str(tmp_path))
    assert env.facts()["caches"]["features"] == {"folder": str(tmp_path), "files": 0, "bytes": 0}
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "a.safetensors").write_bytes(b"x" * 1234)
    (tmp_path / "link").symlink_to(tmp_path / "features" / "a.safetensors")
    assert env.facts()["caches"]["features"] == {"folder": str(tmp_path), "files": 1, "bytes": 1234}
    assert "1 files, 1.23 kB" in poise("env").out


def test_extras_are_those_of_the_package_and_missing_packages_are_named(monkeypatch):
    declared = [
        "torch>=2.6",
        "httpx>=0.27; extra == 'client'",
        "poise[client]; extra == 'serve'",
        "fastapi>=9; extra == 'serve'",
    ]
    monkeypatch.setattr(env, "_declared", lambda: ([env.Requirement(one) for one in declared], ["client", "serve"]))
    versions = {"torch": "2.13.0", "httpx": "0.28", "fastapi": "0.1"}
    monkeypatch.setattr(env, "_version", versions.get)
    found = env.facts()
    assert found["packages"] == {"torch": "2.13.0"}
    assert found["extras"] == {"client": {"httpx": "0.28"}, "serve": {"httpx": "0.28", "fastapi": None}}
    assert "serve   missing fastapi" in poise("env").out


def test_it_works_where_poise_is_not_installed(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(env.metadata, "metadata", absent)
    assert env.facts()["extras"] == {}
