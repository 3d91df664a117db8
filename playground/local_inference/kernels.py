"""oneDNN or not: for one or two bf16 rows on some CPUs torch's plain kernels are twice as fast, on others slower.

Timed on the model's own linears, once for each machine and shape of model, never assumed. The flag belongs to the whole
process, so only the compute thread turns it, and turns it back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from playground.local_inference.measured import measured, seconds, shape_key

_TRIES = 3
_WORTH_IT = 0.95
_MOST_ROWS = 2
# So many bytes of weights are timed: more than a cache holds, since decoding finds none of them in one.
_BYTES = 48_000_000
# And so long for a count of rows, after the first round.
_LONG_ENOUGH_S = 0.06


@contextmanager
def plain_kernels(on: bool) -> Iterator[None]:
    """Within the block torch's own kernels instead of oneDNN's, when ``on``."""
    if not on:
        yield
        return
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(True)


@contextmanager
def same_kernels() -> Iterator[None]:
    """Within the block oneDNN's kernels, in a block of `plain_kernels` too: for numbers that must be the same each time."""
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(True)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


def calibrate(model: Any) -> int:
    """Up to how many rows a decode step of ``model`` is faster without oneDNN; 0 where that is never so.

    Takes 0.2 s where a machine and a shape of model meet for the first time, and nothing after that.
    """
    if model.device.type != "cpu" or model.dtype != torch.bfloat16 or not torch.backends.mkldnn.is_available():
        return 0
    weights = _weights(model)
    if not weights:
        return 0
    key = shape_key([tuple(weight.shape) for weight in weights])
    return int(measured.recall(f"rows without oneDNN, bfloat16, {key}", lambda: _rows_without(weights)))


def _weights(model: Any) -> list[torch.Tensor]:
    """The first of ``model``'s bf16 linears, about `_BYTES` of them: whole layers, so that the shapes are mixed as in it."""
    found, count = [], 0
    for module in model.modules():
        weight = module.weight if type(module) is nn.Linear else None
        if weight is None or weight.dtype != torch.bfloat16 or weight.device.type != "cpu" or not any(weight.stride()):
            continue  # without strides: of a part that text does not reach, see text_only.release
        found.append(weight.detach())
        count += 2 * weight.numel()
        if count >= _BYTES:
            break
    return found


def _rows_without(weights: Sequence[torch.Tensor]) -> int:
    best = 0
    for rows in range(1, _MOST_ROWS + 1):
        inputs = [weight.new_ones((rows, weight.shape[1])) for weight in weights]
        if _ratio(partial(_products, inputs, weights)) >= _WORTH_IT:
            break
        best = rows
    return best


def _products(inputs: Sequence[torch.Tensor], weights: Sequence[torch.Tensor]) -> None:
    for x, weight in zip(inputs, weights, strict=True):
        F.linear(x, weight)


def _ratio(step: Callable[[], object]) -> float:
    """How long ``step`` takes without oneDNN, as a share of what it takes with it: the fastest of a few turns of each."""
    taken: dict[bool, list[float]] = {True: [], False: []}
    with torch.inference_mode():
        for turn in range(_TRIES + 1):  # in turns, so that whatever else slows the machine slows both
            for plain in (True, False):
                with plain_kernels(plain):
                    spent = seconds(step)
                if turn:  # the first one fetches the weights from their file
                    taken[plain].append(spent)
            if sum(map(sum, taken.values())) > _LONG_ENOUGH_S:
                break
    return min(taken[True]) / min(taken[False])
