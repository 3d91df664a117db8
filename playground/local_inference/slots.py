"""Keys and values of the rows that are decoded together: slabs of slots, one slab for each length bucket.

A row's prefilled cache is copied into a slot; each step writes one position per row, at that row's own place, so rows of
different lengths share a forward pass without padding tokens. A row that outgrows its bucket moves to the next; a row that
leaves is replaced by the last one, so that the live slots are always the first ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

SMALLEST_BUCKET = 256


@dataclass(eq=False)
class Slot:
    """A row's place: its slab and index there, and how many positions are filled."""

    length: int
    slab: Slab | None = None
    index: int = -1


class _SlabLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values [slots, heads, positions, size] as transformers' cache interface wants them."""

    is_compileable = False

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.is_initialized = True
        self.rows = self.at = torch.empty(0, dtype=torch.long)
        self.width = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """The slab is there already."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one position of each live row; return what the rows have, as wide as the longest of them."""
        live = key_states.shape[0]
        self.keys[self.rows, :, self.at] = key_states[:, :, 0]
        self.values[self.rows, :, self.at] = value_states[:, :, 0]
        return self.keys[:live, :, : self.width], self.values[:live, :, : self.width]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(width, offset) of the mask."""
        return self.width, 0

    def get_seq_length(self) -> int:
        """Positions before this step's, of the longest row."""
        return self.width - 1

    def get_max_length(self) -> int:
        """No maximum: rows move to a larger slab."""
        return -1


@dataclass(eq=False)
class Slab:
    """Slots of one bucket. ``capacity`` is in positions; the number of slots doubles when they are full."""

    capacity: int
    slots: list[Slot] = field(default_factory=list)
    layers: list[_SlabLayer] = field(default_factory=list)

    def add(self, slot: Slot, source: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Copy ``source`` (for each layer keys and values [heads, positions, size]) into the next free slot."""
        self._make_room(source)
        slot.slab, slot.index = self, len(self.slots)
        self.slots.append(slot)
        for layer, (keys, values) in zip(self.layers, source, strict=True):
            layer.keys[slot.index, :, : slot.length] = keys[:, : slot.length]
            layer.values[slot.index, :, : slot.length] = values[:, : slot.length]

    def remove(self, slot: Slot) -> None:
        """Free ``slot``: the last live one takes its place."""
        last = self.slots.pop()
        if last is not slot:
            for layer in self.layers:
                layer.keys[slot.index, :, : last.length] = layer.keys[last.index, :, : last.length]
                layer.values[slot.index, :, : last.length] = layer.values[last.index, :, : last.length]
            self.slots[slot.index] = last
            last.index = slot.index
        slot.slab = None
        if not self.slots:
            self.layers.clear()

    def read(self, slot: Slot) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The slot's keys and values, layer by layer; views."""
        return [(layer.keys[slot.index], layer.values[slot.index]) for layer in self.layers]

    def cache(self) -> tuple[Cache, torch.Tensor, torch.Tensor]:
        """(cache, positions [rows, 1], mask [rows, 1, 1, width]) for one step of all live slots."""
        device = self.layers[0].keys.device
        lengths = torch.tensor([slot.length for slot in self.slots], device=device)
        width = max(slot.length for slot in self.slots) + 1
        rows = torch.arange(len(self.slots), device=device)
        for layer in self.layers:
            layer.rows, layer.at, layer.width = rows, lengths, width
        mask = torch.arange(width, device=device)[None, :] <= lengths[:, None]
        return Cache(layers=self.layers), lengths[:, None], mask[:, None, None, :]

    def bytes(self) -> int:
        """Memory of the slab, live or not."""
        return sum(2 * layer.keys.numel() * layer.keys.element_size() for layer in self.layers)

    def _make_room(self, source: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        if self.layers and len(self.slots) < self.layers[0].keys.shape[0]:
            return
        count = max(1, 2 * len(self.slots))
        grown = []
        for at, (keys, values) in enumerate(source):
            pair = [
                tensor.new_zeros((count, tensor.shape[0], self.capacity, tensor.shape[2])) for tensor in (keys, values)
            ]
            if self.layers:
                old = self.layers[at]
                pair[0][: len(self.slots)], pair[1][: len(self.slots)] = (
                    old.keys[: len(self.slots)],
                    old.values[: len(self.slots)],
                )
            grown.append(_SlabLayer(*pair))
        self.layers = grown


class SlotCache:
    """The slabs of one base."""

    def __init__(self) -> None:
        self._slabs: dict[int, Slab] = {}

    def join(self, cache: Any) -> Slot:
        """A slot with a copy of the prefilled ``cache`` (batch 1) in it, and room for at least one more position."""
        source = [(layer.keys[0], layer.values[0]) for layer in cache.layers]
        slot = Slot(source[0][0].shape[1])
        self._slab(slot.length + 1).add(slot, source)
        return slot

    def leave(self, slot: Slot) -> None:
        """Free ``slot``."""
        if slot.slab is not None:
            slot.slab.remove(slot)

    def groups(self, slots: Sequence[Slot]) -> list[Slab]:
        """The slabs in which ``slots`` are, each after moving the rows that have outgrown theirs."""
        for slot in slots:
            if slot.slab is not None and slot.length >= slot.slab.capacity:
                old, source = slot.slab, slot.slab.read(slot)
                source = [(keys.clone(), values.clone()) for keys, values in source]
                old.remove(slot)
                self._slab(slot.length + 1).add(slot, source)
        return list({id(slot.slab): slot.slab for slot in slots if slot.slab is not None}.values())

    def bytes(self) -> int:
        """Memory of all slabs."""
        return sum(slab.bytes() for slab in self._slabs.values())

    def _slab(self, positions: int) -> Slab:
        capacity = SMALLEST_BUCKET
        while capacity < positions:
            capacity *= 2
        return self._slabs.setdefault(capacity, Slab(capacity))
