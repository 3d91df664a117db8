"""What the engine's face drives once a model is needed: residents, step loop and compute thread. Imports torch."""

from __future__ import annotations

from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from playground.errors import EngineFailure, ModelBusy, ModelNotLoaded
from playground.local_inference import memory
from playground.local_inference.admission import prepare_row
from playground.local_inference.cache import Prepared, Report, Residents
from playground.local_inference.engine import ComputeThread, StepLoop
from playground.local_inference.resident import Attached, Resident, load_resident, read_adapter
from playground.local_inference.row import Row
from playground.types import ModelSpec


class Machinery:
    """The parts behind `LocalInference`, made once."""

    def __init__(self) -> None:
        self.loop = StepLoop()
        self.thread = ComputeThread(self.loop)
        self.residents = Residents(self._load, self._attach)

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

    def unload(self, base: str) -> int:
        """Drop every resident of ``base``; returns bytes that came back, measured. Raises `ModelBusy`."""
        found = self.residents.find(base)
        if not found:
            raise ModelNotLoaded(f"{base!r} is not loaded.", "There is nothing to unload.")
        busy = sum(resident.pins for resident in found)
        if busy:
            raise ModelBusy(f"{base!r} is answering {busy} request(s).", "Stop them, or wait until they are done.")
        device = found[0].loaded.plan.device
        _, free_before = memory.device_bytes(device)
        held_before = memory.process_bytes()
        while found:
            if not self.residents.remove(found.pop()):
                raise ModelBusy(f"{base!r} has just been asked something.", "Wait until it is done.")
        self.compute(lambda: memory.give_back(device))
        if device.startswith("cuda"):
            return max(0, memory.device_bytes(device)[1] - free_before)
        return max(0, held_before - memory.process_bytes())

    def close(self) -> None:
        """Stop computing."""
        self.thread.close()

    def _load(self, spec: ModelSpec, report: Report) -> Resident:
        resident = load_resident(spec, report)
        return self.compute(resident.try_out)  # type: ignore[no-any-return]

    def _attach(self, resident: Any, path: str, report: Report) -> Attached:
        attached = read_adapter(resident, path, report)
        return self.compute(lambda: resident.prove(attached))  # type: ignore[no-any-return]
