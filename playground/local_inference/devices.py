"""Where a base may be computed: the CPU, a GPU of CUDA's, Apple's; and which numbers a GPU computes itself."""

from __future__ import annotations

import torch

from playground.errors import ModelUnsupported
from playground.local_inference.memory import device_bytes

# GPUs before this compute capability (Ampere) have no units for bfloat16 and work it out piece by piece.
_BFLOAT16_SINCE = (8, 0)


def choose_device(asked: str) -> tuple[str, str]:
    """(device, why) for what was asked: auto, cpu, cuda, cuda:N or mps. Raises `ModelUnsupported` for what is not there.

    Of several GPUs auto takes the one with the most free memory.
    """
    if asked == "auto":
        if torch.cuda.is_available():
            return _emptiest_gpu()
        if torch.backends.mps.is_available():
            return "mps", "Apple's GPU is present"
        return "cpu", "no GPU is present"
    if asked.startswith("cuda"):
        index = asked.partition(":")[2] or "0"
        if not index.isdigit() or int(index) >= torch.cuda.device_count():
            raise ModelUnsupported(
                f"Device {asked!r} is not there ({torch.cuda.device_count()} CUDA devices).", "Use auto or cpu."
            )
        return f"cuda:{index}", f"{asked} as asked"
    if asked == "cpu" or (asked == "mps" and torch.backends.mps.is_available()):
        return asked, f"{asked} as asked"
    raise ModelUnsupported(f"Device {asked!r} is not there.", "Use auto, cpu, cuda, cuda:N or mps.")


def _emptiest_gpu() -> tuple[str, str]:
    count = torch.cuda.device_count()
    if count == 1:
        return "cuda:0", "a GPU is present"
    free = [device_bytes(f"cuda:{at}")[1] for at in range(count)]
    at = free.index(max(free))
    return f"cuda:{at}", f"of {count} GPUs this one has the most free memory"


def other_memories(asked: str, device: str) -> list[str]:
    """Where else a base may lie that is too large for ``device``: other GPUs where none was named, and the CPU."""
    if not device.startswith("cuda"):
        return []
    gpus = [f"cuda:{at}" for at in range(torch.cuda.device_count())] if asked == "auto" else []
    return [*(gpu for gpu in gpus if gpu != device), "cpu"]


def index(device: str) -> int:
    """The number of a GPU; 0 for what has none."""
    number = device.partition(":")[2]
    return int(number) if number else 0


def gpu_dtype(device: str) -> str:
    """bfloat16, whose range is float32's, where the GPU computes it; else float16."""
    if device == "mps":
        return "float16"
    known = torch.cuda.is_available()  # figures may be asked for on a machine without one
    return "float16" if known and torch.cuda.get_device_capability(device) < _BFLOAT16_SINCE else "bfloat16"
