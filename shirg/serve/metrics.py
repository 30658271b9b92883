"""Measurements for Prometheus."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)
SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Variable of prometheus_client: the folder in which several processes share their counters."""


class Metrics:
    """The counters of one server process, or of all workers of a server."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("shirg_requests", "Chat completions by HTTP status", ["status"], registry=registry)
        self.seconds = Histogram(
            "shirg_request_seconds", "Time of answered requests", buckets=SECONDS, registry=registry
        )
        self.batch_size = Histogram(
            "shirg_batch_size", "Requests denoised together", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self.tokens = Counter("shirg_tokens", "Tokens of answered requests by kind", ["kind"], registry=registry)
        self.steps = Counter("shirg_denoising_steps", "Denoising steps of answered requests", registry=registry)
        self.cancelled = Counter("shirg_cancelled", "Requests whose client left", registry=registry)
        self._lookups = Counter(
            "shirg_page_cache", "Look-ups of tower features and selections", ["kind", "result"], registry=registry
        )
        gauges = {"queue_length": "Requests that wait", "page_cache_bytes": "Bytes of cached pages"}
        self.waiting, self.cached = (
            Gauge(f"shirg_{name}", what, registry=registry, multiprocess_mode="livesum")
            for name, what in gauges.items()
        )

    def looked_up(self, kind: str, hit: bool) -> None:
        """Count a look-up in the cache of pages."""
        self._lookups.labels(kind, "hit" if hit else "miss").inc()

    def text(self) -> bytes:
        """All of it in Prometheus' format."""
        registry = CollectorRegistry()
        if SHARED_FOLDER in os.environ:
            MultiProcessCollector(registry)
            return generate_latest(registry)
        ProcessCollector(registry=registry)
        return generate_latest(self.registry) + generate_latest(registry)
