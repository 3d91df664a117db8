"""Rotary embeddings that change with the length of the text: which rows may share a pass, and what a row does at the border.

Up to the length that a model was first trained for, its rotary embeddings are as they were then, the *first* regime. Beyond
it "longrope" (Ding et al. 2024, arXiv:2402.13753) takes other factors, the same for every longer text: the *second*.
"dynamic" (NTK by parts of the length) takes others for every length: a row there has its passes to itself. transformers
decides by the longest text in a pass; here it is decided for each row, and the pass is held to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

FIRST, SECOND = 0, 1
_LONG, _DYNAMIC = "longrope", "dynamic"
# A type that transformers does not know: it leaves the factors alone while a pass is held to a regime.
_HELD = "held"
_TRIED = 4


@dataclass(frozen=True, eq=False)
class Regimes:
    """The regimes of one model. ``limit`` is the last length of the first one, 0 where there is but one.

    ``shares``: rows of the second regime may share passes. ``rereads``: a text that outgrows the first is read anew, as the
    model's own `generate` does; else what was read stays as it is. ``known`` is False where the embeddings are the model's
    own invention: then they are left to it, with every text read whole and every row by itself.
    """

    limit: int = 0
    shares: bool = True
    rereads: bool = False
    known: bool = True
    _modules: Sequence[Any] = ()
    _factors: Sequence[tuple[torch.Tensor, torch.Tensor]] = field(default=(), repr=False)

    @classmethod
    def of_model(cls, model: Any) -> Regimes:
        """What there is to know of ``model``, whose rotary embeddings are tried out where they move."""
        kinds = moving_rope(model.config)
        if not kinds:
            return cls()
        modules = [module for module in model.modules() if _rope_type(module) in kinds]
        try:
            found = _longrope(model, modules) if kinds == {_LONG} else _dynamic(modules)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError):
            found = cls(known=False)
        return found if modules and found.known else cls._left_to(model)

    @classmethod
    def _left_to(cls, model: Any) -> Regimes:
        """For embeddings of a model's own invention; where its `generate` begins anew at a border, rows do too."""
        rereads = _rereads(model)
        limit = int(model.config.original_max_position_embeddings or 0) if rereads else 0
        return cls(limit, shares=False, rereads=rereads, known=False)

    def of(self, positions: int) -> int:
        """The regime of a text of so many tokens."""
        return SECOND if self.limit and positions > self.limit else FIRST

    def together(self, regime: int) -> bool:
        """Whether rows of that regime share passes."""
        return self.known and (regime == FIRST or self.shares)

    def whole(self, regime: int) -> bool:
        """Whether a prompt of that regime must be read in one pass."""
        return not self.together(regime)

    def reusable(self, regime: int) -> bool:
        """Whether what was read of a text in that regime serves every other text that begins so and is in it too."""
        return self.together(regime)

    @contextmanager
    def held(self, regime: int) -> Iterator[None]:
        """The passes in the block are computed in that regime, whatever was computed before and however long they are.

        Blocks may be nested: the outer one goes on as if there had been no inner one.
        """
        before = [(module.rope_type, module.inv_freq, module.max_seq_len_cached) for module in self._modules]
        for module, factors in zip(self._modules, self._factors, strict=False):
            module.inv_freq = factors[regime]  # another tensor: the old one may be the factors that the model keeps
            module.rope_type = _HELD
        if not self._factors:  # dynamic: from the beginning, so that it grows to this row's own length and no other's
            for module in self._modules:
                module.inv_freq, module.max_seq_len_cached = module.original_inv_freq, module.original_max_seq_len
        try:
            yield
        finally:
            for module, (kind, factors, longest) in zip(self._modules, before, strict=True):
                module.rope_type, module.inv_freq, module.max_seq_len_cached = kind, factors, longest

    @contextmanager
    def anew(self) -> Iterator[None]:
        """The passes in the block move on by their own lengths, as in a model that has computed nothing before."""
        grows = bool(self._modules) and not self._factors
        with self.held(FIRST) if grows else nullcontext():
            yield


def moving_rope(config: Any) -> set[str]:
    """The kinds of rotary embeddings in ``config`` whose factors depend on the longest position seen."""
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    nested = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    return {_LONG, _DYNAMIC} & {entry.get("rope_type", entry.get("type")) for entry in nested}


def _rope_type(module: Any) -> str:
    """The kind of rotary embeddings in ``module``; "" where it has none, or one for each kind of layer (Gemma 3)."""
    kind = getattr(module, "rope_type", "")
    return kind if isinstance(kind, str) else ""


def _longrope(model: Any, modules: Sequence[Any]) -> Regimes:
    text = model.config.get_text_config()
    limit = int(text.rope_parameters["original_max_position_embeddings"])
    factors = []
    for module in modules:
        device = module.inv_freq.device
        found = [ROPE_INIT_FUNCTIONS[_LONG](module.config, device, seq_len=size)[0] for size in (limit, limit + 1)]
        factors.append((found[0].to(device), found[1].to(device)))
    regimes = Regimes(limit, rereads=_rereads(model), _modules=modules, _factors=factors)
    return replace(regimes, known=all(_as_held(regimes, module) for module in modules))


def _dynamic(modules: Sequence[Any]) -> Regimes:
    """Texts beyond the limit have other factors at every length."""
    limits = {int(module.original_max_seq_len) for module in modules}
    if len(limits) != 1 or not all(hasattr(module, "original_inv_freq") for module in modules):
        return Regimes(known=False)
    return Regimes(limits.pop(), shares=False, _modules=modules)


def _rereads(model: Any) -> bool:
    """Whether `generate` reads a text anew when it outgrows the first regime, as Phi's does; other models' mix the two."""
    own = "prepare_inputs_for_generation" in vars(type(model))
    return own and hasattr(model.config, "original_max_position_embeddings")


def _as_held(regimes: Regimes, module: Any) -> bool:
    """Whether holding ``module`` to a regime gives what it computes by itself for texts of that regime."""
    device = module.inv_freq.device
    x = torch.zeros(1, 1, 1, device=device)
    few = torch.arange(_TRIED, device=device)[None]
    beyond = torch.cat([few, few.new_tensor([[regimes.limit]])], dim=1)
    for regime, natural in ((SECOND, beyond), (FIRST, few)):
        own = [part[:, :_TRIED] for part in module(x, natural)]
        with regimes.held(regime):
            held = module(x, few)
        if not all(torch.equal(one, other) for one, other in zip(own, held, strict=True)):
            return False
    return True
