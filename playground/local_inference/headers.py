"""Safetensors headers without the tensors: types, shapes and names, and which names belong together as LoRA."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playground.local_inference.defects import LFS_POINTER, Defective, Shown, dimensions, found, short

_MAX_HEADER_BYTES = 100_000_000
_TENSOR_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_LORA_PAIR = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")
_EMBEDDING_PAIR = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_embedding_(?P<side>[AB])(?:\.default)?")
_DORA = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_magnitude_vector(?:\.default)?(?:\.weight)?")


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

    Raises `Defective`, a ValueError, when the file is truncated, padded or no safetensors file at all.
    """
    file_name = Shown(path.name)
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise Defective(found("weights-empty", file=file_name, size=size))
        (length,) = struct.unpack("<Q", prefix)
        if length > min(_MAX_HEADER_BYTES, size - 8):
            if (prefix + file.read(32)).startswith(LFS_POINTER):
                raise Defective(found("lfs-pointer", file=file_name))
            raise Defective(found("weights-no-header", file=file_name, length=length))
        try:
            raw = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise Defective(found("weights-bad-header", file=file_name, why=Shown("its header is not JSON"))) from error
    if not isinstance(raw, dict):
        raise Defective(found("weights-bad-header", file=file_name, why=Shown("its header is no object")))
    tensors = {name: _tensor_header(path, name, entry) for name, entry in raw.items() if name != "__metadata__"}
    expected = max((tensor.end for tensor in tensors.values()), default=0) + 8 + length
    if expected != size:
        raise Defective(found("weights-cut-off", file=file_name, size=size, expected=expected))
    _refuse_gaps(path, tensors)
    return tensors


def _tensor_header(path: Path, name: str, entry: Any) -> TensorHeader:
    try:
        shape, (start, end) = list(entry["shape"]), entry["data_offsets"]
        dtype = entry["dtype"]
    except (TypeError, KeyError, ValueError) as error:
        raise _bad_entry(path, name) from error
    numbers = (*shape, start, end)
    if not isinstance(dtype, str) or set(map(type, numbers)) != {int} or min(numbers) < 0 or end < start:
        raise _bad_entry(path, name)
    header = TensorHeader(dtype, tuple(shape), start, end)
    width = _TENSOR_BYTES.get(dtype)
    if width is not None and end - start != header.numel * width:
        why = Shown(f"{short(name)} has {end - start} bytes for {dimensions(header.shape)}")
        raise Defective(found("weights-damaged", file=Shown(path.name), why=why))
    return header


def _bad_entry(path: Path, name: str) -> Defective:
    return Defective(found("weights-bad-header", file=Shown(path.name), why=Shown(f"bad entry for {short(name)}")))


def _refuse_gaps(path: Path, tensors: Mapping[str, TensorHeader]) -> None:
    """Tensors must lie one after another, as the format says: two in one place would hide other bytes."""
    at = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if tensor.start != at:
            why = Shown(f"{short(name)} does not begin where the tensor before it ends")
            raise Defective(found("weights-damaged", file=Shown(path.name), why=why))
        at = tensor.end


def lora_pairs(names: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Module name → {"A": tensor name, "B": tensor name} for the tensors that look like plain LoRA."""
    return _pairs(_LORA_PAIR, ".lora_", names)


def embedding_pairs(names: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The same for LoRA on embeddings: A is [rank, tokens], B is [hidden, rank]."""
    return _pairs(_EMBEDDING_PAIR, ".lora_embedding_", names)


def _pairs(pattern: re.Pattern[str], mark: str, names: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """By ``pattern``; looking for ``mark`` first is quicker by far where it is not in the name."""
    pairs: dict[str, dict[str, str]] = {}
    for name in names:
        if mark in name and (match := pattern.fullmatch(name)):
            pairs.setdefault(match["module"], {})[match["side"]] = name
    return pairs


def spare_copies(names: Iterable[str]) -> set[str]:
    """Names under which PEFT has written a saved module once more, as it does when the vocabulary has changed."""
    given = set(names)
    inside = re.compile(r"\.(modules_to_save|original_module)(?=\.)")
    return {name for name in given if inside.search(name) and inside.sub("", name) in given}


def dora_magnitudes(names: Mapping[str, Any]) -> dict[str, str]:
    """Module name → tensor name, for DoRA's magnitudes."""
    marked = (name for name in names if ".lora_magnitude_vector" in name)
    return {match["module"]: name for name in marked if (match := _DORA.fullmatch(name))}


def base_headers(base: Path) -> dict[str, TensorHeader]:
    """Tensor name → header of a base model in ``base``, over all its files.

    Raises `Defective` for a damaged file and OSError for a missing one.
    """
    return {name: header for file in base_files(base) for name, header in read_safetensors_header(file).items()}


def base_files(base: Path) -> list[Path]:
    """The safetensors files of the model in ``base``: those that its index names, or all but an adapter's."""
    try:
        index = json.loads((base / "model.safetensors.index.json").read_text("utf-8"))["weight_map"]
        return [base / name for name in sorted({Path(value).name for value in index.values()})]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return sorted(file for file in base.glob("*.safetensors") if not file.name.startswith("adapter_"))


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; empty when there is none that can be read."""
    try:
        value = json.loads(file.read_text("utf-8")) if file.is_file() else None  # a pipe would be waited for
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
