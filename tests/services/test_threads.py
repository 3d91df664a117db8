"""Blocking work beside an event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from playground.services.threads import in_own_thread


def test_many_who_wait_hold_up_nobody():
    """P3: more people wait for their loads than the event loop has threads of its own, and the next one is served."""

    async def run() -> str:
        release = threading.Event()
        waiting = [asyncio.create_task(in_own_thread(release.wait, "wait")) for _ in range(50)]
        await asyncio.sleep(0)
        served = await asyncio.wait_for(asyncio.to_thread(lambda: "served"), timeout=5)
        release.set()
        assert all(await asyncio.gather(*waiting))
        return served

    assert asyncio.run(run()) == "served"


def test_what_the_work_raises_reaches_whoever_waits():
    """G6: nothing is lost in a thread."""

    async def run() -> None:
        await in_own_thread(lambda: {}["nothing"], "fail")

    with pytest.raises(KeyError):
        asyncio.run(run())


def test_who_stops_waiting_leaves_the_work_running():
    """P1: a load goes on for the others."""
    finished = threading.Event()
    release = threading.Event()

    def work() -> None:
        release.wait()
        finished.set()

    async def run() -> None:
        task = asyncio.create_task(in_own_thread(work, "work"))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(run())
    assert not finished.is_set()
    release.set()
    assert finished.wait(5)
