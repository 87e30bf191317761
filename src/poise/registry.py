"""Names of things that others may add: those that come with poise, those that were registered, those of installed packages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoints, entry_points
from typing import Generic, Protocol, TypeVar

from poise.errors import ConfigError, unknown_choice


class Named(Protocol):
    """What has a name of its own."""

    @property
    def name(self) -> str:
        """The name that recipes, checkpoints and the command line use."""
        ...


NamedT = TypeVar("NamedT", bound=Named)


class Registry(Generic[NamedT]):
    """Looked up by name. ``group`` is the entry point group of installed packages; ``check`` raises for what is no such thing."""

    def __init__(self, kind: str, group: str, own: Sequence[NamedT], check: Callable[[NamedT], None]) -> None:
        self.kind, self.group = kind, group
        self._own = {one.name: one for one in own}
        self._added: dict[str, NamedT] = {}
        self._check = check

    def add(self, one: NamedT) -> None:
        """Make it known in this process. A name of ours is refused; one of yours is replaced, as notebooks need."""
        self._check(one)
        if one.name in self._own:
            raise ConfigError(f"{self.kind} {one.name!r} comes with poise; give yours another name")
        self._added[one.name] = one

    def names(self) -> list[str]:
        """All that ``get`` knows, ours first."""
        return list(dict.fromkeys([*self._own, *self._added, *self._installed().names]))

    def get(self, name: str) -> NamedT:
        """Raises ``ConfigError`` that names the nearest. A package's entry point is only loaded when it is asked for."""
        known = self._own | self._added
        if name in known:
            return known[name]
        for entry in self._installed().select(name=name):
            found: NamedT = entry.load()
            self._check(found)
            return found
        raise ConfigError(unknown_choice(self.kind, name, self.names()))

    def _installed(self) -> EntryPoints:
        return entry_points(group=self.group)
