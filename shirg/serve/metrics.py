"""Measurements for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)


class Metrics:
    """The counters of one server process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter("shirg_requests", "Chat completions by HTTP status", ["status"], registry=registry)
        self.seconds = Histogram(
            "shirg_request_seconds", "Time of answered requests", buckets=SECONDS, registry=registry
        )
        self.first_seconds = Histogram(
            "shirg_first_token_seconds", "Time to the first final token", buckets=SECONDS, registry=registry
        )
        self.batch_size = Histogram(
            "shirg_batch_size", "Requests denoised together", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self.tokens = Counter("shirg_tokens", "Tokens of answered requests by kind", ["kind"], registry=registry)
        self.steps = Counter("shirg_denoising_steps", "Denoising steps of answered requests", registry=registry)
        self._lookups = Counter(
            "shirg_page_cache", "Look-ups of tower features and selections", ["kind", "result"], registry=registry
        )
        self.cancelled = Counter("shirg_cancelled", "Requests whose client left", registry=registry)

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        Gauge(f"shirg_{name}", what, registry=self.registry).set_function(value)

    def looked_up(self, kind: str, hit: bool) -> None:
        """Count a look-up in the cache of pages."""
        self._lookups.labels(kind, "hit" if hit else "miss").inc()

    def text(self) -> bytes:
        """All of it in Prometheus' format."""
        return generate_latest(self.registry)
