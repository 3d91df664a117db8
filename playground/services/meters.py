"""What is measured of every answer, whoever asked for it, for `/metrics`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from playground import __version__
from playground.config import ModelEntry
from playground.errors import PlaygroundError
from playground.types import FinishReason, GenerationStats, MemoryReport, ResidentInfo

OTHER = "other"  # what stands for all that is not on offer, so that nobody makes up labels without end
_TTFT_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOKENS_PER_S = (1, 2.5, 5, 10, 25, 50, 100, 200, 400, 800, 1600)
_REQUEST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

# Else every series has a second one that says since when it is counted.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Watched(Protocol):
    """What the gauges are read from: the engine's own account of itself."""

    def activity(self) -> tuple[int, int]:
        """(rows being answered, requests waiting)."""

    def residents(self) -> tuple[ResidentInfo, ...]:
        """The models in memory."""

    def memories(self) -> tuple[MemoryReport, ...]:
        """Every memory that models lie in."""


class Meters:
    """Counters and histograms in a registry of their own, so that two apps in one process do not add up.

    ``models`` are those on offer: their names are labels, all others are "other". Every method may be called from any
    thread.
    """

    def __init__(self, models: Mapping[str, ModelEntry] | None = None) -> None:
        self.registry = CollectorRegistry()
        self._names: dict[str, str] = {}
        for name, entry in (models or {}).items():
            self._names.setdefault(entry.path, name)
        self._answers = Counter(
            "playground_answers", "Answers that have ended, those from the answer cache included.",
            ["model", "finish_reason"], registry=self.registry,
        )  # fmt: skip
        self._prompt = Counter("playground_prompt_tokens", "Tokens of the prompts.", ["model"], registry=self.registry)
        self._reused = Counter(
            "playground_reused_prompt_tokens", "Tokens of the prompts that were known already and not read anew.",
            ["model"], registry=self.registry,
        )  # fmt: skip
        self._completion = Counter(
            "playground_completion_tokens", "Tokens that were generated.", ["model"], registry=self.registry
        )
        self._first_token = Histogram(
            "playground_time_to_first_token_seconds", "From the request to the first token, loading included.",
            ["model"], buckets=_TTFT_S, registry=self.registry,
        )  # fmt: skip
        self._speed = Histogram(
            "playground_tokens_per_second",
            "How fast one answer was decoded.",
            ["model"],
            buckets=_TOKENS_PER_S,
            registry=self.registry,
        )
        self._cancelled = Counter(
            "playground_cancellations", "Answers that were stopped, or whose reader has left.", registry=self.registry
        )
        self._errors = Counter(
            "playground_errors", "Requests for text that have failed.", ["code"], registry=self.registry
        )
        self._cache = Counter(
            "playground_answer_cache", "Look-ups in the answer cache.", ["result"], registry=self.registry
        )
        self._http = Counter(
            "playground_http_requests",
            "HTTP requests that the API has answered.",
            ["route", "method", "status"],
            registry=self.registry,
        )
        self._http_time = Histogram(
            "playground_http_request_duration_seconds", "From the request to the end of its answer, streams included.",
            ["route", "method"], buckets=_REQUEST_S, registry=self.registry,
        )  # fmt: skip
        for result in ("hit", "miss"):
            self._cache.labels(result)
        ProcessCollector(registry=self.registry)

    def watch(self, engine: Watched) -> None:
        """Read the gauges from ``engine``, at each scrape."""
        self.registry.register(_Gauges(engine))

    def model(self, base: str) -> str:
        """The label for a base's path or hub id."""
        return self._names.get(base, OTHER)

    def ended(self, base: str, reason: FinishReason, stats: GenerationStats, *, cached: bool = False) -> None:
        """Count one answer of ``base``. One from the cache says nothing about speed."""
        model = self.model(base)
        self._answers.labels(model, reason).inc()
        if reason == "cancelled":
            self._cancelled.inc()
        if cached:
            return
        if stats.first_token_s is not None:
            self._first_token.labels(model).observe(stats.first_token_s)
        if stats.tokens_per_second is not None:
            self._speed.labels(model).observe(stats.tokens_per_second)

    def spent(self, base: str, prompt: int, completion: int, reused: int = 0) -> None:
        """Count the tokens of one request: its prompt's, of which ``reused`` were not read, and the generated ones."""
        model = self.model(base)
        self._prompt.labels(model).inc(prompt)
        self._reused.labels(model).inc(reused)
        self._completion.labels(model).inc(completion)

    def failed(self, error: Exception) -> None:
        """Count a request that has failed, by its error's code."""
        self._errors.labels(error.code if isinstance(error, PlaygroundError) else "internal_error").inc()

    def looked_up(self, hit: bool) -> None:
        """Count one look into the answer cache."""
        self._cache.labels("hit" if hit else "miss").inc()

    def answered(self, route: str, method: str, status: int, seconds: float | None) -> None:
        """Count one HTTP request. ``route`` is a template such as `/jobs/{id}`, never a path as it was sent."""
        self._http.labels(route, method, str(status)).inc()
        if seconds is not None:
            self._http_time.labels(route, method).observe(seconds)

    def text(self) -> bytes:
        """Everything in Prometheus' text format. Asks the engine and the system, so it is not for an event loop."""
        return generate_latest(self.registry)


class _Gauges(Collector):
    """What is so now, asked at each scrape."""

    def __init__(self, engine: Watched) -> None:
        self._engine = engine
        self._started = time.time()

    def describe(self) -> Iterable[Metric]:
        """Nothing: so that registering asks nobody anything."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The gauges, read now."""
        running, waiting = self._engine.activity()
        residents = self._engine.residents()
        yield _gauge("running_rows", "Answers that are being written.", running)
        yield _gauge("queue_depth", "Requests that wait for their turn or their model.", waiting)
        yield _gauge("resident_models", "Base models in memory.", len(residents))
        yield _gauge("resident_adapters", "Adapters on them.", sum(len(one.adapters) for one in residents))
        yield _gauge("start_time_seconds", "When the server was started, in Unix time.", self._started)
        info = GaugeMetricFamily("playground_info", "The version.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield self._memory()

    def _memory(self) -> Metric:
        memory = GaugeMetricFamily(
            "playground_memory_bytes", "The devices' memory, and what of it is ours.", labels=["device", "of"]
        )
        for report in self._engine.memories():
            for of in ("total", "free", "weights", "adapters", "kv_cache", "reusable", "process"):
                memory.add_metric([report.device, of], getattr(report, of))
        return memory


def _gauge(name: str, help: str, value: float) -> Metric:
    gauge: Any = GaugeMetricFamily(f"playground_{name}", help, value=value)
    found: Metric = gauge
    return found
