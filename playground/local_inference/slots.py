"""Keys and values of the rows that are decoded together: slabs of slots, one slab for each length bucket.

A row's prefilled keys and values are copied into a slot; each step writes one position per row, at that row's own place,
so rows of different lengths share a forward pass without padding tokens. A row that outgrows its bucket moves to the next; a
row that leaves is replaced by the last one, so that the live slots are always the first ones.

What a slot holds is for whoever reads it: a list of planes, tensors [slots, positions, ...]. packed.py has one for each
layer, with keys and values in it; `cache_of` shows slabs of two planes a layer to transformers as its own cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

SMALLEST_BUCKET = 256


def bucket(positions: int) -> int:
    """The capacity of the slab that holds a row of so many positions."""
    capacity = SMALLEST_BUCKET
    while capacity < positions:
        capacity *= 2
    return capacity


@dataclass(eq=False)
class Slot:
    """A row's place: its slab and index there, and how many positions are filled."""

    length: int
    slab: Slab | None = None
    index: int = -1


@dataclass(eq=False)
class Slab:
    """Slots of one bucket. ``capacity`` is in positions; the number of slots doubles when they are full."""

    capacity: int
    slots: list[Slot] = field(default_factory=list)
    planes: list[torch.Tensor] = field(default_factory=list)

    def add(self, slot: Slot, source: Sequence[torch.Tensor]) -> None:
        """Copy ``source`` (for each plane [positions, ...]) into the next free slot."""
        self._make_room(source)
        slot.slab, slot.index = self, len(self.slots)
        self.slots.append(slot)
        for plane, filled in zip(self.planes, source, strict=True):
            plane[slot.index, : slot.length] = filled[: slot.length]

    def remove(self, slot: Slot) -> None:
        """Free ``slot``: the last live one takes its place."""
        last = self.slots.pop()
        if last is not slot:
            for plane in self.planes:
                plane[slot.index, : last.length] = plane[last.index, : last.length]
            self.slots[slot.index] = last
            last.index = slot.index
        slot.slab = None
        if not self.slots:
            self.planes.clear()

    def read(self, slot: Slot) -> list[torch.Tensor]:
        """The slot's planes, [positions, ...] each; views."""
        return [plane[slot.index] for plane in self.planes]

    @property
    def width(self) -> int:
        """Positions that a step reads: those of the longest row, and the one it writes."""
        return max(slot.length for slot in self.slots) + 1

    def lengths(self) -> torch.Tensor:
        """Where each row writes next, [rows] int64."""
        return torch.tensor([slot.length for slot in self.slots], device=self.planes[0].device)

    def mask(self, lengths: torch.Tensor) -> torch.Tensor:
        """[rows, 1, 1, width] bool: true where a row may look, the position it is about to write included."""
        positions = torch.arange(self.width, device=lengths.device)
        return (positions[None, :] <= lengths[:, None])[:, None, None, :]

    def bytes(self) -> int:
        """Memory of the slab, live or not."""
        return sum(plane.numel() * plane.element_size() for plane in self.planes)

    def _make_room(self, source: Sequence[torch.Tensor]) -> None:
        taken = len(self.slots)
        if self.planes and taken < self.planes[0].shape[0]:
            return
        count = max(1, 2 * taken)
        grown = [filled.new_zeros((count, self.capacity, *filled.shape[1:])) for filled in source]
        for new, old in zip(grown, self.planes, strict=False):
            new[:taken] = old[:taken]
        self.planes = grown


class SlotCache:
    """The slabs of one base."""

    def __init__(self) -> None:
        self._slabs: dict[int, Slab] = {}

    def join(self, source: Sequence[torch.Tensor], length: int) -> Slot:
        """A slot with a copy of the first ``length`` positions of ``source`` in it, and room for at least one more."""
        slot = Slot(length)
        with torch.inference_mode():  # as the passes that write into the planes: torch does not mix the two
            self._slab(length + 1).add(slot, source)
        return slot

    def leave(self, slot: Slot) -> None:
        """Free ``slot``."""
        if slot.slab is not None:
            with torch.inference_mode():
                slot.slab.remove(slot)

    def groups(self, slots: Sequence[Slot]) -> list[Slab]:
        """The slabs in which ``slots`` are, each after moving the rows that have outgrown theirs."""
        for slot in slots:
            if slot.slab is not None and slot.length >= slot.slab.capacity:
                self._move(slot, slot.slab)
        return list({id(slot.slab): slot.slab for slot in slots if slot.slab is not None}.values())

    def _move(self, slot: Slot, old: Slab) -> None:
        with torch.inference_mode():
            source = [filled.clone() for filled in old.read(slot)]
            old.remove(slot)
            self._slab(slot.length + 1).add(slot, source)

    def bytes(self) -> int:
        """Memory of all slabs; any thread may ask, while others come."""
        return sum(slab.bytes() for slab in list(self._slabs.values()))

    def _slab(self, positions: int) -> Slab:
        capacity = bucket(positions)
        return self._slabs.setdefault(capacity, Slab(capacity))


class _SlabLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values [slots, heads, positions, size] as transformers' cache interface wants them."""

    is_compileable = False

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, at: torch.Tensor, width: int) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.is_initialized = True
        self._rows = torch.arange(at.shape[0], device=at.device)
        self._at, self._width = at, width

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """The slab is there already."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one position of each live row; return what the rows have, as wide as the longest of them."""
        live = key_states.shape[0]
        self.keys[self._rows, :, self._at] = key_states[:, :, 0]
        self.values[self._rows, :, self._at] = value_states[:, :, 0]
        return self.keys[:live, :, : self._width], self.values[:live, :, : self._width]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(width, offset) of the mask."""
        return self._width, 0

    def get_seq_length(self) -> int:
        """Positions before this step's, of the longest row."""
        return self._width - 1

    def get_max_length(self) -> int:
        """No maximum: rows move to a larger slab."""
        return -1


def cache_of(slab: Slab) -> Cache:
    """``slab`` as transformers' cache, for one step of all its rows."""
    shown = [plane.transpose(1, 2) for plane in slab.planes]
    lengths, width = slab.lengths(), slab.width
    return Cache(layers=[_SlabLayer(*pair, lengths, width) for pair in zip(shown[::2], shown[1::2], strict=True)])


def planes_of(cache: Any) -> tuple[list[torch.Tensor], int]:
    """(planes, positions) of a prefilled transformers ``cache`` of one row, as `SlotCache.join` takes them."""
    pairs = [(layer.keys[0].transpose(0, 1), layer.values[0].transpose(0, 1)) for layer in cache.layers]
    return [plane for pair in pairs for plane in pair], int(pairs[0][0].shape[0])
