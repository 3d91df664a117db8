"""What a row's cache holds can be taken out, put back and shown as a slab, and no row's states change under another's."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from playground.local_inference.pieces_trial import Pieces, try_pieces
from playground.local_inference.row_cache import (
    cache_from,
    cache_in,
    cache_of,
    cache_options,
    contents_of,
    empty_cache,
    form_of,
    positions_in,
    tensors_in,
)
from playground.local_inference.slots import SlotCache

from .family_maker import LLAMA
from .recurrent_maker import RECURRENT

WORDS = 50
TEXT = [3, 14, 15, 9, 26, 5, 35, 8, 9, 7]
KEEPING = {
    "planes": "qwen2",
    "states": "mamba2",
    "both by turns": "lfm2",
    "both in each": "falcon_h1",
    "a list": "rwkv",
}


def _model(family: str) -> Any:
    kind, options = RECURRENT.get(family, (family, LLAMA))
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, vocab_size=WORDS, **options)).float().eval()


@torch.inference_mode()
def _read(model: Any, ids: list[int], cache: Any = None, at: int = 0) -> tuple[torch.Tensor, Any]:
    options = cache_options(model, empty_cache(model) if cache is None else cache)
    output = model(input_ids=torch.tensor([ids]), **options)
    return output.logits[0, -1], cache_in(output)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", KEEPING.values(), ids=KEEPING.keys())
def test_two_rows_go_on_from_one_copy_and_the_row_it_was_taken_of_goes_on_too(family: str) -> None:
    """G11, G13: transformers writes over states; a copy stays as it was."""
    model = _model(family)
    _, cache = _read(model, TEXT)
    kept = contents_of(cache, len(TEXT))
    assert kept.positions == len(TEXT)
    assert bool(kept.states) == form_of(model).recurrent
    expected = [_read(model, [*TEXT, word])[0] for word in (1, 2, 3)]
    found = [_read(model, [word], cache_from(model, kept))[0] for word in (1, 2)]
    found.append(_read(model, [3], cache)[0])
    found.append(_read(model, [1], cache_from(model, kept))[0])
    for one, other in zip(found, [*expected, expected[0]], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", [name for name in KEEPING.values() if name != "rwkv"])
def test_a_step_over_a_slab_leaves_it_as_the_next_one_needs_it(family: str) -> None:
    """G11, G13: rows join, one leaves and another takes its place between the steps; states go with their rows."""
    model, slots = _model(family), SlotCache()
    texts = [TEXT[:size] for size in (4, 7, 10)]
    rows = {slots.join(contents_of(_read(model, text)[1], len(text))): list(text) for text in texts}
    for step in range(4):
        if step == 2:
            slots.leave(next(iter(rows)))
            del rows[next(iter(rows))]
        (slab,) = slots.groups(list(rows))
        for slot, ids in rows.items():
            ids.append((7 * len(ids) + slot.index) % WORDS)
        with torch.inference_mode():
            at = slab.lengths()
            newest = torch.tensor([[rows[slot][-1]] for slot in slab.slots])
            options = {"attention_mask": slab.mask(at), "position_ids": at[:, None]} if slab.planes else {}
            output = model(input_ids=newest, **cache_options(model, cache_of(model, slab)), **options)
        for slot, logits in zip(slab.slots, output.logits[:, -1], strict=True):
            slot.length += 1
            torch.testing.assert_close(logits, _read(model, rows[slot])[0], rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", KEEPING.values(), ids=KEEPING.keys())
def test_what_a_row_takes_is_what_its_cache_holds(family: str) -> None:
    """G12: bytes by position and by row, states counted."""
    model = _model(family)
    _, cache = _read(model, TEXT)
    form = form_of(model)
    held = sum(tensor.numel() * tensor.element_size() for tensor in tensors_in(cache))
    assert held == form.position_bytes * len(TEXT) + form.state_bytes > 0
    assert positions_in(cache, len(TEXT)) == len(TEXT)


def test_a_cache_that_rows_cannot_be_taken_out_of_is_refused() -> None:
    """G13: a window that was let go of, and a kind of cache that is not known."""
    config = AutoConfig.for_model("mistral", vocab_size=WORDS, **{**LLAMA, "sliding_window": 4})
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.inference_mode():
        kept = model(input_ids=torch.tensor([TEXT]), past_key_values=DynamicCache(config=config)).past_key_values
        with pytest.raises(ValueError, match="behind their window"):
            contents_of(kept)
        whole = model(input_ids=torch.tensor([TEXT]), past_key_values=empty_cache(model)).past_key_values
    assert contents_of(whole).planes[0].shape[0] == len(TEXT)
    with pytest.raises(TypeError, match="SimpleNamespace"):
        contents_of(SimpleNamespace(layers=[SimpleNamespace(keys=1)]))


@pytest.mark.filterwarnings("ignore")
def test_whether_a_text_may_be_read_in_pieces_is_tried_out() -> None:
    """G13: Mamba's passes of several tokens begin from nothing, Mamba 2's from the state."""
    assert try_pieces(_model("mamba2"), WORDS) == try_pieces(_model("qwen2"), WORDS) == Pieces()
    assert try_pieces(_model("mamba"), WORDS) == Pieces(pieces=False, copies=True)
    assert try_pieces(_model("xlstm"), WORDS) == Pieces(pieces=True, copies=False)


def test_what_a_position_takes_is_known_of_a_window_of_two_as_well() -> None:
    """G12, G13: of two tokens its cache keeps one."""
    config = {**LLAMA, "vocab_size": WORDS, "pad_token_id": 0}
    forms = [
        form_of(
            AutoModelForCausalLM.from_config(AutoConfig.for_model("mistral", **config, sliding_window=window)).eval()
        )
        for window in (2, 3)
    ]
    assert forms[0] == forms[1]
    assert forms[0].ours
