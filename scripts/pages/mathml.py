"""Formulas: TeX in ``$…$`` and in fences named math, as GitHub reads it, drawn as MathML when the site is built.

MathML needs no script and no font of ours: pages are complete without a network, and readers' own tools can read it aloud.
"""

from __future__ import annotations

import re
from typing import Any

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor

INLINE = r"(?<![\\$\w])\$(?!\s)([^$\n]+?)(?<!\s)\$(?![\w$])"
CAPITAL = re.compile(r"<mi>(&#x003(?:9[1-9A-F]|A[0-9]);)</mi>")
ABOVE_ESCAPES = 185  # inline code is read at 190, backslash escapes at 180


class Formula(InlineProcessor):
    """A formula within a line."""

    def handleMatch(self, m: re.Match[str], data: str) -> tuple[str, int, int]:  # type: ignore[override]
        """The formula as finished HTML, out of reach of other patterns."""
        return self.md.htmlStash.store(drawn(m.group(1), "inline")), m.start(0), m.end(0)


class Formulas(Extension):
    """Registers formulas within lines; those in fences are ``display``."""

    def extendMarkdown(self, md: Markdown) -> None:
        """Markdown's own name for what an extension does."""
        md.inlinePatterns.register(Formula(INLINE, md), "formula", ABOVE_ESCAPES)


def makeExtension(**options: Any) -> Formulas:
    """Where Markdown looks for an extension that is named by its module."""
    return Formulas(**options)


def drawn(tex: str, kind: str) -> str:
    """MathML, in which Greek capitals stand upright as TeX has them."""
    return CAPITAL.sub(r'<mi mathvariant="normal">\1</mi>', convert(tex, display=kind))


def display(source: str, *_: object, **__: object) -> str:
    """A formula of its own, from a fence named math: one line each."""
    lines = [drawn(line, "block") for line in source.split("\n\n") if line.strip()]
    return f'<div class="formula">{"".join(lines)}</div>'
