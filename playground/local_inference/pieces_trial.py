"""The trial at load: does a model go on from what it has read as if it had read everything at once?

With keys and values of every position it does. A recurrent layer must begin from its state, which some can only for one
token at a time: their passes of several tokens begin from nothing. And whether a copy of a state will do, for another row to
go on from, is for the same trial to say.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from playground.local_inference.decode import places
from playground.local_inference.footprint import input_device
from playground.local_inference.row_cache import (
    cache_from,
    cache_in,
    cache_options,
    contents_of,
    empty_cache,
    form_of,
    positions_in,
)

# The pieces that are tried: fewer tokens than a short convolution looks back on, several, and one by one.
_PIECES = (2, 13, 5, 1, 1)
_STEPS = (20, 1, 1)
_PLAIN = (17, 5)  # where every position is kept
# How many positions are cut off a copy of keys and values, to be read again.
_CUT = 3
# How far a logit may move, as a share of the largest: in float32, and where both sides round.
_ROUNDING = {True: 1e-3, False: 0.05}
# And how far at least where it is not for rounding, int8's included.
_MORE_THAN_ROUNDING = 0.1


@dataclass(frozen=True)
class Pieces:
    """How a text may be read: in ``pieces`` of several tokens, or only at once.

    ``copies``: a copy of what was read serves as well, for a row to go on from; without ``pieces`` one token at a time.
    """

    pieces: bool = True
    copies: bool = True


def try_pieces(model: Any, vocabulary: int) -> Pieces:
    """How ``model`` goes on from what it has read."""
    form = form_of(model)
    ids = torch.linspace(0, vocabulary - 1, sum(_PIECES)).long().tolist()
    agrees = _agrees(model, ids, _PIECES if form.recurrent else _PLAIN, copied=form.ours)
    if not form.recurrent:
        return Pieces(agrees or (form.ours and not _looks_ahead(model, ids)), agrees and form.ours)
    return Pieces(agrees, agrees or _agrees(model, ids, _STEPS, copied=True))


def _looks_ahead(model: Any, ids: Sequence[int]) -> bool:
    """Whether later tokens change what ``model`` makes of earlier ones, as in PaliGemma, whose prompts are seen whole."""
    device, early = input_device(model), len(ids) // 2
    with torch.inference_mode():
        rows = [torch.tensor([list(some)], device=device) for some in (ids, ids[:early])]
        whole, part = (model(input_ids=row, use_cache=False).logits[0, early - 1].float().cpu() for row in rows)
    return bool((whole - part).abs().max() > _MORE_THAN_ROUNDING * max(1.0, float(part.abs().max())))


def _agrees(model: Any, ids: Sequence[int], pieces: Sequence[int], *, copied: bool) -> bool:
    """Whether the logits after each of ``pieces`` are those of ``ids`` read at once."""
    try:
        with torch.inference_mode():
            whole, parts = _at_once(model, ids, pieces), _in_pieces(model, ids, pieces, copied=copied)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError):
        return False
    allowed = _ROUNDING[model.dtype == torch.float32] * max(1.0, float(whole.abs().max()))
    return bool((whole - parts).abs().max() <= allowed)


def _at_once(model: Any, ids: Sequence[int], pieces: Sequence[int]) -> torch.Tensor:
    """Logits [pieces, vocab] at the last position of each piece."""
    logits = model(input_ids=torch.tensor([list(ids)], device=input_device(model)), use_cache=False).logits[0]
    return logits.float().cpu()[torch.tensor(pieces).cumsum(0) - 1]


def _in_pieces(model: Any, ids: Sequence[int], pieces: Sequence[int], *, copied: bool) -> torch.Tensor:
    """The same, of passes that each go on from the one before, or from a copy of what it kept."""
    device, cache, read, found = input_device(model), empty_cache(model), 0, []
    for end in itertools.accumulate(pieces):
        at = torch.tensor([positions_in(cache, read)], device=device)
        output = model(
            input_ids=torch.tensor([list(ids[read:end])], device=device),
            **cache_options(model, cache),
            **places(model, at, end - read),
        )
        found.append(output.logits[0, -1].float().cpu())
        read, cache = end, cache_in(output)
        if cache is None:
            raise ValueError("nothing is kept of what was read")
        if copied:
            contents = contents_of(cache, read)
            read -= 0 if contents.states else min(_CUT, read - 1)  # a state cannot be cut
            cache = cache_from(model, replace(contents, positions=read))
    return torch.stack(found)
