"""The documentation says what the code says: quoted messages, names, formulas. Commands and Python are in test_documents.py."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest
import yaml

import poise
from poise.methods import METHODS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TROUBLES = re.findall(r"^### `(.*)`$", (DOCS / "troubleshooting.md").read_text("utf8"), re.M)
FORMULAS = sorted({path for path in DOCS.rglob("*.md") if "```math" in path.read_text("utf8")})


def written(node: ast.AST) -> str | None:
    """A string of the source with … in the place of what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    return None


@pytest.fixture(scope="module")
def strings() -> set[str]:
    trees = (ast.parse(path.read_text("utf8")) for path in (ROOT / "src").rglob("*.py"))
    return {text for tree in trees for node in ast.walk(tree) if (text := written(node))}


@pytest.mark.parametrize("message", TROUBLES)
def test_every_quoted_message_is_one_of_the_code(message, strings):
    assert any(message.strip("…") in re.sub("…+", "…", text) for text in strings)


def test_a_message_that_nobody_writes_is_noticed(strings):
    assert not any("unknown key …; valid keys are" in text for text in strings)


def test_home_and_readme_show_the_same_program():
    program = re.compile(r"```python\n(.*?)```", re.S)
    pages = [(ROOT / "README.md").read_text("utf8"), (DOCS / "index.md").read_text("utf8")]
    first, second = (program.search(page)[1] for page in pages)
    assert first == second


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_method_has_a_page_with_formula_and_references(method):
    page = (DOCS / "methods" / f"{method.name}.md").read_text("utf8")
    assert "```math" in page
    assert "## References" in page
    assert f"configuration.md#{method.name})" in page


def test_the_python_reference_holds_every_promised_name():
    page = (DOCS / "reference" / "api.md").read_text("utf8")
    named = {line.rpartition(".")[2] for line in page.splitlines() if line.startswith("::: ")}
    named |= set(re.search(r"members: \[(.*)\]", page)[1].split(", "))
    assert set(poise.__all__) - {"__version__"} <= named


class Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, in which a Python function is named."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda loader, suffix, node: suffix)


def test_every_guide_and_method_is_in_the_menu():
    menu = str(yaml.load((ROOT / "mkdocs.yml").read_text("utf8"), Loader)["nav"])
    pages = [
        path.relative_to(DOCS).as_posix()
        for part in ("guides", "methods", "reference")
        for path in (DOCS / part).glob("*.md")
    ]
    assert [page for page in pages if f"'{page}'" not in menu] == []
    assert [page for page in re.findall(r"'([\w/]+\.md)'", menu) if not (DOCS / page).exists()] == []


@pytest.mark.parametrize("page", FORMULAS, ids=lambda page: page.stem)
def test_formulas_are_understood(page, monkeypatch):
    pytest.importorskip("latex2mathml", reason="the extra docs is not installed")
    monkeypatch.syspath_prepend(ROOT / "scripts")
    from markdown import markdown

    name = "pages.mathml"
    monkeypatch.delitem(sys.modules, name, raising=False)
    text = page.read_text("utf8")
    fences = re.findall(r"```math\n(.*?)```", text, re.S)
    from pages.mathml import display

    drawn = [display(fence) for fence in fences] + [
        markdown(re.sub(r"```.*?```", "", text, flags=re.S), extensions=[name])
    ]
    for formula in re.findall(r"<math.*?</math>", "".join(drawn), re.S):
        assert "\\" not in formula, formula
    assert "$" not in re.sub(r"<code>.*?</code>", "", drawn[-1], flags=re.S)
