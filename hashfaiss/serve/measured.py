"""What a service counts, in Prometheus's terms."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
TOGETHER = (1, 2, 4, 8, 16, 32, 64)


class Measured:
    """The numbers of one service, in a registry of its own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("hashfaiss_requests", "Requests answered.", ["endpoint", "status"], registry=registry)
        self.seconds = Histogram(
            "hashfaiss_request_seconds", "Time to answer.", ["endpoint"], buckets=SECONDS, registry=registry
        )
        self.in_flight = Gauge("hashfaiss_requests_in_flight", "Requests worked on.", registry=registry)
        self.batches = Histogram(
            "hashfaiss_batch_images", "Images encoded together.", buckets=TOGETHER, registry=registry
        )
        self.waiting = Gauge("hashfaiss_images_waiting", "Images that wait for the network.", registry=registry)
        self.images = Gauge("hashfaiss_index_images", "Images of the index.", registry=registry)
        self.generation = Gauge(
            "hashfaiss_index_generation", "Generation of the index that answers.", registry=registry
        )
        self.failures = Counter(
            "hashfaiss_reload_failures", "Newer generations that could not be opened.", registry=registry
        )

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)
