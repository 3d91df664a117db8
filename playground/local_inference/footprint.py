"""Where a model's tensors are and what they take: counted once each, apart from what lies in a mapped file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from playground.local_inference.memory import mapped_files


def weight_bytes(model: Any) -> int:
    """Bytes of ``model``'s weights in memory, each counted once: tied and joined ones too, and what quantizing adds."""
    return sum(weight_shares(model).values())


def weight_shares(model: Any) -> dict[str, int]:
    """Those bytes by device. What a pass fetches from a CPU counts there, what it fetches from a disk nowhere."""
    shares: dict[str, int] = {}
    for device, _, count in _spans(model):
        shares[device] = shares.get(device, 0) + count
    return shares


def mapped_bytes(model: Any) -> int:
    """Bytes of ``model``'s weights that lie in a mapped checkpoint file; the system counts them as free memory."""
    spans = [(at, count) for device, at, count in _spans(model) if device == "cpu"]
    files = mapped_files(".safetensors") if spans else []
    return sum(count for at, count in spans if any(start <= at < end for start, end in files))


def adapter_bytes(layers: Mapping[str, Any]) -> int:
    """Bytes of the tensors that are fields of an adapter's ``layers``."""
    own = (getattr(layer, field.name) for layer in layers.values() for field in dataclasses.fields(layer))
    return tensor_bytes(value for value in own if isinstance(value, torch.Tensor))


def tensor_bytes(tensors: Any) -> int:
    """Bytes of the memory behind ``tensors``, what several of them share counted once."""
    storages = {(str(one.device), one.data_ptr()): one.numel() * one.element_size() for one in tensors if one.numel()}
    return int(sum(storages.values()))


def device_of(module: nn.Module) -> torch.device:
    """Where ``module`` computes: where its weights are, or where accelerate's hooks bring them for each pass."""
    for hook in (hook for part in module.modules() for hook in _hooks(part)):
        if (device := getattr(hook, "execution_device", None)) is not None:
            return torch.device(device)
    return next(module.parameters()).device


def _hooks(module: nn.Module) -> tuple[Any, ...]:
    """What accelerate does around ``module``'s forward pass."""
    hook = getattr(module, "_hf_hook", None)
    return tuple(getattr(hook, "hooks", (hook,) if hook else ()))


def is_on_disk(model: Any) -> bool:
    """Whether a part of ``model`` has no memory at all and is read from its files for each pass."""
    return "disk" in getattr(model, "hf_device_map", {}).values()


def is_fetched(model: Any) -> bool:
    """Whether a part of ``model`` waits on a CPU or a disk, and is brought to where it computes for each pass."""
    return any(getattr(hook, "offload", False) for module in model.modules() for hook in _hooks(module))


def input_device(model: Any) -> torch.device:
    """Where token ids for ``model`` must be."""
    return device_of(model.get_input_embeddings())


def leave_files(model: Any) -> None:
    """Copy into memory what ``model`` still has in mapped checkpoint files, where that is less than half of them.

    A file stays mapped as a whole while one tensor in it is used, an embedding beside quantized or joined linears.
    """
    files = [span for span in mapped_files(".safetensors") if any(_within(p, [span]) for p in model.parameters())]
    inside = [p for p in (*model.parameters(), *model.buffers()) if _within(p, files)]
    if sum(map(_size, inside)) < 0.5 * sum(end - start for start, end in files):
        for tensor in inside:
            tensor.data = tensor.data.clone()


def _within(tensor: torch.Tensor, files: list[tuple[int, int]]) -> bool:
    return tensor.device.type == "cpu" and any(start <= tensor.data_ptr() < end for start, end in files)


def _size(tensor: torch.Tensor) -> int:
    if tensor.ndim and not any(tensor.stride()):  # one number in the shape of many, see text_only.release
        return int(tensor.element_size())
    return int(tensor.numel() * tensor.element_size())


def _spans(model: Any) -> set[tuple[str, int, int]]:
    """(device, address, bytes) of everything that ``model`` consists of and that is in memory."""
    found = [*model.parameters(), *model.buffers(), *_offloaded(model)]
    for parameter in list(found):
        state = getattr(parameter, "quant_state", None)
        scales = (getattr(parameter, "CB", None), getattr(parameter, "SCB", None))
        found += [tensor for tensor in (getattr(state, "absmax", None), *scales) if isinstance(tensor, torch.Tensor)]
    return {(str(one.device), one.data_ptr(), _size(one)) for one in found if one.numel() and not one.is_meta}


def _offloaded(model: Any) -> Iterator[torch.Tensor]:
    """The weights that wait on a CPU for a pass to fetch them; accelerate keeps them beside the modules."""
    seen = set()
    for module in model.modules():
        for hook in _hooks(module):
            weights = getattr(hook, "weights_map", None)
            kept = getattr(weights, "dataset", weights)
            waiting = getattr(kept, "state_dict", kept)
            if isinstance(waiting, Mapping) and id(kept) not in seen:
                seen.add(id(kept))
                yield from waiting.values()
