"""What the history does with Python's garbage collector, and what it must not do to everybody else's garbage."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from playground import store as store_module
from playground.store import Store
from playground.store.garbage import uncollected
from tests.store.sayings import talk


class Model:
    """As models are: made of parts that know it."""

    def __init__(self) -> None:
        self.whole = self


def test_what_is_unloaded_after_a_large_history_was_opened_leaves_the_memory(folder, monkeypatch):
    """F2, A4: only what was there by then is left alone, and no model is."""
    store = Store.open(folder)
    store.conversations.put(talk("Hi"))
    store.close()
    monkeypatch.setattr(store_module, "LARGE", 1)
    store = Store.open(folder)
    try:
        assert gc.get_freeze_count() > 0
        model = Model()
        loaded = weakref.ref(model)
        del model
        gc.collect()
        assert loaded() is None
    finally:
        gc.unfreeze()
        store.close()


def test_the_collector_runs_again_when_the_last_one_has_left():
    """F2: imports and exports overlap."""
    both = Barrier(2)

    def work() -> bool:
        with uncollected():
            both.wait(10)
            return gc.isenabled()

    with ThreadPoolExecutor(2) as pool:
        assert [pool.submit(work), pool.submit(work)][0].result() is False
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off():
    """F2: whoever turned it off had a reason."""
    gc.disable()
    try:
        with uncollected(), uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
