"""The newest snapshot as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sdwan.metrics.declared import METRICS
from sdwan.metrics.snapshot import Snapshot


class Metrics(Collector):
    """The newest snapshot as a Prometheus collector, in a registry of its own."""

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def update(self, snapshot: Snapshot) -> None:
        """Let later scrapes read ``snapshot``."""
        self._snapshot = snapshot

    def exposition(self) -> bytes:
        """Return the text a scrape gets."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of the newest snapshot (called by prometheus_client)."""
        snapshot = self._snapshot
        if snapshot is None:
            return
        for declared in METRICS:
            cls = CounterMetricFamily if declared.kind == "counter" else GaugeMetricFamily
            family = cls(declared.name, declared.meaning, labels=declared.labels)
            for labels, value in declared.read(snapshot):
                if value is not None:
                    family.add_metric(labels, value)
            yield family
