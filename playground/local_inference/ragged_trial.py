"""The trial at load: do rows of different lengths, in one pass of transformers' on slots, answer as each does alone?

What a model's layers keep and how they want their masks is not read off its name: each likely form is tried against single
passes of the model itself, and the first that agrees is used. Where none does, rows run one at a time, and the page says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from playground.local_inference.decode import next_logits_together, places
from playground.local_inference.footprint import input_device, is_fetched
from playground.local_inference.masks import Masks, hidden_window, likely_masks
from playground.local_inference.regimes import FIRST, Regimes
from playground.local_inference.row_cache import cache_in, cache_of, cache_options, contents_of, empty_cache, form_of
from playground.local_inference.slots import SlotCache

_INT8 = "int8 rounds each answer by what is computed beside it, so every answer is computed by itself."
_FETCHED = "A part of it lies elsewhere and is fetched for each pass, so every answer is computed by itself."
_WINDOW = "Some of its layers see only a window of the latest tokens, which each answer moves at its own pace."
_LONGEST = "Some of its layers scale what they see by the longest text in a pass."
_OWN_WAY = "It keeps what it has read in a way of its own, which holds one answer at a time."
_ROPE = "Its position embeddings change with the longest text in a pass."
# Lengths of the rows that are tried, and up to which window rows are made that outgrow it.
_LENGTHS = (4, 9)
_SMALL_WINDOW = 64
# The last tokens of each row are decoded one by one: what a step leaves behind is seen by the next.
_STEPS = 2
# How many positions the cache claims to have when it lies.
_LIE = 1_000_000
# How far a logit may move, as a share of the largest: in float32, and where both sides round.
_ROUNDING = {True: 1e-3, False: 0.05}


def try_together(model: Any, vocabulary: int, regimes: Regimes, *, pieces: bool = True) -> tuple[Masks | None, str]:
    """(how rows of different lengths may share a pass, "") or (None, why they may not, as a sentence).

    ``pieces``: whether a text may be read in pieces (pieces_trial.py).
    """
    known = _why_by_shape(model, regimes)
    if known:
        return None, known
    forms = likely_masks(model)
    rows = _rows(vocabulary, forms[0].reach, regimes.limit)
    why = ""
    for masks in forms:
        said = _why_not(model, rows, masks, regimes, pieces=pieces)
        if not said:
            return masks, ""
        why = why or said
    return None, why


def _why_by_shape(model: Any, regimes: Regimes) -> str:
    """What a trial of short rows would not show, as a sentence; "" where there is nothing."""
    if getattr(model, "is_loaded_in_8bit", False):
        return _INT8
    if is_fetched(model):
        return _FETCHED
    if hidden_window(model.config):
        return _WINDOW
    if not regimes.known:
        return _ROPE
    return "" if form_of(model).ours else _OWN_WAY


def _rows(vocabulary: int, reach: int, limit: int) -> list[list[int]]:
    """Token ids of rows of different lengths: beyond a window too, and to its border, where it is small."""
    lengths = (*_LENGTHS, reach + 1, 2 * reach + 3) if 0 < reach <= _SMALL_WINDOW else _LENGTHS
    kept = dict.fromkeys(max(min(length, limit) if limit else length, _STEPS + 1) for length in lengths)
    return [torch.linspace(0, vocabulary - 1, length).long().tolist() for length in kept]


def _why_not(model: Any, rows: Sequence[list[int]], masks: Masks, regimes: Regimes, *, pieces: bool) -> str:
    try:
        with regimes.held(FIRST), torch.inference_mode():
            begun = [_begun(model, row[:-_STEPS], pieces=pieces) for row in rows]
            together, lied_to = (_together(model, rows, begun, masks, lie) for lie in (False, True))
            apart = _apart(model, rows)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError) as error:
        first = next(iter(str(error).splitlines()), "")[:120]
        return f"When it was loaded, two answers in one pass were tried, and that failed ({type(error).__name__}: {first})."
    allowed = _ROUNDING[model.dtype == torch.float32] * max(1.0, float(apart.abs().max()))
    change = float((together - apart).abs().max())
    if not change <= allowed:
        return f"When it was loaded, two answers in one pass differed from each alone (a logit moved by {change:.2g})."
    same = float((together - lied_to).abs().max()) <= (0.0 if input_device(model).type == "cpu" else allowed)
    return "" if same else _LONGEST


def _apart(model: Any, rows: Sequence[list[int]]) -> torch.Tensor:
    """Logits [rows, steps, vocab] at the last positions of each row, read in a pass of its own."""
    device = input_device(model)
    whole = [model(input_ids=torch.tensor([row], device=device), use_cache=False).logits[0, -_STEPS:] for row in rows]
    return torch.stack(whole).float().cpu()


def _together(model: Any, rows: Sequence[list[int]], begun: Sequence[Any], masks: Masks, lie: bool) -> torch.Tensor:
    """The same, the last tokens of the rows that have ``begun`` in passes that they share.

    With a ``lie`` the cache says that it is longer than it is. Where a row is, its position and its mask say; layers that
    scale by the longest row instead (Llama 4) give themselves away, for which these rows would be too short.
    """
    slots = SlotCache()
    joined = [slots.join(contents_of(cache, len(row) - _STEPS)) for cache, row in zip(begun, rows, strict=True)]
    (slab,) = slots.groups(joined)
    steps = []
    for at in range(_STEPS):
        cache = cache_of(model, slab)
        for layer in getattr(cache, "layers", ()) if lie else ():
            layer.get_seq_length = lambda: _LIE
        steps.append(next_logits_together(model, slab, [row[at - _STEPS] for row in rows], masks, cache))
    return torch.stack(steps, dim=1)


def _begun(model: Any, ids: list[int], *, pieces: bool) -> Any:
    """A cache with ``ids`` read into it: in two pieces where the model may be read in pieces."""
    device, cache = input_device(model), empty_cache(model)
    half = len(ids) // 2 if pieces else len(ids)
    for start, piece in ((0, ids[:half]), (half, ids[half:])):
        if piece:
            at = places(model, torch.tensor([start], device=device), len(piece))
            output = model(input_ids=torch.tensor([piece], device=device), **cache_options(model, cache), **at)
            cache = cache_in(output)
    return cache
