"""Linears to which a pass does not come row by row, such as the experts of a mixture where each is a module of its own.

Adapters beside linears are shared out by the place of a token in the pass (mixing.py). An expert is given some of the tokens
and does not tell which, so an adapter on one is PEFT's to serve, for all tokens of a pass alike. Where rows run one by one
that is no matter.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from playground.local_inference.footprint import input_device

# So many that no expert is chosen by all of them.
_ROWS, _TOKENS = 2, 12
_NUMBER = re.compile(r"(.*\.)\d+(\.|$)")


def scattered_linears(model: nn.Module, vocabulary: int) -> frozenset[str]:
    """Names of such linears of ``model``, found in a pass, and of their siblings, which this pass may not have come to.

    Raises what the model raises.
    """
    given: dict[str, set[bool]] = defaultdict(set)

    def note(name: str) -> Callable[..., None]:
        return lambda _, args: given[name].add(_row_by_row(args))

    linears = {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))}
    hooks = [module.register_forward_pre_hook(note(name)) for name, module in linears.items()]
    try:
        with torch.inference_mode():
            ids = torch.linspace(0, vocabulary - 1, _ROWS * _TOKENS).long().view(_ROWS, _TOKENS)
            model(input_ids=ids.to(input_device(model)), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    families = {_family(name) for name, seen in given.items() if False in seen}
    return frozenset(name for name in linears if _family(name) in families)


def _row_by_row(args: tuple[Any, ...]) -> bool:
    """Whether what a module is given lies row by row: [rows, ..., in], or [rows · tokens, in]."""
    shape = list(args[0].shape) if args and isinstance(args[0], torch.Tensor) else []
    return (len(shape) > 2 and shape[0] == _ROWS) or (len(shape) == 2 and shape[0] == _ROWS * _TOKENS)


def _family(name: str) -> str:
    """``name`` without its last number: the same for all experts of a layer."""
    return _NUMBER.sub(r"\1*\2", name)
