"""PiSSA and OLoRA as plain LoRA on the untouched base.

Both begin a training with a part A₀, B₀ of the base's own weight, take it out of the base and train it further: they mean
W − s·B₀A₀ + s·BA. PEFT rewrites W so when it loads one. Here A₀ and B₀ are computed from W as PEFT computes them, and the
difference s·(BA − B₀A₀) is kept as a LoRA of twice the rank. It is factored anew in float32, so that what cancels has done
so before anything is rounded to the base's dtype. Strength scales the whole difference, so 0 is the base.

PiSSA: Meng et al. 2024, arXiv:2404.02948 (singular vectors). OLoRA: Büyükakyüz 2024, arXiv:2406.01775 (QR).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from playground.errors import AdapterInvalid
from playground.local_inference.lora import LoraLayer, LoraWeights

INITS = ("pissa", "olora")


def starts_from_base(init: object) -> str:
    """The kind, in lower case, when ``init_lora_weights`` is one that is turned into a LoRA here; else ""."""
    return init.lower() if isinstance(init, str) and init.lower() in INITS else ""


def on_untouched_base(weights: LoraWeights, init: str, name: str, note: Callable[[int, int], None]) -> LoraWeights:
    """``weights`` (in float32) of an adapter called ``name`` as a LoRA of twice the rank.

    ``note`` hears how many layers are done, and of how many. Raises `AdapterInvalid` where the base's weights are not there
    in full.
    """
    layers = {}
    for done, (module, layer) in enumerate(weights.layers.items()):
        note(done, len(weights.layers))
        layers[module] = _difference(layer, init, name)
    return LoraWeights(layers)


def _difference(layer: LoraLayer, init: str, name: str) -> LoraLayer:
    weight = _weight(layer.linear, init, name)
    rank = layer.a.shape[0]
    if init == "pissa":
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        b0, a0 = u[:, :rank] * (s[:rank] / layer.scale), v[:rank]
    else:
        q, r = torch.linalg.qr(weight)
        b0, a0 = q[:, :rank], r[:rank]
    b, a = _refactored(torch.cat((layer.b.float(), -b0), dim=1), torch.cat((layer.a.float(), a0)))
    dtype = layer.linear.weight.dtype
    return replace(layer, a=a.to(dtype), b=b.to(dtype))


def _refactored(b: torch.Tensor, a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """B′ and A′ with the product of ``b`` [out, rank] and ``a`` [rank, in], without what cancels out in it."""
    (qb, rb), (qa, ra) = torch.linalg.qr(b), torch.linalg.qr(a.T)
    u, s, v = torch.linalg.svd(rb @ ra.T)
    root = s.sqrt()
    return qb @ (u[:, : len(s)] * root), (root[:, None] * v[: len(s)]) @ qa.T


def _weight(linear: nn.Module, init: str, name: str) -> torch.Tensor:
    """The base's weight [out, in] in float32."""
    weight = linear.weight
    if type(linear) not in (nn.Linear, Conv1D) or (init == "olora" and type(linear) is Conv1D):
        raise AdapterInvalid(
            f"Adapter {name!r} was initialised with {init!r}, from the base's own weights, which are not there in full "
            f"({type(linear).__name__}).",
            "Load the base without quantization, or convert the adapter to a plain LoRA.",
        )
    assert isinstance(weight, torch.Tensor)
    return (weight.detach().T if type(linear) is Conv1D else weight.detach()).float()
