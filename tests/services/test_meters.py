"""A6: what is measured, with labels that nobody can make up."""

from __future__ import annotations

import pytest

from playground.config import ModelEntry
from playground.errors import QueueFull
from playground.services.meters import Meters
from playground.types import GenerationStats, LoadedAdapter, MemoryReport, ResidentInfo
from tests.api.fake_engine import FakeEngine

MODELS = {"starter": ModelEntry("starter", "/models/starter"), "alias": ModelEntry("alias", "/models/starter")}


class Busy(FakeEngine):
    """An engine with a model, an adapter, two rows and three who wait."""

    def activity(self) -> tuple[int, int]:
        return 2, 3

    def residents(self) -> tuple[ResidentInfo, ...]:
        adapter = LoadedAdapter("pirate", "/a", "sha", 10, False, True)
        return (
            ResidentInfo("starter", "/models/starter", "none", "float32", "cpu", 1, 2, 3, 4.0, adapters=(adapter,)),
        )

    def memories(self) -> tuple[MemoryReport, ...]:
        return (
            MemoryReport("cuda:0", 1000, 400, 100, 10, 1, 0, 7),
            MemoryReport("cpu", 2000, 900, 0, 0, 0, 300),
        )


def test_every_meter_is_in_the_text() -> None:
    """A6: answers, tokens, times, speed, failures, the cache, queue, residents and memory, as Prometheus reads them."""
    meters = Meters(MODELS)
    meters.watch(Busy())
    meters.ended("/models/starter", "stop", GenerationStats(5, 11, 1.5, 0.5))
    meters.ended("/models/starter", "cancelled", GenerationStats(5, 0, 1.0))
    meters.spent("/models/starter", 5, 11, 3)
    meters.failed(QueueFull("Full."))
    meters.failed(ZeroDivisionError())
    meters.looked_up(True)
    meters.answered("/v1/models", "GET", 200, 0.01)
    lines = meters.text().decode().splitlines()
    for line in (
        'playground_answers_total{finish_reason="stop",model="starter"} 1.0',
        'playground_answers_total{finish_reason="cancelled",model="starter"} 1.0',
        "playground_cancellations_total 1.0",
        'playground_prompt_tokens_total{model="starter"} 5.0',
        'playground_reused_prompt_tokens_total{model="starter"} 3.0',
        'playground_completion_tokens_total{model="starter"} 11.0',
        'playground_time_to_first_token_seconds_sum{model="starter"} 0.5',
        'playground_tokens_per_second_sum{model="starter"} 10.0',
        'playground_errors_total{code="queue_full"} 1.0',
        'playground_errors_total{code="internal_error"} 1.0',
        'playground_answer_cache_total{result="hit"} 1.0',
        'playground_answer_cache_total{result="miss"} 0.0',
        'playground_http_requests_total{method="GET",route="/v1/models",status="200"} 1.0',
        'playground_http_request_duration_seconds_count{method="GET",route="/v1/models"} 1.0',
        "playground_running_rows 2.0",
        "playground_queue_depth 3.0",
        "playground_resident_models 1.0",
        "playground_resident_adapters 1.0",
        'playground_memory_bytes{device="cuda:0",of="weights"} 100.0',
        'playground_memory_bytes{device="cuda:0",of="free"} 400.0',
        'playground_memory_bytes{device="cuda:0",of="reusable"} 7.0',
        'playground_memory_bytes{device="cpu",of="process"} 300.0',
    ):
        assert line in lines
    assert any(line.startswith("process_resident_memory_bytes ") for line in lines)
    assert not any("_created" in line for line in lines)


@pytest.mark.parametrize(
    ("base", "label"), [("/models/starter", "starter"), ("somebody/model", "other"), ("/etc", "other"), ("", "other")]
)
def test_only_models_on_offer_are_labels(base: str, label: str) -> None:
    """A6: whoever types hub ids makes no new series, and no path of the machine is told."""
    assert Meters(MODELS).model(base) == label


def test_two_apps_in_one_process_do_not_add_up() -> None:
    """A6: a registry each."""
    one, other = Meters(MODELS), Meters(MODELS)
    one.looked_up(True)
    assert b'cache_total{result="hit"} 1.0' in one.text()
    assert b'cache_total{result="hit"} 0.0' in other.text()
