"""Options that are one of a few words."""

from __future__ import annotations

from collections.abc import Iterable

from poise.data.load import OnBad
from poise.errors import ConfigError, unknown_choice


def one_of(name: str, given: str, allowed: Iterable[str]) -> str:
    """``given``; raises ``ConfigError`` for a word that the option does not know."""
    if given not in (known := tuple(allowed)):
        raise ConfigError(unknown_choice(name, given, known))
    return given


def on_bad(given: str) -> OnBad:
    """``--bad-rows``."""
    return "drop" if one_of("bad-rows", given, ("error", "drop")) == "drop" else "error"
