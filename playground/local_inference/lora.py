"""LoRA and DoRA as tensors: A, B and magnitudes are read from safetensors, checked against the base, and never merged.

LoRA: Hu et al. 2021, arXiv:2106.09685; rsLoRA (alpha over the root of the rank): Kalajdzievski 2023, arXiv:2312.03732; DoRA:
Liu et al. 2024, arXiv:2402.09353. How they are added to the base's outputs is mixing.py's; what else an adapter may ask for
is not understood here and is left to PEFT (peft_turn.py).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.integrations import dequantize_module_weight
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from playground.errors import AdapterInvalid
from playground.local_inference.adapters import WEIGHTS_FILE, dora_magnitudes, lora_pairs
from playground.local_inference.footprint import device_of
from playground.local_inference.naming import SAME_NAMES, Naming

# Fields of LoraConfig that are understood here; every other field must have its default, else PEFT serves the adapter.
_UNDERSTOOD = {
    "r", "lora_alpha", "target_modules", "exclude_modules", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern",
    "layers_to_transform", "layers_pattern", "fan_in_fan_out", "peft_type", "task_type", "auto_mapping", "peft_version",
    "base_model_name_or_path", "revision", "inference_mode", "init_lora_weights", "megatron_core", "loftq_config",
    "runtime_config", "qalora_group_size", "use_dora",
}  # fmt: skip

# Subclasses of nn.Linear that only write its product in another way.
_LINEARS = {("transformers.models.falcon.modeling_falcon", "FalconLinear")}


@dataclass(frozen=True, eq=False)
class LoraLayer:
    """One linear's A [rank, in] and B [out, rank] in the base's dtype; ``scale`` is alpha / denominator.

    ``magnitude`` [out] float32 is DoRA's; ``linear`` is the base's module, whose weights DoRA's gain is measured against.
    """

    a: torch.Tensor
    b: torch.Tensor
    scale: float
    linear: nn.Module
    magnitude: torch.Tensor | None = None

    def gain(self, strength: float) -> torch.Tensor:
        """DoRA's g [out] float32 at ``strength``: magnitude over the norm of each row of W + strength · scale · BA."""
        assert self.magnitude is not None
        merged = _dense(self.linear) + strength * self.scale * (self.b.float() @ self.a.float())
        return self.magnitude / merged.norm(dim=1)


@dataclass(frozen=True, eq=False)
class LoraWeights:
    """An adapter's layers by module name."""

    layers: Mapping[str, LoraLayer]

    @functools.cached_property
    def rank(self) -> int:
        """The largest rank of its layers."""
        return max((layer.a.shape[0] for layer in self.layers.values()), default=0)

    @functools.cached_property
    def has_gains(self) -> bool:
        """Whether it is a DoRA."""
        return any(layer.magnitude is not None for layer in self.layers.values())


def is_plain(config: Any, modules: Mapping[str, nn.Module], tensor_names: Mapping[str, Any]) -> bool:
    """True when this LoRA or DoRA is understood here: known fields only, linears only, and exactly the targeted ones.

    ``modules`` are the base's by name, as they are without any adapter of PEFT's.
    """
    default = type(config)()
    odd = [
        name
        for name, value in vars(config).items()
        if name not in _UNDERSTOOD and value != getattr(default, name, None) and value not in (None, [], {})
    ]
    pairs, magnitudes = lora_pairs(tensor_names), dora_magnitudes(tensor_names)
    if odd or len(pairs) * 2 + len(magnitudes) != len(tensor_names):
        return False
    if magnitudes.keys() != (pairs.keys() if config.use_dora else set()):
        return False
    if config.use_dora and any(isinstance(modules.get(name), Conv1D) for name in pairs):
        return False
    return all(name in modules and _is_linear(modules[name]) and _targeted(config, name) for name in pairs)


def missing_layers(config: Any, modules: Mapping[str, nn.Module], weights: LoraWeights) -> list[str]:
    """Linears that the configuration targets and the file has no weights for."""
    if isinstance(config.target_modules, str) and config.target_modules == "all-linear":
        return []
    return [
        name
        for name, module in modules.items()
        if _is_linear(module) and name not in weights.layers and _targeted(config, name)
    ]


def read_weights(
    folder: Path, config: Any, modules: Mapping[str, nn.Module], dtype: torch.dtype, naming: Naming = SAME_NAMES
) -> LoraWeights:
    """A and B of every targeted linear, checked against the base's shapes and for NaN, on its device and as ``dtype``.

    ``naming`` says which tensors of the file are whose; ``config`` is for the base's names.

    Raises `AdapterInvalid` naming the first tensor that does not fit.
    """
    tensors = naming.apply(load_file(folder / WEIGHTS_FILE))
    magnitudes = dora_magnitudes(tensors)
    layers = {}
    for name, pair in lora_pairs(tensors).items():
        module = modules[name]
        a, b = (tensors[pair[side]] for side in "AB")
        _check_fit(folder, name, module, a, b)
        key = get_pattern_key(config.rank_pattern.keys(), name)
        rank = config.rank_pattern.get(key, config.r)
        if rank != a.shape[0]:
            raise AdapterInvalid(
                f"Adapter {folder.name!r}: {name} has rank {a.shape[0]} in the weights and {rank} in adapter_config.json.",
                "The configuration belongs to another training; copy both files of one checkpoint.",
            )
        alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern.keys(), name), config.lora_alpha)
        device = device_of(module)
        scale = alpha / (math.sqrt(rank) if config.use_rslora else rank)
        magnitude = (
            tensors[magnitudes[name]].flatten().to(device, torch.float32, copy=True) if name in magnitudes else None
        )
        # Copies: what is loaded is mapped from the file, and would change, or be gone, when somebody writes over it.
        a, b = (tensor.to(device, dtype, copy=True) for tensor in (a, b))
        layers[name] = LoraLayer(a, b, scale, module, magnitude)
    return LoraWeights(layers)


def _check_fit(folder: Path, name: str, module: nn.Module, a: torch.Tensor, b: torch.Tensor) -> None:
    into, out = _features(module)
    if a.shape[1] != into or b.shape[0] != out:
        raise AdapterInvalid(
            f"Adapter {folder.name!r} does not fit this base: its {name} is for {a.shape[1]}→{b.shape[0]} features, "
            f"the base has {into}→{out}.",
            "Load the base that it was trained on.",
        )
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise AdapterInvalid(
            f"Adapter {folder.name!r} holds NaN or infinite numbers in {name}.",
            "The training diverged; choose an earlier checkpoint or train with a lower learning rate.",
        )


def _targeted(config: Any, name: str) -> bool:
    if config.target_modules == "all-linear":
        return True
    return bool(check_target_module_exists(config, name))


def _is_linear(module: nn.Module) -> bool:
    """Exactly the linear types whose output is x·Wᵀ + b: torch's, GPT-2's Conv1D, Falcon's, bitsandbytes' quantized ones."""
    kind = type(module)
    known = kind in (nn.Linear, Conv1D) or (kind.__module__, kind.__name__) in _LINEARS
    return known or kind.__module__.startswith("bitsandbytes.nn")


def _dense(module: nn.Module) -> torch.Tensor:
    """The weight [out, in] of a linear in float32, also of a quantized one."""
    return dequantize_module_weight(module).detach().float()


def _features(module: Any) -> tuple[int, int]:
    if isinstance(module, Conv1D):
        return int(module.nx), int(module.nf)
    return int(module.in_features), int(module.out_features)
