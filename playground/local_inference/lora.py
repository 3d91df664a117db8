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

# How many companies of adapters keep their joined matrices: each costs as much memory as its adapters.
_REMEMBERED = 4
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


@dataclass(frozen=True, eq=False)
class LoraWeights:
    """An adapter's layers by module name."""

    layers: Mapping[str, LoraLayer]


Active = Sequence[tuple[LoraWeights, float]]


class Switch:
    """The hooks on one base and what they add during the current step. Used by the compute thread only."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._hooked: set[str] = set()
        self._rows: Sequence[Active] = ()
        self._together: _Together | None = None
        self._mixed: list[_Together] = []

    def attach(self, weights: LoraWeights) -> None:
        """Make the linears that ``weights`` speaks of listen to this switch."""
        for name in weights.layers:
            if name not in self._hooked:
                self._model.get_submodule(name).register_forward_hook(self._hook(name))
                self._hooked.add(name)

    @contextmanager
    def use(self, rows: Sequence[Active]) -> Iterator[None]:
        """Within the block, row i of each forward pass gets the adapters ``rows[i]``; one entry counts for all rows.

        Outside the block the base answers. Blocks may be nested.
        """
        before = self._rows, self._together  # a beam search lets other rows step between its own steps
        self._rows = rows if any(rows) else ()
        self._together = self._mix(rows) if any(row != rows[0] for row in rows[1:]) else None
        try:
            yield
        finally:
            self._rows, self._together = before

    def _mix(self, rows: Sequence[Active]) -> _Together:
        """All adapters of ``rows`` side by side; the last few companies are remembered, as rows stay for many steps."""
        for at, known in enumerate(self._mixed):
            if known.rows == rows:
                self._mixed.append(self._mixed.pop(at))
                return known
        company = tuple({id(weights): weights for row in rows for weights, _ in row}.values())
        joined = next((known.joined for known in self._mixed if known.company == company), {})
        self._mixed = [*self._mixed[1 - _REMEMBERED :], _Together(rows, company, joined)]
        return self._mixed[-1]

    def _hook(self, name: str) -> Any:
        def add(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
            if not self._rows:
                return None
            if self._together is not None:
                return self._together.add(name, args[0], output)
            result = output
            for weights, strength in self._rows[0]:
                layer = weights.layers.get(name)
                if layer is not None and strength != 0.0:
                    result = result + layer.delta(args[0], strength)
            return result.to(output.dtype)

        return add


class _Together:
    """Several adapters in one step: A and B of all of them joined, each row's share picked by a mask.

    y += ((x Aᵀ) ∘ mask) Bᵀ, where A [Σ ranks, in] and B [out, Σ ranks] are the adapters' one after another and mask
    [rows, Σ ranks] holds each row's strength × alpha / denominator over its own adapters' columns and 0 elsewhere.
    """

    def __init__(
        self,
        rows: Sequence[Active],
        company: tuple[LoraWeights, ...],
        joined: dict[str, tuple[torch.Tensor, torch.Tensor]],
    ) -> None:
        self.rows = rows
        self.company = company
        self.joined = joined
        self._parts: dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None] = {}
        self._masks: dict[tuple[tuple[int, float], ...], torch.Tensor] = {}

    def add(self, name: str, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor | None:
        """``output`` [rows, positions, out] of linear ``name`` with every row's own adapters added."""
        if name not in self._parts:
            self._parts[name] = self._join(name)
        parts = self._parts[name]
        if parts is None:
            return None
        a, b, mask = parts
        return (output + F.linear(F.linear(x.to(a.dtype), a) * mask, b)).to(output.dtype)

    def _join(self, name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        """A, B and mask of linear ``name``, or None where none of the company touches it."""
        layers = [weights.layers.get(name) for weights in self.company]
        present = [layer for layer in layers if layer is not None]
        if not present:
            return None
        if name not in self.joined:
            self.joined[name] = (torch.cat([p.a for p in present]), torch.cat([p.b for p in present], dim=1))
        a, b = self.joined[name]
        return a, b, self._mask(layers, a.device)

    def _mask(self, layers: Sequence[LoraLayer | None], device: torch.device) -> torch.Tensor:
        """[rows, 1, Σ ranks]; equal for all linears with the same ranks and scales, so made once for each kind."""
        kind = tuple((layer.a.shape[0], layer.alpha / layer.denominator) if layer else (0, 0.0) for layer in layers)
        if kind not in self._masks:
            table = []
            for row in self.rows:
                strengths = {id(weights): strength for weights, strength in row}
                shares = [strengths.get(id(weights), 0.0) for weights in self.company]
                table.append(
                    [share * scale for share, (rank, scale) in zip(shares, kind, strict=True) for _ in range(rank)]
                )
            self._masks[kind] = torch.tensor(table, device=device)[:, None, :]
        return self._masks[kind]


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
