"""What the engine's face drives once a model is needed: residents, step loop and compute thread. Imports torch."""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from playground.errors import AdapterInvalid, ModelBusy, ModelNotLoaded, ShuttingDown
from playground.local_inference import memory
from playground.local_inference.adapters import WEIGHTS_FILE
from playground.local_inference.admission import prepare_row
from playground.local_inference.attaching import read_adapter
from playground.local_inference.cache import Prepared, Report, Residents
from playground.local_inference.compute_thread import ComputeThread
from playground.local_inference.engine import StepLoop
from playground.local_inference.footprint import adapter_bytes, leave_files, mapped_bytes
from playground.local_inference.loading import asking
from playground.local_inference.measured import measured as timings
from playground.local_inference.places import locate
from playground.local_inference.prefixes import Prefixes
from playground.local_inference.resident import Attached, Resident, load_resident
from playground.local_inference.row import Row
from playground.local_inference.row_memory import RowMemory, promised_bytes
from playground.local_inference.scoring import PromptLine, Scorer
from playground.types import MemoryReport, ModelSpec

# How often a waiting unload looks whether the last row has ended.
_LOOK_S = 0.02
# And how often one who waits for the compute thread looks whether it still runs, and whether the result is still wanted.
_LOOK_AGAIN_S = 0.2
# What is kept for reuse, for a person.
_KEPT = "caches of earlier answers"
# Collecting garbage takes a third of a second; a base of fewer bytes than this leaves too little behind to be worth it.
_WORTH_COLLECTING = 50_000_000


class Machinery:
    """The parts behind `LocalInference`, made once; what it is given is explained there."""

    def __init__(
        self,
        memory_budget: float = 0.0,
        keep_alive: float = 0.0,
        adapter_roots: Sequence[Path] = (),
        pickles: Path | None = None,
        prefix_budget: float = 0.1,
        private_prefixes: bool = False,
        measured: Path | None = None,
    ) -> None:
        if measured is not None:
            timings.keep_in(measured)
        self._prefix_budget, self._private_prefixes = prefix_budget, private_prefixes
        self._read_adapter = partial(read_adapter, roots=adapter_roots, pickles=pickles)
        self._room = memory.Room(memory_budget, _Tenants(self))
        self._row_memory = RowMemory(self._room)
        self.loop = StepLoop(memory=self._row_memory)
        self.thread = ComputeThread(self.loop)
        self.residents = Residents(self._load, self._attach, locate, keep_alive, self._after_dropping)
        self._prompts = PromptLine(self._run, lambda: bool(self.loop.scheduler.live()))

    def admit(self, row: Row, prepared: Prepared) -> None:
        """Render ``row``'s prompt and put it in line.

        Raises what rendering raises, and `OutOfMemory` for a row that could not be answered with nobody else there.
        """
        prepare_row(row, prepared)
        self._row_memory.refuse(row)
        self.loop.scheduler.add(row)
        self.thread.wake()

    def compute(self, job: Any) -> Any:
        """Run ``job`` on the compute thread between steps, and return its result. Raises `ShuttingDown` after `close`.

        The compute thread itself, when a row needs room, runs it at once.
        """
        if self.thread.is_current:
            return job()
        return self._result(self._run(job))

    def read_prompt(self, scorer: Scorer, wanted: Callable[[], bool]) -> None:
        """Have ``scorer`` read all of its text, in company with others', and wait for it as long as it is ``wanted``.

        Raises what reading raises, and `CancelledError` when it is wanted no more: then nothing further is read.
        """
        try:
            self._result(self._prompts.join(scorer), wanted)
        finally:
            self._prompts.leave(scorer)

    def _run(self, job: Callable[[], Any]) -> Future[Any]:
        future = self.loop.run(job)
        self.thread.wake()
        return future

    def _result(self, future: Future[Any], wanted: Callable[[], bool] = lambda: True) -> Any:
        while True:
            try:
                return future.result(timeout=_LOOK_AGAIN_S)
            except FutureTimeout:
                if future.done():
                    raise
                if not wanted():
                    raise CancelledError from None
                if not self.thread.running:
                    raise ShuttingDown("The app is shutting down.", "Start it again.") from None

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
        devices = {where for resident in taken for where in (resident.loaded.plan.device, *resident.loaded.shares)}
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
            with asking(ticket, self.compute):
                resident = load_resident(spec, report)
            self.compute(resident.try_out)
            resident.prefixes = self._prefixes(resident.loaded.plan.device)
            if resident.packed is not None:
                resident.packed.copies.spare = partial(self._room.spare, resident.loaded.plan.device)
            leave_files(resident.model)
            # What only reading took goes back, so that what is free can be measured.
            if resident.loaded.bytes > _WORTH_COLLECTING:
                memory.give_back(resident.loaded.plan.device)
            yield resident

    def _prefixes(self, device: str) -> Prefixes:
        """What is kept of the texts that a model on ``device`` reads, within a budget for all models in its memory."""
        share, total = self._prefix_budget, memory.device_bytes(device)[0]
        budget = int(share * total) if share <= 1 else int(share)

        def beside() -> Iterator[Prefixes]:
            for held in self.residents.all():
                if memory.same_memory(held.loaded.plan.device, device):
                    yield held.prefixes

        spare = partial(self._room.spare, device)
        return Prefixes(budget, spare, private=self._private_prefixes, beside=beside)

    def _attach(self, resident: Any, path: str, report: Report) -> Attached:
        """Make room for the adapter at ``path``, read it, and prove it. Raises `AdapterInvalid` or `OutOfMemory`."""
        with self._room.ticket(beside=True) as ticket:
            need = _adapter_need(path)
            ticket.reserve(resident.loaded.plan.device, lambda available: (None, need), report)
            attached = self._read_adapter(resident, path, report)
            _refuse_beside_spread(resident, attached)
            if attached.weights is not None:
                count = adapter_bytes(attached.weights.layers)
                attached = replace(attached, info=replace(attached.info, bytes=count))
            return self.compute(lambda: resident.prove(attached))  # type: ignore[no-any-return]

    def memories(self, rows: Collection[Row]) -> list[MemoryReport]:
        """Every memory that a model lies in, the one with most of them first, and what of each is ours."""
        residents = self.residents.all()
        own = [(row.resident, state) for row in rows if (state := row.state) is not None]
        found: dict[str, list[int]] = {}
        for resident in residents:
            for where, count in resident.loaded.shares.items():
                found.setdefault(where, [0, 0, 0, 0])[0] += count
            taken = found.setdefault(resident.loaded.plan.device, [0, 0, 0, 0])
            taken[1] += _adapters(resident)
            taken[2] += int(resident.slots.bytes())
            taken[3] += int(resident.reusable)
            taken[2] += sum(int(state.cache_bytes()) for of, state in own if of is resident)
        order = sorted(found, key=lambda where: -sum(found[where]))
        return [_report(where, *found[where]) for where in order]

    def evict(self, of: Callable[[Any], bool]) -> str:
        """Drop the idle resident unused for longest, of those that ``of`` picks; its name, or "" where there is none."""
        gone = self.residents.evict(of)
        if not gone:
            return ""
        name = _short(gone[0].base)
        self._let_go(gone)
        return name

    def drop_adapter(self, of: Callable[[Any], bool]) -> str:
        """Drop the adapter that no row needs and that was unused for longest, of residents that ``of`` picks; its name."""
        gone = self.residents.drop_adapter(of, self.needed())
        if gone is None:
            return ""
        resident, attached = gone
        name = f"adapter {attached.info.name} of {_short(resident.base)}"
        device = resident.loaded.plan.device
        found = [attached]
        del gone, attached

        def let_go() -> None:
            resident.forget(found.pop())

        self.compute(partial(memory.give_back, device, let_go))
        return name

    def shrink(self, device: str, count: int) -> int:
        """Drop what is kept for reuse in the memory of ``device``, ``count`` bytes of it; returns the bytes that came back.

        What models keep that nobody uses goes first.
        """
        idle, live = self.residents.idle(), self.live_adapters()
        held = [one for one in self.residents.all() if one not in idle]
        came = 0

        def let_go() -> None:
            nonlocal came
            for resident in (*idle, *held):
                if came < count and memory.same_memory(resident.loaded.plan.device, device):
                    came += resident.shrink(count - came, live)
            memory.tidy(device)

        self.compute(let_go)
        return came

    def live_adapters(self) -> set[Attached]:
        """The adapters of the rows that are being answered."""
        return {attached for row in self.loop.scheduler.live() for attached, _ in row.applied.adapters}

    def needed(self) -> set[Attached]:
        """The adapters of all rows, live or waiting."""
        rows = self.loop.scheduler.live() + self.loop.scheduler.waiting()
        return {attached for row in rows for attached, _ in row.applied.adapters}

    def _after_dropping(self, gone: list[Any]) -> None:
        with contextlib.suppress(ShuttingDown):  # the app is shutting down: all memory goes back
            self._let_go(gone)


class _Tenants:
    """The residents, as those who ask for room need to know them."""

    def __init__(self, machinery: Machinery) -> None:
        self._machinery = machinery
        self._mapped: weakref.WeakKeyDictionary[Resident, int] = weakref.WeakKeyDictionary()

    def held(self, device: str) -> int:
        """Bytes of weights, adapters, keys and values in this memory, whether rows need them or they are kept for reuse."""
        own = sum(_bytes(resident, device) for resident in self._machinery.residents.all())
        states = [row.state for row in self._rows() if memory.same_memory(row.resident.loaded.plan.device, device)]
        return own + sum(int(state.cache_bytes()) for state in states if state is not None)

    def idle(self, device: str) -> int:
        """Bytes of those that no row needs; of the others what they keep and can spare, and the adapters no row needs."""
        idle = self._machinery.residents.idle()
        return (
            sum(_bytes(resident, device) for resident in idle) + self._kept(device, idle) + self._adapters(device, idle)
        )

    def promised(self, device: str) -> int:
        """Bytes that the live rows have yet to take, should each write all it may."""
        return promised_bytes(self._rows(), device)

    def settling(self, device: str) -> int:
        """Bytes of those that will be idle in a moment."""
        return sum(_bytes(resident, device) for resident in self._machinery.residents.settling())

    def mapped(self, device: str) -> int:
        """Bytes of weights that are mapped from their files: no memory to the system, but what every token reads."""
        if device.startswith("cuda"):
            return 0
        for resident in self._machinery.residents.all():
            if resident not in self._mapped:  # looked up once: a model in use stays as it was loaded
                self._mapped[resident] = mapped_bytes(resident.model)
        return sum(self._mapped.get(resident, 0) for resident in self._machinery.residents.all())

    def evict(self, device: str, short: int) -> str:
        """Drop what is kept for reuse, else the idle adapter or model unused for longest: models as the last."""
        if self._kept(device) and self._machinery.shrink(device, short):
            return _KEPT
        name = self._drop_adapter(device) if short <= self._adapters(device) else ""
        return name or self._machinery.evict(lambda held: _bytes(held, device) > 0) or self._drop_adapter(device)

    def _rows(self) -> list[Row]:
        return self._machinery.loop.scheduler.live()

    def _kept(self, device: str, besides: Collection[Resident] = ()) -> int:
        """Bytes that are kept in this memory and make way, by other residents than ``besides``."""
        every = [one for one in self._machinery.residents.all() if one not in besides]
        live = self._machinery.live_adapters()
        return sum(one.spare_bytes(live) for one in every if memory.same_memory(one.loaded.plan.device, device))

    def _drop_adapter(self, device: str) -> str:
        return self._machinery.drop_adapter(lambda held: memory.same_memory(held.loaded.plan.device, device))

    def _adapters(self, device: str, besides: Collection[Resident] = ()) -> int:
        """Bytes of the idle adapters in this memory, those of the residents ``besides`` left out."""
        machinery = self._machinery
        found = [
            resident.adapters.get(where)
            for resident, where in machinery.residents.idle_adapters(machinery.needed())
            if resident not in besides and memory.same_memory(resident.loaded.plan.device, device)
        ]
        return sum(attached.info.bytes for attached in found if attached is not None)


def _report(device: str, weights: int, adapters: int, cache: int, reusable: int) -> MemoryReport:
    total, free = memory.device_bytes(device)
    return MemoryReport(device, total, free, weights, adapters, cache, memory.process_bytes(), reusable)


def _bytes(resident: Resident, device: str) -> int:
    """What ``resident`` takes of the memory of ``device``."""
    weights = sum(n for where, n in resident.loaded.shares.items() if memory.same_memory(where, device))
    if not memory.same_memory(resident.loaded.plan.device, device):
        return weights
    return int(weights + _adapters(resident) + resident.slots.bytes() + resident.reusable)


def _adapters(resident: Resident) -> int:
    """Bytes of the adapters on ``resident``, what was joined of several included."""
    return resident.joined_bytes() + sum(attached.info.bytes for attached in list(resident.adapters.values()))


def _adapter_need(path: str) -> memory.Need:
    """What the adapter at ``path`` takes: its tensors, and as much again where they are joined with others'."""
    folder = Path(path).expanduser()
    try:
        count = (folder / WEIGHTS_FILE).stat().st_size
    except OSError:
        count = 0  # what is wrong is said by whoever reads it
    remedy = "Stop what is being answered, or let models take more (memory_budget)."
    return memory.Need("an adapter", count, reading=count, name=f"Adapter {folder.name!r}", remedy=remedy)


def _refuse_beside_spread(resident: Resident, attached: Attached) -> None:
    """PEFT moves modules about, whose weights are elsewhere between two passes."""
    if resident.loaded.plan.limits and attached.info.exclusive:
        raise AdapterInvalid(
            f"Adapter {attached.info.name!r} ({attached.info.kind}) cannot be used on a base that is spread over several "
            "memories.",
            "Load the base quantized, so that it fits one; a plain LoRA works on both.",
        )


def _short(base: str) -> str:
    """The name of a base for a person: of a folder its last part."""
    return os.path.basename(base) if os.path.isabs(base) else base


def _in_use(device: str) -> int:
    """Bytes that are taken, where unloading from ``device`` would show."""
    if device.startswith("cuda"):
        total, free = memory.device_bytes(device)
        return total - free
    return memory.process_bytes()
