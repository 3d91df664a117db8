"""Weights once more, in the order in which oneDNN reads them: in bf16 on a CPU that makes few rows together twice as fast.

For one row torch's own kernels read weights as they are, for hundreds of tokens the product itself takes the time. Between
them oneDNN puts the weights into its own order in each pass, and that takes longer than the product. So where several rows
decode together and nobody else needs the memory, they are kept in that order too; they make way for anything else. So are
the matrices of adapters that were joined for a company of rows, after a few passes.
"""

from __future__ import annotations

import logging
import math
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from playground.local_inference.measured import measured, seconds, shape_key

_log = logging.getLogger(__name__)

Linear = Callable[[torch.Tensor, torch.Tensor, "torch.Tensor | None"], torch.Tensor]

# From so many decoding rows on copies are made, and from so many tokens on they are used.
_WORTH_MAKING = 3
_WORTH_USING = 2
# How long one pass may be held up by making them, and how much free memory there must be for each byte of what is missing.
_PASS_SECONDS = 0.05
_FREE_FOR_EACH = 2
# oneDNN chooses the order by the number of rows; what it chooses for four serves all.
_ROWS = 4
_WORTH_IT = 0.9
_TRIES = 3
# A company's matrices are copied in so many passes from when they were first used: a copy pays after about a dozen.
_PASSES = 8
# After there was no room, for so long nobody looks.
_LOOK_AGAIN_S = 1.0


@dataclass
class _Passing:
    """What is known of a matrix that may go at any time: how often it was used, and its copy."""

    used: int = 0
    copy: Any = None
    bytes: int = 0


class WeightCopies:
    """The copies of one base's linears. Used by the compute thread only, but for `bytes`, which any thread may ask."""

    def __init__(self, weights: Sequence[torch.Tensor]) -> None:
        """``weights`` [out, in] of the linears; none is copied before several rows decode, or before `spare` is set."""
        self._weights = [weight for weight in weights if _may_be_copied(weight)]
        self._copies: dict[int, torch.Tensor] = {}
        self._passing: dict[int, _Passing] = {}  # by the id of a matrix, for as long as it lives
        self._granted = 0  # bytes that passing ones may take before the memory is looked at again
        self._own_bytes = 0
        self._not_before = 0.0  # when the memory may be looked at again, on the monotonic clock
        self.spare: Callable[[], int] = lambda: 0

    @property
    def bytes(self) -> int:
        """Memory of all copies."""
        return self._own_bytes + sum(one.bytes for one in list(self._passing.values()))

    def linear_for(self, rows: int, tokens: int) -> Linear:
        """What computes the linears of a pass of ``tokens``, ``rows`` of them of rows that decode."""
        if rows >= _WORTH_MAKING and len(self._copies) < len(self._weights) and time.monotonic() >= self._not_before:
            self._make()
        return self._linear if self._copies and tokens >= _WORTH_USING else F.linear

    def drop(self) -> int:
        """Give all copies up; returns the bytes that came back."""
        count, self._own_bytes, self._granted = self.bytes, 0, 0
        self._copies.clear()
        for one in list(self._passing.values()):
            one.copy, one.bytes, one.used = None, 0, 0
        return count

    def reduced(self, x: torch.Tensor, a: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(x Aᵀ) ∘ mask, for ``a`` [columns, in] of a company of adapters."""
        copy = self._copy_of(a)
        if copy is None:
            return F.linear(x, a) * mask
        return torch.ops.mkldnn._linear_pointwise.binary(x, mask, copy, None, "mul")

    def added(self, base: torch.Tensor, x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """base + x Bᵀ, for ``b`` [out, columns] of a company of adapters."""
        copy = self._copy_of(b)
        if copy is None:
            return torch.addmm(base, x, b.t())
        return torch.ops.mkldnn._linear_pointwise.binary(x, base, copy, None, "add")

    def _linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        copy = self._copies.get(weight.data_ptr())
        if copy is None:
            return F.linear(x, weight, bias)
        return torch.ops.mkldnn._linear_pointwise(x, copy, bias, "none", [], "")

    def _make(self) -> None:
        """Some more copies, where there is room for all that are missing; without them answers are the same."""
        try:
            self._make_some()
        except (RuntimeError, MemoryError) as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        _log.warning("weights cannot be kept in oneDNN's order; they are used as they are", exc_info=error)
        self.drop()
        self._weights, self._not_before = [], math.inf

    def _make_some(self) -> None:
        missing = [weight for weight in self._weights if weight.data_ptr() not in self._copies]
        if not _faster(max(self._weights, key=torch.Tensor.numel)):
            self._weights = []
            return
        if self.spare() < _FREE_FOR_EACH * sum(map(_bytes, missing)):
            self._not_before = time.monotonic() + _LOOK_AGAIN_S
            return
        taken = 0.0
        while missing and taken < _PASS_SECONDS:
            weight = missing.pop(0)
            taken += seconds(lambda weight=weight: self._copy(weight))  # type: ignore[misc]

    def _copy(self, weight: torch.Tensor) -> None:
        self._copies[weight.data_ptr()] = _reordered(weight)
        self._own_bytes += _bytes(weight)

    def _copy_of(self, weight: torch.Tensor) -> Any:
        """The copy of a matrix that goes when its adapters do; None in the first passes, and where there is no room."""
        known = self._passing.get(id(weight))
        if known is None:
            known = self._passing[id(weight)] = _Passing()
            weakref.finalize(weight, self._passing.pop, id(weight), None).atexit = False
        known.used += 1
        if known.copy is None and known.used % _PASSES == 0 and _may_be_copied(weight) and self._granted_for(weight):
            try:
                known.copy, known.bytes = _reordered(weight), _bytes(weight)
            except (RuntimeError, MemoryError) as error:
                self._give_up(error)
        return known.copy

    def _granted_for(self, weight: torch.Tensor) -> bool:
        """Whether there is room for a copy; looked at once for many."""
        count = _bytes(weight)
        if self._granted < count and time.monotonic() >= self._not_before:
            self._granted = self.spare() // _FREE_FOR_EACH
        if self._granted < count:
            self._not_before = max(self._not_before, time.monotonic() + _LOOK_AGAIN_S)
            return False
        self._granted -= count
        return True


def _may_be_copied(weight: torch.Tensor) -> bool:
    """Whether oneDNN has an order of its own for it, and this build of torch can keep it."""
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16 or not torch.backends.mkldnn.is_available():
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


def _reordered(weight: torch.Tensor) -> Any:
    with torch.inference_mode():
        return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS)


def _bytes(weight: torch.Tensor) -> int:
    return int(weight.numel() * weight.element_size())


def _faster(weight: torch.Tensor) -> bool:
    """Whether the copies pay on this machine, for weights of this shape: timed once."""
    return bool(
        measured.recall(f"weight copies, bfloat16, {shape_key(tuple(weight.shape))}", lambda: _gain(weight) < _WORTH_IT)
    )


def _gain(weight: torch.Tensor) -> float:
    """Seconds with a copy over seconds without one, for a few rows: the fastest of some tries."""
    with torch.inference_mode():
        x, copy = weight.new_ones((_ROWS, weight.shape[1])), _reordered(weight)
        plain = [seconds(lambda: F.linear(x, weight)) for _ in range(_TRIES)]
        quick = [
            seconds(lambda: torch.ops.mkldnn._linear_pointwise(x, copy, None, "none", [], "")) for _ in range(_TRIES)
        ]
    return min(quick) / min(plain)
