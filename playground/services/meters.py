"""What is measured of every answer, whoever asked for it, for `/metrics`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry


class Meters:
    """Counters and histograms in a registry of their own, so that two apps in one process do not add up."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
