"""Adapter folders that travel: which files are worth keeping, and a copy of them whose weights have another strength.

No torch: a LoRA at strength s is the same LoRA with s·B in place of B, whatever its ranks, alphas and patterns are.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from playground.errors import AdapterInvalid
from playground.local_inference.adapters import (
    CONFIG_FILE,
    TEMPLATE_FILE,
    TOKENIZER_FILES,
    WEIGHTS_FILE,
    TensorHeader,
    read_config,
    read_safetensors_header,
)
from playground.local_inference.defects import more, short

# All that an adapter needs to answer elsewhere, and its card. A trainer's other files are pickles or logs.
KEPT_FILES = (
    CONFIG_FILE, WEIGHTS_FILE, TEMPLATE_FILE, *TOKENIZER_FILES,
    "special_tokens_map.json", "added_tokens.json", "merges.txt", "vocab.txt", "README.md",
)  # fmt: skip

# Kinds that put tokens or keys before the prompt and change no weight of the base.
PROMPT_KINDS = frozenset(
    {"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CARTRIDGE", "ADAPTION_PROMPT", "CPT"}
)
_KINDS: Mapping[str, str] = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def copy_adapter(source: Path, target: Path, strength: float = 1.0) -> None:
    """Copy what is kept of the adapter in ``source`` to the new folder ``target``, with its weights at ``strength``.

    At strength 1 the files are the same bytes. Raises `AdapterInvalid` where the strength has no exact form, `Defective`
    for a damaged file, and OSError.
    """
    refuse_strength(source, strength)
    target.mkdir(parents=True)
    for name in KEPT_FILES:
        if (source / name).is_file() and (name != WEIGHTS_FILE or strength == 1):
            shutil.copyfile(source / name, target / name)
    if strength != 1:
        _write_scaled(source / WEIGHTS_FILE, target / WEIGHTS_FILE, strength)


def refuse_strength(folder: Path, strength: float) -> None:
    """Raise `AdapterInvalid` when the adapter in ``folder`` cannot be written at ``strength``."""
    if strength == 0:
        raise AdapterInvalid("At strength 0 nothing of the adapter is left.", "Choose another strength.")
    refuse_rewritten_base(folder, strength)
    kind = read_config(folder).get("peft_type")
    if strength != 1 and kind != "LORA":
        raise AdapterInvalid(
            f"Adapter {folder.name!r} ({kind}) can be saved at strength 1 only, not at {strength:g}.",
            "Choose strength 1; other strengths are for LoRA and its relatives.",
        )
    whole = (
        []
        if strength == 1
        else [name for name in read_safetensors_header(folder / WEIGHTS_FILE) if "lora_" not in name]
    )
    if whole:
        raise AdapterInvalid(
            f"Adapter {folder.name!r} also replaces parts of the base ({short(whole[0])}{more(whole)}).",
            "They have no strength; choose strength 1.",
        )


def refuse_rewritten_base(folder: Path, strength: float) -> None:
    """Raise `AdapterInvalid` for PiSSA and OLoRA at another strength than 1.

    Strength scales what they add to the base, of which the part that they took out of it first is not in their file.
    """
    init = read_config(folder).get("init_lora_weights")
    if strength != 1 and isinstance(init, str) and init.lower().startswith(("pissa", "olora")):
        raise AdapterInvalid(
            f"Adapter {folder.name!r} began as a part of the base ({init}), so its own weights have no strength but 1.",
            "Choose strength 1, or convert it to a plain LoRA first.",
        )


def _write_scaled(source: Path, target: Path, strength: float) -> None:
    """Write the safetensors file ``source`` to ``target`` with every B multiplied by ``strength``.

    DoRA's magnitudes stay: it divides by the norm of W + s·BA, which it computes anew when it is loaded.
    """
    headers = read_safetensors_header(source)
    with source.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        metadata = json.loads(file.read(length)).get("__metadata__")
        tensors = {}
        for name, header in headers.items():
            file.seek(8 + length + header.start)
            data = file.read(header.end - header.start)
            scaled = ".lora_B." in name or ".lora_embedding_B" in name
            tensors[name] = (header, *(_scaled(header, data, strength) if scaled else (header.dtype, data)))
    _write(target, tensors, metadata)


def _scaled(header: TensorHeader, data: bytes, strength: float) -> tuple[str, bytes]:
    """(type, bytes) of a tensor times ``strength``: in its own type where that is exact, else in float32."""
    values = _values(header.dtype, data) * strength
    if header.dtype == "F64":
        return "F64", values.astype("<f8").tobytes()
    single = values.astype("<f4")
    bits = single.view("<u4")
    if header.dtype == "BF16" and not (bits & 0xFFFF).any():
        return "BF16", (bits >> 16).astype("<u2").tobytes()
    if header.dtype == "F16":
        with np.errstate(over="ignore"):
            half = single.astype("<f2")
        if np.array_equal(half.astype("<f4"), single):
            return "F16", half.tobytes()
    return "F32", single.tobytes()


def _values(dtype: str, data: bytes) -> NDArray[np.float64]:
    """The numbers of a tensor; bfloat16 is the upper half of a float32. Raises `AdapterInvalid` for other types."""
    if dtype not in _KINDS:
        raise AdapterInvalid(f"The weights are stored as {dtype}.", "Save the adapter in float32 or bfloat16 first.")
    array: NDArray[Any] = np.frombuffer(data, _KINDS[dtype])
    if dtype == "BF16":
        array = (array.astype("<u4") << 16).view("<f4")
    return array.astype(np.float64)


def _write(target: Path, tensors: Mapping[str, tuple[TensorHeader, str, bytes]], metadata: Any) -> None:
    """A safetensors file (github.com/huggingface/safetensors), wide types first, so that every tensor is aligned."""
    order = sorted(tensors, key=lambda name: (-_width(*tensors[name]), name))
    entries: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for name in order:
        header, dtype, data = tensors[name]
        entries[name] = {"dtype": dtype, "shape": list(header.shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with target.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(tensors[name][2])


def _width(header: TensorHeader, dtype: str, data: bytes) -> int:
    return math.ceil(len(data) / max(1, header.numel))
