"""uvicorn around the application: start-up that refuses, and a shutdown that answers what it has taken."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from poise.serving import hosting, log
from poise.serving.app import create_app
from poise.serving.metrics import Metrics
from poise.serving.settings import Settings

LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADER_SECONDS = 20.0
KEEP_ALIVE_SECONDS = 75
BACKLOG = 2048


class PatientProtocol(H11Protocol):
    """Closes a connection whose first request's head does not arrive in time; uvicorn itself would wait for ever."""

    def connection_made(self, transport: Any) -> None:  # noqa: D102
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEADER_SECONDS, self._late)

    def _late(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            log.say("slow client closed")
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._head_timer.cancel()
        super().connection_lost(exc)


def serve(
    models: Sequence[str], settings: Settings, *, host: str, port: int, device: str = "auto", raw: bool = False
) -> None:
    """Load, check golden scores, serve until SIGTERM or SIGINT, then answer what was taken.

    Raises ``CheckpointError`` for a model that does not score as it was saved, before any connection is taken.
    """
    log.start()
    metrics = Metrics()
    hosted = hosting.load(models, settings, metrics, device=device, raw=raw)
    for one in hosted:
        log.say("model", golden_scores="reproduced", **one.description())
    if host not in LOOPBACK and settings.api_key is None:
        log.say("open to the network without an API key", logging.WARNING, host=host)
    app = create_app(hosted, settings, metrics)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=PatientProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        backlog=BACKLOG,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
    )
    uvicorn.Server(config).run()
