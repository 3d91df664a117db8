"""Slots keep every row's own keys and values, whoever joins, grows or leaves beside it."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch

from playground.local_inference.slots import SMALLEST_BUCKET, Slab, Slot, SlotCache, cache_of, planes_of

LAYERS, HEADS, SIZE = 2, 2, 4


def _prefilled(length: int, value: float) -> SimpleNamespace:
    """A transformers cache as a prefill leaves it: every number is ``value`` plus the position."""
    positions = torch.arange(length, dtype=torch.float32)[None, None, :, None] / 1000
    tensor = (positions + value).expand(1, HEADS, length, SIZE).clone()
    return SimpleNamespace(layers=[SimpleNamespace(keys=tensor + at, values=-tensor - at) for at in range(LAYERS)])


def _holds(slot: Slot, value: float) -> bool:
    assert slot.slab is not None
    expected = _prefilled(slot.length, value)
    planes, length = planes_of(expected)
    assert length == slot.length
    return all(torch.allclose(held[:length], plane) for held, plane in zip(slot.slab.read(slot), planes, strict=True))


@torch.inference_mode()
def _step(cache: SlotCache, rows: dict[Slot, float]) -> None:
    """One decode step of all rows, as the model would write it."""
    for slab in cache.groups(list(rows)):
        assert slab.lengths().tolist() == [slot.length for slot in slab.slots]
        assert slab.mask(slab.lengths()).sum(-1).flatten().tolist() == [slot.length + 1 for slot in slab.slots]
        for at, layer in enumerate(cache_of(slab).layers):
            new = torch.tensor([rows[slot] + slot.length / 1000 + at for slot in slab.slots])
            new = new[:, None, None, None].expand(-1, HEADS, 1, SIZE)
            keys, _ = layer.update(new, -new)
            assert keys.shape[0] == len(slab.slots)
        for slot in slab.slots:
            slot.length += 1


def test_rows_keep_their_own_content_through_joins_moves_and_leaves() -> None:
    """G11: a random life of forty rows, checked after every step."""
    chance = random.Random(1)
    cache, rows, value = SlotCache(), {}, 0.0
    for _ in range(150):
        if len(rows) < 9 and chance.random() < 0.3:
            value += 10.0
            rows[
                cache.join(
                    *planes_of(_prefilled(chance.choice([3, 40, SMALLEST_BUCKET - 2, SMALLEST_BUCKET, 600]), value))
                )
            ] = value
        if rows and chance.random() < 0.2:
            gone = chance.choice(list(rows))
            cache.leave(gone)
            del rows[gone]
        _step(cache, rows)
        assert all(_holds(slot, content) for slot, content in rows.items())


def test_a_row_that_outgrows_its_bucket_moves_to_the_next() -> None:
    """G11: and reads no further than its own bucket before."""
    cache = SlotCache()
    slot = cache.join(*planes_of(_prefilled(SMALLEST_BUCKET - 1, 1.0)))
    assert slot.slab is not None
    assert slot.slab.capacity == SMALLEST_BUCKET
    _step(cache, {slot: 1.0})
    _step(cache, {slot: 1.0})
    assert slot.slab.capacity == 2 * SMALLEST_BUCKET
    assert _holds(slot, 1.0)


def test_the_memory_comes_back_when_the_last_row_leaves() -> None:
    """G12: bytes are counted, and freed."""
    cache = SlotCache()
    slots = [cache.join(*planes_of(_prefilled(5, float(at)))) for at in range(5)]
    assert cache.bytes() >= 5 * LAYERS * 2 * HEADS * SMALLEST_BUCKET * SIZE * 4
    for slot in slots:
        cache.leave(slot)
    assert cache.bytes() == 0
    cache.leave(slots[0])


def test_its_memory_can_be_asked_for_while_a_longer_row_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    """G12: the figures are read by another thread than the one that decodes; here a slab is made in the middle of it."""
    cache, of_one = SlotCache(), Slab.bytes
    cache.join(*planes_of(_prefilled(3, 1.0)))
    held = cache.bytes()

    def bytes_and_a_join(slab: Slab) -> int:
        cache.join(*planes_of(_prefilled(2 * SMALLEST_BUCKET, 2.0)))
        return of_one(slab)

    monkeypatch.setattr(Slab, "bytes", bytes_and_a_join)
    assert cache.bytes() == held
