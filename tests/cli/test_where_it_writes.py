"""Nothing is written but what is asked for and the documented cache: commands in a process of their own, every folder redirected."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.place import pairs

SCRIPT = """
import shlex, sys
from poise.cli.main import main
for line in sys.stdin.read().splitlines():
    sys.argv = ["poise", *shlex.split(line)]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, (line, stop.code)
"""


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


@pytest.mark.heavy
def test_only_outputs_and_the_cache_are_written(place, tmp_path_factory):
    """HOME, XDG and temporary folders are fresh ones; the working folder too. Reports are drawn, so matplotlib takes part."""
    world = tmp_path_factory.mktemp("world")
    home, here, temporary = (world / name for name in ("home", "here", "tmp"))
    for folder in (home, here, temporary):
        folder.mkdir()
    data, held = place.data(*pairs(24)), place.data(*pairs(12, start=100), name="held.jsonl")
    recipe = place.recipe()
    run = shutil.copytree(place.run, world / "run")
    before = files(run)
    commands = [
        f"train {recipe} --dry-run",
        f"train {recipe} --out trained",
        f"evaluate {run} {held} --out found",
        f"evaluate {run} {held}",
        f"score {run} {held} --out scores.parquet",
        f"best-of-n {run} {held} --out best.jsonl",
        f"curate {run} {data} --out curated.jsonl",
        f"monitor {run} {held} --make-reference",
        f"verify {run}",
        "env",
    ]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "HF_", "POISE_", "MPL"))}
    places = {"HOME": str(home), "TMPDIR": str(temporary), "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input="\n".join(commands),
        capture_output=True,
        text=True,
        timeout=300,
        cwd=here,
        env=kept | places,
    )
    assert done.returncode == 0, done.stderr
    outside = {name for name in files(home) if not name.startswith(".cache/poise/")}
    assert outside == set()
    assert {name.split("/")[2] for name in files(home)} <= {"features", "matplotlib"}
    assert {name.split("/")[0] for name in files(here)} == {
        *("trained", "found", "scores.parquet", "best.jsonl", "curated.jsonl", "curated.dropped.jsonl", "curated.html"),
    }
    assert files(temporary) == set()
    assert files(run) - before <= {"checkpoint/reference.json"}
