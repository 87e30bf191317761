"""The exception tree. Everything poise raises on purpose is a ``PoiseError``.

PoiseError
├── ConfigError            a recipe, option or argument that cannot be meant
├── DataError              a file or a row that cannot be read as what it claims to be
│   └── ServerError        a reward server that cannot be reached, or answers what cannot be used
├── BackboneError          a model or tokenizer that is missing or cannot be used
├── CheckpointError        a folder that is not a poise checkpoint, or not this one
└── UnsupportedOperation   an operation that a reward family does not define

A message says what was given, what is allowed and what to do. The command line prints it and exits with code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PoiseError(Exception):
    """Base class: catch this to catch every error that poise raises on purpose."""


class ConfigError(PoiseError):
    """A recipe, option or argument that cannot be meant."""


class DataError(PoiseError):
    """A data file or row that cannot be used; the message names file, row and remedy."""


class ServerError(DataError):
    """A reward server that cannot be reached, cannot answer now, or answers what cannot be used."""


class BackboneError(PoiseError):
    """A model or tokenizer that is missing, incomplete or unsuitable."""


class CheckpointError(PoiseError):
    """A folder that is not a poise checkpoint, is damaged, or does not match its metadata."""


class UnsupportedOperation(PoiseError):
    """An operation that a reward distribution family does not define."""


def unknown_choice(kind: str, given: object, allowed: Iterable[str]) -> str:
    """``unknown utility 'cvr'; did you mean 'cvar'? Choose from cvar, lcb, mean`` — the one wording for a wrong name."""
    names = sorted(allowed)
    near = difflib.get_close_matches(str(given), names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {kind} {given!r}; {hint}choose from {', '.join(names)}"
