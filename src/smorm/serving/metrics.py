"""What Prometheus reads at `/metrics`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from smorm.serving.worker import ScoredBatch

_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKENS = (64, 256, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768, 65_536)


class Metrics:
    """Counters of one server; a registry of its own, so that two servers in a process differ."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter(
            "smorm_requests", "Requests by route and status.", ["route", "status"],
            registry=registry,
        )  # fmt: skip
        self.open_requests = Gauge(
            "smorm_open_requests", "Requests without an answer, this one among them.",
            registry=registry,
        )  # fmt: skip
        self.refusals = Counter(
            "smorm_refusals", "Requests and items refused, by reason.", ["reason"],
            registry=registry,
        )  # fmt: skip
        self.failures = Counter(
            "smorm_batch_failures", "Batches without scores, by kind.", ["kind"], registry=registry
        )
        self.items = Counter("smorm_items", "Items with scores.", registry=registry)
        self.tokens = Counter("smorm_tokens", "Tokens of scored responses.", registry=registry)
        self.saved = Counter(
            "smorm_tokens_saved", "Tokens that were shared and not computed again.",
            registry=registry,
        )  # fmt: skip
        self.waiting_items = Gauge("smorm_waiting_items", "Items that wait.", registry=registry)
        self.waiting_tokens = Gauge("smorm_waiting_tokens", "Their tokens.", registry=registry)
        self.healthy_workers = Gauge(
            "smorm_healthy_workers", "Workers whose last batch came back.", registry=registry
        )
        self.batch_tokens = Histogram(
            "smorm_batch_tokens", "Tokens of a batch.", buckets=_TOKENS, registry=registry
        )
        self.queue_seconds = Histogram(
            "smorm_queue_seconds", "Until an item is in a batch.", buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.compute_seconds = Histogram(
            "smorm_compute_seconds", "Of a batch.", buckets=_SECONDS, registry=registry
        )
        self.request_seconds = Histogram(
            "smorm_request_seconds", "Of a request, by route.", ["route"], buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip

    def batch(self, scored: ScoredBatch, seconds: float) -> None:
        """Count a batch that came back."""
        self.items.inc(len(scored.rows))
        self.tokens.inc(scored.tokens)
        self.saved.inc(scored.tokens - scored.computed)
        if scored.tokens:
            self.batch_tokens.observe(scored.tokens)
        self.compute_seconds.observe(seconds)

    def text(self) -> bytes:
        """The page."""
        return generate_latest(self.registry)
