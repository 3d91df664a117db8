"""Bytes: what the device has, what this process holds, who may take what, and giving memory back. No torch on a CPU."""

from __future__ import annotations

import ctypes
import functools
import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psutil

from playground.errors import OutOfMemory
from playground.types import Status

PlanT = TypeVar("PlanT")
Report = Callable[[Status], None]

# Activations, fragmentation, and what else no estimate counts.
HEADROOM = 1.15
# What a load leaves free for everything else on the device: this share of all, or this much, whichever is less.
_MARGIN_SHARE = 0.05
_MARGIN_AT_MOST = 1_000_000_000
_WAIT_S = 1.0
_SETTLE_S = 0.05
# mallopt's parameters (malloc.h), and how many free bytes glibc keeps: while a model goes, and else.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_TRIM_AT_ONCE, _TRIM_LATE = 1 << 17, 1 << 26
_CGROUP = Path("/sys/fs/cgroup")
_LIMIT_STANDS_S = 1.0


def process_bytes() -> int:
    """Resident memory of this process."""
    return int(psutil.Process().memory_info().rss)


def _own_bytes() -> int:
    """Memory of this process without the files that it has mapped: those the system can read again."""
    own = psutil.Process().memory_info()
    return int(own.rss - getattr(own, "shared", 0))


def device_bytes(device: str) -> tuple[int, int]:
    """(total, free) bytes of ``device`` as the system reports them; for mps of what Metal lends of the machine's."""
    if device.startswith("cuda"):
        import torch

        free, total = torch.cuda.mem_get_info(device)
        return int(total), int(free)
    machine = psutil.virtual_memory()
    if device == "mps":
        return _apple_bytes(int(machine.available))
    limit = _cgroup_limit()
    if limit is None or limit >= machine.total:
        return int(machine.total), int(machine.available)
    return limit, max(0, min(int(machine.available), limit - _own_bytes()))


def _apple_bytes(available: int) -> tuple[int, int]:
    """(total, free) bytes of Apple's GPU, which may have a part of the machine's memory: Metal says how much of it."""
    import torch

    if not torch.backends.mps.is_available():
        return int(psutil.virtual_memory().total), available
    total = int(torch.mps.recommended_max_memory())
    return total, max(0, min(available, total - int(torch.mps.driver_allocated_memory())))


def give_back(device: str, let_go: Callable[[], object] = lambda: None) -> None:
    """Call ``let_go``, collect garbage, and return what is free then to the system: a GPU's cache, glibc's on Linux.

    What dies before ``let_go`` is called may stay with glibc: up to 64 MB for each thread that has allocated something.
    """
    _keep_free(_TRIM_AT_ONCE)
    try:
        let_go()
        gc.collect()
    finally:
        _keep_free(_TRIM_LATE)
    tidy(device)


def tidy(device: str) -> None:
    """Return to the system what is free already and only kept: by a GPU's cache, by glibc."""
    if not device.startswith("cpu"):
        import torch

        if device.startswith("cuda"):
            torch.cuda.empty_cache()
        elif device == "mps":
            torch.mps.empty_cache()
    if libc := _glibc():
        libc.malloc_trim(0)


def _keep_free(count: int) -> None:
    """Let glibc keep ``count`` free bytes at the end of each of its heaps, which malloc_trim looks at in one heap only.

    Its own rule ends with the first such call, so what that rule arrives at when large blocks are freed is set as well.
    """
    if libc := _glibc():
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 25)
        libc.mallopt(_M_TRIM_THRESHOLD, count)


def _glibc() -> Any:
    """The C library where it is glibc, else None: musl has neither function."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = ctypes.CDLL("libc.so.6")
        return libc if libc.malloc_trim and libc.mallopt else None
    except (OSError, AttributeError):
        return None


def same_memory(one: str, other: str) -> bool:
    """Whether two devices draw on the same memory: every GPU of CUDA has its own, all else is the machine's."""
    return one == other or not (one.startswith("cuda") or other.startswith("cuda"))


def size_text(count: float) -> str:
    """``count`` bytes for a person: 12 MB, 3.4 GB."""
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


@dataclass(frozen=True)
class Need:
    """Bytes that a base will take, and how they come about.

    ``what`` says as what ``name`` would be loaded; ``row`` are the keys and values of one conversation, ``logits`` those
    of a full step; ``reading`` is needed beside the weights only while they are read. ``remedy`` is for whoever has no room.
    ``elsewhere`` are (device, bytes) that it takes in other memories at the same time.
    """

    what: str
    weights: int
    row: int = 0
    logits: int = 0
    reading: int = 0
    name: str = "The model"
    remedy: str = ""
    elsewhere: tuple[tuple[str, int], ...] = ()

    @property
    def total(self) -> int:
        """The most that it takes at any time."""
        return max(int((self.weights + self.row + self.logits) * HEADROOM), self.weights + self.reading)

    def __str__(self) -> str:
        parts = [f"{size_text(self.weights)} of weights as {self.what}"]
        if self.weights + self.reading >= self.total:
            parts.append(f"{size_text(self.reading)} more while they are read")
        else:
            parts.append(f"the rest for a conversation's keys and values, a step's logits and {HEADROOM - 1:.0%}")
        return f"{size_text(self.total)} ({', '.join(parts)})"


class Tenants(Protocol):
    """The models in memory, as far as `Room` needs to know them. ``device`` says in which memory."""

    def held(self, device: str) -> int:
        """Bytes of all of them."""
        ...

    def idle(self, device: str) -> int:
        """Bytes that can be dropped: models that nobody uses; of those in use, what is kept for reuse, and idle adapters."""
        ...

    def promised(self, device: str) -> int:
        """Bytes that the rows which are being answered have yet to take, should each write all it may."""
        ...

    def settling(self, device: str) -> int:
        """Bytes of those that have just been loaded and will be idle in a moment."""
        ...

    def mapped(self, device: str) -> int:
        """Bytes that they read from mapped files, which the system counts as free."""
        ...

    def evict(self, device: str, short: int) -> str:
        """Drop something to free ``short`` bytes: what is kept for reuse, else the adapter or model unused for longest.

        Models are dropped only where the rest is not enough. Returns its name, or "" where nothing is idle.
        """
        ...


class Nobody:
    """`Tenants` of an empty house."""

    def held(self, device: str) -> int:
        """None."""
        return 0

    idle = promised = settling = mapped = held

    def evict(self, device: str, short: int) -> str:
        """There is nobody."""
        return ""


class Room:
    """The memory that models may take: a load reserves its need before it reads anything, and what is idle makes way.

    ``budget`` is for all models together: 0 for what is free, less a margin; up to 1 a share of the device's memory;
    above that bytes.
    """

    def __init__(self, budget: float = 0.0, tenants: Tenants | None = None) -> None:
        self._budget = budget
        self._tenants = tenants or Nobody()
        self._changed = threading.Condition()
        self._reserved: dict[Ticket, tuple[tuple[str, int], ...]] = {}

    def ticket(self, beside: bool = False) -> Ticket:
        """What one load reserves with, and gives its reservation back with once what it took can be measured.

        ``beside``: for something small that joins a model in memory, an adapter. It may take of the margin, and never
        waits for a model that is being prepared, for that may be its own.
        """
        return Ticket(self, beside)

    def settle(self, ticket: Ticket, device: str, choose: Callable[[int], tuple[PlanT, Need]], report: Report) -> PlanT:
        """See `Ticket.reserve`."""
        tidied: set[str] = set()
        with self._changed:
            while True:
                plan, need = choose(self.available(device, ticket.beside))
                demands = ((device, need.total), *need.elsewhere)
                where, short = self._shortage(demands, ticket.beside)
                if short <= 0:
                    self._reserved[ticket] = demands
                    return plan
                if where not in tidied:  # what is freed but kept, by glibc or a GPU's cache, costs nobody anything
                    tidied.add(where)
                    give_back(where)
                elif short <= self._tenants.idle(where):
                    if name := self._tenants.evict(where, short):
                        report(Status("loading", f"unloaded {name}, unused for longest, to make room"))
                    else:  # it is in use again, or being dropped for somebody else
                        self._changed.wait(_SETTLE_S)
                elif self._others(where):
                    report(Status("loading", "waiting for room until another model is loaded"))
                    self._changed.wait(_WAIT_S)
                elif not ticket.beside and short <= self._tenants.idle(where) + self._tenants.settling(where):
                    self._changed.wait(_SETTLE_S)
                else:
                    raise OutOfMemory(self._figures(need, device, ticket.beside), need.remedy)

    def available(self, device: str, beside: bool = False) -> int:
        """Bytes that can be had on ``device``: what is free, and what is idle there."""
        with self._changed:
            return self._free(device, beside) + self._tenants.idle(device)

    @property
    def tenants(self) -> Tenants:
        """The models in memory."""
        return self._tenants

    def left(self, device: str, *, margin: bool = True, loads: bool = True, share: float = 1.0) -> int:
        """Bytes that rows may take now, without anybody making way; below 0 where the budget is overdrawn.

        ``margin`` False: the last bytes too. ``loads`` False: what loads under way have reserved counts as free. ``share``:
        so much of what the device has free. It takes no lock, for loads hold it while they wait for the compute thread,
        which is who asks.
        """
        unclaimed = self._unclaimed(device, not margin, share)
        return unclaimed - self._others(device) if loads else unclaimed

    def spare(self, device: str) -> int:
        """Bytes that nobody has a claim on, neither loads nor rows that may grow: what may be kept for reuse. No lock."""
        return self.left(device) - self._tenants.promised(device)

    def limit(self, device: str) -> int | None:
        """Bytes of the budget on ``device``; None where there is none."""
        return self._limit(device_bytes(device)[0]) if self._budget else None

    def release(self, ticket: Ticket) -> None:
        """Forget what ``ticket`` reserved."""
        with self._changed:
            self._reserved.pop(ticket, None)
            self._changed.notify_all()

    def _shortage(self, demands: tuple[tuple[str, int], ...], beside: bool) -> tuple[str, int]:
        """(device, bytes) of the first of ``demands`` that what is free does not cover; 0 bytes where all are covered."""
        lacking = ((where, count - self._free(where, beside)) for where, count in demands)
        return next(((where, short) for where, short in lacking if short > 0), ("", 0))

    def _free(self, device: str, beside: bool) -> int:
        """Bytes that a load may take now, without anybody making way."""
        promised = self._tenants.promised(device)
        return max(0, self._unclaimed(device, beside) - promised - self._others(device))

    def _unclaimed(self, device: str, beside: bool, share: float = 1.0) -> int:
        """Bytes that are free within the budget, of those the device has a ``share``; ``beside``: the margin too."""
        total, free = device_bytes(device)
        free -= self._tenants.mapped(device)
        if not beside:
            free -= int(min(_MARGIN_SHARE * total, _MARGIN_AT_MOST))
        free = int(free * share)
        if self._budget:
            free = min(free, self._limit(total) - self._tenants.held(device))
        return free

    def _limit(self, total: int) -> int:
        return int(self._budget * total) if self._budget <= 1 else int(self._budget)

    def _others(self, device: str) -> int:
        """Bytes that loads under way have reserved."""
        every = (one for demands in list(self._reserved.values()) for one in demands)
        return sum(count for where, count in every if same_memory(where, device))

    def _figures(self, need: Need, device: str, beside: bool) -> str:
        total, free = device_bytes(device)
        held, idle = self._tenants.held(device), self._tenants.idle(device)
        limit = f", of which models may take {size_text(self._limit(total))}" if self._budget else ""
        promised = self._tenants.promised(device)
        growing = f" The answers under way may take {size_text(promised)} more." if promised else ""
        return (
            f"{need.name} needs {need}; {size_text(self.available(device, beside))} can be had on {device}. "
            f"{size_text(free)} of its {size_text(total)}{limit} are free; "
            f"the models in memory hold {size_text(held)}, {size_text(held - idle)} of that in use.{growing}"
        )


class Ticket:
    """One load's claim on a `Room`; a context manager that gives it back at the end."""

    def __init__(self, room: Room, beside: bool = False) -> None:
        self._room = room
        self.beside = beside

    def reserve(self, device: str, choose: Callable[[int], tuple[PlanT, Need]], report: Report) -> PlanT:
        """The plan that ``choose`` makes of the bytes that can be had on ``device``, its need reserved.

        What is idle and stands in its way is dropped, unused for longest first: adapters where they are enough, else
        models. Where it fits only beside a load that is under way, that load's end is waited for. Raises `OutOfMemory`
        with the figures where it cannot fit.
        """
        return self._room.settle(self, device, choose, report)

    def available(self, device: str) -> int:
        """Bytes that can be had on another ``device``, for a plan that takes some there too."""
        return self._room.available(device, self.beside)

    def __enter__(self) -> Ticket:
        return self

    def __exit__(self, *error: object) -> None:
        self._room.release(self)


def mapped_files(suffix: str) -> list[tuple[int, int]]:
    """(start, end) addresses of the files named *``suffix`` that this process has mapped; [] where no system tells."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    spans = [line.split(maxsplit=1)[0].split("-") for line in lines if line.endswith(suffix)]
    return [(int(start, 16), int(end, 16)) for start, end in spans]


def _cgroup_limit() -> int | None:
    """The tightest memory limit that this process is under, in bytes, or None where there is none.

    Somebody may set another one, but not many times a second: so long it is believed, for reading it takes longer than all
    else that `device_bytes` looks at.
    """
    return _limit_at(int(time.monotonic() / _LIMIT_STANDS_S))


@functools.lru_cache(maxsize=1)
def _limit_at(moment: int) -> int | None:
    """`_cgroup_limit`, looked up once for each ``moment``."""
    limits = [int(text) for text in map(_content, _limit_files()) if text.isdigit()]
    return min(limits, default=None)


def _limit_files() -> Iterator[Path]:
    """Where the limits of this process's control group and of all groups around it stand; version 2, then 1."""
    for line in _content(Path("/proc/self/cgroup")).splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers in ("", "memory"):
            root, name = (_CGROUP, "memory.max") if not controllers else (_CGROUP / "memory", "memory.limit_in_bytes")
            inner = root / group.lstrip("/")
            yield from (folder / name for folder in (inner, *inner.parents) if folder.is_relative_to(root))


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
