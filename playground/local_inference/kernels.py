"""oneDNN or not: for one or two bf16 rows on some CPUs torch's plain kernels are twice as fast, on others slower.

Measured once for each process and shape of machine, never assumed. The flag belongs to the whole process, so only the
compute thread turns it, and turns it back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

_TRIES = 3
_WORTH_IT = 0.95


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


def calibrate(model: Any, forward: Callable[[int], object]) -> int:
    """Up to how many rows a decode step of ``model`` is faster without oneDNN; 0 where that is never so.

    ``forward(rows)`` runs a pass of that many rows, one token each, the way that decoding will.
    """
    if model.device.type != "cpu" or model.dtype != torch.bfloat16 or not torch.backends.mkldnn.is_available():
        return 0
    best = 0
    for rows in (1, 2):
        if _seconds(forward, rows, True) < _WORTH_IT * _seconds(forward, rows, False):
            best = rows
    return best


def _seconds(forward: Callable[[int], object], rows: int, plain: bool) -> float:
    """The fastest of a few steps."""
    taken = []
    with torch.inference_mode(), plain_kernels(plain):
        for _ in range(_TRIES + 1):
            started = time.perf_counter()
            forward(rows)
            taken.append(time.perf_counter() - started)
    return min(taken[1:])
