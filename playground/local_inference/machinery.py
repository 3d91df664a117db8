"""What the engine's face drives once a model is needed: residents, step loop and compute thread. Imports torch."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial
from typing import Any

from playground.errors import EngineFailure, ModelBusy, ModelNotLoaded
from playground.local_inference import memory
from playground.local_inference.admission import prepare_row
from playground.local_inference.cache import Prepared, Report, Residents
from playground.local_inference.engine import ComputeThread, StepLoop
from playground.local_inference.loading import asking, leave_files, locate, mapped_bytes
from playground.local_inference.resident import Attached, Resident, load_resident, read_adapter
from playground.local_inference.row import Row
from playground.types import ModelSpec

# How often a waiting unload looks whether the last row has ended.
_LOOK_S = 0.02
# Collecting garbage takes a third of a second; a base of fewer bytes than this leaves too little behind to be worth it.
_WORTH_COLLECTING = 50_000_000


class Machinery:
    """The parts behind `LocalInference`, made once. ``memory_budget`` and ``keep_alive`` are explained there."""

    def __init__(self, memory_budget: float = 0.0, keep_alive: float = 0.0) -> None:
        self.loop = StepLoop()
        self.thread = ComputeThread(self.loop)
        self.residents = Residents(self._load, self._attach, locate, keep_alive, self._after_dropping)
        self._room = memory.Room(memory_budget, _Tenants(self))

    def admit(self, row: Row, prepared: Prepared) -> None:
        """Render ``row``'s prompt and put it in line. Raises what rendering raises."""
        prepare_row(row, prepared)
        self.loop.scheduler.add(row)
        self.thread.wake()

    def compute(self, job: Any) -> Any:
        """Run ``job`` on the compute thread between steps, and return its result. Raises `EngineFailure` after `close`."""
        future = self.loop.run(job)
        self.thread.wake()
        while True:
            try:
                return future.result(timeout=1.0)
            except FutureTimeout:
                if future.done():
                    raise
                if not self.thread.running:
                    raise EngineFailure("The app is shutting down.", "Start it again.") from None

    def unload(self, base: str, wait_s: float = 0.0) -> int:
        """Drop every resident of ``base``, all or none; returns bytes that came back, measured.

        Rows that need one are waited for, ``wait_s`` seconds at most. Raises `ModelNotLoaded` or `ModelBusy`.
        """
        deadline = time.monotonic() + wait_s
        taken, rows = self.residents.take(base)
        while rows and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
            taken, rows = self.residents.take(base)
        if rows:
            waited = f" still, after {wait_s:g} s" if wait_s else ""
            raise ModelBusy(
                f"{base!r} is answering {rows} request{'s' * (rows > 1)}{waited}.",
                "Stop them, or wait until they are done.",
            )
        if not taken:
            raise ModelNotLoaded(f"{base!r} is not loaded.", "There is nothing to unload.")
        devices = {resident.loaded.plan.device for resident in taken}
        before = {device: _in_use(device) for device in devices}
        self._let_go(taken)
        return sum(max(0, before[device] - _in_use(device)) for device in devices)

    def _let_go(self, residents: list[Resident]) -> None:
        """Empty ``residents``, and return their memory to the system once the step at hand has let go of what it used."""
        for device in {resident.loaded.plan.device for resident in residents}:
            self.compute(partial(memory.give_back, device, residents.clear))

    def close(self) -> None:
        """Stop computing."""
        self.residents.close()
        self.thread.close()

    @contextlib.contextmanager
    def _load(self, spec: ModelSpec, report: Report) -> Iterator[Resident]:
        """A block with ``spec``'s base in memory; the room that was made for it is reserved until the block ends."""
        with self._room.ticket() as ticket:
            with asking(ticket):
                resident = load_resident(spec, report)
            self.compute(resident.try_out)
            leave_files(resident.model)
            if (
                resident.loaded.bytes > _WORTH_COLLECTING
            ):  # what only reading took, so that what is free can be measured
                memory.give_back(resident.loaded.plan.device)
            yield resident

    def _attach(self, resident: Any, path: str, report: Report) -> Attached:
        attached = read_adapter(resident, path, report)
        return self.compute(lambda: resident.prove(attached))  # type: ignore[no-any-return]

    def evict(self, of: Callable[[Any], bool]) -> str:
        """Drop the idle resident unused for longest, of those that ``of`` picks; its name, or "" where there is none."""
        gone = self.residents.evict(of)
        if not gone:
            return ""
        name = str(gone[0].base)
        self._let_go(gone)
        return os.path.basename(name) if os.path.isabs(name) else name

    def _after_dropping(self, gone: list[Any]) -> None:
        with contextlib.suppress(EngineFailure):  # the app is shutting down: all memory goes back
            self._let_go(gone)


class _Tenants:
    """The residents, as those who ask for room need to know them."""

    def __init__(self, machinery: Machinery) -> None:
        self._machinery = machinery

    def held(self, device: str) -> int:
        """Bytes of weights, adapters, keys and values in this memory."""
        return sum(_bytes(resident) for resident in self._at(device, self._machinery.residents.all()))

    def idle(self, device: str) -> int:
        """Bytes of those that no row needs."""
        return sum(_bytes(resident) for resident in self._at(device, self._machinery.residents.idle()))

    def mapped(self, device: str) -> int:
        """Bytes of weights that are mapped from their files: no memory to the system, but what every token reads."""
        return sum(mapped_bytes(resident.model) for resident in self._at(device, self._machinery.residents.all()))

    def evict(self, device: str) -> str:
        """Drop the one unused for longest; its name, or "" where all are in use."""
        return self._machinery.evict(lambda held: memory.same_memory(held.loaded.plan.device, device))

    @staticmethod
    def _at(device: str, residents: list[Resident]) -> list[Resident]:
        return [resident for resident in residents if memory.same_memory(resident.loaded.plan.device, device)]


def _bytes(resident: Resident) -> int:
    adapters = sum(attached.info.bytes for attached in list(resident.adapters.values()))
    return int(resident.loaded.bytes + adapters + resident.slots.bytes())


def _in_use(device: str) -> int:
    """Bytes that are taken, where unloading from ``device`` would show."""
    if device.startswith("cuda"):
        total, free = memory.device_bytes(device)
        return total - free
    return memory.process_bytes()
