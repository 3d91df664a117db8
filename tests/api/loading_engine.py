"""`FakeEngine` with a memory: what is loaded, with which adapters, and what cannot be."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

from playground.api import create_app
from playground.config import AppConfig
from playground.errors import AdapterInvalid, ModelBusy, ModelNotFound, ModelNotLoaded
from playground.gate import Gate
from playground.services.assembly import Services
from playground.types import LoadedAdapter, ModelSpec, ResidentInfo
from tests.api.fake_engine import FakeEngine


class LoadingEngine(FakeEngine):
    """Loads everything but what ``missing`` and ``broken`` name; ``gates`` hold up loads of the adapters that they name."""

    def __init__(self) -> None:
        super().__init__()
        self._first_script = self.script
        self.forget()

    def forget(self) -> None:
        """Be as new."""
        self.script = self._first_script
        self.requests.clear()
        self.running = 0
        self.missing: set[str] = set()
        self.broken: set[str] = set()
        self.gates: dict[str, threading.Event] = {}
        self.held = threading.Event()  # a gate was reached
        self.loads: list[ModelSpec] = []
        self.in_memory: list[ResidentInfo] = []

    def load(self, spec: ModelSpec, report: object = None) -> ResidentInfo:
        self.loads.append(spec)
        if spec.base in self.missing:
            raise ModelNotFound(f"The hub has no model {spec.base!r}.", "Check the id.")
        for path, _ in spec.adapters:
            if gate := self.gates.get(Path(path).name):
                self.held.set()
                assert gate.wait(20)
            if Path(path).name in self.broken:
                raise AdapterInvalid(f"Adapter {Path(path).name!r} cannot be used.", "Train it again.")
        quantization = {"auto": "none", "int4": "nf4"}.get(spec.quantization, spec.quantization)
        found = next((one for one in self.in_memory if self._serves(one, spec)), None) or ResidentInfo(
            base=spec.base,
            path=spec.base,
            quantization=quantization,
            dtype="float32",
            device="cpu",
            parameters=1,
            bytes=10_000_000,
            context_window=512,
            loaded_at=1_700_000_000.0 + len(self.loads),
        )
        known = {one.path: one for one in found.adapters}
        added = {path: LoadedAdapter(Path(path).name, path, "0", 1_000_000, False, True) for path, _ in spec.adapters}
        now = replace(found, adapters=tuple((known | added).values()))
        self.in_memory = [*(one for one in self.in_memory if one is not found), now]
        return now

    def residents(self) -> tuple[ResidentInfo, ...]:
        return tuple(self.in_memory)

    def unload(self, base: str, wait_s: float = 0.0) -> int:
        if self.running:
            raise ModelBusy(f"{base!r} is answering.", "Wait for the answer, or stop it.")
        gone = [one for one in self.in_memory if one.base == base]
        if not gone:
            raise ModelNotLoaded(f"{base!r} is not loaded.", "There is nothing to unload.")
        self.in_memory = [one for one in self.in_memory if one not in gone]
        return sum(one.bytes for one in gone)

    def _serves(self, resident: ResidentInfo, spec: ModelSpec) -> bool:
        quantization = {"int4": "nf4"}.get(spec.quantization, spec.quantization)
        return resident.base == spec.base and quantization in ("auto", resident.quantization)


class House:
    """The API behind its gate over a `LoadingEngine`, made once for many tests: that takes longer than they do."""

    def __init__(self, config: AppConfig) -> None:
        self.fake = LoadingEngine()
        self._services = Services.over(self.fake, config)  # type: ignore[arg-type]
        self.app = Gate(create_app(config, self._services), config=config)

    def empty(self) -> LoadingEngine:
        """The engine, with nothing in memory and nothing remembered."""
        self.fake.running = 0
        while loaded := self._services.entries.loaded():
            asyncio.run(self._services.entries.unload(loaded[0].model_id))
        self.fake.forget()
        return self.fake
