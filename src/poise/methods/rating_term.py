"""Methods whose ``rating_weight`` lets the ratings of one ``attribute`` take part beside the pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Generic

from poise.errors import ConfigError
from poise.methods.base import ConfigT, Evidence, Method, OutputT, chosen_attributes


class RatingTerm(Method[ConfigT, OutputT], Generic[ConfigT, OutputT]):
    """What a config with ``rating_weight`` and ``attribute`` says about the data; the loss is the subclass's."""

    config: Any

    @classmethod
    def for_data(cls, config: Any, rated: Sequence[str]) -> Any:
        """With the attribute that the ratings are of, where the data leaves no choice."""
        if not config.rating_weight:
            return config
        names = chosen_attributes([config.attribute] if config.attribute else [], rated, cls.name)
        if len(names) > 1:
            raise ConfigError(f"rating_weight needs one attribute; set method.attribute to one of {', '.join(names)}")
        return replace(config, attribute=names[0])

    @property
    def learns_from(self) -> tuple[Evidence, ...]:
        """Pairs, and rated responses where they have a weight."""
        return ("pairs", "ratings") if self.config.rating_weight else ("pairs",)

    @property
    def attributes(self) -> tuple[str, ...]:
        """The attribute that the ratings are of, if they have a weight."""
        if self.config.rating_weight and not self.config.attribute:
            raise ConfigError("rating_weight is set, but not what was rated; set method.attribute")
        return (self.config.attribute,) if self.config.rating_weight else ()

    def rated(self, batch: Any) -> bool:
        """Whether this stage has the ratings it should learn from; raises ``ConfigError`` where they are missing."""
        if self.config.rating_weight and not len(batch.ratings or ()):
            raise ConfigError("rating_weight needs rated responses; name files in data.ratings or set it to 0")
        return bool(self.config.rating_weight)
