"""What is in memory: each base loaded once, however many ask at the same time; adapters attached to a resident base.

A base's key is where it is (the resolved folder; for a hub id its revision's snapshot), dtype, quantization and device.

No torch: it is given the functions that load. All loading for one base happens in one thread, in order, so two first
requests load once, and a slow download of one model never holds up another.
"""

from __future__ import annotations

import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Collection
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from playground.errors import AdapterInvalid
from playground.local_inference.adapters import place
from playground.types import ModelSpec, Status

Report = Callable[[Status], None]

_READ_AGAIN = 3
# How often the watch looks for what is in use: this share of the time after which it would drop it, and at least so often.
_LOOK_SHARE = 0.1
_LOOK_AT_LEAST_S = 30.0


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
    """A resident, pinned for one row unless asked otherwise, and the adapters to apply."""

    resident: Any
    applied: Any


@dataclass(frozen=True, eq=False)
class _Preparation:
    """A request on its way in: its resident, the places of its adapters, and whether a row will need them then."""

    resident: Any
    adapters: frozenset[str]
    pinned: bool


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
        """Queue ``job``; ``report`` hears of the lane's progress until it is done. It is left out if cancelled before."""
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
        if not future.set_running_or_notify_cancel():  # whoever wanted it has left
            self._forget(report)
            return
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
    """The bases in memory. ``load`` reads a base, ``attach`` puts one adapter on it.

    ``load`` gives a block in which the base is ready; whatever is kept free for it is kept until the block ends.
    ``locate`` says where a base of that name is on this machine, without fetching it. Bases that nobody has used for
    ``keep_alive`` seconds are dropped, 0 meaning never, and handed to ``dropped``, which empties the list.
    """

    def __init__(
        self,
        load: Callable[[ModelSpec, Report], AbstractContextManager[Any]],
        attach: Callable[[Any, str, Report], Any],
        locate: Callable[[str], str],
        keep_alive: float = 0.0,
        dropped: Callable[[list[Any]], None] = lambda gone: None,
    ) -> None:
        self._load = load
        self._attach = attach
        self._locate = locate
        self._keep_alive = keep_alive
        self._dropped = dropped
        self._lock = threading.Lock()
        self._held: dict[Any, float] = {}  # resident → when it was last seen in use
        # Resident → place of an adapter → when it was last asked for; keeps no resident alive.
        self._asked: weakref.WeakKeyDictionary[Any, dict[str, float]] = weakref.WeakKeyDictionary()
        self._preparing: list[_Preparation] = []
        self._lanes: dict[str, Lane] = {}
        self._watching = False
        self._closed = threading.Event()

    def ready(self, spec: ModelSpec, *, pinned: bool = True) -> Prepared | None:
        """``spec`` when its base and adapters are all in memory and unchanged on disk; else None."""
        with self._lock:
            resident = self._find(spec)
            if resident is None:
                return None
            applied = resident.apply(spec)
            if applied is None:
                return None
            resident.pin(+1)
            self._note_use()
            self._note_adapters(resident, spec)
            if not pinned:
                resident.pin(-1)
            return Prepared(resident, applied)

    def prepare(self, spec: ModelSpec, report: Report, *, pinned: bool = True) -> Future[Prepared]:
        """Load and attach what is missing of ``spec``, in the base's own thread."""
        where = _place(spec.base)
        with self._lock:
            if where not in self._lanes:
                self._lanes[where] = Lane(spec.base, partial(self._close_lane, where))
            return self._lanes[where].run(lambda broadcast: self._prepare(spec, broadcast, pinned), report)

    def find(self, base: str) -> list[Any]:
        """The residents loaded from ``base``, a path or hub id."""
        with self._lock:
            return self._of(base)

    def all(self) -> list[Any]:
        """Every resident, the oldest first."""
        with self._lock:
            return list(self._held)

    def idle(self) -> list[Any]:
        """The residents that no row needs now, the one unused for longest first."""
        with self._lock:
            return self._unused()

    def take(self, base: str) -> tuple[list[Any], int]:
        """Forget every resident of ``base`` and return them, unless rows need one: then none of them, and how many rows."""
        with self._lock:
            found = self._of(base)
            rows = sum(resident.pins for resident in found)
            if rows:
                return [], rows
            for resident in found:
                del self._held[resident]
            return found, 0

    def evict(self, of: Callable[[Any], bool]) -> list[Any]:
        """Forget and return the idle resident unused for longest, of those that ``of`` picks; []: all are in use."""
        with self._lock:
            gone = [resident for resident in self._unused() if of(resident)][:1]
            for resident in gone:
                del self._held[resident]
            return gone

    def settling(self) -> list[Any]:
        """The residents that will be idle in a moment: they are being loaded, or given adapters, and no row needs them."""
        with self._lock:
            loading = [one.resident for one in self._preparing if not one.pinned]
            return [held for held in self._held if 0 < held.pins <= loading.count(held)]

    def idle_adapters(self, needed: Collection[Any] = ()) -> list[tuple[Any, str]]:
        """(resident, place) of the adapters that are not ``needed`` nor being attached, the one unused for longest first."""
        with self._lock:
            return self._unneeded(needed)

    def drop_adapter(self, of: Callable[[Any], bool], needed: Collection[Any] = ()) -> tuple[Any, Any] | None:
        """Forget the idle adapter unused for longest, of residents that ``of`` picks: (resident, adapter); None: no such."""
        with self._lock:
            found = next(((held, where) for held, where in self._unneeded(needed) if of(held)), None)
            if found is None:
                return None
            held, where = found
            return held, held.adapters.pop(where)

    def close(self) -> None:
        """Watch over nothing any more."""
        self._closed.set()

    def _close_lane(self, where: str, lane: Lane) -> bool:
        """Forget an idle lane; a later request makes a new one."""
        with self._lock:
            if not lane.jobs.empty():
                return False
            self._lanes.pop(where, None)
            return True

    def _prepare(self, spec: ModelSpec, report: Report, pinned: bool) -> Prepared:
        preparation = self._hold(spec, report, pinned)
        resident, done = preparation.resident, False
        try:
            applied = self._applied(resident, spec, report)
            done = True
        finally:
            with self._lock:
                self._preparing.remove(preparation)
                if done:
                    self._note_adapters(resident, spec)
                if not (done and pinned):
                    resident.pin(-1)
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

    def _hold(self, spec: ModelSpec, report: Report, pinned: bool) -> _Preparation:
        """The resident for ``spec``, loaded if need be, pinned by its preparation. Only the base's own lane comes here."""
        with self._lock:
            if found := self._find(spec):
                return self._begin(found, spec, pinned)
        with self._load(spec, report) as resident, self._lock:
            self._held[resident] = time.monotonic()
            self._watch()
            return self._begin(resident, spec, pinned)

    def _begin(self, resident: Any, spec: ModelSpec, pinned: bool) -> _Preparation:
        resident.pin(+1)
        self._note_use()
        preparation = _Preparation(resident, frozenset(place(path) for path, _ in spec.adapters), pinned)
        self._preparing.append(preparation)
        return preparation

    def _note_adapters(self, resident: Any, spec: ModelSpec) -> None:
        """The adapters of ``spec`` are asked for now."""
        if spec.adapters:
            now = time.monotonic()
            self._asked.setdefault(resident, {}).update((place(path), now) for path, _ in spec.adapters)

    def _unneeded(self, needed: Collection[Any]) -> list[tuple[Any, str]]:
        attaching = {(one.resident, where) for one in self._preparing for where in one.adapters}
        found = [
            (held, where)
            for held in self._held
            for where, attached in list(held.adapters.items())
            if attached not in needed and (held, where) not in attaching
        ]
        return sorted(found, key=lambda one: self._asked.get(one[0], {}).get(one[1], 0.0))

    def _find(self, spec: ModelSpec) -> Any | None:
        """A resident of the same place whose dtype, quantization and device are what ``spec`` asks; auto takes any.

        Those that nothing may be answered with any more are let go.
        """
        self._held = {
            held: used for held, used in self._held.items() if not held.damaged and (held.pins or _fresh(held))
        }
        where = self._locate(spec.base)
        found = (held for held in self._held if _is_at(held, spec.base, where) and _serves(held, spec))
        return next((held for held in found if _fresh(held)), None)

    def _of(self, base: str) -> list[Any]:
        """Those at ``base``, and those that were loaded under this name: a hub id may have moved on since."""
        where = self._locate(base)
        return [held for held in self._held if held.base == base or _is_at(held, base, where)]

    def _note_use(self) -> None:
        """Everything that is pinned is in use now."""
        now = time.monotonic()
        self._held = {held: now if held.pins else used for held, used in self._held.items()}

    def _unused(self) -> list[Any]:
        self._note_use()
        return sorted((held for held in self._held if not held.pins), key=self._held.__getitem__)

    def _watch(self) -> None:
        """Have a thread that drops what is not used, from the first base to the last."""
        if self._keep_alive > 0 and not self._watching:
            self._watching = True
            threading.Thread(target=self._watch_over, name="keep alive", daemon=True).start()

    def _watch_over(self) -> None:
        going_on = True
        while going_on and not self._closed.wait(min(_LOOK_AT_LEAST_S, self._keep_alive * _LOOK_SHARE)):
            gone, going_on = self._drop_unused()
            if gone:
                self._dropped(gone)

    def _drop_unused(self) -> tuple[list[Any], bool]:
        """Forget what was unused for ``keep_alive`` seconds and return it, and whether anything is left.

        A request finds a base in time or not at all: it pins it under the same lock.
        """
        with self._lock:
            self._note_use()
            since = time.monotonic() - self._keep_alive
            gone = [held for held, used in self._held.items() if used <= since]
            self._held = {held: used for held, used in self._held.items() if used > since}
            self._watching = bool(self._held)
            return gone, self._watching


def _is_at(held: Any, base: str, where: str) -> bool:
    """Whether ``held`` was read from ``where``; where ``base`` is nowhere on this machine any more, its name decides."""
    return where == str(held.loaded.path) or where == base == held.base


def _fresh(held: Any) -> bool:
    """Whether the files that ``held`` was read from are still those: a base that was trained again is read again."""
    return bool(held.loaded.is_current)


def _serves(held: Any, spec: ModelSpec) -> bool:
    """Whether ``held`` is what ``spec`` asks for. A checkpoint that is stored quantized can only be as it is."""
    plan = held.loaded.plan
    quantization = "nf4" if spec.quantization == "int4" else spec.quantization
    device = "cuda:0" if spec.device == "cuda" else spec.device
    if device not in ("auto", plan.device):
        return False
    if plan.stored:
        return quantization in ("auto", "none", plan.quantization)
    return spec.dtype in ("auto", plan.dtype) and quantization in ("auto", plan.quantization)


def _place(base: str) -> str:
    """Where ``base`` is: the resolved folder (so a symbolic link is the same place), or the hub id itself."""
    return place(base) if os.path.isdir(os.path.expanduser(base)) else base
