"""What is in memory: each base loaded once, however many ask at the same time; adapters attached to a resident base.

No torch: it is given the functions that load. All loading for one base happens in one thread, in order, so two first
requests load once, and a slow download of one model never holds up another.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from playground.errors import AdapterInvalid
from playground.local_inference.adapters import place
from playground.types import ModelSpec, Status

Report = Callable[[Status], None]

_READ_AGAIN = 3


class Holds(Protocol):
    """What the cache needs to know of a resident."""

    base: str
    asked: ModelSpec
    loaded: Any
    adapters: dict[str, Any]

    @property
    def pins(self) -> int:
        """Rows that need it."""
        ...

    @property
    def damaged(self) -> bool:
        """True when it must not be used again."""
        ...

    def pin(self, by: int) -> None:
        """Count a row in or out."""
        ...

    def apply(self, spec: ModelSpec) -> Any:
        """The adapters of ``spec`` where all are attached, else None."""
        ...


@dataclass(frozen=True)
class Prepared:
    """A resident, pinned for one row, and the adapters to apply."""

    resident: Any
    applied: Any


class Lane:
    """One daemon thread that does the loading jobs of one base in order, and tells everyone waiting how far it is.

    When there is nothing left to do it asks ``may_end(lane)``, and ends where that says so.
    """

    def __init__(self, name: str, may_end: Callable[[Lane], bool]) -> None:
        self.jobs: queue.SimpleQueue[tuple[Callable[[Report], Prepared], Future[Prepared], Report]] = (
            queue.SimpleQueue()
        )
        self._may_end = may_end
        self._listeners: list[Report] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name=f"load {name}", daemon=True).start()

    def run(self, job: Callable[[Report], Prepared], report: Report) -> Future[Prepared]:
        """Queue ``job``; ``report`` hears of the lane's progress until it is done."""
        future: Future[Prepared] = Future()
        with self._lock:
            self._listeners.append(report)
        self.jobs.put((job, future, report))
        return future

    def _run(self) -> None:
        self._do(*self.jobs.get())
        while not self._may_end(self):
            self._do(*self.jobs.get())

    def _do(self, job: Callable[[Report], Prepared], future: Future[Prepared], report: Report) -> None:
        # A method of its own, so that nothing here keeps a resident alive while the lane is idle.
        try:
            result = job(self._broadcast)
        except BaseException as error:  # whatever it was belongs to the caller who waits on the future
            self._forget(report)
            future.set_exception(error)
        else:
            self._forget(report)
            future.set_result(result)

    def _forget(self, report: Report) -> None:
        with self._lock:
            self._listeners.remove(report)

    def _broadcast(self, status: Status) -> None:
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener(status)


class Residents:
    """The bases in memory. ``load`` reads a base, ``attach`` puts one adapter on it."""

    def __init__(
        self,
        load: Callable[[ModelSpec, Report], Any],
        attach: Callable[[Any, str, Report], Any],
    ) -> None:
        self._load = load
        self._attach = attach
        self._lock = threading.Lock()
        self._held: list[Any] = []
        self._lanes: dict[str, Lane] = {}

    def ready(self, spec: ModelSpec) -> Prepared | None:
        """``spec``, pinned, when its base and adapters are all in memory and unchanged on disk; else None."""
        with self._lock:
            resident = self._find(spec)
            if resident is None:
                return None
            applied = resident.apply(spec)
            if applied is None:
                return None
            resident.pin(+1)
            return Prepared(resident, applied)

    def prepare(self, spec: ModelSpec, report: Report) -> Future[Prepared]:
        """Load and attach what is missing of ``spec``, in the base's own thread; the result comes pinned."""
        where = _place(spec.base)
        with self._lock:
            if where not in self._lanes:
                self._lanes[where] = Lane(spec.base, partial(self._close_lane, where))
            return self._lanes[where].run(lambda broadcast: self._prepare(spec, broadcast), report)

    def _close_lane(self, where: str, lane: Lane) -> bool:
        """Forget an idle lane; a later request makes a new one."""
        with self._lock:
            if not lane.jobs.empty():
                return False
            self._lanes.pop(where, None)
            return True

    def find(self, base: str) -> list[Any]:
        """The residents loaded from ``base``, a path or hub id."""
        with self._lock:
            return [held for held in self._held if _place(base) in (_place(held.base), str(held.loaded.path))]

    def all(self) -> list[Any]:
        """Every resident, the oldest first."""
        with self._lock:
            return list(self._held)

    def remove(self, resident: Any) -> bool:
        """Forget ``resident`` unless a row needs it; True when it was removed."""
        with self._lock:
            if resident.pins or resident not in self._held:
                return False
            self._held.remove(resident)
            return True

    def _prepare(self, spec: ModelSpec, report: Report) -> Prepared:
        resident = self._hold(spec, report)
        try:
            applied = self._applied(resident, spec, report)
        except BaseException:
            resident.pin(-1)
            raise
        return Prepared(resident, applied)

    def _applied(self, resident: Any, spec: ModelSpec, report: Report) -> Any:
        """The adapters of ``spec``, attached where need be; files that change meanwhile are read again, a few times."""
        for _ in range(_READ_AGAIN):
            for path, _ in spec.adapters:
                if resident.apply(ModelSpec(spec.base, ((path, 1.0),))) is None:
                    resident.adapters[place(path)] = self._attach(resident, path, report)
            applied = resident.apply(spec)
            if applied is not None:
                return applied
        raise AdapterInvalid(
            "The adapter's files keep changing while they are read.",
            "Wait until its training has saved it, then ask again.",
        )

    def _hold(self, spec: ModelSpec, report: Report) -> Any:
        """The pinned resident for ``spec``, loaded if need be. Only the base's own lane comes here."""
        with self._lock:
            if found := self._find(spec):
                found.pin(+1)
                return found
        resident = self._load(spec, report)
        resident.pin(+1)
        with self._lock:
            self._held.append(resident)
        return resident

    def _find(self, spec: ModelSpec) -> Any | None:
        """A resident of the same place whose dtype, quantization and device are what ``spec`` asks; auto takes any."""
        self._held = [held for held in self._held if not held.damaged]
        return next((held for held in self._held if _serves(held, spec)), None)


def _serves(held: Any, spec: ModelSpec) -> bool:
    if _place(spec.base) not in (_place(held.base), str(held.loaded.path)):
        return False
    plan = held.loaded.plan
    quantization = "nf4" if spec.quantization == "int4" else spec.quantization
    device = "cuda:0" if spec.device == "cuda" else spec.device
    chosen = ((spec.dtype, plan.dtype), (quantization, plan.quantization), (device, plan.device))
    return all(asked in ("auto", got) for asked, got in chosen)


def _place(base: str) -> str:
    """Where ``base`` is: the resolved folder (so a symbolic link is the same place), or the hub id itself."""
    return place(base) if os.path.isdir(os.path.expanduser(base)) else base
