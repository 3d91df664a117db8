"""Adapter folders, read without torch: JSON and safetensors headers say almost everything that can be wrong with one.

Knows nothing of models in memory. What needs the base (do the tensor names fit?) is checked when the adapter is attached.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playground.types import AdapterInfo

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
TEMPLATE_FILE = "chat_template.jinja"

_MAX_HEADER_BYTES = 100_000_000
_TENSOR_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_LORA_PAIR = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")
_DORA = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_magnitude_vector(?:\.default)?(?:\.weight)?")

# Loading one of these into a model changes the model's own weights for good, so it may never touch a shared base.
_REWRITES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_PROMPT_LEARNING = {
    "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT", "CARTRIDGE",
}  # fmt: skip


@dataclass(frozen=True)
class TensorHeader:
    """Type, shape and byte range of one tensor in a safetensors file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def read_safetensors_header(path: Path) -> dict[str, TensorHeader]:
    """Tensor name → header, without reading the tensors (format: github.com/huggingface/safetensors).

    Raises ValueError with a sentence when the file is truncated, padded or no safetensors file at all.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise ValueError(f"{path.name} is empty or cut off ({size} bytes).")
        (length,) = struct.unpack("<Q", prefix)
        if length > min(_MAX_HEADER_BYTES, size - 8):
            raise ValueError(f"{path.name} is not a whole safetensors file (its header claims {length} bytes).")
        try:
            raw = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path.name} is not a safetensors file (its header is not JSON).") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{path.name} is not a safetensors file (its header is no object).")
    tensors = {name: _tensor_header(path, name, entry) for name, entry in raw.items() if name != "__metadata__"}
    expected = max((tensor.end for tensor in tensors.values()), default=0) + 8 + length
    if expected != size:
        raise ValueError(f"{path.name} is cut off or damaged: {size} bytes, its header describes {expected}.")
    return tensors


def _tensor_header(path: Path, name: str, entry: Any) -> TensorHeader:
    bad = ValueError(f"{path.name} is not a safetensors file (bad entry for {name}).")
    try:
        shape, (start, end) = list(entry["shape"]), entry["data_offsets"]
        dtype = entry["dtype"]
    except (TypeError, KeyError, ValueError) as error:
        raise bad from error
    if not isinstance(dtype, str) or not all(type(n) is int and n >= 0 for n in (*shape, start, end)) or end < start:
        raise bad
    header = TensorHeader(dtype, tuple(shape), start, end)
    width = _TENSOR_BYTES.get(dtype)
    if width is not None and end - start != header.numel * width:
        raise ValueError(f"{path.name} is damaged: {name} has {end - start} bytes for {header.shape}.")
    return header


def read_config(folder: Path) -> dict[str, Any]:
    """The adapter's configuration. Raises ValueError with a sentence when it cannot be read."""
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{CONFIG_FILE} cannot be read: {error}. Copy the adapter again.") from error
    if not isinstance(config, dict):
        raise ValueError(f"{CONFIG_FILE} holds a {type(config).__name__}, not an object. Copy the adapter again.")
    return config


def inspect_adapter(folder: Path) -> AdapterInfo:
    """What ``folder`` says of itself, with its problems and warnings; never raises for a bad adapter. Milliseconds."""
    folder = Path(os.path.expanduser(folder))
    try:
        missing = _missing_files(folder)
        if missing:
            return AdapterInfo(path=str(folder), name=folder.name, problems=(missing,))
        config = read_config(folder)
        tensors = read_safetensors_header(folder / WEIGHTS_FILE)
    except (OSError, ValueError) as error:
        return AdapterInfo(path=str(folder), name=folder.name, problems=(str(error),))
    problems = [*_config_problems(config), *_tensor_problems(config, tensors)]
    targets = config.get("target_modules")
    targets = targets if isinstance(targets, (str, list)) else ()
    rank = config.get("r")
    return AdapterInfo(
        path=str(folder.resolve()),
        name=folder.name,
        base=str(config.get("base_model_name_or_path") or ""),
        peft_type=str(config.get("peft_type") or ""),
        rank=rank if isinstance(rank, int) else None,
        target_modules=(targets,) if isinstance(targets, str) else tuple(sorted(str(item) for item in targets)),
        bytes=sum(tensor.end - tensor.start for tensor in tensors.values()),
        problems=tuple(problems),
    )


def discover_adapters(folder: Path) -> list[AdapterInfo]:
    """``folder`` itself when it is an adapter, else the adapters directly inside it, by name; [] when there are none."""
    folder = Path(os.path.expanduser(folder))
    if os.path.exists(folder / CONFIG_FILE):
        return [inspect_adapter(folder)]
    if not os.path.isdir(folder):
        return []
    return [inspect_adapter(child) for child in sorted(folder.iterdir()) if (child / CONFIG_FILE).exists()]


def adapter_files(folder: Path) -> list[Path]:
    """The files that decide what the adapter does: configuration, weights, tokenizer, template."""
    names = (CONFIG_FILE, WEIGHTS_FILE, TEMPLATE_FILE, *TOKENIZER_FILES)
    return [folder / name for name in names if (folder / name).is_file()]


def place(path: str) -> str:
    """Where an adapter's folder really is, so that a symbolic link is the same entry."""
    return os.path.realpath(os.path.expanduser(path))


def fingerprint(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """(name, size, modification time in ns) of the files that count: differs when the adapter was trained again."""
    stats = [(path.name, path.stat()) for path in adapter_files(folder)]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def content_hash(folder: Path) -> str:
    """SHA-256 over the files that count, names included: the adapter's identity wherever it lies."""
    digest = hashlib.sha256()
    for path in adapter_files(folder):
        digest.update(path.name.encode() + b"\0" + str(path.stat().st_size).encode() + b"\0")
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def lora_pairs(names: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Module name → {"A": tensor name, "B": tensor name} for the tensors that look like plain LoRA."""
    pairs: dict[str, dict[str, str]] = {}
    for name in names:
        if match := _LORA_PAIR.fullmatch(name):
            pairs.setdefault(match["module"], {})[match["side"]] = name
    return pairs


def dora_magnitudes(names: Mapping[str, Any]) -> dict[str, str]:
    """Module name → tensor name, for DoRA's magnitudes."""
    return {match["module"]: name for name in names if (match := _DORA.fullmatch(name))}


def _missing_files(folder: Path) -> str:
    if not os.path.isdir(folder):
        return f"There is no folder {str(folder)!r}. Check the path."
    if not (folder / CONFIG_FILE).is_file():
        inside = sorted(child.name for child in folder.iterdir() if (child / CONFIG_FILE).is_file())
        if inside:
            return f"{folder.name!r} holds adapters but is none itself. Choose one of {', '.join(inside[:5])}."
        if (folder / "config.json").is_file():
            return f"{folder.name!r} is a whole model, not an adapter. Load it as the base."
        return f"{folder.name!r} has no {CONFIG_FILE}. Choose the folder that the trainer saved the adapter to."
    if (folder / WEIGHTS_FILE).is_file():
        return ""
    if (folder / "adapter_model.bin").is_file():
        return (
            f"{folder.name!r} has its weights in adapter_model.bin, a pickle file, which can run code when opened. "
            f"Save it again with safe_serialization=True to get {WEIGHTS_FILE}."
        )
    return f"{folder.name!r} has no {WEIGHTS_FILE}. The training may not have finished; choose a saved checkpoint."


def _config_problems(config: Mapping[str, Any]) -> list[str]:
    kind = config.get("peft_type")
    if not isinstance(kind, str) or not kind:
        return [f"{CONFIG_FILE} has no peft_type. Save the adapter again with PEFT."]
    problems = []
    if kind in _PROMPT_LEARNING:
        problems.append(f"{kind} adapters are not supported yet. LoRA and its relatives are.")
    task = config.get("task_type")
    if task not in (None, "CAUSAL_LM"):
        problems.append(f"This adapter was trained for {task}, not for text generation. Choose a CAUSAL_LM adapter.")
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(_REWRITES_BASE):
        problems.append(
            f"This adapter was initialised with {init!r}, which rewrites the base's own weights when it is loaded. "
            "Convert it to a plain LoRA first (PEFT: save_pretrained(path_initial_model_for_weight_conversion=…))."
        )
    if config.get("layer_replication"):
        problems.append("This adapter repeats layers of the base (layer_replication), so it cannot share a base.")
    targets = config.get("target_modules")
    if targets is not None and not isinstance(targets, (str, list)):
        problems.append(f"target_modules is {targets!r} in {CONFIG_FILE}. It must be a text or a list of texts.")
    if kind == "LORA" and not isinstance(config.get("lora_alpha"), (int, float)):
        problems.append(f"lora_alpha is {config.get('lora_alpha')!r} in {CONFIG_FILE}. It must be a number.")
    return problems


def _tensor_problems(config: Mapping[str, Any], tensors: Mapping[str, TensorHeader]) -> list[str]:
    if not tensors:
        return [f"{WEIGHTS_FILE} holds no tensors. The adapter was saved empty; save it again."]
    if config.get("peft_type") != "LORA":
        return []
    problems = []
    for module, pair in lora_pairs(tensors).items():
        if set(pair) != {"A", "B"}:
            problems.append(f"{module} has lora_{next(iter(pair))} without its other half. Copy the adapter again.")
            continue
        a, b = tensors[pair["A"]].shape, tensors[pair["B"]].shape
        if len(a) == len(b) == 2 and a[0] != b[1]:
            problems.append(f"{module}: lora_A has rank {a[0]}, lora_B has rank {b[1]}. The file is damaged.")
    return problems[:5]
