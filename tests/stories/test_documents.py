"""Every command of poise and all Python that README and guides show runs as written; ``scripts/stranger`` runs the rest as well.

Here the commands run in this process, in a folder that ``examples/guide_files.py`` has made with a tiny model in the place of
minilm. Servers, launchers and installations are left to the script.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from unittest import mock

import pytest
import torch
from transformers import BertConfig, BertModel

from poise import aliases
from poise.data.simulate import WorldConfig, simulate
from tests.cli.place import poise
from tests.conftest import tiny_encoder
from tests.stories.documents import PAGES, ROOT, Command, commands, programs

FINDINGS = {"monitor": (0, 1)}
"""Exit codes that say what was found, where others only say that it went well."""


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    """A tiny model by the name of minilm, with words enough for the sentences of the world."""
    folder = tmp_path_factory.mktemp("minilm")
    made = tiny_encoder()
    pairs = simulate(WorldConfig(train_pairs=90, eval_pairs=2)).preferences["train"]
    tokenizer = made.tokenizer.train_new_from_iterator([pair.chosen[0].content for pair in pairs], 3000)
    shape = made.model.config.to_dict() | {"max_position_embeddings": 512, "vocab_size": len(tokenizer)}
    with torch.random.fork_rng():
        BertModel(BertConfig(**shape)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with mock.patch.object(aliases, "minilm_folder", return_value=folder):
        yield folder


@pytest.fixture(scope="module")
def guide(tmp_path_factory, minilm) -> Path:
    """What ``python examples/guide_files.py`` makes."""
    spec = importlib.util.spec_from_file_location("guide_files", ROOT / "examples" / "guide_files.py")
    files = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(files)
    folder = tmp_path_factory.mktemp("guide")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        files.data()
        files.models()
    return folder


@pytest.fixture
def here(guide, tmp_path, monkeypatch, page) -> Path:
    """A copy of the guides' folder; the README's has no models yet, it trains its own."""
    shutil.copytree(guide, tmp_path / "guide", ignore=shutil.ignore_patterns("runs") if page == "README.md" else None)
    monkeypatch.chdir(tmp_path / "guide")
    return tmp_path / "guide"


def in_this_process(command: Command) -> bool:
    return command.words[0] == "poise" and not command.server and not {"|", ">", "&&", "&"} & {*command.words}


@pytest.mark.heavy
@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_runs_as_written(page, here):
    for command in commands(page):
        if command.reason is None and in_this_process(command):
            words = command.words[1:]
            done = poise(*words)
            assert done.code in FINDINGS.get(words[0], (0,)), f"{page}:{command.line}: {command.text}\n{done.err}"
    names: dict[str, object] = {}
    for block in programs(page) if page != "README.md" else []:  # test_readme.py runs that with the real MiniLM
        if block.reason(block.text) is None and "127.0.0.1" not in block.text:
            exec(compile("\n" * block.line + block.text, page, "exec"), names)


@pytest.mark.parametrize("page", PAGES)
def test_what_is_not_run_says_why(page):
    everything = [*commands(page), *programs(page)]
    skipped = [one for one in everything if (one.reason if isinstance(one, Command) else one.reason(one.text))]
    assert all(len((one.reason if isinstance(one, Command) else one.reason(one.text)).split()) > 2 for one in skipped)


@pytest.mark.parametrize("page", PAGES)
def test_even_commands_that_are_not_run_exist(page):
    """Subcommand and options are known, whatever machine the command asks for."""
    from typer.main import get_command

    from poise.cli.main import app

    for command in commands(page):
        words = command.words
        if "poise" not in words or words[0] == "pip":
            continue
        words = words[words.index("poise") + 1 :]
        known = get_command(app)
        while words and hasattr(known, "commands"):
            if words[0].startswith("-"):
                break
            assert words[0] in known.commands, f"{page}:{command.line}: {command.text}"
            known, words = known.commands[words[0]], words[1:]
        options = {name for parameter in known.params for name in (*parameter.opts, *parameter.secondary_opts)}
        given = {word.partition("=")[0] for word in words if word.startswith("--")} - {"--help"}
        assert given <= options, f"{page}:{command.line}: {command.text}"
