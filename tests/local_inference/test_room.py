"""Memory for rows: what cannot fit is refused with figures, what fits later waits, and what runs out harms nobody else."""

from __future__ import annotations

import gc
import json
import re
import shutil
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from playground.config import ROOT
from playground.errors import OutOfMemory
from playground.local_inference import LocalInference, memory, slots
from playground.local_inference.memory import Room
from playground.local_inference.row import Row
from playground.local_inference.row_memory import RowMemory, most_bytes, peak_bytes, promised_bytes
from playground.local_inference.slots import SMALLEST_BUCKET, Contents, Slab, Slot, SlotCache, bucket
from playground.types import GenerationRequest, GenerationSettings, ModelSpec

from .conftest import STARTER, at_once, events_of, ids_of, text_of

MB = 1_000_000
TOTAL = 10_000 * MB
MARGIN = TOTAL // 20
# What a position of the rows here takes.
EACH = MB


@dataclass
class Others:
    """What else is in memory: `Tenants` with figures by hand. Dropping something makes its bytes free."""

    free: int
    kept: int = 0
    busy: int = 0
    rows: int = 0

    def device_bytes(self, device: str) -> tuple[int, int]:
        return TOTAL, self.free

    def held(self, device: str) -> int:
        return self.busy + self.kept + 100 * MB  # the model and adapters of the rows

    def idle(self, device: str) -> int:
        return self.kept

    def promised(self, device: str) -> int:
        return self.rows

    def settling(self, device: str) -> int:
        return 0

    mapped = settling

    def evict(self, device: str, short: int) -> str:
        came = min(short, self.kept)
        self.kept, self.free = self.kept - came, self.free + came
        return "what is kept" if came else ""


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Others, RowMemory]]:
    """``house(free, budget, kept=…, busy=…)``: a device of 10 GB, half a GB of it the margin; figures in MB."""

    def make(free: int, budget: float = 0.0, kept: int = 0, busy: int = 0) -> tuple[Others, RowMemory]:
        others = Others(free * MB, kept * MB, busy * MB)
        monkeypatch.setattr(memory, "device_bytes", others.device_bytes)
        monkeypatch.setattr(memory, "tidy", lambda device: None)
        return others, RowMemory(Room(budget, others))

    return make


def _resident(batches: bool = True) -> Any:
    loaded = SimpleNamespace(plan=SimpleNamespace(device="cpu"), shares={"cpu": 90 * MB})
    return _Resident(loaded=loaded, batches=batches, slots=SlotCache(), row_bytes=lambda positions: EACH * positions)


class _Resident(SimpleNamespace):
    """One is not another."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


def _row(prompt: int, answer: int, resident: Any = None, **settings: Any) -> Row:
    values = GenerationSettings(max_new_tokens=answer, **{"strategy": "greedy", **settings})
    request = GenerationRequest(ModelSpec("base"), "?", settings=values)
    row = Row(request, lambda news: None, 0, 0)
    row.resident = resident or _resident()
    attached = SimpleNamespace(info=SimpleNamespace(bytes=10 * MB), weights=None)
    row.applied = SimpleNamespace(adapters=((attached, 1.0),), positions=0)
    row.prompt = cast(Any, SimpleNamespace(token_ids=[0] * prompt, max_new_tokens=answer))
    return row


def _decoding(row: Row, capacity: int) -> Row:
    row.state = SimpleNamespace(slot=Slot(capacity - 1, Slab(capacity)), reading=None, read=0)
    return row


def test_what_a_row_comes_to() -> None:
    """G11: in its last slot; while it moves the one before counts too; without slots what its positions take."""
    assert most_bytes(_row(100, 100)) == 256 * MB
    assert peak_bytes(_row(100, 100)) == 356 * MB, "the prompt is copied into its slot"
    assert most_bytes(_row(100, 900)) == 1024 * MB
    assert peak_bytes(_row(100, 900)) == (512 + 1024) * MB
    assert peak_bytes(_row(1000, 10)) == (1000 + 1024) * MB
    assert most_bytes(_row(100, 900, _resident(batches=False))) == 1000 * MB
    beams = _row(100, 100, strategy="beam_search", num_beams=3)
    assert peak_bytes(beams) == most_bytes(beams) == 3 * 256 * MB


def test_what_rows_have_yet_to_take() -> None:
    """G11: what they may come to less what they hold, and the largest move."""
    rows = [_decoding(_row(100, 900), 256), _decoding(_row(100, 100), 256), _row(100, 100)]
    assert promised_bytes(rows, "cpu") == (1024 - 256 + 0 + 256 + 512) * MB
    assert promised_bytes(rows[1:2], "cpu") == 0
    assert promised_bytes(rows, "cuda:0") == 0


def test_what_cannot_fit_even_alone_is_refused_with_figures(house: Any) -> None:
    """G11: before it waits; what others hold would be its own then, the margin and its own model would not."""
    others, rows = house(1000, busy=600)
    rows.refuse(_row(100, 400))
    with pytest.raises(OutOfMemory) as refused:
        rows.refuse(_row(100, 1000))
    said = str(refused.value)
    assert "needs 3.1 GB for the keys and values of 2,048 positions (100 of its prompt)" in said
    assert "with nobody else there 1.1 GB can be had on cpu." in said
    assert "max_new_tokens" in said
    others.free = 4000 * MB
    rows.refuse(_row(100, 1000))
    with pytest.raises(OutOfMemory, match=r"; 8 beams\)"):
        rows.refuse(_row(100, 1000, strategy="beam_search", num_beams=8))


def test_a_budget_binds_rows_too(house: Any) -> None:
    """G11: however much is free."""
    _, rows = house(9000, 500 * MB, kept=100)
    rows.refuse(_row(100, 100))
    with pytest.raises(OutOfMemory, match="where models and answers may take 500 MB together"):
        rows.refuse(_row(100, 300))


def test_what_passes_join_of_adapters_is_reckoned(house: Any) -> None:
    """G11: an adapter's tensors lie there a second time, joined with others'; what no pass needs makes way."""
    _, rows = house(9000, 600 * MB)
    row = _row(100, 100)
    rows.refuse(row)
    (attached, _), *_ = row.applied.adapters
    lora = _Lora(attached.info)
    row.applied.adapters = ((lora, 1.0),)
    row.resident.joined_bytes, row.resident.spare_joined = lambda: 5 * MB, lambda live: 2 * MB
    assert promised_bytes([row], "cpu") == (356 + 2 * 10 - (5 - 2)) * MB
    row.resident.joined_bytes = lambda: 50 * MB
    assert promised_bytes([row], "cpu") == 356 * MB
    lora.info.bytes = 60 * MB
    with pytest.raises(OutOfMemory, match="needs 356 MB"):
        rows.refuse(row)


@dataclass(eq=False)
class _Lora:
    """An adapter whose tensors passes join."""

    info: Any
    weights: str = "A and B"


def test_what_fits_later_waits_and_says_why(house: Any) -> None:
    """G11: rows together leave half of what is free alone; what makes way for them counts as free."""
    others, rows = house(1500)
    live, row = [_decoding(_row(100, 100), 256)], _row(100, 400)
    assert not rows.fits(row, live)
    assert row.short_of == (
        "waiting for memory: this answer may take 768 MB, and 500 MB can be had beside the answers under way"
    )
    others.kept = 300 * MB
    assert not rows.fits(row, live), "it is not looked at again at once"
    assert rows.fits(row, [])
    assert rows.fits(row, [*live, _decoding(_row(1, 1), 256)])
    assert not rows.fits(row, [*live, _decoding(_row(100, 900), 256)]), "a live row will still grow"


def test_who_could_not_join_once_is_not_kept_for_that(house: Any) -> None:
    """G1, G12: a row holds its model, whose memory must come back when it is unloaded."""
    _, rows = house(1500)
    live, row = [_decoding(_row(100, 100), 256)], _row(100, 400)
    assert not rows.fits(row, live)
    gone = [weakref.ref(row.resident), weakref.ref(live[0].resident)]
    live.clear()
    del row
    gc.collect()
    assert [one() for one in gone] == [None, None]


def test_a_pass_that_ran_out_is_tried_again_with_what_was_kept_given_up(
    wide: Path, engine: LocalInference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G11: nobody's answer ends while something idle could have made way."""
    from playground.local_inference.resident import Resident

    request = _ask(wide, 40, 12)
    whole = ids_of(events_of(engine, request))
    resident = engine._machinery.residents.all()[0]  # type: ignore[union-attr]
    original = Resident.packed_step
    assert resident.prefixes.bytes

    def step(held: Any, slabs: Any, *args: Any, **options: Any) -> Any:
        if held.prefixes.bytes:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
        return original(held, slabs, *args, **options)

    monkeypatch.setattr(Resident, "packed_step", step)
    assert ids_of(events_of(engine, request)) == whole


def test_room_is_made_before_a_row_takes_it(house: Any) -> None:
    """G11: what is kept for reuse goes, only as much as is short; then the row ends with figures, and takes nothing."""
    others, rows = house(100, kept=100)
    row = _row(100, 400)
    row.completion_tokens = 1234
    with rows.taking(row, 150 * MB):
        assert (others.free, others.kept) == (150 * MB, 50 * MB)
    with pytest.raises(OutOfMemory) as ended, rows.taking(row, 250 * MB):
        pytest.fail("there is no room")
    said = str(ended.value)
    assert "ran out after 1,234 tokens of this answer: its keys and values need 250 MB more" in said
    assert "200 MB can be had on cpu." in said


def test_what_the_system_does_not_give_after_all_is_said_with_figures(house: Any) -> None:
    """G11: a limit that nothing tells of, memory in pieces; other errors stay what they are."""
    _, rows = house(1000)
    said = "need 10 MB more to go on, and the system did not give them, although 1.0 GB are free on cpu"
    with pytest.raises(OutOfMemory, match=said), rows.taking(_row(1, 1), 10 * MB):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
    with pytest.raises(RuntimeError, match="something else"), rows.taking(_row(1, 1), 10 * MB):
        raise RuntimeError("something else")


def test_large_buckets_grow_by_halves() -> None:
    """G11: a long row wastes a third at most."""
    wanted = [1, 256, 257, 4096, 4097, 6145, 8193, 12289, 100_000]
    assert [bucket(one) for one in wanted] == [256, 256, 512, 4096, 6144, 8192, 12288, 16384, 131072]
    assert all(bucket(one) >= one for one in range(1, 40_000, 97))


@torch.inference_mode()
def test_large_slots_are_as_many_as_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """G11: small ones double, so that rows come and go without copying; of large ones none lies empty."""
    monkeypatch.setattr(slots, "_SPARE_BYTES", 100_000)
    small, large = SlotCache(), SlotCache()
    joined = [
        (small.join(Contents([torch.zeros(3, 4)], 3)), large.join(Contents([torch.zeros(3, 100)], 3))) for _ in range(5)
    ]
    assert [one.slab.places for one in joined[0] if one.slab] == [8, 5]
    for one, other in joined[1:]:
        small.leave(one)
        large.leave(other)
    assert [one.slab.places for one in joined[0] if one.slab] == [8, 1]
    assert large.bytes() == SMALLEST_BUCKET * 100 * 4


@torch.inference_mode()
def test_places_that_nobody_is_in_make_way() -> None:
    """G11: they were made so that rows come and go without copying; whoever is there stays as it is."""
    cache = SlotCache()
    rows = [cache.join(Contents([torch.full((3, 4), float(at))], 3)) for at in range(5)]
    each = SMALLEST_BUCKET * 4 * 4
    assert (cache.bytes(), cache.empty_bytes()) == (8 * each, 3 * each)
    cache.leave(rows[0])
    assert cache.compact() == cache.bytes() == 4 * each
    assert (cache.empty_bytes(), cache.compact()) == (0, 0)
    held = [row.slab.contents(row).planes[0][:3] for row in rows[1:] if row.slab]
    assert [float(plane.mean()) for plane in held] == [1.0, 2.0, 3.0, 4.0]
    assert cache.join(Contents([torch.zeros(3, 4)], 3)).slab is rows[1].slab


@torch.inference_mode()
def test_a_slab_that_cannot_grow_loses_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """G11: whoever joins fails, whoever is there stays; so does one that cannot move, and one beside what cannot shrink."""
    monkeypatch.setattr(slots, "_SPARE_BYTES", 100_000)
    cache = SlotCache()
    planes = [torch.ones(3, 100), torch.full((3, 100), 2.0)]
    rows = [cache.join(Contents([plane * at for plane in planes], 3)) for at in range(3)]
    rows[0].length = SMALLEST_BUCKET
    original, calls = torch.Tensor.new_zeros, []

    def failing(tensor: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        calls.append(args)
        if len(calls) % 2 == 0:  # with some of the planes grown already
            raise RuntimeError("can't allocate memory")
        return original(tensor, *args, **options)

    monkeypatch.setattr(torch.Tensor, "new_zeros", failing)
    for attempt in (lambda: cache.join(Contents(planes, 3)), lambda: cache.grow(rows[0])):
        with pytest.raises(RuntimeError):
            attempt()
    cache.leave(rows[1])
    assert len(calls) == 6
    monkeypatch.undo()
    cache.grow(rows[0])
    held = {at: rows[at].slab.contents(rows[at]).planes for at in (0, 2)}  # type: ignore[union-attr]
    assert all(bool((held[at][of][:3] == at * (of + 1)).all()) for at in held for of in (0, 1))
    assert rows[0].slab is not rows[2].slab


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base of which every position takes 66 KB, and the smallest slot 17 MB."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("wide")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1536, hidden_size=64, intermediate_size=64, num_hidden_layers=4, num_attention_heads=32, head_dim=64,
        num_key_value_heads=32, max_position_embeddings=4096, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config).float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.dim() > 1 else 1)  # larger weights: clear winners instead of near ties
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(STARTER / name, folder / name)
    return folder


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalInference]:
    """An engine whose answers have no end but their length."""
    from playground.local_inference.resident import Resident

    monkeypatch.setattr(Resident, "stop_ids", lambda *args: frozenset())
    engine = LocalInference()
    yield engine
    engine.close()


def _ask(base: Path, prompt: int, tokens: int) -> GenerationRequest:
    """An answer of ``tokens`` to a prompt of as many as ``prompt`` says."""
    settings = GenerationSettings(strategy="sampling", seed=3, max_new_tokens=tokens)
    spec = ModelSpec(str(base), dtype="float32")
    return GenerationRequest(spec, prompt_ids=tuple(range(10, 10 + prompt)), settings=settings, template="raw")


def _told(engine: LocalInference, request: GenerationRequest, events: list[Any]) -> str:
    """The error that ``request`` ends with, "" for none; its ``events`` are what came before."""
    try:
        for event in engine.stream(request):
            events.append(event)
    except OutOfMemory as error:
        return str(error)
    return ""


def test_a_row_that_cannot_grow_ends_alone(wide: Path, engine: LocalInference, monkeypatch: pytest.MonkeyPatch) -> None:
    """G11: another program takes the memory meanwhile; the long answer keeps its text, the others are what they were."""
    prompts, tokens = (240, 5, 4), (100, 30, 30)
    whole = [events_of(engine, _ask(wide, prompt, 16)) for prompt in prompts]
    requests = [_ask(wide, *pair) for pair in zip(prompts, tokens, strict=True)]
    at_will = memory.device_bytes("cpu")[1]
    answers: list[list[Any]] = [[], [], []]
    said = [""] * 3
    taken = False

    def device_bytes(device: str) -> tuple[int, int]:
        return 2 * at_will, 20 * MB if taken else at_will

    def run(at: int) -> None:
        nonlocal taken
        try:
            for event in engine.stream(requests[at]):
                answers[at].append(event)
                taken = taken or (at == 0 and bool(event.tokens))
        except OutOfMemory as error:
            said[at] = str(error)

    monkeypatch.setattr(memory, "device_bytes", device_bytes)
    at_once(run, 3)
    assert re.search(r"ran out after 1\d tokens of this answer: its keys and values need 34 MB more", said[0])
    assert "20 MB can be had on cpu" in said[0]
    assert said[1:] == ["", ""]
    assert [ids_of(events)[:16] for events in answers] == [ids_of(events) for events in whole]
    assert [len(ids_of(events)) for events in answers[1:]] == [30, 30]
    assert text_of(answers[0]).startswith(text_of(whole[0])[:-1])
    monkeypatch.undo()
    assert engine.memory().kv_cache == 0


def test_a_pass_that_runs_out_ends_the_longest_answer(
    wide: Path, engine: LocalInference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G11: what a pass needs beside keys and values nobody reckons; the others go on as if nothing had been."""
    from playground.local_inference.resident import Resident

    requests = [_ask(wide, prompt, 30) for prompt in (240, 5, 4)]
    whole = [ids_of(events_of(engine, request)) for request in requests]
    original = Resident.packed_step

    def step(resident: Any, slabs: Any, *args: Any, **options: Any) -> Any:
        if any(slab.width > 250 for slab in slabs):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
        return original(resident, slabs, *args, **options)

    monkeypatch.setattr(Resident, "packed_step", step)
    answers: list[list[Any]] = [[], [], []]
    said = [""] * 3

    def run(at: int) -> None:
        said[at] = _told(engine, requests[at], answers[at])

    at_once(run, 3)
    assert [bool(one) for one in said] == [True, False, False]
    assert [ids_of(events) for events in answers] == [whole[0][:11], *whole[1:]]


def test_an_answer_that_is_too_long_for_the_memory_is_refused(wide: Path) -> None:
    """G11: with a budget for all models and answers; a shorter one is answered."""
    engine = LocalInference(memory_budget=180 * MB)
    try:
        assert _told(engine, _ask(wide, 5, 20), []) == ""
        events: list[Any] = []
        said = _told(engine, _ask(wide, 5, 2000), events)
        assert re.search(r"needs 201 MB for the keys and values of 2,048 positions \(5 of its prompt\)", said)
        assert "where models and answers may take 180 MB together" in said
        assert not text_of(events)
    finally:
        engine.close()


_RUN = """
    import json, resource, sys, threading
    import torch
    from playground.local_inference import LocalInference
    from playground.local_inference.resident import Resident
    from playground.types import GenerationRequest, GenerationSettings, ModelSpec

    Resident.stop_ids = lambda *args: frozenset()
    torch.set_num_threads(1)
    SPEC = ModelSpec(sys.argv[1], dtype="float32")
    engine = LocalInference(prefix_budget=0)
    found = {}

    def run(name, prompt, tokens):
        settings = GenerationSettings(strategy="sampling", seed=3, max_new_tokens=tokens)
        ids, text, said = [], "", ""
        try:
            for event in engine.stream(GenerationRequest(SPEC, prompt, settings=settings, template="raw")):
                ids += [token.id for token in event.tokens]
                text += event.text
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        found[name] = {"ids": ids, "text": len(text), "said": said}

    def together(jobs):
        threads = [threading.Thread(target=run, args=job) for job in jobs]
        for thread in threads: thread.start()
        for thread in threads: thread.join()

    small = [("sky", "The sky", 300), ("sun", "The sun", 100)]
    together([(f"{name} before", prompt, tokens) for name, prompt, tokens in small])
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 150_000_000, -1))
    together([("sea", "The sea", 2500), *small])
    run("after", "The sky", 40)
    print(json.dumps(found))
    engine.close()
"""


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="address space is limited so on Linux only")
def test_when_memory_really_runs_out_only_the_growing_conversation_ends(wide: Path) -> None:
    """G11, G13: the system refuses what it seemed to have; its neighbours finish, and the next one is answered."""
    command = [sys.executable, "-c", textwrap.dedent(_RUN), str(wide)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["sea"]["said"].startswith("OutOfMemory: Memory ran out after ")
    assert len(found["sea"]["ids"]) > 200
    assert found["sea"]["text"] > 0
    for name in ("sky", "sun"):
        assert found[name] == found[f"{name} before"]
        assert not found[name]["said"]
    assert not found["after"]["said"]
    assert found["after"]["ids"] == found["sky"]["ids"][:40]
