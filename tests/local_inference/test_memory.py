"""Who may take what memory, decided before anything is read; figures by hand, no model."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from playground.errors import OutOfMemory
from playground.local_inference import memory
from playground.local_inference.memory import Need, Room, same_memory, size_text
from playground.types import Status

GB = 1_000_000_000
MARGIN = GB // 2


class Models:
    """Models in memory by name: bytes, and whether a row needs them. Dropping one makes its bytes free.

    The one called "settling" is in use until somebody waits for it.
    """

    def __init__(self, free: int, mapped: int = 0, **models: tuple[int, bool]) -> None:
        self.free, self.models, self._mapped = free, dict(models), mapped
        self.asked: list[int] = []
        self.rows = 0  # what those that are answered may yet take

    def device_bytes(self, device: str) -> tuple[int, int]:
        return 10 * GB, self.free

    def held(self, device: str) -> int:
        return sum(size for size, _ in self.models.values())

    def idle(self, device: str) -> int:
        return sum(size for size, busy in self.models.values() if not busy)

    def promised(self, device: str) -> int:
        return self.rows

    def settling(self, device: str) -> int:
        size, busy = self.models.get("settling", (0, False))
        self.models |= {"settling": (size, False)} if size else {}
        return size if busy else 0

    def mapped(self, device: str) -> int:
        return self._mapped

    def evict(self, device: str, short: int) -> str:
        self.asked.append(short)
        name = next((name for name, (_, busy) in self.models.items() if not busy), "")
        self.free += self.models.pop(name, (0, False))[0]
        return name


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Models, Room]]:
    """``house(free, budget, name=(bytes, busy))``: a device of 10 GB, half a GB of it the margin."""

    def make(free: int, budget: float = 0.0, mapped: int = 0, **models: tuple[int, bool]) -> tuple[Models, Room]:
        tenants = Models(free, mapped, **models)
        monkeypatch.setattr(memory, "device_bytes", tenants.device_bytes)
        monkeypatch.setattr(memory, "give_back", lambda device: None)  # nothing here was taken
        return tenants, Room(budget, tenants)

    return make


def _silent(status: Status) -> None:
    """Progress that nobody asked for."""


def _needs(*sizes: int) -> Callable[[int], tuple[int, Need]]:
    """A base that could be loaded with each of these needs, the first one that fits being the choice."""

    def choose(available: int) -> tuple[int, Need]:
        size = next((size for size in sizes if size <= available), min(sizes))
        return size, Need("float32, unquantized", 0, reading=size, remedy="Buy memory.")

    return choose


def test_what_fits_drops_nobody(house: Any) -> None:
    """G1."""
    models, room = house(3 * GB, old=(GB, False))
    assert room.ticket().reserve("cpu", _needs(2 * GB), _silent) == 2 * GB
    assert set(models.models) == {"old"}


def test_idle_models_make_way_the_oldest_first_and_only_as_many_as_needed(house: Any) -> None:
    """G1: least recently used first; who loads is told."""
    models, room = house(GB + MARGIN, first=(GB, False), second=(GB, False), third=(GB, False))
    told: list[str] = []
    room.ticket().reserve("cpu", _needs(3 * GB), lambda status: told.append(status.detail))
    assert set(models.models) == {"third"}
    assert [detail.split(",")[0] for detail in told] == ["unloaded first", "unloaded second"]


def test_a_model_in_use_is_never_dropped(house: Any) -> None:
    """G1: pinned; the error has all figures and nobody idle was dropped in vain."""
    models, room = house(2 * GB, busy=(3 * GB, True), idle=(GB, False))
    with pytest.raises(OutOfMemory) as refused:
        room.ticket().reserve("cpu", _needs(4 * GB), _silent)
    assert set(models.models) == {"busy", "idle"}
    said = str(refused.value)
    assert "needs 4.0 GB" in said
    assert "2.5 GB can be had on cpu" in said
    assert "2.0 GB of its 10.0 GB are free" in said
    assert "hold 4.0 GB, 3.0 GB of that in use" in said
    assert said.endswith("Buy memory.")


def test_idle_models_count_as_room_before_a_smaller_format_is_chosen(house: Any) -> None:
    """G8: nobody is quantized for the sake of a model that nobody uses."""
    models, room = house(GB + MARGIN, idle=(3 * GB, False))
    assert room.ticket().reserve("cpu", _needs(4 * GB, GB), _silent) == 4 * GB
    assert not models.models


@pytest.mark.parametrize(("budget", "fits"), [(5 * GB, True), (0.5, True), (4 * GB, False), (0.4, False), (0, True)])
def test_a_budget_is_bytes_or_a_share(house: Any, budget: float, fits: bool) -> None:
    """G1: for all models together, however much is free."""
    _, room = house(6 * GB, budget, busy=(3 * GB, True))
    if fits:
        room.ticket().reserve("cpu", _needs(2 * GB), _silent)
        return
    with pytest.raises(OutOfMemory, match=r"of which models may take 4\.0 GB"):
        room.ticket().reserve("cpu", _needs(2 * GB), _silent)


def test_mapped_weights_are_not_free_though_the_system_says_so(house: Any) -> None:
    """G1: a bf16 checkpoint stays in its file, and every token reads it."""
    _, room = house(3 * GB, mapped=2 * GB, busy=(2 * GB, True))
    with pytest.raises(OutOfMemory):
        room.ticket().reserve("cpu", _needs(GB), _silent)


def test_what_rows_may_yet_take_is_not_free(house: Any) -> None:
    """G11: a model that is loaded beside growing answers leaves them what they were promised; the error says so."""
    models, room = house(3 * GB + MARGIN, busy=(GB, True))
    models.rows = 2 * GB
    with room.ticket() as ticket:
        assert ticket.reserve("cpu", _needs(GB), _silent) == GB
    with pytest.raises(OutOfMemory, match=r"The answers under way may take 2\.0 GB more\."):
        room.ticket().reserve("cpu", _needs(2 * GB), _silent)


def test_what_is_left_for_rows(house: Any) -> None:
    """G11: within the budget; less what loads have reserved and the margin, but where a row must grow."""
    models, room = house(4 * GB + MARGIN, 0.6, mapped=GB, busy=(2 * GB, True))
    assert room.left("cpu") == 3 * GB
    assert room.left("cpu", share=0.5) == 1.5 * GB
    assert room.left("cpu", margin=False) == 3 * GB + MARGIN
    with room.ticket() as ticket:
        ticket.reserve("cpu", _needs(GB), _silent)
        assert room.left("cpu") == 2 * GB
        assert room.left("cpu", loads=False) == 3 * GB
        models.rows = GB
        assert room.spare("cpu") == GB
    models.models["large"] = (5 * GB, True)
    assert room.left("cpu") == -GB, "it is overdrawn"
    assert room.limit("cpu") == 6 * GB
    assert house(GB)[1].limit("cpu") is None


def test_idle_memory_that_does_not_come_is_not_waited_for_in_a_spin(
    house: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G1: what was idle may be in use again before it could be dropped; then it is looked at anew, and refused."""
    models, room = house(GB + MARGIN, idle=(2 * GB, False))

    def taken(device: str, short: int) -> str:
        models.asked.append(short)
        if len(models.asked) == 3:
            models.models["idle"] = (2 * GB, True)
        return ""

    monkeypatch.setattr(models, "evict", taken)
    with pytest.raises(OutOfMemory):
        room.ticket().reserve("cpu", _needs(3 * GB), _silent)
    assert len(models.asked) == 3


def test_two_loads_do_not_both_count_the_same_free_memory(house: Any) -> None:
    """G1: the second waits for the first, and takes what is then left, or is refused."""
    models, room = house(3 * GB + MARGIN)
    first = room.ticket()
    with first:
        first.reserve("cpu", _needs(2 * GB), _silent)
        waiting, ended = threading.Event(), []

        def second() -> None:
            try:
                with room.ticket() as ticket:
                    ended.append(ticket.reserve("cpu", _needs(2 * GB), lambda status: waiting.set()))
            except OutOfMemory as error:
                ended.append(error)

        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(5)
        assert not ended
        models.free -= 2 * GB  # what the first one took
        models.models["first"] = (2 * GB, True)
    thread.join(5)
    assert len(ended) == 1
    assert isinstance(ended[0], OutOfMemory)


def test_a_load_that_waited_goes_on_when_the_other_one_failed(house: Any) -> None:
    """G1: a reservation ends with its load, whatever became of it."""
    _, room = house(3 * GB + MARGIN)
    waiting, got = threading.Event(), []
    thread = threading.Thread(
        target=lambda: got.append(room.ticket().reserve("cpu", _needs(2 * GB), lambda status: waiting.set()))
    )

    def failing_load() -> None:
        with room.ticket() as ticket:
            ticket.reserve("cpu", _needs(2 * GB), _silent)
            thread.start()
            assert waiting.wait(5)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing_load()
    thread.join(5)
    assert got == [2 * GB]


def test_a_model_that_will_be_idle_in_a_moment_is_waited_for(house: Any) -> None:
    """G1: it has just been loaded, and whoever loaded it has not let go of it yet."""
    models, room = house(GB + MARGIN, settling=(2 * GB, True), busy=(GB, True))
    with pytest.raises(OutOfMemory):
        room.ticket().reserve("cpu", _needs(4 * GB), _silent)
    models.models["settling"] = (2 * GB, True)
    assert room.ticket().reserve("cpu", _needs(3 * GB), _silent) == 3 * GB
    assert set(models.models) == {"busy"}


def test_who_makes_way_hears_how_much_is_needed(house: Any) -> None:
    """G1: an adapter goes where adapters are enough, and a model only where they are not."""
    models, room = house(GB + MARGIN, idle=(2 * GB, False))
    room.ticket().reserve("cpu", _needs(2 * GB), _silent)
    assert models.asked == [GB]


def test_an_adapter_may_take_of_the_margin_and_waits_for_nobody(house: Any) -> None:
    """G1: it joins a model that is in memory; what it waits for may be waiting for its own base."""
    _, room = house(MARGIN, settling=(2 * GB, True))
    with room.ticket(beside=True) as ticket:
        ticket.reserve("cpu", _needs(MARGIN), _silent)
        with pytest.raises(OutOfMemory):
            room.ticket(beside=True).reserve("cuda:0", _needs(2 * GB), _silent)


def test_what_is_spread_takes_room_in_every_memory(house: Any) -> None:
    """G8: reserved in each, and refused where one has not enough."""

    def spread(here: int, there: int) -> Callable[[int], tuple[int, Need]]:
        need = Need("bfloat16, unquantized, spread", 0, reading=here, elsewhere=(("cpu", there),))
        return lambda available: (here, need)

    _, room = house(3 * GB + MARGIN)
    with room.ticket() as ticket:
        assert ticket.available("cpu") == 3 * GB
        ticket.reserve("cuda:0", spread(GB, 2 * GB), _silent)
        assert ticket.available("cpu") == GB
        assert ticket.available("cuda:0") == 2 * GB
        assert ticket.available("cuda:1") == 3 * GB
    with pytest.raises(OutOfMemory):
        room.ticket().reserve("cuda:0", spread(GB, 4 * GB), _silent)


def test_what_is_only_kept_is_tidied_up_before_anybody_is_dropped(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """G1: freed memory that glibc or a GPU's cache has not given back yet is room too."""
    models, room = house(GB, idle=(GB, False))
    monkeypatch.setattr(memory, "give_back", lambda device: setattr(models, "free", 4 * GB))
    room.ticket().reserve("cpu", _needs(2 * GB), _silent)
    assert set(models.models) == {"idle"}


def test_another_gpu_has_memory_of_its_own() -> None:
    """G1: only what lies in the same memory makes way."""
    assert same_memory("cuda:0", "cuda:0")
    assert same_memory("cpu", "mps")
    assert not same_memory("cuda:0", "cuda:1")
    assert not same_memory("cuda:0", "cpu")


def test_a_need_says_what_it_is_made_of() -> None:
    """G8: weights, a conversation, logits and 15 %; or what reading takes, where that is more."""
    steady = Need("bfloat16, unquantized", 2 * GB, row=100_000_000, logits=20_000_000)
    assert steady.total == int(2.12 * GB * 1.15)
    assert str(steady).startswith("2.4 GB (2.0 GB of weights as bfloat16, unquantized, the rest for a conversation's")
    reading = Need("float32, nf4", 500_000_000, reading=2 * GB)
    assert reading.total == 2.5 * GB
    assert str(reading) == "2.5 GB (500 MB of weights as float32, nf4, 2.0 GB more while they are read)"
    assert size_text(999_999) == "1 MB"


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/", {"memory.max": "4000"}, 4000),
        ("0::/a/b", {"a/b/memory.max": "max", "a/memory.max": "5000", "memory.max": "6000"}, 5000),
        ("0::/elsewhere", {"memory.max": "max"}, None),
        ("4:memory:/docker/x\n0::/", {"memory/memory.limit_in_bytes": "7000"}, 7000),
        ("", {}, None),
    ],
)
def test_the_tightest_limit_of_the_control_groups_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, files: dict[str, str], expected: int | None
) -> None:
    """G12: in a container, in a service with MemoryMax, under both versions."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    original = memory._content
    monkeypatch.setattr(memory, "_LIMIT_STANDS_S", 1e-9)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(
        memory, "_content", lambda path: groups if path == Path("/proc/self/cgroup") else original(path)
    )
    assert memory._cgroup_limit() == expected


def test_a_limit_is_looked_up_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """G12: what is free is looked at each time; a limit that somebody sets meanwhile counts soon."""
    now, limits = [1000.2], ["7000"]
    monkeypatch.setattr(memory, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(memory, "_limit_files", lambda: [Path("limit")])
    monkeypatch.setattr(memory, "_content", lambda path: limits.pop(0))
    assert [memory._cgroup_limit() for _ in range(3)] == [7000] * 3
    limits.append("5000")
    now[0] += 1
    assert [memory._cgroup_limit() for _ in range(3)] == [5000] * 3


def test_a_container_has_what_its_limit_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """G12: total is the limit, free what this process has not taken of it."""
    monkeypatch.setattr(memory, "_cgroup_limit", lambda: 2 * GB)
    monkeypatch.setattr(memory, "_own_bytes", lambda: GB // 2)
    total, free = memory.device_bytes("cpu")
    assert total == 2 * GB
    assert 0 < free <= 1.5 * GB


def test_mapped_files_are_found_by_address(tmp_path: Path) -> None:
    """G1: on Linux; elsewhere nothing is said to be mapped."""
    import mmap
    import sys

    (tmp_path / "a.safetensors").write_bytes(b"x" * 8192)
    with (tmp_path / "a.safetensors").open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ):
        sizes = [end - start for start, end in memory.mapped_files(f"{tmp_path.name}/a.safetensors")]
        assert sizes == ([8192] if sys.platform.startswith("linux") else [])
    assert memory.mapped_files(f"{tmp_path.name}/a.safetensors") == []
