"""What is in memory, whose it is and when it goes: with stand-ins for residents, no torch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from playground.local_inference.adapters import place
from playground.local_inference.cache import Residents
from playground.types import ModelSpec


class Held:
    """A resident that is there at once and has no adapters."""

    def __init__(self, spec: ModelSpec, path: str, *, stored: str = "") -> None:
        self.base, self.asked, self.damaged = spec.base, spec, False
        self.adapters: dict[str, Any] = {}
        self.pins = 0
        dtype = "auto" if stored else "float32" if spec.dtype == "auto" else spec.dtype
        quantization = stored or ("nf4" if spec.quantization == "int4" else spec.quantization)
        plan = SimpleNamespace(
            device="cpu" if spec.device == "auto" else spec.device,
            dtype=dtype,
            quantization="none" if quantization == "auto" else quantization,
            stored=bool(stored),
        )
        self.loaded = SimpleNamespace(path=Path(path), plan=plan, is_current=True)

    def pin(self, by: int) -> None:
        self.pins += by

    def apply(self, spec: ModelSpec) -> Any:
        return ()


class Shelf:
    """`Residents` over stand-ins, and what was loaded."""

    def __init__(self, keep_alive: float = 0.0, stored: str = "", slow: Callable[[], None] = lambda: None) -> None:
        self.loads: list[ModelSpec] = []
        self.dropped: list[list[Any]] = []
        self.places: dict[str, str] = {}
        self._stored, self._slow = stored, slow
        self.residents = Residents(self._load, self._attach, self.locate, keep_alive, self.dropped.append)

    def locate(self, base: str) -> str:
        return self.places.get(base, base)

    @contextmanager
    def _load(self, spec: ModelSpec, report: Any) -> Iterator[Held]:
        self.loads.append(spec)
        self._slow()
        yield Held(spec, self.locate(spec.base), stored=self._stored)

    def _attach(self, resident: Any, path: str, report: Any) -> Any:
        raise AssertionError("no adapters here")

    def get(self, base: str, **options: Any) -> Any:
        """The resident for a request, pinned as by a row."""
        spec = ModelSpec(base, **options)
        found = self.residents.ready(spec)
        return (found or self.residents.prepare(spec, lambda status: None).result(5)).resident


def _wait_until(condition: Callable[[], bool], limit_s: float = 5.0) -> bool:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.005)
    return condition()


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({}, True),
        ({"dtype": "float32"}, True),
        ({"dtype": "bfloat16"}, False),
        ({"quantization": "none"}, True),
        ({"quantization": "nf4"}, False),
        ({"device": "cpu"}, True),
        ({"device": "cuda"}, False),
    ],
    ids=str,
)
def test_the_key_is_place_dtype_quantization_and_device(options: dict[str, str], same: bool) -> None:
    """G1: auto takes what is there."""
    shelf = Shelf()
    assert (shelf.get("one") is shelf.get("one", **options)) is same


def test_int4_and_nf4_are_one_entry() -> None:
    """G8: int4 means nf4; cuda means the first of them."""
    shelf = Shelf()
    assert shelf.get("one", quantization="int4") is shelf.get("one", quantization="nf4")
    held = shelf.get("one", device="cuda:0")
    assert shelf.get("one", device="cuda") is held
    assert shelf.get("one", device="cuda:1") is not held


@pytest.mark.parametrize("options", [{"quantization": "none"}, {"quantization": "nf4"}, {"dtype": "bfloat16"}], ids=str)
def test_a_checkpoint_stored_quantized_is_one_entry_however_it_is_asked_for(options: dict[str, str]) -> None:
    """G1, G8: it can only be loaded as it is stored, so it is not loaded once more for every request."""
    shelf = Shelf(stored="nf4")
    assert shelf.get("one") is shelf.get("one", **options)


def test_two_names_of_one_place_are_one_entry() -> None:
    """G1: a hub id, the same id with its revision, and the snapshot's own folder."""
    shelf = Shelf()
    shelf.places = {"org/name": "/hub/abc", "org/name@main": "/hub/abc", "/hub/abc": "/hub/abc"}
    assert len({shelf.get(name) for name in shelf.places}) == 1


def test_a_hub_id_that_has_moved_on_is_another_entry_and_both_unload_by_name() -> None:
    """G1: hub id + revision."""
    shelf = Shelf()
    shelf.places = {"org/name": "/hub/abc"}
    old = shelf.get("org/name")
    shelf.places = {"org/name": "/hub/def"}
    new = shelf.get("org/name")
    assert new is not old
    shelf.places = {}  # the hub's cache was deleted under the running app
    assert set(shelf.residents.find("org/name")) == {old, new}


def test_a_hub_id_is_found_while_it_is_nowhere_on_disk() -> None:
    """G1: what is in memory answers; its files need not be there any more."""
    shelf = Shelf()
    assert shelf.get("org/name") is shelf.get("org/name")


def test_a_damaged_resident_is_never_given_out() -> None:
    """G2: the next request loads the base anew."""
    shelf = Shelf()
    first = shelf.get("one")
    first.damaged = True
    assert shelf.get("one") is not first
    assert first not in shelf.residents.all()


def test_a_base_whose_files_were_replaced_is_read_again_and_the_old_one_goes_when_its_rows_end() -> None:
    """G1: new adapters on an old base would answer nonsense."""
    shelf = Shelf()
    old = shelf.get("one")
    old.loaded.is_current = False
    new = shelf.get("one")
    assert new is not old
    assert shelf.residents.all() == [old, new]
    old.pin(-1)
    assert shelf.get("one") is new
    assert shelf.residents.all() == [new]


def test_the_idle_one_unused_for_longest_goes_first() -> None:
    """G1: LRU; what is pinned is not among them, and a long answer counts as use until its end."""
    shelf = Shelf()
    a, b, c = (shelf.get(name) for name in "abc")
    for held in (b, c):
        held.pin(-1)
    shelf.get("b").pin(-1)
    assert shelf.residents.idle() == [c, b]
    a.pin(-1)
    assert shelf.residents.idle()[-1] is a
    assert shelf.residents.evict(lambda held: held is not c) == [b]
    assert shelf.residents.evict(lambda held: True) == [c]
    shelf.get("a")
    assert shelf.residents.evict(lambda held: True) == []
    assert shelf.residents.all() == [a]


def test_taking_a_base_takes_all_of_it_or_nothing() -> None:
    """G1: unload is refused while one of two formats is answering, and the other one stays."""
    shelf = Shelf()
    plain, small = shelf.get("one"), shelf.get("one", quantization="nf4")
    small.pin(-1)
    assert shelf.residents.take("one") == ([], 1)
    assert shelf.residents.all() == [plain, small]
    plain.pin(-1)
    assert shelf.residents.take("one") == ([plain, small], 0)
    assert shelf.residents.take("one") == ([], 0)


def test_two_first_requests_load_once_and_different_bases_side_by_side() -> None:
    """G1: single flight; a slow load of one base holds up no other."""
    go_on = threading.Event()
    shelf = Shelf(slow=lambda: go_on.wait(5) and None)
    futures = [shelf.residents.prepare(ModelSpec(name), lambda status: None) for name in ("one", "one", "two")]
    assert _wait_until(lambda: len(shelf.loads) == 2)
    go_on.set()
    first, second, other = (future.result(5).resident for future in futures)
    assert first is second is not other
    assert first.pins == 2
    assert sorted(spec.base for spec in shelf.loads) == ["one", "two"]


def test_an_idle_model_is_dropped_after_its_time_and_not_before() -> None:
    """G1: keep_alive; the thread that watches ends with the last model."""
    before = threading.active_count()
    shelf = Shelf(keep_alive=0.3)
    held = shelf.get("one")
    held.pin(-1)
    left = time.monotonic()
    assert _wait_until(lambda: not shelf.residents.all())
    assert 0.25 < time.monotonic() - left < 2
    assert _wait_until(lambda: shelf.dropped == [[held]])
    assert _wait_until(lambda: threading.active_count() <= before)
    shelf.get("one").pin(-1)
    assert _wait_until(lambda: not shelf.residents.all())


def test_a_model_in_use_stays_and_its_time_begins_when_it_is_left() -> None:
    """G1: an answer that takes longer than keep_alive, and asking again, keep it."""
    shelf = Shelf(keep_alive=1.0)
    held = shelf.get("one")
    time.sleep(1.2)
    assert shelf.residents.all() == [held]
    held.pin(-1)
    for _ in range(3):
        time.sleep(0.4)
        assert shelf.get("one") is held
        held.pin(-1)
    shelf.residents.close()


def test_without_keep_alive_nothing_is_dropped_and_no_thread_waits() -> None:
    """G1: the default."""
    before = threading.active_count()
    shelf = Shelf()
    shelf.get("one").pin(-1)
    assert _wait_until(lambda: threading.active_count() <= before)
    assert len(shelf.residents.all()) == 1


def test_a_request_of_that_very_moment_keeps_its_model_or_gets_a_new_one() -> None:
    """G1: whoever got a resident has it until the row ends, however often the watch looks."""
    shelf = Shelf(keep_alive=0.02)
    end = time.monotonic() + 0.7
    wrong: list[Any] = []

    def ask() -> None:
        while time.monotonic() < end:
            held = shelf.get("one")
            time.sleep(0.002)
            if held not in shelf.residents.all():
                wrong.append(held)
            held.pin(-1)
            time.sleep(0.021)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert _wait_until(lambda: not shelf.residents.all())


def test_closing_ends_the_watch() -> None:
    """S5: no thread behind."""
    before = threading.active_count()
    shelf = Shelf(keep_alive=3600)
    shelf.get("one")
    shelf.residents.close()
    assert _wait_until(lambda: threading.active_count() <= before)


# Adapters, and what is on its way.


def _with_adapters(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let adapters be attached: each is its own path."""
    monkeypatch.setattr(Held, "apply", lambda self, spec: None if _lacks(self, spec) else tuple(spec.adapters))
    monkeypatch.setattr(shelf.residents, "_attach", lambda resident, path, report: f"attached {path}")


def _lacks(held: Held, spec: ModelSpec) -> bool:
    return any(place(path) not in held.adapters for path, _ in spec.adapters)


def test_the_idle_adapter_unused_for_longest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """G1: those that rows need stay, and asking again counts as use."""
    shelf = Shelf()
    _with_adapters(shelf, monkeypatch)
    for name in ("/a", "/b", "/c", "/a"):
        held = shelf.get("one", adapters=((name, 1.0),))
    assert shelf.residents.idle_adapters() == [(held, "/b"), (held, "/c"), (held, "/a")]
    assert shelf.residents.drop_adapter(lambda one: False) is None
    assert shelf.residents.drop_adapter(lambda one: True, needed={"attached /b"}) == (held, "attached /c")
    assert set(held.adapters) == {"/a", "/b"}
    assert shelf.residents.drop_adapter(lambda one: one is held) == (held, "attached /b")
    assert shelf.residents.drop_adapter(lambda one: True, needed={"attached /a"}) is None


def test_adapters_that_are_just_being_attached_are_not_dropped_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """G1: else a mix of two would never come together where there is room for one."""
    shelf = Shelf()
    _with_adapters(shelf, monkeypatch)
    shelf.get("one", adapters=(("/old", 1.0),))
    seen: list[list[tuple[Any, str]]] = []

    def attach(resident: Any, path: str, report: Any) -> str:
        seen.append(shelf.residents.idle_adapters())
        return f"attached {path}"

    monkeypatch.setattr(shelf.residents, "_attach", attach)
    held = shelf.get("one", adapters=(("/a", 1.0), ("/b", 1.0)))
    assert seen == [[(held, "/old")]] * 2
    assert len(shelf.residents.idle_adapters()) == 3


@pytest.mark.parametrize("pinned", [True, False])
def test_a_base_that_is_only_being_loaded_is_settling_until_nobody_holds_it(
    monkeypatch: pytest.MonkeyPatch, pinned: bool
) -> None:
    """G1: whoever needs its room waits for that moment; one that a row will use is in use already."""
    shelf = Shelf()
    _with_adapters(shelf, monkeypatch)
    during: list[tuple[list[Any], list[Any]]] = []

    def attach(resident: Any, path: str, report: Any) -> str:
        during.append((shelf.residents.settling(), shelf.residents.idle()))
        return f"attached {path}"

    monkeypatch.setattr(shelf.residents, "_attach", attach)
    spec = ModelSpec("one", adapters=(("/a", 1.0),))
    held = shelf.residents.prepare(spec, lambda status: None, pinned=pinned).result(5).resident
    assert during == [([] if pinned else [held], [])]
    assert (shelf.residents.settling(), shelf.residents.idle()) == ([], [] if pinned else [held])
    assert held.pins == int(pinned)
    found = shelf.residents.ready(spec, pinned=False)
    assert found is not None
    assert held.pins == int(pinned)


def test_a_preparation_that_fails_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """G1: neither the base nor its adapters."""
    shelf = Shelf()
    monkeypatch.setattr(Held, "apply", lambda self, spec: None if spec.adapters else ())

    def attach(resident: Any, path: str, report: Any) -> str:
        raise KeyError("half an adapter")

    monkeypatch.setattr(shelf.residents, "_attach", attach)
    spec = ModelSpec("one", adapters=(("/a", 1.0),))
    for pinned in (True, False):
        future = shelf.residents.prepare(spec, lambda status: None, pinned=pinned)
        with pytest.raises(KeyError, match="half an adapter"):
            future.result(5)
    (held,) = shelf.residents.all()
    assert (held.pins, shelf.residents.settling(), shelf.residents._preparing) == (0, [], [])
