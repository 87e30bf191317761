"""What a server counts, in Prometheus' text form; one registry per server."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from poise.data.chat import Encoded
from poise.serving.rendered import RenderedReader

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
TOKENS = (16, 64, 256, 1024, 4096, 16384, 65536, 262144)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters of requests and of what was scored."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self._requests = Counter("poise_requests", "Requests answered", ["route", "status"], registry=registry)
        self._seconds = Histogram(
            "poise_request_seconds", "Time from request to answer", ["route"], buckets=SECONDS, registry=registry
        )
        self._left = Counter("poise_clients_left", "Clients that left before their answer", registry=registry)
        self._underway = Gauge("poise_requests_underway", "Requests being answered", registry=registry)
        self._responses = Counter("poise_responses", "Responses scored", ["model"], registry=registry)
        self._tokens = Counter("poise_tokens", "Tokens read", ["model"], registry=registry)
        self._truncated = Counter(
            "poise_truncated", "Responses of which not all was read", ["model"], registry=registry
        )
        self._doubled = Counter("poise_doubled_bos", "Texts that begin with two BOS", ["model"], registry=registry)
        self._round_tokens = Histogram(
            "poise_round_tokens", "Tokens scored together", ["model"], buckets=TOKENS, registry=registry
        )
        self._round_seconds = Histogram(
            "poise_round_seconds", "Time of a round", ["model"], buckets=SECONDS, registry=registry
        )
        self._waiting = Gauge("poise_waiting_tokens", "Tokens that wait to be scored", ["model"], registry=registry)

    def watch(self, model: str, waiting: Callable[[], float]) -> None:
        """Report a queue's length whenever somebody looks."""
        self._waiting.labels(model).set_function(waiting)

    def began(self) -> None:
        """A request came in."""
        self._underway.inc()

    def answered(self, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._underway.dec()
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def left(self) -> None:
        """A client did not wait for its answer."""
        self._underway.dec()
        self._left.inc()

    def scored(self, model: str, rows: Sequence[Encoded], reader: RenderedReader) -> None:
        """Responses were answered."""
        self._responses.labels(model).inc(len(rows))
        self._tokens.labels(model).inc(sum(len(row.ids) for row in rows))
        if truncated := sum(1 for row in rows if row.cut or row.cut_response):
            self._truncated.labels(model).inc(truncated)
        if doubled := sum(1 for row in rows if reader.doubled_bos(row)):
            self._doubled.labels(model).inc(doubled)

    def round(self, model: str, _jobs: int, tokens: int, seconds: float) -> None:
        """A round was scored."""
        self._round_tokens.labels(model).observe(tokens)
        self._round_seconds.labels(model).observe(seconds)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self.registry)
