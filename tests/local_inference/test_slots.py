"""Slots keep every row's own keys and values, whoever joins, grows or leaves beside it."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from playground.local_inference.row_cache import cache_of, contents_of
from playground.local_inference.slots import SMALLEST_BUCKET, Contents, Slab, Slot, SlotCache

LAYERS, HEADS, SIZE = 2, 2, 4
MODEL = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=8,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        head_dim=SIZE,
    )
)


def _prefilled(length: int, value: float) -> Contents:
    """What a prefill leaves: every number is ``value`` plus the position, and a state is ``value``."""
    positions = torch.arange(length, dtype=torch.float32)[None, None, :, None] / 1000
    tensor = (positions + value).expand(1, HEADS, length, SIZE).clone()
    cache = DynamicCache([(tensor + at, -tensor - at) for at in range(LAYERS)])
    return replace(contents_of(cache), states=[torch.full((3,), value)])


def _holds(slot: Slot, value: float) -> bool:
    assert slot.slab is not None
    expected, held = _prefilled(slot.length, value), slot.slab.contents(slot)
    assert held.positions == slot.length
    found = [*(plane[: slot.length] for plane in held.planes), *held.states]
    return all(torch.allclose(*pair) for pair in zip(found, [*expected.planes, *expected.states], strict=True))


@torch.inference_mode()
def _step(cache: SlotCache, rows: dict[Slot, float]) -> None:
    """One decode step of all rows, as the model would write it."""
    for slab in cache.groups(list(rows)):
        assert slab.lengths().tolist() == [slot.length for slot in slab.slots]
        assert slab.mask(slab.lengths()).sum(-1).flatten().tolist() == [slot.length + 1 for slot in slab.slots]
        for at, layer in enumerate(cache_of(MODEL, slab).layers):
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
            length = chance.choice([3, 40, SMALLEST_BUCKET - 2, SMALLEST_BUCKET, 600])
            rows[cache.join(_prefilled(length, value))] = value
        if rows and chance.random() < 0.2:
            gone = chance.choice(list(rows))
            cache.leave(gone)
            del rows[gone]
        _step(cache, rows)
        assert all(_holds(slot, content) for slot, content in rows.items())


def test_a_row_that_outgrows_its_bucket_moves_to_the_next() -> None:
    """G11: and reads no further than its own bucket before."""
    cache = SlotCache()
    slot = cache.join(_prefilled(SMALLEST_BUCKET - 1, 1.0))
    assert slot.slab is not None
    assert slot.slab.capacity == SMALLEST_BUCKET
    _step(cache, {slot: 1.0})
    _step(cache, {slot: 1.0})
    assert slot.slab.capacity == 2 * SMALLEST_BUCKET
    assert _holds(slot, 1.0)


@pytest.mark.parametrize("leaves", [0, 1, 2])
def test_what_a_broken_row_left_does_not_reach_the_next_one(leaves: int) -> None:
    """G2, G11: an adapter may compute NaN, which no mask hides; neither its place nor where it was moved from keeps it."""
    cache = SlotCache()
    rows = [cache.join(_prefilled(60, 1.0)), cache.join(_prefilled(200, math.nan)), cache.join(_prefilled(80, 3.0))]
    cache.leave(rows[leaves])
    if leaves != 1:
        cache.leave(rows[1])
    next_one = cache.join(_prefilled(5, 4.0))
    assert next_one.slab is not None
    assert all(bool(plane.isfinite().all()) for plane in next_one.slab.planes)


def test_the_memory_comes_back_when_the_last_row_leaves() -> None:
    """G12: bytes are counted, and freed."""
    cache = SlotCache()
    slots = [cache.join(_prefilled(5, float(at))) for at in range(5)]
    assert cache.bytes() >= 5 * LAYERS * 2 * HEADS * SMALLEST_BUCKET * SIZE * 4
    for slot in slots:
        cache.leave(slot)
    assert cache.bytes() == 0
    cache.leave(slots[0])


def test_its_memory_can_be_asked_for_while_a_longer_row_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    """G12: the figures are read by another thread than the one that decodes; here a slab is made in the middle of it."""
    cache, of_one = SlotCache(), Slab.bytes
    cache.join(_prefilled(3, 1.0))
    held = cache.bytes()

    def bytes_and_a_join(slab: Slab) -> int:
        cache.join(_prefilled(2 * SMALLEST_BUCKET, 2.0))
        return of_one(slab)

    monkeypatch.setattr(Slab, "bytes", bytes_and_a_join)
    assert cache.bytes() == held


def test_a_prompt_that_is_given_becomes_the_first_slot_without_a_copy() -> None:
    """G11: and what lies behind it is zeros, as masked NaN would still be NaN; the next row finds its own place."""
    plane = torch.full((256, 2, 1, 4), float("nan"))
    plane[:5] = 1.0
    slots = SlotCache()
    first = slots.join(Contents([plane], 5, given=True))
    assert first.slab is not None
    assert first.slab.planes[0].data_ptr() == plane.data_ptr()
    assert first.slab.planes[0][0, 5:].count_nonzero() == 0
    second = slots.join(Contents([torch.full((256, 2, 1, 4), 2.0)], 3, given=True))
    assert second.slab is first.slab
    assert torch.equal(first.slab.contents(first).planes[0][:5], torch.ones(5, 2, 1, 4))
    assert torch.equal(first.slab.contents(second).planes[0][:3], torch.full((3, 2, 1, 4), 2.0))
