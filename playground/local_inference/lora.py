"""LoRA beside the base's linears: A and B are read from safetensors and added by a forward hook, per step.

The base's weights are never touched, so the base stays the base: with nothing active a hook returns the layer's own
output. Which adapters are active, and how strongly, is said by the step (`Switch.use`), never stored in an adapter.

LoRA: Hu et al. 2021, arXiv:2106.09685; rsLoRA (alpha over the root of the rank): Kalajdzievski 2023, arXiv:2312.03732.
What else an adapter may ask for is not understood here and is left to PEFT (peft_turn.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from playground.errors import AdapterInvalid
from playground.local_inference.adapters import WEIGHTS_FILE, lora_pairs

# Fields of LoraConfig that are understood here; every other field must have its default, else PEFT serves the adapter.
_UNDERSTOOD = {
    "r", "lora_alpha", "target_modules", "exclude_modules", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern",
    "layers_to_transform", "layers_pattern", "fan_in_fan_out", "peft_type", "task_type", "auto_mapping", "peft_version",
    "base_model_name_or_path", "revision", "inference_mode", "init_lora_weights", "megatron_core", "loftq_config",
    "runtime_config", "qalora_group_size",
}  # fmt: skip


@dataclass(frozen=True)
class LoraLayer:
    """One linear's A [rank, in] and B [out, rank], float32, and what scales them: strength × alpha / denominator."""

    a: torch.Tensor
    b: torch.Tensor
    alpha: float
    denominator: float

    def delta(self, x: torch.Tensor, strength: float) -> torch.Tensor:
        """What the adapter adds to the linear's output for its input ``x`` [..., in]; same operations as PEFT's."""
        return F.linear(F.linear(x.to(self.a.dtype), self.a), self.b) * (strength * self.alpha / self.denominator)


@dataclass(frozen=True)
class LoraWeights:
    """An adapter's layers by module name."""

    layers: Mapping[str, LoraLayer]


class Switch:
    """The hooks on one base and what they add during the current step. Used by the compute thread only."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._hooked: set[str] = set()
        self._active: Sequence[tuple[LoraWeights, float]] = ()

    def attach(self, weights: LoraWeights) -> None:
        """Make the linears that ``weights`` speaks of listen to this switch."""
        for name in weights.layers:
            if name not in self._hooked:
                self._model.get_submodule(name).register_forward_hook(self._hook(name))
                self._hooked.add(name)

    @contextmanager
    def use(self, active: Sequence[tuple[LoraWeights, float]]) -> Iterator[None]:
        """Within the block, forward passes get these adapters at these strengths; the base's own outside it."""
        self._active = active
        try:
            yield
        finally:
            self._active = ()

    def _hook(self, name: str) -> Any:
        def add(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            result = output
            for weights, strength in self._active:
                layer = weights.layers.get(name)
                if layer is not None and strength != 0.0:
                    result = result + layer.delta(args[0], strength)
            return result.to(output.dtype)

        return add


def is_plain(config: Any, model: nn.Module, tensor_names: Mapping[str, Any]) -> bool:
    """True when this LoRA is served by `Switch`: only understood fields, only linears, and exactly the targeted ones."""
    default = type(config)()
    odd = [
        name
        for name, value in vars(config).items()
        if name not in _UNDERSTOOD and value != getattr(default, name, None) and value not in (None, [], {})
    ]
    pairs = lora_pairs(tensor_names)
    if odd or len(pairs) * 2 != len(tensor_names):
        return False
    modules = dict(model.named_modules())
    return all(name in modules and _is_linear(modules[name]) and _targeted(config, name) for name in pairs)


def missing_layers(config: Any, model: nn.Module, weights: LoraWeights) -> list[str]:
    """Linears that the configuration targets and the file has no weights for."""
    if isinstance(config.target_modules, str) and config.target_modules == "all-linear":
        return []
    return [
        name
        for name, module in model.named_modules()
        if _is_linear(module) and name not in weights.layers and _targeted(config, name)
    ]


def read_weights(folder: Path, config: Any, model: nn.Module) -> LoraWeights:
    """A and B of every targeted linear, checked against the base's shapes and for NaN, on the linears' devices.

    Raises `AdapterInvalid` naming the first tensor that does not fit.
    """
    tensors = load_file(folder / WEIGHTS_FILE)
    layers = {}
    for name, pair in lora_pairs(tensors).items():
        module = model.get_submodule(name)
        a, b = (tensors[pair[side]].float() for side in "AB")
        _check_fit(folder, name, module, a, b)
        key = get_pattern_key(config.rank_pattern.keys(), name)
        rank = config.rank_pattern.get(key, config.r)
        if rank != a.shape[0]:
            raise AdapterInvalid(
                f"Adapter {folder.name!r}: {name} has rank {a.shape[0]} in the weights and {rank} in adapter_config.json.",
                "The configuration belongs to another training; copy both files of one checkpoint.",
            )
        alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern.keys(), name), config.lora_alpha)
        device = next(module.parameters()).device
        layers[name] = LoraLayer(a.to(device), b.to(device), alpha, math.sqrt(rank) if config.use_rslora else rank)
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
    """Exactly the linear types whose output is x·Wᵀ + b: torch's, GPT-2's Conv1D, and bitsandbytes' quantized ones."""
    return type(module) in (nn.Linear, Conv1D) or type(module).__module__.startswith("bitsandbytes.nn")


def _features(module: Any) -> tuple[int, int]:
    if isinstance(module, Conv1D):
        return int(module.nx), int(module.nf)
    return int(module.in_features), int(module.out_features)
