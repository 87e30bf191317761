"""Extras are optional: with nothing but poise's own requirements everything imports and the core works; what is missing is named.

A process sees only the packages that ``pip install poise`` brings: the closure of its requirements, whatever else is installed.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import on_disk, tiny_encoder, written

BEHIND_AN_EXTRA = {
    "poise.serving": "serve",
    "poise.publication.remote": "client",
    "poise.policy.adapters.nemo_rl": "an environment of NeMo-RL",
}
"""Modules that are imported only by what asks for the extra first."""

HOOK = """
import importlib.machinery, re, sys
modules, distributions = set(json.loads({modules!r})), set(json.loads({distributions!r}))

class Rest(importlib.machinery.PathFinder):
    # what is installed, without what is hidden
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in modules else super().find_spec(name, path, target)

    @staticmethod
    def find_distributions(*context):
        for one in importlib.machinery.PathFinder.find_distributions(*context):
            if re.sub(r"[-_.]+", "-", one.metadata["Name"] or "").lower() not in distributions:
                yield one

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Rest
import torch
torch.set_num_threads(1)
"""


@functools.cache
def required() -> frozenset[str]:
    """Names of the distributions that ``pip install poise`` brings, itself included."""
    found, wanted = set(), ["poise"]
    while wanted:
        name = canonicalize_name(wanted.pop())
        if name in found:
            continue
        found.add(name)
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        parsed = [Requirement(one) for one in needs]
        wanted += [one.name for one in parsed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return frozenset(found)


def absent() -> tuple[list[str], list[str]]:
    """(modules, distributions) that are installed here and would not be there."""
    homes = {
        module: {canonicalize_name(d) for d in given} for module, given in metadata.packages_distributions().items()
    }
    modules = sorted(module for module, given in homes.items() if not given & required())
    return modules, sorted({d for given in homes.values() for d in given} - required())


def bare(code: str, folder: Path) -> str:
    """Run ``code`` where no extra is installed; its output."""
    modules, distributions = map(json.dumps, absent())
    hook = "import json\n" + HOOK.format(modules=modules, distributions=distributions)
    done = subprocess.run(
        [sys.executable, "-c", hook + textwrap.dedent(code)],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "POISE_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_extras_are_hidden_and_nothing_else():
    modules, _ = absent()
    assert {"trl", "peft", "fastapi", "uvicorn", "matplotlib", "datasets", "pytest"} <= set(modules)
    assert not {"torch", "transformers", "numpy", "yaml", "typer", "poise", "json"} & set(modules)


@pytest.mark.heavy
def test_every_module_imports_and_the_core_works(tmp_path):
    on_disk(tiny_encoder(), tmp_path / "backbone")
    rows = [{"prompt": f"What is {i}?", "chosen": f"It is {i}.", "rejected": "No idea."} for i in range(30)]
    written(tmp_path / "pairs.jsonl", rows)
    code = """
        import importlib, pkgutil
        import poise
        failed = {}
        for module in pkgutil.walk_packages(poise.__path__, "poise.", onerror=lambda name: None):
            if module.name.endswith("__main__"):
                continue
            try:
                importlib.import_module(module.name)
            except ImportError as error:
                failed[module.name] = str(error)
        for name in poise.__all__:
            getattr(poise, name)
        backbone = {"name": "backbone", "dtype": "float32"}
        poise.train({"data": {"train": "pairs.jsonl"}, "backbone": backbone, "method": "drpo"}, out="run")
        model = poise.RewardModel.load("run")
        best = poise.best_of_n(model, "What is 1?", ["It is 1.", "No idea."], "cvar:0.1")
        print(json.dumps([failed, best.index]))
    """
    failed, best = json.loads(bare(code, tmp_path).splitlines()[-1])
    assert {name: why for name, why in failed.items() if not name.startswith(tuple(BEHIND_AN_EXTRA))} == {}
    assert best in (0, 1)
    assert not (tmp_path / "run" / "report.html").exists()


@pytest.mark.heavy
def test_a_missing_extra_is_one_message_with_the_command(tmp_path):
    """What each feature says on the command line and in Python where its packages are absent."""
    (tmp_path / "recipe.yaml").write_text("{data: {train: x.jsonl}, backbone: x, method: bt, training: {update: lora}}")
    policy = Path(__file__).parents[2] / "recipes" / "policy" / "qrm_rloo.yaml"
    code = f"""
        import contextlib, io
        from poise.cli.main import main
        found = {{}}
        def said(extra, *words):
            err = io.StringIO()
            with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
                sys.argv = ["poise", *words]
                try:
                    main()
                    code = 0
                except SystemExit as stop:
                    code = stop.code
            found[extra] = [code, err.getvalue()]
        said("serve", "serve", "nothing")
        said("policy", "policy", {str(policy)!r}, "--dry-run")
        said("hub", "data", "check", "someone/something:train")
        said("train", "train", "recipe.yaml", "--out", "run")
        said("client", "verify", "http://127.0.0.1:1", "--golden", "nothing")
        said("report", "demo", "--out", "demo")
        print(json.dumps(found))
    """
    found = json.loads(bare(code, tmp_path).splitlines()[-1])
    for extra, (status, message) in found.items():
        assert status == 2, (extra, message)
        assert f"pip install 'poise[{extra}]'" in message, (extra, message)
        assert "Traceback" not in message
        assert len(message.strip().splitlines()) == 1, (extra, message)


def test_every_extra_is_named_by_what_needs_it():
    """Each extra of pyproject.toml that users install has a message in the sources, and no message names another."""
    import re
    import tomllib

    root = Path(__file__).parents[2]
    extras = set(tomllib.loads((root / "pyproject.toml").read_text("utf8"))["project"]["optional-dependencies"])
    sources = "\n".join(path.read_text("utf8") for path in (root / "src").rglob("*.py"))
    named = set(re.findall(r"poise\[([\w,]+)\]", sources))
    assert named <= extras
    assert extras - named <= {"dev", "docs", "demo", "ray"}, "an extra that nothing asks for"
