"""What a server may be told, and the limits it keeps."""

from __future__ import annotations

from dataclasses import dataclass

from poise.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Limits in tokens, bytes and seconds; each None is chosen by what the model can read at once.

    ``round_tokens``: how much is scored together; a round takes whole groups. ``waiting_tokens``: what may wait for it, beyond
    that the answer is 503. ``requests``: how many may be under way. ``request_seconds`` from the last byte of a request to its
    answer, ``body_seconds`` from its first byte to its last. ``log_texts`` puts what is scored into the log.
    """

    utility: str = "mean"
    api_key: str | None = None
    round_tokens: int | None = None
    waiting_tokens: int | None = None
    requests: int = 1024
    body_bytes: int = 8 * 2**20
    body_seconds: float = 20.0
    request_seconds: float = 120.0
    drain_seconds: float = 30.0
    log_texts: bool = False

    def __post_init__(self) -> None:
        for name in ("round_tokens", "waiting_tokens", "requests", "body_bytes", "body_seconds", "request_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} is {value}; it must be above 0")
        if self.drain_seconds < 0:
            raise ConfigError(f"drain_seconds is {self.drain_seconds}; it must be at least 0")
        if self.api_key is not None and not self.api_key.strip():
            raise ConfigError("the API key is empty; give one, or leave it out")
