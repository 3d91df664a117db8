"""Memory for rows: who is refused, who waits, and what makes way when a row grows.

A row is promised what it may come to when it joins, and takes it bit by bit. One that could not even have the memory to
itself is refused before it waits; one that does not fit beside the others waits for them. Before a row takes more, that is
looked for: what is kept for reuse goes first, then adapters and models that nobody uses. Where it is not to be had, this row
ends and no other.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from playground.errors import OutOfMemory
from playground.local_inference import memory
from playground.local_inference.explain import ran_out
from playground.local_inference.memory import size_text
from playground.local_inference.packed import SMALL_SLOT
from playground.local_inference.resident import Attached, Resident
from playground.local_inference.row import Row
from playground.local_inference.slots import bucket

# How much of the free memory the live rows' keys and values may take when all have grown to their full length.
_SHARE_FOR_ROWS = 0.5
# For so long a row that does not fit is not looked at again, and what was measured as free is believed.
_LOOK_AGAIN_S = 0.05
# How much of what is idle makes way at once where a pass has run out, whose own numbers nobody has reckoned.
_RELIEF = 256_000_000
# What a pass joins of an adapter takes about so many times the adapter's bytes: B is wider for linears side by side.
_JOINED = 2
_REMEDY = "Ask for fewer tokens (max_new_tokens), shorten the prompt, or unload another model."


def most_bytes(row: Row) -> int:
    """The row's keys and values when it has written all it may; 0 where its architecture does not tell."""
    return _beams(row) * int(row.resident.row_bytes(_grown(row)))


def peak_bytes(row: Row) -> int:
    """The most that the row takes at any time: while it moves, its old place counts beside the new one."""
    if _beams(row) > 1 or not row.resident.batches:
        return most_bytes(row)
    size = row.resident.row_bytes
    steps = [prompt_bytes(row)]  # the prompt is read elsewhere, then copied into a slot
    capacity = bucket(_prompt(row) + 1)
    while capacity < _grown(row):
        steps.append(int(size(capacity)))
        capacity = bucket(capacity + 1)
    steps.append(int(size(capacity)))
    return max(one + other for one, other in pairwise(steps))


def prompt_bytes(row: Row) -> int:
    """What the row's prompt takes while it is read: of a small row what becomes its slot."""
    slot = int(row.resident.row_bytes(bucket(_prompt(row) + 1)))
    return slot if slot <= SMALL_SLOT and row.resident.batches else int(row.resident.row_bytes(_prompt(row)))


def pass_bytes(row: Row, tokens: int) -> int:
    """What a pass of the row by itself over ``tokens`` takes, as if its cache grew in buckets: no need to look each time."""
    read, capacity = row.state.read, bucket(row.state.read + tokens)
    if read and capacity == bucket(read):
        return 0
    return int(row.resident.row_bytes(capacity) - row.resident.row_bytes(read))


def promised_bytes(rows: Iterable[Row], device: str) -> int:
    """What ``rows`` in the memory of ``device`` have yet to take, should each write all it may. Any thread may ask."""
    here = [row for row in rows if memory.same_memory(_device(row), device)]
    growing = [row for row in here if _taken(row) < most_bytes(row)]
    moving = max((peak_bytes(row) - most_bytes(row) for row in growing), default=0)  # they move one after the other
    return sum(most_bytes(row) - _taken(row) for row in growing) + moving + _to_join(here)


class RowMemory:
    """Decides for the rows of all models; `refuse` may be asked by any thread, the rest by the compute thread alone."""

    def __init__(self, room: memory.Room | None = None) -> None:
        """``room`` is what models and rows have together; the whole device where none is given."""
        self._room = room or memory.Room()
        self._denied: tuple[int, tuple[int, ...], float] = (0, (), 0.0)  # ids: rows keep their model in memory
        self._known: dict[str, tuple[float, int]] = {}

    def refuse(self, row: Row) -> None:
        """Raise `OutOfMemory`, with figures, where ``row`` could not grow to its full length even with nobody else there."""
        need, device = peak_bytes(row), _device(row)
        if not need:
            return
        possible = self._alone(row)
        if need > possible:  # what was freed may only be kept, by glibc or a GPU's cache
            memory.tidy(device)
            possible = self._alone(row)
        if need > possible:
            raise OutOfMemory(
                f"This answer needs {size_text(need)} for the keys and values of {_grown(row):,} positions "
                f"({_prompt(row):,} of its prompt{_in_beams(row)}), and with nobody else there "
                f"{size_text(max(0, possible))} can be had on {device}{self._budget(device)}.",
                "Ask for fewer tokens (max_new_tokens), shorten the prompt, or let models take more (memory_budget).",
            )

    def fits(self, row: Row, live: Sequence[Row]) -> bool:
        """Whether ``row``, grown to its full length beside the ``live`` ones, leaves half of the free memory alone.

        Where not, ``row.short_of`` says so. What makes way for rows counts as free.
        """
        asked = id(row), tuple(map(id, live))
        if asked == self._denied[:2] and time.monotonic() - self._denied[2] < _LOOK_AGAIN_S:
            return False
        device = _device(row)
        left = self._room.left(device, share=_SHARE_FOR_ROWS) + self._room.tenants.idle(device)
        if promised_bytes((*live, row), device) <= left:
            return True
        row.short_of = row.short_of or _what_is_short(row, promised_bytes(live, device), left)
        self._denied = (*asked, time.monotonic())
        return False

    @contextmanager
    def taking(self, row: Row, count: int) -> Iterator[None]:
        """A block in which ``row`` takes ``count`` bytes more. Raises `OutOfMemory` with figures, before it or from it."""
        device = _device(row)
        if count and not self._known_to_fit(device, count):
            self._make_way(row, device, count)
        try:
            yield
        except (RuntimeError, MemoryError) as error:  # the system had promised more than it gives
            if not ran_out(error):
                raise
            raise self._ran_out(row, count, self._left(device)) from error

    def relieve(self, row: Row) -> bool:
        """After a pass has run out of memory: have something that is idle make way. False where nothing is."""
        device = _device(row)
        memory.tidy(device)
        return bool(self._room.tenants.evict(device, _RELIEF))

    def _make_way(self, row: Row, device: str, count: int) -> None:
        """Have ``count`` bytes free, what is idle being dropped for it. Raises `OutOfMemory`."""
        left = self._left(device)
        if left < count:
            memory.tidy(device)
            left = self._left(device)
        while left < count and self._room.tenants.evict(device, count - left):
            left = self._left(device)
        if left < count:
            raise self._ran_out(row, count, left)
        self._known[device] = (time.monotonic(), left - count)

    def _known_to_fit(self, device: str, count: int) -> bool:
        """Whether what was just measured covers ``count`` twice: then it is not measured for every row anew."""
        when, left = self._known.get(device, (0.0, 0))
        if time.monotonic() - when > _LOOK_AGAIN_S or 2 * count > left:
            return False
        self._known[device] = (when, left - count)
        return True

    def _left(self, device: str) -> int:
        return max(0, self._room.left(device, margin=False, loads=False))

    def _alone(self, row: Row) -> int:
        """Bytes that could be had for ``row`` if its model and adapters were all that is there."""
        device = _device(row)
        shares = row.resident.loaded.shares
        own = sum(int(count) for where, count in shares.items() if memory.same_memory(where, device))
        own += sum(_with_joined(attached) for attached, _ in row.applied.adapters)
        return self._room.left(device, loads=False) + self._room.tenants.held(device) - own

    def _budget(self, device: str) -> str:
        limit = self._room.limit(device)
        return "" if limit is None else f", where models and answers may take {size_text(limit)} together"

    def _ran_out(self, row: Row, count: int, left: int) -> OutOfMemory:
        device = _device(row)
        had = f"{size_text(left)} can be had on {device}{self._budget(device)}"
        if left >= count:  # ulimit -v, memory in pieces
            had = f"the system did not give them, although {size_text(left)} are free on {device}"
        return OutOfMemory(
            f"Memory ran out after {row.completion_tokens:,} tokens of this answer: its keys and values need "
            f"{size_text(count)} more to go on, and {had}.",
            _REMEDY,
        )


def _with_joined(attached: Attached) -> int:
    """Bytes of an adapter's tensors, and of those that a pass takes, joined with others'."""
    return int(attached.info.bytes) * (1 if attached.weights is None else 1 + _JOINED)


def _what_is_short(row: Row, promised: int, left: int) -> str:
    had = f"{size_text(max(0, left - promised))} can be had beside the answers under way"
    return f"waiting for memory: this answer may take {size_text(peak_bytes(row))}, and {had}"


def _device(row: Row) -> str:
    device: str = row.resident.loaded.plan.device
    return device


def _beams(row: Row) -> int:
    settings = row.request.settings
    return settings.num_beams if settings.strategy == "beam_search" else 1


def _in_beams(row: Row) -> str:
    return f"; {_beams(row)} beams" if _beams(row) > 1 else ""


def _prompt(row: Row) -> int:
    """Positions before the answer."""
    assert row.prompt is not None
    return int(row.applied.positions) + len(row.prompt.token_ids)


def _grown(row: Row) -> int:
    """The capacity of the slot that holds the row in the end; the positions alone where it is in no slot."""
    assert row.prompt is not None
    positions = _prompt(row) + row.prompt.max_new_tokens
    return bucket(positions) if row.resident.batches else positions


def _taken(row: Row) -> int:
    """What of `most_bytes` the row has taken; none of a beam search, which keeps its own."""
    state: Any = row.state
    if state is None:
        return 0
    slot, reading = state.slot, state.reading  # the compute thread may take them away meanwhile
    slab = slot.slab if slot else None
    if slab is not None:
        return int(row.resident.row_bytes(slab.capacity))
    if reading is None:
        return int(row.resident.row_bytes(state.read))
    # A GPU's memory is taken at once, the machine's when it is written.
    positions = reading.read if _device(row) == "cpu" else int(reading.planes[0].shape[0])
    return min(int(row.resident.row_bytes(positions)), most_bytes(row))


def _to_join(rows: Sequence[Row]) -> int:
    """Bytes of what passes of ``rows`` join of their adapters' tensors, less what is joined already."""
    found: dict[Resident, set[Attached]] = {}
    for row in rows:
        lora = {attached for attached, _ in row.applied.adapters if attached.weights is not None}
        if lora:
            found.setdefault(row.resident, set()).update(lora)
    count = 0
    for held, live in found.items():
        size = sum(int(one.info.bytes) for one in live)
        joined = held.joined_bytes() - held.spare_joined(live)
        count += max(0, _JOINED * size - joined) if joined < size else 0
    return count
