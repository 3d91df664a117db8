"""Soft prompts: virtual tokens as keys and values that a row's cache begins with, so that such rows share every batch.

Prompt tuning (Lester et al. 2021, arXiv:2104.08691), P-tuning (Liu et al. 2021, arXiv:2103.10385) and CPT learn embeddings
of tokens that no word has: they run through the base once, when the adapter is attached, and what stays is their keys and
values. Prefix tuning (Li and Liang 2021, arXiv:2101.00190) and cartridges learn keys and values themselves. PEFT saves each
of them as one tensor. The text follows at the position after them; the base's weights are not touched.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers.cache_utils import DynamicCache

from playground.errors import AdapterInvalid
from playground.local_inference.adapters import WEIGHTS_FILE
from playground.local_inference.decode import needs_whole_prompt
from playground.local_inference.footprint import device_of, input_device
from playground.local_inference.packed import PackedModel, Reading
from playground.local_inference.row_cache import empty_cache

# What is learned: embeddings of virtual tokens, or their keys and values.
EMBEDDINGS = {"PROMPT_TUNING", "P_TUNING", "CPT"}
KEYS_AND_VALUES = {"PREFIX_TUNING", "CARTRIDGE"}
_TENSOR = "prompt_embeddings"


@dataclass(frozen=True, eq=False)
class VirtualTokens:
    """What a soft prompt's file holds: [tokens, hidden], or for ``keys`` [tokens, 2 · layers · kv_heads · size]."""

    values: torch.Tensor
    keys: bool


@dataclass(frozen=True, eq=False)
class Prefix:
    """Keys and values of ``positions`` virtual tokens, in the model's own cache object; only copies are handed out."""

    cache: Any
    positions: int

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        pairs = [(layer.keys, layer.values) for layer in self.cache.layers]
        return sum(tensor.numel() * tensor.element_size() for pair in pairs for tensor in pair)

    def copy(self) -> Any:
        """A cache for one row of transformers' own pass to begin with."""
        with torch.inference_mode():
            return copy.deepcopy(self.cache)

    def reading(self, packed: PackedModel, tokens: int) -> Reading:
        """Room for a prompt of ``tokens`` tokens in our own pass, the prefix read already."""
        reading = packed.reading(self.positions + tokens)
        with torch.inference_mode():
            for plane, layer in zip(reading.planes, self.cache.layers, strict=True):
                plane[: self.positions, 0] = layer.keys[0].transpose(0, 1)
                plane[: self.positions, 1] = layer.values[0].transpose(0, 1)
        reading.read = self.positions
        return reading


def is_soft_prompt(kind: str) -> bool:
    """Whether PEFT's ``kind`` is one that is served here."""
    return kind in EMBEDDINGS | KEYS_AND_VALUES


def read_virtual_tokens(folder: Path, config: Any, model: Any, hidden: int) -> VirtualTokens:
    """The soft prompt in ``folder``, checked against the base's shapes (embeddings [vocab, ``hidden``]) and for NaN.

    Raises `AdapterInvalid` when it does not fit, or when the base is one whose rows cannot begin with keys and values.
    """
    name, kind = folder.name, str(getattr(config.peft_type, "value", config.peft_type))
    tensors = load_file(folder / WEIGHTS_FILE)
    if tensors.keys() != {_TENSOR}:
        others = ", ".join(sorted(tensors.keys() - {_TENSOR})) or "nothing"
        raise AdapterInvalid(
            f"Adapter {name!r} is of kind {kind}, which is saved as one tensor, {_TENSOR}; its file holds {others}"
            f"{' beside it' if _TENSOR in tensors else ' in its place'}.",
            "Save it again with PEFT's save_pretrained.",
        )
    why = why_unfit(kind, model)
    if why:
        raise _unfit(name, why)
    values = tensors[_TENSOR].to(input_device(model), model.dtype, copy=True)
    expected = (int(config.num_virtual_tokens), width(kind, model, hidden))
    if tuple(values.shape) != expected:
        raise AdapterInvalid(
            f"Adapter {name!r} does not fit this base: its virtual tokens are {'×'.join(map(str, values.shape))} numbers, "
            f"for this base they would be {'×'.join(map(str, expected))}.",
            "Load the base that it was trained on.",
        )
    if not torch.isfinite(values).all():
        raise AdapterInvalid(
            f"Adapter {name!r} holds NaN or infinite numbers in {_TENSOR}.",
            "The training diverged; choose an earlier checkpoint or train with a lower learning rate.",
        )
    return VirtualTokens(values, kind in KEYS_AND_VALUES)


def make_prefix(name: str, tokens: VirtualTokens, model: Any) -> Prefix:
    """Keys and values of ``tokens`` on ``model``, which must be the base alone. Raises `AdapterInvalid`."""
    count = tokens.values.shape[0]
    with torch.inference_mode():
        if tokens.keys:
            return Prefix(DynamicCache(_pairs(tokens.values, model)), count)
        read = model(inputs_embeds=tokens.values[None], past_key_values=empty_cache(model), use_cache=True)
        cache = getattr(read, "past_key_values", None)
    if not all(hasattr(layer, "keys") for layer in getattr(cache, "layers", None) or (None,)):
        raise _unfit(name, "this base keeps none")
    return Prefix(cache, count)


def _pairs(values: torch.Tensor, model: Any) -> Sequence[tuple[torch.Tensor, ...]]:
    """Keys and values [1, kv_heads, tokens, size] of each layer, as PEFT lays them out."""
    layers, heads, size = _shape(model)
    split = values.view(values.shape[0], 2 * layers, heads, size).permute(1, 2, 0, 3)[:, None]
    lies = _layer_devices(model)
    pairs = [(split[2 * at].contiguous(), split[2 * at + 1].contiguous()) for at in range(layers)]
    return [tuple(one.to(lies.get(at, one.device)) for one in pair) for at, pair in enumerate(pairs)]


def _layer_devices(model: Any) -> dict[int, torch.device]:
    """Where each layer computes, of a model on several devices, and so where its keys and values must be."""
    return {module.layer_idx: device_of(module) for module in model.modules() if hasattr(module, "layer_idx")}


def _shape(model: Any) -> tuple[int, int, int]:
    """(layers, heads of keys, size of one)."""
    text = model.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(text.num_hidden_layers), int(heads), int(size)


def width(kind: str, model: Any, hidden: int) -> int:
    """How many numbers one virtual token of ``kind`` has on ``model``, whose embeddings have ``hidden``."""
    if kind in EMBEDDINGS:
        return hidden
    layers, heads, size = _shape(model)
    return 2 * layers * heads * size


def why_unfit(kind: str, model: Any) -> str:
    """Why no row on ``model`` can begin with what ``kind`` learned; "" where it can."""
    text = model.config.get_text_config()
    if needs_whole_prompt(model.config):
        return "this base has recurrent layers, or positions that depend on the whole prompt"
    sliding = getattr(text, "sliding_window", None) and not getattr(text, "layer_types", None)
    if kind in KEYS_AND_VALUES and (sliding or set(getattr(text, "layer_types", None) or ()) - {"full_attention"}):
        return f"{kind} writes those of every layer, and this base has sliding windows"
    return ""


def _unfit(name: str, why: str) -> AdapterInvalid:
    return AdapterInvalid(
        f"Adapter {name!r} is a soft prompt, which becomes keys and values at the beginning of each answer: {why}.",
        "Use a LoRA on this base, or this adapter on a base with full attention in every layer.",
    )
