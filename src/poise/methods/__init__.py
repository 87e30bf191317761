"""The methods, one file each. ``METHODS`` is the whole list of ours; ``register`` adds one of yours."""

from __future__ import annotations

from typing import Any

from poise.errors import ConfigError
from poise.methods.attributes import Attributes
from poise.methods.bandit import Bandit
from poise.methods.bandit_exact import BanditExact
from poise.methods.base import Method
from poise.methods.bradley_terry import BradleyTerry
from poise.methods.ensemble import Ensemble
from poise.methods.likelihood import Likelihood
from poise.methods.ordinal import Ordinal
from poise.methods.quantile import Quantile
from poise.methods.variational import Variational
from poise.registry import Registry

METHODS: tuple[type[Method[Any, Any]], ...] = (
    BradleyTerry,
    Bandit,
    BanditExact,
    Likelihood,
    Ordinal,
    Variational,
    Quantile,
    Attributes,
    Ensemble,
)


def _check(method: type[Method[Any, Any]]) -> None:
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise ConfigError(f"{method!r} is no method; give a subclass of poise.methods.Method")


_REGISTRY = Registry("method", "poise.methods", METHODS, _check)


def register(method: type[Method[Any, Any]]) -> None:
    """Let recipes and checkpoints of this process name a method of yours.

    A package makes its methods known to the command line too, by entry points of the group ``poise.methods``.
    """
    _REGISTRY.add(method)


def method_class(name: str) -> type[Method[Any, Any]]:
    """The method of a name. Raises ``ConfigError`` that names the nearest."""
    return _REGISTRY.get(name)


__all__ = ["METHODS", "Method", "method_class", "register"]
