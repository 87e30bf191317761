"""The list of decisions, newest first."""

from __future__ import annotations

from pathlib import Path


def decisions_page(folder: Path) -> str:
    """One line per decision: its date and its title."""
    pages = sorted(
        (path for path in folder.glob("*.md") if path.name != "README.md"), key=lambda p: (p.name[:10], p.name)
    )
    lines = [f"- {path.name[:10]}: [{title(path)}]({path.name})" for path in reversed(pages)]
    return "\n".join(
        [
            "# Decisions\n",
            "Why it is built so, what was tried and did not work. Put together by `scripts/docs`.\n",
            *lines,
            "",
        ]
    )


def title(path: Path) -> str:
    """The first heading of a page."""
    return path.read_text(encoding="utf8").splitlines()[0].lstrip("# ")
