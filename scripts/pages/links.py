"""Links of the built site, checked as a reader would follow them: every file and every anchor is there.

The generator checks links between Markdown pages; this also sees pictures, links to files that are no pages, and what templates and
docstrings have put into the HTML. Nothing may be loaded from elsewhere.
"""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What a page points to, and what it can be pointed at."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.loaded: list[str] = []
        self.anchors = {""}
        self.feed(path.read_text(encoding="utf8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collects ``href``, ``src``, ``id`` and ``name``; ``loaded`` is what a browser fetches unasked."""
        given = {name: value for name, value in attrs if value is not None}
        self.loaded += [given[name] for name in ("href", "src") if name in given and tag != "a"]
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        self.targets += [given[name] for name in ("href", "src") if name in given]


def broken_links(site: Path) -> list[str]:
    """``page: target`` for every link within the site that leads nowhere, and for all that is loaded from elsewhere."""
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    found = []
    for path, page in pages.items():
        found += [f"{path.relative_to(site.resolve())}: {target}" for target in page.loaded if urlsplit(target).netloc]
        for target in page.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            wanted = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            wanted = wanted / "index.html" if wanted.is_dir() else wanted
            there = wanted.exists() and wanted.is_relative_to(site.resolve())
            if not there or (wanted in pages and unquote(parts.fragment) not in pages[wanted].anchors):
                found.append(f"{path.relative_to(site.resolve())}: {target}")
    return found
