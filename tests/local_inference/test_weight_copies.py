"""G11: several rows of a bf16 base on a CPU read its weights in oneDNN's own order, where nobody needs the memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from playground.local_inference import weight_copies
from playground.local_inference.packed import PackedModel
from playground.local_inference.slots import Contents, SlotCache
from playground.local_inference.weight_copies import WeightCopies

SHAPE = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "tie_word_embeddings": True, "max_position_embeddings": 256,
}  # fmt: skip

needs_bf16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN computes no bf16 on this processor"
)


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> PackedModel:
    """A tiny bf16 model in our own pass, on a machine where copies pay."""
    monkeypatch.setattr(weight_copies, "_faster", lambda weight: True)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", **SHAPE), dtype=torch.bfloat16).eval()
    found = PackedModel.of(model, 320)
    assert found is not None
    return found


def _decode(packed: PackedModel, rows: int, *, copies: bool) -> torch.Tensor:
    """The logits of a pass in which so many rows decode."""
    slots, joined = SlotCache(), []
    for at in range(rows):
        reading = packed.reading(3)
        packed.step([], [], [(reading, [at, 7, 9])], [()])
        joined.append(slots.join(Contents(reading.planes, 3)))
    return packed.step(slots.groups(joined), [5] * rows, [], [()] * rows, copies=copies)


@needs_bf16
def test_with_copies_rows_get_the_logits_that_they_get_without(packed: PackedModel) -> None:
    """G11: another order of the same weights."""
    plain = _decode(packed, 4, copies=False)
    packed.copies.spare = lambda: 1 << 30
    _decode(packed, 4, copies=True)
    assert packed.copies.bytes > 2 * 320 * 64  # the head among them
    torch.testing.assert_close(_decode(packed, 4, copies=True), plain, rtol=0.02, atol=0.02)
    torch.testing.assert_close(_decode(packed, 4, copies=False), plain, rtol=0, atol=0)


@needs_bf16
def test_copies_are_made_only_where_several_rows_decode_and_the_memory_is_spare(
    packed: PackedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G11, G12: and given back when they must make way."""
    monkeypatch.setattr(weight_copies, "_LOOK_AGAIN_S", 0.0)
    _decode(packed, 4, copies=True)
    assert packed.copies.bytes == 0
    packed.copies.spare = lambda: 1 << 30
    _decode(packed, 2, copies=True)
    _decode(packed, 4, copies=False)  # a row that is to be computed alone
    assert packed.copies.bytes == 0
    _decode(packed, 4, copies=True)
    held = packed.copies.bytes
    assert packed.copies.drop() == held > 0
    assert packed.copies.bytes == 0
    packed.copies.spare = lambda: held  # as much again must stay free
    _decode(packed, 4, copies=True)
    assert packed.copies.bytes == 0


def test_float32_is_never_copied() -> None:
    """G11: its products need no other order, and its answers stay what they are, bit for bit."""
    copies = WeightCopies([torch.ones(8, 8)])
    copies.spare = lambda: 1 << 30
    assert copies.linear_for(8, 8) is torch.nn.functional.linear
    assert copies.bytes == 0


@needs_bf16
def test_where_copies_do_not_pay_none_is_made(packed: PackedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """G11: what is faster depends on the processor."""
    monkeypatch.setattr(weight_copies, "_faster", lambda weight: False)
    packed.copies.spare = lambda: 1 << 30
    _decode(packed, 4, copies=True)
    assert packed.copies.bytes == 0


@needs_bf16
def test_joined_adapters_are_read_in_that_order_too_and_leave_it_when_they_go(packed: PackedModel) -> None:
    """G11, G12: after some passes, with equal sums; nothing stays of matrices that are gone."""
    packed.copies.spare = lambda: 1 << 30
    torch.manual_seed(0)
    x, a, b = (torch.randn(shape).bfloat16() for shape in ((4, 64), (16, 64), (96, 16)))
    mask, base = torch.rand(4, 16).bfloat16(), torch.randn(4, 96).bfloat16()
    expected = F.linear(x, a) * mask
    with torch.inference_mode():
        for _ in range(20):
            reduced = packed.copies.reduced(x, a, mask)
            summed = packed.copies.added(base, reduced, b)
    assert packed.copies.bytes == 2 * (a.numel() + b.numel())
    torch.testing.assert_close(reduced, expected, rtol=0.02, atol=0.1)
    torch.testing.assert_close(summed, torch.addmm(base, expected, b.t()), rtol=0.02, atol=0.2)
    del a
    assert packed.copies.bytes == 2 * b.numel()
    assert packed.copies.drop() == 2 * b.numel()
    assert packed.copies.bytes == 0
    packed.copies.spare = lambda: 0
    for _ in range(20):
        packed.copies.added(base, reduced, b)
    assert packed.copies.bytes == 0


@needs_bf16
def test_where_they_cannot_be_made_answers_are_computed_without(
    packed: PackedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G11: nobody's answer ends for something that only saves time, and it is not tried for ever."""
    plain, tried = _decode(packed, 4, copies=False), []

    def fails(weight: torch.Tensor) -> None:
        tried.append(weight)
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr(weight_copies, "_reordered", fails)
    monkeypatch.setattr(weight_copies, "_faster", lambda weight: True)
    packed.copies.spare = lambda: 1 << 30
    for _ in range(2):
        torch.testing.assert_close(_decode(packed, 4, copies=True), plain, rtol=0, atol=0)
    assert len(tried) == 1
    assert packed.copies.bytes == 0
