"""The wheel and the sdist: what they hold, and that the installed wheel works where the source tree is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pyarrow.parquet
import pytest

from poise.version import __version__
from tests.test_model import make_model

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """dist/ as a release would have it."""
    pytest.importorskip("hatchling", reason="the build backend (extra dev) is not installed")
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True, capture_output=True
    )
    return folder


def sources() -> set[str]:
    """Every file of the package, as the wheel names it."""
    files = (path for path in (ROOT / "src").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(ROOT / "src")) for path in files if path.suffix != ".pyc"}


def test_the_wheel_holds_the_whole_package_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
        (about,) = (file.read(name).decode() for name in file.namelist() if name.endswith("METADATA"))
        (scripts,) = (file.read(name).decode() for name in file.namelist() if name.endswith("entry_points.txt"))
    assert names == sources()
    assert {"poise/py.typed", "poise/report/page.html.jinja", "poise/serving/page/index.html"} <= names
    assert "Name: poise" in about
    assert "Typing :: Typed" in about
    assert "poise = poise.cli.main:main" in scripts


def test_the_sdist_holds_what_a_checkout_holds(built):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    wanted = ["tests/conftest.py", "examples/own_method.py", "recipes/bt.yaml", "docs/architecture.md", "scripts/test"]
    assert {*wanted, "Makefile", "README.md", "LICENSE", "SECURITY.md", "pyproject.toml", "src/poise/py.typed"} <= names
    assert not [name for name in names if name.startswith((".venv", "runs", "shared")) or name.endswith(".pyc")]


def test_the_installed_wheel_scores(built, tmp_path):
    """In an environment that has the wheel and, to be quick, this one's other packages; far from the source tree."""
    (wheel,) = built.glob("*.whl")
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    install = ["-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, *install], check=True, capture_output=True)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    make_model().save(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "What is 2 + 2?", "responses": ["4", "5"]}) + "\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*words: str) -> str:
        done = subprocess.run(
            [str(python.parent / words[0]), *words[1:]],
            cwd=tmp_path,
            env=environment | {"OMP_NUM_THREADS": "1", "POISE_CACHE": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("poise", "--version") == f"poise {__version__}\n"
    where = Path(run("python", "-c", "import poise; print(poise.__file__)").strip())
    assert where == site / "poise" / "__init__.py"
    run("poise", "score", "model", "rows.jsonl", "--out", "scores.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "scores.parquet")["part"].to_pylist() == [
        "responses[0]",
        "responses[1]",
    ]
