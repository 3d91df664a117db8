"""People who leave: at any moment, in any number, and nothing of what they asked for stays behind."""

from __future__ import annotations

import gc
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from peft import LoHaConfig, PromptTuningConfig

from playground.errors import ModelNotFound, PlaygroundError, QueueFull
from playground.local_inference import LocalInference, memory
from playground.local_inference.admission import prepare_row
from playground.local_inference.cache import Prepared
from playground.local_inference.engine import StepLoop
from playground.local_inference.row import Row
from playground.types import GenerationEvent, GenerationRequest, ModelSpec

from .conftest import PIRATE, PROMPTS, SQL, STARTER, ask, events_of, text_of

STYLES: tuple[dict[str, Any], ...] = (
    {"strategy": "greedy"},
    {"strategy": "sampling", "temperature": 1.0, "num_return_sequences": 3},
    {"strategy": "greedy", "reproducible": True},
    {"strategy": "beam_search", "num_beams": 2, "num_return_sequences": 2},
)


def resident(inference: LocalInference) -> Any:
    inference.load(ModelSpec(str(STARTER)))
    assert inference._machinery is not None
    return inference._machinery.residents.find(str(STARTER))[0]


def until(condition: Callable[[], bool]) -> None:
    """Wait for ``condition``; only a hang reaches the limit."""
    limit = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < limit, "it never happened"
        time.sleep(0.01)


def admitting() -> int:
    """Threads that bring a request in."""
    return sum(thread.name == "admit" for thread in threading.enumerate())


def settled(inference: LocalInference) -> int:
    """Check that nothing of anybody is left; the bytes of this process then."""
    held = resident(inference)
    until(lambda: inference.activity() == (0, 0) and held.pins == 0 and admitting() == 0)
    assert inference.memory().kv_cache == 0
    assert held.slots.bytes() == 0
    assert inference._preparing == {}
    assert inference._machinery is not None
    scheduler = inference._machinery.loop.scheduler
    assert (scheduler.live(), scheduler.waiting()) == ([], [])
    gc.collect()
    memory.give_back("cpu")
    return psutil.Process().memory_info().rss


class Crowd:
    """Requests by chance, each left after a moment by chance; counts how each of them ended."""

    def __init__(self, inference: LocalInference, companies: list[tuple[Any, ...]]) -> None:
        self._inference, self._companies = inference, companies
        self._lock = threading.Lock()
        self.ends: dict[tuple[int, int], list[str]] = {}
        self.kinds: Counter[str] = Counter()

    def come(self, count: int, seed: int) -> None:
        """``count`` requests from eight threads, quickly one after the other."""
        threads = [threading.Thread(target=self._some, args=(count // 8, 8 * seed + at)) for at in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _some(self, count: int, seed: int) -> None:
        chance = random.Random(seed)
        for at in range(count):
            self._one(seed * 10_000 + at, chance)

    def _one(self, number: int, chance: random.Random) -> None:
        style = chance.choices(STYLES, (12, 4, 4, 1))[0]
        prompt = chance.choice([*PROMPTS, "word " * chance.randint(1, 700)])
        company = chance.choice(self._companies)
        request = ask(prompt, *company, max_new_tokens=chance.randint(1, 60), seed=number, **style)
        cancel = self._submitted(replace(request, user=f"user {number % 5}"), number)
        if chance.random() < 0.9:
            time.sleep(chance.choice([0.0, 0.0, 0.002, 0.02, 0.1]) * chance.random())
            cancel()
            cancel()  # twice harms nobody

    def _submitted(self, request: GenerationRequest, number: int) -> Callable[[], None]:
        def sink(news: GenerationEvent | Exception) -> None:
            if isinstance(news, Exception):
                self._ended(number, 0, repr(news))
            elif news.finish_reason is not None:
                self._ended(number, news.index, news.finish_reason)

        while True:
            try:
                return self._inference.submit(request, sink)
            except QueueFull:
                time.sleep(0.01)

    def _ended(self, number: int, index: int, how: str) -> None:
        with self._lock:
            self.kinds[how] += 1
            self.ends.setdefault((number, index), []).append(how)


@pytest.mark.long
def test_a_thousand_requests_that_are_dropped_leave_nothing(
    inference: LocalInference, make_adapter: Callable[..., Path]
) -> None:
    """G6, A7, S5: waiting, reading, writing, searching or just asked for; each ends once, and memory stays flat."""
    soft = make_adapter(PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4), "soft")
    turn = make_adapter(LoHaConfig(r=4, alpha=8, target_modules=["q_proj", "up_proj"]), "loha")
    companies: list[tuple[Any, ...]] = [(), ((PIRATE, 1.0),), ((SQL, 0.5),), ((soft, 1.0),)]
    alone = [event.text for event in events_of(inference, ask(PROMPTS[0], (PIRATE, 1.0), max_new_tokens=20))]
    crowd = Crowd(inference, companies)
    resident_bytes: list[int] = []
    for hundreds in range(6):
        crowd.come(200, hundreds)
        resident_bytes.append(settled(inference))
    assert min(resident_bytes[-2:]) <= 1.05 * resident_bytes[1], "what leaks only grows"
    company = Crowd(inference, [*companies, ((turn, 1.0),)])
    company.come(80, 6)
    settled(inference)
    for one in (crowd, company):
        assert {how for hows in one.ends.values() for how in hows} <= {"cancelled", "stop", "length"}
        assert all(len(hows) == 1 for hows in one.ends.values())
        assert min(one.kinds["cancelled"], one.kinds["stop"] + one.kinds["length"]) > 5, "both kinds must have happened"
    assert len({number for number, _ in crowd.ends}) == 1200
    again = [event.text for event in events_of(inference, ask(PROMPTS[0], (PIRATE, 1.0), max_new_tokens=20))]
    assert "".join(again) == "".join(alone)


@pytest.mark.parametrize("read", [0, 1])
def test_who_leaves_while_waiting_or_reading_is_gone_after_one_step(inference: LocalInference, read: int) -> None:
    """G6: with its slot in the line, its pin and its keys and values; the second row never had its turn."""
    held = resident(inference)
    loop, released, heard = StepLoop(slots=1), [], []
    rows = []
    for at in range(2):
        request = ask("word " * 760, (PIRATE, 1.0))
        rows.append(Row(request, heard.append, 0, at))
        inference.load(request.spec)
        prepare_row(rows[at], Prepared(held, held.apply(request.spec)))
        assert rows[at].hold(lambda at=at: released.append(at))
        loop.scheduler.add(rows[at])
    for _ in range(read):
        loop.step()
        assert rows[0].state.reading is not None, "it must still be reading its prompt"
    for row in rows:
        row.cancelled.set()
    assert not loop.step()
    assert sorted(released) == [0, 1]
    assert [news.finish_reason for news in heard if news.finish_reason] == ["cancelled"] * 2
    assert [row.state for row in rows] == [None, None]
    assert held.slots.bytes() == 0


@contextmanager
def endless_load(inference: LocalInference, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Every load waits for the event, and then fails."""
    assert inference._machinery is not None
    go = threading.Event()

    @contextmanager
    def load(spec: ModelSpec, report: Any) -> Iterator[Any]:
        go.wait(60)
        raise ModelNotFound("There is no such model.")
        yield

    monkeypatch.setattr(inference._machinery.residents, "_load", load)
    try:
        yield go
    finally:
        go.set()


def test_who_leaves_before_the_model_is_there_leaves_no_thread_behind(
    inference: LocalInference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A7, S5: however long it takes to load; who stays hears how it went."""
    resident(inference)
    heard: list[Any] = []
    with endless_load(inference, monkeypatch) as go:
        request = replace(ask(PROMPTS[0]), spec=ModelSpec("somewhere/else"))
        waiting = threading.Thread(target=lambda: heard.append(_failure(inference, request)))
        waiting.start()
        until(lambda: len(inference._preparing) == 1)
        gone: list[Any] = []
        for _ in range(100):
            inference.submit(request, gone.append)()
        until(lambda: admitting() == 1)  # of who stays
        assert inference.activity() == (0, 1)
        assert [news.finish_reason for news in gone if getattr(news, "finish_reason", None)] == ["cancelled"] * 100
        go.set()
        waiting.join()
    assert [type(error) for error in heard] == [ModelNotFound]
    settled(inference)


def _failure(inference: LocalInference, request: GenerationRequest) -> Exception | None:
    try:
        events_of(inference, request)
    except PlaygroundError as error:
        return error
    return None


def test_a_machine_without_threads_is_a_full_queue(inference: LocalInference, monkeypatch: pytest.MonkeyPatch) -> None:
    """A7: for what is not at hand, and the request is counted out again; what is in memory is answered without one."""

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    for _ in range(2):  # the first one loads the model
        text = text_of(events_of(inference, ask(PROMPTS[0])))
    fresh = LocalInference()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(QueueFull, match="too many threads"):
            fresh.submit(ask(PROMPTS[0]), lambda news: None)
        with pytest.raises(QueueFull, match="too many threads"):
            events_of(inference, ask(PROMPTS[0], (PIRATE.parent / "json", 1.0)))
        assert text_of(events_of(inference, ask(PROMPTS[0]))) == text
    assert inference.activity() == fresh.activity() == (0, 0)
    fresh.close()
