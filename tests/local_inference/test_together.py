"""Many rows in one forward pass: each answers as it does alone, and no row harms another."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from playground.errors import EngineFailure
from playground.local_inference import LocalInference
from playground.local_inference.prefixes import Prefixes
from playground.types import GenerationEvent, GenerationRequest, ModelSpec

from .conftest import PIRATE, PROMPTS, SQL, STARTER, TABLE, ask, at_once, events_of, ids_of

COMPANY: tuple[tuple[tuple[Path, float], ...], ...] = (
    (), ((PIRATE, 1.0),), ((SQL, 1.0),), ((PIRATE, 0.5),), ((PIRATE, 1.0), (SQL, 0.3)), ((SQL, 0.0),),
)  # fmt: skip
STYLES: tuple[dict[str, Any], ...] = (
    {"strategy": "greedy"},
    {"strategy": "sampling", "temperature": 0.8, "top_p": 0.95, "top_k": 0},
    {"strategy": "top_k", "temperature": 1.3, "top_k": 20},
    {"strategy": "sampling", "temperature": 1.1, "min_p": 0.05, "repetition_penalty": 1.3, "frequency_penalty": 0.4},
)


def _all_at_once(engine: LocalInference, requests: list[GenerationRequest]) -> list[Any]:
    """The ids of every answer, or the exception in its place."""
    answers: list[Any] = [None] * len(requests)

    def run(at: int) -> None:
        try:
            answers[at] = ids_of(events_of(engine, requests[at]))
        except Exception as error:
            answers[at] = error

    at_once(run, len(requests))
    return answers


def _resident(engine: LocalInference) -> Any:
    engine.load(ModelSpec(str(STARTER)))
    assert engine._machinery is not None
    return engine._machinery.residents.all()[0]


def test_the_starter_decodes_together(inference: LocalInference) -> None:
    """G11, G13: the check at load allows it; else the tests below would prove nothing."""
    assert _resident(inference).batches
    assert _resident(inference).packed is not None


def test_rows_of_different_adapters_settings_and_lengths_answer_as_alone(inference: LocalInference) -> None:
    """G2, G3: sixteen rows of a company, base rows among them, token for token."""
    prompts = (TABLE, *PROMPTS, "A cat sat on the mat. " * 40)
    requests = [
        ask(
            prompts[at % len(prompts)],
            *COMPANY[at % len(COMPANY)],
            **STYLES[at % len(STYLES)],
            seed=at,
            max_new_tokens=30,
        )
        for at in range(16)
    ]
    alone = [ids_of(events_of(inference, request)) for request in requests]
    assert _all_at_once(inference, requests) == alone


@pytest.mark.parametrize("batches", [True, False])
def test_models_that_are_not_packed_answer_the_same(
    inference: LocalInference, monkeypatch: pytest.MonkeyPatch, batches: bool
) -> None:
    """G13: through transformers' own forward pass, together or one by one."""
    requests = [ask(PROMPTS[at % 3], *COMPANY[at], max_new_tokens=25) for at in range(len(COMPANY))]
    together = _all_at_once(inference, requests)
    monkeypatch.setattr(_resident(inference), "packed", None)
    monkeypatch.setattr(_resident(inference), "prefixes", Prefixes(0))  # what our own pass left has another form
    monkeypatch.setattr(_resident(inference), "batches", batches)
    assert _all_at_once(inference, requests) == together


def test_a_prompt_that_cannot_be_read_harms_no_other(
    inference: LocalInference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G6: a pass that fails is tried apart, so that only the row which breaks it ends."""
    packed = _resident(inference).packed
    assert packed is not None
    original = packed.step

    def breaks(slabs: Any, newest: Any, pieces: Any, adapters: Any, **options: Any) -> Any:
        if any(len(ids) > 100 for _, ids in pieces):
            raise RuntimeError("broken on purpose")
        return original(slabs, newest, pieces, adapters, **options)

    requests = [ask(PROMPTS[at], *COMPANY[at], max_new_tokens=30) for at in range(3)]
    alone = [ids_of(events_of(inference, request)) for request in requests]
    monkeypatch.setattr(packed, "step", breaks)
    answers = _all_at_once(inference, [*requests, ask("word " * 120)])
    assert isinstance(answers.pop(), EngineFailure)
    assert answers == alone
    assert _resident(inference).slots.bytes() == 0


def test_an_answer_that_outgrows_its_bucket_goes_on_as_alone(
    inference: LocalInference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G11: beside a short one, across the border of 256 positions."""
    from playground.local_inference.resident import Resident

    monkeypatch.setattr(Resident, "stop_ids", lambda *args: frozenset())
    requests = [ask("word " * 225, max_new_tokens=60), ask(PROMPTS[0], (PIRATE, 1.0), max_new_tokens=60)]
    alone = [ids_of(events_of(inference, request)) for request in requests]
    assert _all_at_once(inference, requests) == alone
    assert [len(ids) for ids in alone] == [60, 60]


def test_a_failing_row_harms_no_other(inference: LocalInference, monkeypatch: pytest.MonkeyPatch) -> None:
    """G6: its neighbours in the same pass go on."""
    from playground.local_inference import engine

    original = engine.describe

    def breaks_for_seed_13(state: Any, *args: Any) -> Any:
        if state.sampler.seed == 13 and len(state.ids) == 5:
            raise ValueError("broken on purpose")
        return original(state, *args)

    requests = [ask(PROMPTS[2], seed=seed, max_new_tokens=30) for seed in (11, 12, 13, 14)]
    alone = [ids_of(events_of(inference, request)) for request in requests]
    monkeypatch.setattr(engine, "describe", breaks_for_seed_13)
    answers = _all_at_once(inference, requests)
    assert isinstance(answers.pop(2), EngineFailure)
    assert answers == [alone[0], alone[1], alone[3]]
    assert _resident(inference).slots.bytes() == 0


def test_a_long_prompt_does_not_stop_the_others(inference: LocalInference, monkeypatch: pytest.MonkeyPatch) -> None:
    """G6: while it is read, every step brings the others a token; driven by hand, without the thread."""
    from playground.local_inference.admission import prepare_row
    from playground.local_inference.cache import Prepared
    from playground.local_inference.engine import StepLoop
    from playground.local_inference.resident import Resident
    from playground.local_inference.row import Row

    monkeypatch.setattr(Resident, "stop_ids", lambda *args: frozenset())  # nobody ends before the prompt is read
    resident = _resident(inference)
    loop = StepLoop()

    def enter(request: GenerationRequest) -> list[GenerationEvent | Exception]:
        heard: list[GenerationEvent | Exception] = []
        row = Row(request, heard.append, 0, 1)
        prepare_row(row, Prepared(resident, resident.apply(request.spec)))
        loop.scheduler.add(row)
        return heard

    def tokens(heard: list[GenerationEvent | Exception]) -> int:
        return sum(len(event.tokens) for event in heard if isinstance(event, GenerationEvent))

    short = enter(ask(PROMPTS[2], max_new_tokens=60))
    loop.step()
    long = enter(ask("word " * 760, max_new_tokens=5))
    steps = 0
    while tokens(long) == 0:
        before = tokens(short)
        loop.step()
        steps += 1
        assert tokens(short) == before + 1
    assert steps >= 3, "the prompt is longer than two chunks"
    while loop.step():
        pass


def test_cancelled_rows_leave_their_slots(inference: LocalInference) -> None:
    """G6, S5: nothing is left behind, and those who stay are not disturbed."""
    requests = [
        ask(PROMPTS[at % 3], *COMPANY[at % 3], strategy="sampling", seed=at, max_new_tokens=40) for at in range(12)
    ]
    alone = [ids_of(events_of(inference, request)) for request in requests]
    answers: dict[int, list[int]] = {}

    def read(at: int) -> None:
        stream, got = inference.stream(requests[at]), []
        for event in stream:
            got += [token.id for token in event.tokens]
            if at % 2 and len(got) >= 3:
                break
        stream.close()
        answers[at] = got

    at_once(read, 12)
    assert all(answers[at] == alone[at] for at in range(0, 12, 2))
    assert all(answers[at] == alone[at][: len(answers[at])] for at in range(1, 12, 2))
    for _ in range(200):
        if inference.activity() == (0, 0):
            break
        threading.Event().wait(0.01)
    assert _resident(inference).slots.bytes() == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"quantization": "nf4"}], ids=str)
def test_lower_precision_decodes_together_too(inference: LocalInference, options: dict[str, Any]) -> None:
    """G8: bf16 and nf4 bases with mixed adapters answer in company; rounding may differ, so only that they do."""
    requests = [
        replace(request, spec=replace(request.spec, **options))
        for request in (ask(PROMPTS[0], *adapters, max_new_tokens=10) for adapters in COMPANY[:4])
    ]
    answers = _all_at_once(inference, requests)
    assert all(isinstance(ids, list) and ids for ids in answers), answers
    assert answers[0] != answers[1]


def test_rows_without_room_wait_and_are_answered(inference: LocalInference, monkeypatch: pytest.MonkeyPatch) -> None:
    """G11: what does not fit the memory beside the others waits; alone every row may try."""
    from playground.local_inference import engine, memory
    from playground.local_inference.resident import Resident

    requests = [ask(PROMPTS[at % 3], *COMPANY[at % 3], max_new_tokens=20) for at in range(5)]
    alone = [ids_of(events_of(inference, request)) for request in requests]
    most = 0
    original = engine.StepLoop.step

    def counted(loop: Any) -> bool:
        nonlocal most
        more = original(loop)
        most = max(most, len(loop.scheduler.live()))
        return more

    monkeypatch.setattr(engine.StepLoop, "step", counted)
    monkeypatch.setattr(Resident, "row_bytes", lambda self, positions: 2 * 10**6 * positions)
    monkeypatch.setattr(memory, "device_bytes", lambda device: (2 * 10**9, 10**9))
    assert _all_at_once(inference, requests) == alone
    assert most == 1


def test_who_waits_is_told_their_place(inference: LocalInference, monkeypatch: pytest.MonkeyPatch) -> None:
    """P1, G11: the place in line, as it changes; and what the first one waits for."""
    from playground.local_inference import memory
    from playground.local_inference.resident import Resident

    monkeypatch.setattr(Resident, "row_bytes", lambda self, positions: 2 * 10**6 * positions)
    monkeypatch.setattr(memory, "device_bytes", lambda device: (2 * 10**9, 10**9))
    told: list[set[str]] = [set() for _ in range(4)]

    def run(at: int) -> None:
        for event in inference.stream(ask(PROMPTS[2], max_new_tokens=40)):
            if event.status.phase == "queued":
                told[at].add(event.status.detail)

    at_once(run, 4)
    assert any("before this one" in detail for details in told for detail in details)
    waiting = "waiting for memory: this answer may take"
    assert any(detail.startswith(waiting) for details in told for detail in details)


def test_a_beam_search_stops_nobody(inference: LocalInference, monkeypatch: pytest.MonkeyPatch) -> None:
    """G6: beside a long search others get the same tokens as ever, their Stop is heard, and adapters are attached."""
    from playground.local_inference.resident import Resident

    requests = [ask(PROMPTS[at], *COMPANY[at], max_new_tokens=20) for at in range(3)]
    alone = [ids_of(events_of(inference, request)) for request in requests]
    monkeypatch.setattr(Resident, "stop_ids", lambda *args: frozenset())
    search = inference.stream(ask(PROMPTS[2], (PIRATE, 1.0), strategy="beam_search", num_beams=4, max_new_tokens=900))
    for event in search:
        if event.status.phase == "prefilling":
            break
    monkeypatch.undo()
    dropped = inference.stream(ask(PROMPTS[0], max_new_tokens=900))
    for event in dropped:
        if event.tokens:
            break
    dropped.close()
    assert _all_at_once(inference, requests) == alone
    inference.load(ModelSpec(str(STARTER), ((str(SQL), 1.0),)))
    assert inference.activity() == (1, 0), "the search must still be running for this to mean anything"
    search.close()


def test_a_beam_search_in_company_finds_what_it_finds_alone(inference: LocalInference) -> None:
    """G2, G3: with its own adapter, whatever runs between its steps; two searches come one after the other."""
    searches = [
        ask(PROMPTS[2], *adapters, strategy="beam_search", num_beams=3, max_new_tokens=25)
        for adapters in ((), ((PIRATE, 1.0),))
    ]
    requests = [*searches, *(ask(PROMPTS[at], *COMPANY[at], max_new_tokens=30) for at in range(3))]
    alone = ["".join(event.text for event in events_of(inference, request)) for request in requests]
    together: list[str] = [""] * len(requests)

    def run(at: int) -> None:
        together[at] = "".join(event.text for event in events_of(inference, requests[at]))

    at_once(run, len(requests))
    assert together == alone


def test_an_adapter_that_needs_peft_shares_the_time_with_the_others(
    inference: LocalInference, make_adapter: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """G2: turns change in the middle of answers; both sides say that they wait, and write what they write alone."""
    from peft import LoHaConfig

    from playground.local_inference import scheduler

    monkeypatch.setattr(scheduler, "TURN_S", 0.05)
    folder = make_adapter(LoHaConfig(r=4, alpha=8, target_modules=["q_proj", "up_proj"]), "loha")
    requests = [ask(PROMPTS[2], max_new_tokens=60), ask(PROMPTS[2], (folder, 1.0), max_new_tokens=60)]
    from playground.local_inference.resident import Resident

    monkeypatch.setattr(Resident, "stop_ids", lambda *args: frozenset())
    alone = [ids_of(events_of(inference, request)) for request in requests]
    told: dict[int, list[str]] = {}
    answers: dict[int, list[int]] = {}

    def run(at: int) -> None:
        events = events_of(inference, requests[at])
        answers[at] = ids_of(events)
        told[at] = [event.status.detail for event in events if "waiting for its turn" in event.status.detail]

    at_once(run, 2)
    assert [answers[0], answers[1]] == alone
    assert told[0] or told[1]


@pytest.mark.long
def test_thirty_two_streams_of_three_adapters_are_the_sequential_ones(
    inference: LocalInference, make_adapter: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """S5, G2: in float32, three adapters and the base, lengths and styles mixed; readers in threads and on an event loop."""
    from peft import LoraConfig

    from playground.local_inference.resident import Resident

    monkeypatch.setattr(Resident, "stop_ids", lambda *args: frozenset())  # so that all of them are long
    third = make_adapter(LoraConfig(r=4, use_dora=True, target_modules=["q_proj", "down_proj"]), "dora")
    company: tuple[Any, ...] = (((PIRATE, 1.0),), ((SQL, 1.0),), ((third, 0.8),), ())
    requests = [
        ask(
            PROMPTS[at % 3] * (1 + at // 8),
            *company[at % 4],
            **STYLES[(at // 4) % 4],
            seed=at,
            max_new_tokens=80,
            logit_bias=[(604, 2.0)] if at % 5 == 0 else [],
        )
        for at in range(32)
    ]
    alone = ["".join(event.text for event in events_of(inference, request)) for request in requests]
    texts: dict[int, str] = {}

    async def follow(at: int) -> None:
        texts[at] = "".join([event.text async for event in inference.astream(requests[at])])

    async def half() -> None:
        await asyncio.gather(*(follow(at) for at in range(16)))

    def run(at: int) -> None:
        if at == 0:
            asyncio.run(half())
        else:
            texts[15 + at] = "".join(event.text for event in events_of(inference, requests[15 + at]))

    at_once(run, 17)
    assert [texts[at] for at in range(32)] == alone
    assert len(set(alone)) > 20


@pytest.mark.long
def test_thirty_two_streams_with_random_cancels_leave_nothing_behind(inference: LocalInference) -> None:
    """S5, G6: right texts, cancelled ones a beginning of theirs; no row, slot or thread stays."""
    chance = random.Random(5)
    requests = [
        ask(
            PROMPTS[at % 3],
            *COMPANY[at % len(COMPANY)],
            **STYLES[at % 4],
            seed=at,
            max_new_tokens=chance.randint(5, 60),
        )
        for at in range(32)
    ]
    alone = [ids_of(events_of(inference, request)) for request in requests]
    patience = [chance.randint(0, 20) if chance.random() < 0.5 else 1000 for _ in requests]
    before = {thread.name for thread in threading.enumerate()}
    got: dict[int, list[int]] = {}

    def read(at: int) -> None:
        stream, ids = inference.stream(requests[at]), []
        for event in stream:
            ids += [token.id for token in event.tokens]
            if len(ids) >= patience[at]:
                break
        stream.close()
        got[at] = ids

    at_once(read, 32)
    for at in range(32):
        assert got[at] == alone[at][: len(got[at])]
        assert len(got[at]) == len(alone[at]) or len(got[at]) >= patience[at]
    for _ in range(500):
        if inference.activity() == (0, 0) and _resident(inference).pins == 0:
            break
        threading.Event().wait(0.01)
    assert inference.activity() == (0, 0)
    assert _resident(inference).pins == 0
    assert _resident(inference).slots.bytes() == 0
    assert {thread.name for thread in threading.enumerate()} <= before | {"MainThread"}
