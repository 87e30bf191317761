"""requirements/ci.txt pins, by hash, everything that the project asks for in development, in versions that it allows."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
APART = {"torch", "poise"}
"""torch is installed first: its files, and so their hashes, differ between the indexes of CPU and of CUDA builds."""


def pinned() -> dict[str, str]:
    """name → version."""
    text = (ROOT / "requirements" / "ci.txt").read_text("utf8")
    return dict(re.findall(r"^([\w.-]+)==([\w.+!-]+)", text, re.M))


def asked(*extras: str) -> Iterator[Requirement]:
    """What pyproject.toml asks for, the extras that an extra names included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]
    lists = [project["dependencies"], *(project["optional-dependencies"][name] for name in extras)]
    for requirement in (Requirement(text) for one in lists for text in one):
        yield requirement
        if requirement.name == "poise":
            yield from asked(*requirement.extras)


def test_everything_is_pinned_in_a_version_that_is_allowed():
    locked = pinned()
    for requirement in asked("dev"):
        name = canonicalize_name(requirement.name)
        if name not in APART:
            assert name in locked, f"{name} is not in requirements/ci.txt; run make lock"
            assert requirement.specifier.contains(locked[name], prereleases=True), f"{requirement}; run make lock"


def test_the_versions_are_those_of_the_constraints():
    wanted = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / "constraints.txt").read_text("utf8"), re.M))
    locked = pinned()
    assert {name: locked[name] for name in wanted if name not in APART} == {
        name: version for name, version in wanted.items() if name not in APART
    }
    assert f"torch=={wanted['torch']}" in (ROOT / "Makefile").read_text("utf8")


def test_every_pin_has_hashes_and_torch_is_not_among_them():
    text = (ROOT / "requirements" / "ci.txt").read_text("utf8")
    entries = re.split(r"^(?=[\w.-]+==)", text, flags=re.M)[1:]
    assert len(entries) == len(pinned())
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)
    assert not {name for name in pinned() if name == "torch" or name.startswith(("nvidia", "cuda"))}


def test_ci_installs_them():
    assert "LOCKED=1" in (ROOT / ".ci" / "run").read_text("utf8")
    assert "--require-hashes -r requirements/ci.txt" in (ROOT / "Makefile").read_text("utf8")
