"""What the rows that are decoded together have read, in slabs of slots, one slab for each length bucket.

A row's prefilled keys and values are copied into a slot; each step writes one position per row, at that row's own place,
so rows of different lengths share a forward pass without padding tokens. A row that outgrows its bucket moves to the next; a
row that leaves is replaced by the last one, so that the live slots are always the first ones. Recurrent layers keep states
in place of positions, which each step overwrites; rows of a model that has nothing else share one slab, however long.

What a slot holds is for whoever reads it: a list of planes, tensors [slots, positions, ...], and one of states [slots, ...].
packed.py has a plane for each layer, with keys and values in it; row_cache.py shows slabs to transformers as its own cache.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

SMALLEST_BUCKET = 256
# Beyond so many positions there is a bucket between each and its double: what lies empty grows with them.
_LARGE_BUCKET = 4096
# Slots that nobody is in may take this many bytes of a slab.
_SPARE_BYTES = 32_000_000


def bucket(positions: int) -> int:
    """The capacity of the slab that holds a row of so many positions."""
    capacity = SMALLEST_BUCKET
    while capacity < positions:
        capacity *= 2
    between = capacity * 3 // 4
    return between if capacity > _LARGE_BUCKET and between >= positions else capacity


@dataclass(frozen=True)
class Contents:
    """What a model keeps of one text that it has read: what each position left, and of recurrent layers what all of it did.

    ``planes`` [positions or more, ...], ``states`` [...] as they are after the last position; none in most models. What is
    ``given`` nobody else holds: a slot may take it over instead of copying it.
    """

    planes: Sequence[torch.Tensor]
    positions: int
    states: Sequence[torch.Tensor] = ()
    given: bool = False


@dataclass(eq=False)
class Slot:
    """A row's place: its slab and index there, and how many positions are filled, all of them in one rotary ``regime``."""

    length: int
    slab: Slab | None = None
    index: int = -1
    regime: int = 0


@dataclass(eq=False)
class Slab:
    """Slots of one bucket and regime. ``capacity`` is in positions.

    The number of slots doubles when they are full, but for large ones, of which there are as many as there are rows.
    """

    capacity: int
    regime: int = 0
    slots: list[Slot] = field(default_factory=list)
    planes: list[torch.Tensor] = field(default_factory=list)
    states: list[torch.Tensor] = field(default_factory=list)

    def add(self, slot: Slot, source: Contents) -> None:
        """Copy ``source`` into the next free slot."""
        taken_over = self._takes_over(source)
        if not taken_over:
            self._make_room(source)
        slot.slab, slot.index = self, len(self.slots)
        self.slots.append(slot)
        if taken_over:
            return
        for plane, filled in zip(self.planes, source.planes, strict=True):
            plane[slot.index, : slot.length] = filled[: slot.length]
        for states, state in zip(self.states, source.states, strict=True):
            states[slot.index] = state

    def remove(self, slot: Slot) -> None:
        """Free ``slot``: the last live one takes its place."""
        self.vacate(slot.index, slot.length + 1)
        slot.slab = None

    def vacate(self, index: int, filled: int) -> None:
        """Free the place at ``index``, of which ``filled`` positions were written, wherever the slot from there is now.

        What is left behind is wiped: masks hide numbers from a later row, and not what a broken adapter left, NaN.
        """
        last = self.slots.pop()
        if index < (end := len(self.slots)):
            for plane in self.planes:
                plane[index, : last.length] = plane[end, : last.length]
                plane[index, last.length : filled].zero_()
                plane[end, : last.length + 1].zero_()
            for states in self.states:
                states[index] = states[end]
            self.slots[index] = last
            last.index = index
        else:
            for plane in self.planes:
                plane[index, :filled].zero_()
        if not self.slots:
            self.planes.clear()
            self.states.clear()
        elif self.places - len(self.slots) > 2 * self._spare():
            with contextlib.suppress(RuntimeError, MemoryError):  # no room to move them: then they stay where they are
                self._resize(len(self.slots) + self._spare())

    def empty_bytes(self) -> int:
        """Memory of the places that nobody is in; any thread may ask."""
        places = self.places
        return self.bytes() // places * max(0, places - len(self.slots)) if places else 0

    def compact(self) -> int:
        """Give up the places that nobody is in; returns the bytes that came back, 0 where there is no room to move them."""
        before = self.bytes()
        if self.places > len(self.slots):
            with contextlib.suppress(RuntimeError, MemoryError):
                self._resize(len(self.slots))
        return before - self.bytes()

    def contents(self, slot: Slot) -> Contents:
        """What is in ``slot``; views."""
        planes, states = ([held[slot.index] for held in some] for some in (self.planes, self.states))
        return Contents(planes, slot.length, states)

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All that it holds, [slots, ...] each."""
        return [*self.planes, *self.states]

    @property
    def places(self) -> int:
        """How many slots there is memory for."""
        return min((tensor.shape[0] for tensor in self.tensors), default=0)

    @property
    def width(self) -> int:
        """Positions that a step reads: those of the longest row, and the one it writes."""
        return max(slot.length for slot in self.slots) + 1

    def lengths(self) -> torch.Tensor:
        """Where each row writes next, [rows] int64."""
        return torch.tensor([slot.length for slot in self.slots], device=self.tensors[0].device)

    def mask(self, lengths: torch.Tensor) -> torch.Tensor:
        """[rows, 1, 1, width] bool: true where a row may look, the position it is about to write included."""
        positions = torch.arange(self.width, device=lengths.device)
        return (positions[None, :] <= lengths[:, None])[:, None, None, :]

    def bytes(self) -> int:
        """Memory of the slab, live or not."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors)

    def may_take_over(self, source: Contents) -> bool:
        """Whether ``source`` can become the first slot as it is: then it takes no more memory."""
        fits = all(plane.shape[0] == self.capacity for plane in source.planes)
        return source.given and fits and not (self.tensors or source.states)

    def _takes_over(self, source: Contents) -> bool:
        """Make what is given the first slot itself, where it is as large as one. What no row may look at must be numbers."""
        if not self.may_take_over(source):
            return False
        for plane in source.planes:
            plane[source.positions :].zero_()
        self.planes = [plane[None] for plane in source.planes]
        return True

    def _make_room(self, source: Contents) -> None:
        taken = len(self.slots)
        if not self.tensors:
            planes = [filled.new_zeros((1, self.capacity, *filled.shape[1:])) for filled in source.planes]
            states = [state.new_zeros((1, *state.shape)) for state in source.states]
            self.planes, self.states = planes, states
        elif taken == self.places:
            self._resize(taken + max(1, min(taken, self._spare())))

    def _spare(self) -> int:
        """How many slots may lie empty."""
        return _SPARE_BYTES * self.places // max(1, self.bytes())

    def _resize(self, count: int) -> None:
        """Make it ``count`` slots. Tensor by tensor: what is moved lies there twice only in part, and where one fails, no
        slot is lost."""
        kept = len(self.slots)
        for held in (self.planes, self.states):
            for at, old in enumerate(held):
                new = old.new_zeros((count, *old.shape[1:]))
                new[:kept] = old[:kept]
                held[at] = new


class SlotCache:
    """The slabs of one base."""

    def __init__(self) -> None:
        self._slabs: dict[tuple[int, int], Slab] = {}

    def join(self, source: Contents, regime: int = 0) -> Slot:
        """A slot with ``source`` in it, copied unless given, and room for one position more; ``regime``: regimes.py."""
        slot = Slot(source.positions, regime=regime)
        with torch.inference_mode():  # as the passes that write into the planes: torch does not mix the two
            self._slab(source, regime).add(slot, source)
        return slot

    def leave(self, slot: Slot) -> None:
        """Free ``slot``."""
        if slot.slab is not None:
            with torch.inference_mode():
                slot.slab.remove(slot)

    def groups(self, slots: Sequence[Slot]) -> list[Slab]:
        """The slabs in which ``slots`` are, each after moving the rows that have outgrown theirs."""
        for slot in slots:
            self.grow(slot)
        return list({id(slot.slab): slot.slab for slot in slots if slot.slab is not None}.values())

    def grow(self, slot: Slot) -> None:
        """Move ``slot`` to a larger slab where it has outgrown its own; where that fails it stays."""
        if (old := slot.slab) is None or not outgrown(slot):
            return
        with torch.inference_mode():
            source, left = old.contents(slot), slot.index
            self._slab(source, slot.regime).add(slot, source)
            old.vacate(left, slot.length + 1)

    def needs(self, source: Contents, regime: int = 0) -> int:
        """Bytes that a slot for ``source`` takes; 0 where one lies empty, or it is one already."""
        slab = self._slab(source, regime)
        if slab.places > len(slab.slots) or slab.may_take_over(source):
            return 0
        planes = sum(plane[0].numel() * plane.element_size() for plane in source.planes)
        states = sum(state.numel() * state.element_size() for state in source.states)
        return int((planes * slab.capacity if planes else 0) + states)

    def bytes(self) -> int:
        """Memory of all slabs; any thread may ask, while others come."""
        return sum(slab.bytes() for slab in list(self._slabs.values()))

    def empty_bytes(self) -> int:
        """Memory of the places that nobody is in: it makes way for anything else. Any thread may ask."""
        return sum(slab.empty_bytes() for slab in list(self._slabs.values()))

    def compact(self) -> int:
        """Give those up; returns the bytes that came back. Not while a pass is under way."""
        with torch.inference_mode():
            return sum(slab.compact() for slab in self._slabs.values())

    def _slab(self, source: Contents, regime: int) -> Slab:
        """The slab for a row that has ``source`` and writes on: without planes, all lengths share one."""
        capacity = bucket(source.positions + 1) if source.planes else sys.maxsize
        return self._slabs.setdefault((capacity, regime), Slab(capacity, regime))


def outgrown(slot: Slot) -> bool:
    """Whether its slab has no room for the next position."""
    return slot.slab is not None and slot.length >= slot.slab.capacity
