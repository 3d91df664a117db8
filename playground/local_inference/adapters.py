"""Adapter folders, read without torch: JSON and safetensors headers say almost everything that can be wrong with one.

`check_adapter` takes milliseconds and opens no tensor; what only the numbers tell (NaN, zeros) is doctor.py's, and whether
the base's answers move is found out when the adapter is attached.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from playground.local_inference.defects import (
    LFS_POINTER,
    AdapterReport,
    Defective,
    Finding,
    Shown,
    folder_name,
    found,
    make_report,
    short,
)
from playground.local_inference.headers import TensorHeader, dora_magnitudes, lora_pairs, read_safetensors_header
from playground.local_inference.validation import base_findings, config_findings, shares_batches, tensor_findings
from playground.types import AdapterInfo

__all__ = [
    "CONFIG_FILE", "PICKLE_FILE", "TEMPLATE_FILE", "TOKENIZER_FILES", "WEIGHTS_FILE", "AdapterReport", "Finding",
    "TensorHeader", "adapter_files", "adapter_folders", "check_adapter", "content_hash", "discover_adapters",
    "dora_magnitudes", "fingerprint", "inspect_adapter", "lora_pairs", "place", "read_config", "read_safetensors_header",
    "short",
]  # fmt: skip

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PICKLE_FILE = "adapter_model.bin"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
TEMPLATE_FILE = "chat_template.jinja"

_MAX_CONFIG_BYTES = 10_000_000


def inspect_adapter(folder: Path, roots: Sequence[Path] = (), *, pickles: bool = False) -> AdapterInfo:
    """What ``folder`` says of itself, with its problems and warnings; never raises for a bad adapter. Milliseconds."""
    return check_adapter(folder, roots=roots, pickles=pickles).info


def check_adapter(
    folder: Path, *, base: Path | None = None, roots: Sequence[Path] = (), pickles: bool = False
) -> AdapterReport:
    """Everything that the headers tell about the adapter in ``folder``; never raises for a bad adapter. Milliseconds.

    With ``base``, the folder of a model, its name and shapes are compared too, where the base's headers allow it. With
    ``roots``, links that lead out of these folders are problems, and nothing is read through them. ``pickles`` says that
    one of weights may be read; here it is not opened either, so nothing is known of its tensors.
    """
    folder = Path(os.path.expanduser(folder))
    known: dict[str, Any] = {"path": str(folder), "name": folder.name or os.path.basename(os.path.abspath(folder))}
    findings: list[Finding] = []
    shares: bool | None = None
    try:
        _refuse_folder(folder, roots)
        config = read_config(folder)
        known |= _description(folder, config)
        findings += config_findings(config)
        _refuse_weights(folder, pickles)
        tensors = read_safetensors_header(folder / WEIGHTS_FILE)
        known["bytes"] = sum(tensor.end - tensor.start for tensor in tensors.values())
        findings += tensor_findings(config, tensors)
        shares = shares_batches(config, tensors)
        if base is not None:
            findings += base_findings(config, tensors, base)
    except Defective as defect:
        findings.append(defect.finding)
    except OSError as error:
        findings.append(_unreadable(folder, error))
    return make_report(AdapterInfo(**known), findings, shares)


def discover_adapters(folder: Path) -> list[AdapterInfo]:
    """``folder`` itself when it is an adapter, else the adapters directly inside it, by name; [] when there are none."""
    return [inspect_adapter(found) for found in adapter_folders(folder)]


def adapter_folders(folder: Path) -> list[Path]:
    """Where `discover_adapters` finds them; a folder that may not be read has none. No file is opened."""
    folder = Path(os.path.expanduser(folder))
    if os.path.exists(folder / CONFIG_FILE):
        return [folder]
    try:
        children = sorted(folder.iterdir()) if os.path.isdir(folder) else []
    except OSError:
        return []
    return [child for child in children if os.path.exists(child / CONFIG_FILE)]


def adapter_files(folder: Path) -> list[Path]:
    """The files that decide what the adapter does: configuration, weights, tokenizer, template."""
    weights = WEIGHTS_FILE if (folder / WEIGHTS_FILE).is_file() else PICKLE_FILE
    names = (CONFIG_FILE, weights, TEMPLATE_FILE, *TOKENIZER_FILES)
    return [folder / name for name in names if (folder / name).is_file()]


def place(path: str) -> str:
    """Where an adapter's folder really is, so that a symbolic link is the same entry."""
    return os.path.realpath(os.path.expanduser(path))


def fingerprint(folder: Path) -> tuple[tuple[str, int, int, int, int], ...]:
    """The files that count by name, with what tells each from a later one: differs when the adapter was trained again.

    Size, modification and change time in ns, and inode: a copy may keep the first two, and nobody can set the change time.
    """
    stats = [(path.name, path.stat()) for path in adapter_files(folder)]
    return tuple((name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino) for name, stat in stats)


def content_hash(folder: Path) -> str:
    """SHA-256 over the files that count, names included: the adapter's identity wherever it lies."""
    digest = hashlib.sha256()
    for path in adapter_files(folder):
        digest.update(path.name.encode() + b"\0" + str(path.stat().st_size).encode() + b"\0")
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def read_config(folder: Path) -> dict[str, Any]:
    """The adapter's configuration. Raises `Defective`, a ValueError, when it cannot be read."""
    file = folder / CONFIG_FILE
    try:
        size = file.stat().st_size
        data = file.read_bytes() if size <= _MAX_CONFIG_BYTES else b""
    except OSError as error:
        raise Defective(_unreadable(folder, error)) from error
    if size > _MAX_CONFIG_BYTES:
        raise Defective(found("config-huge", size=size))
    try:
        config = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Defective(_not_json(data, error)) from error
    if not isinstance(config, dict):
        raise Defective(found("config-not-object", kind=type(config).__name__))
    return config


def _not_json(data: bytes, error: Exception) -> Finding:
    if data.startswith(LFS_POINTER):
        return found("lfs-pointer", file=CONFIG_FILE)
    return found("config-not-json", error=error) if data.strip() else found("config-empty")


def _unreadable(folder: Path, error: OSError) -> Finding:
    file = os.path.basename(os.fsdecode(error.filename)) if isinstance(error.filename, (str, bytes)) else "A file"
    return found("unreadable", name=folder_name(folder), file=file, error=error.strerror or error)


def _description(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The adapter in the words of its configuration, whatever types it has there."""
    targets = config.get("target_modules")
    named = [targets] if isinstance(targets, str) else targets if isinstance(targets, list) else []
    rank = config.get("r")
    return {
        "path": str(folder.resolve()),
        "base": short(config.get("base_model_name_or_path") or "", 1000),
        "peft_type": short(config.get("peft_type") or ""),
        "rank": rank if isinstance(rank, int) and not isinstance(rank, bool) else None,
        "target_modules": tuple(sorted(short(target, 1000) for target in named)),
    }


def _refuse_folder(folder: Path, roots: Sequence[Path]) -> None:
    """Raise `Defective` for what is no adapter's folder, or leads where nothing may be read."""
    if not os.path.isdir(folder):
        raise Defective(found("no-folder", path=repr(str(folder))))
    if roots:
        _refuse_links_out(folder, [place(str(root)) for root in roots])
    if not (folder / CONFIG_FILE).is_file():
        _refuse_broken_link(folder, CONFIG_FILE)
        raise Defective(_no_config(folder))


def _refuse_links_out(folder: Path, roots: Sequence[str]) -> None:
    """Every link counts, not only those of files that are read here: a tokenizer reads some of its own choosing."""
    with os.scandir(folder) as entries:
        links = sorted(Path(entry.path) for entry in entries if entry.is_symlink())
    for file in (folder, *links):
        real = place(str(file))
        if not any(Path(real).is_relative_to(root) for root in roots):
            raise Defective(found("outside-roots", name=folder_name(folder), file=file.name))


def _refuse_broken_link(folder: Path, file: str) -> None:
    if (folder / file).is_symlink() and not (folder / file).exists():
        raise Defective(found("broken-link", name=folder_name(folder), file=file))


def _no_config(folder: Path) -> Finding:
    name = folder_name(folder)
    inside = _folders_with(folder, CONFIG_FILE)
    if inside:
        return found("holds-adapters", name=name, inside=inside)
    if (folder / "config.json").is_file():
        return found("whole-model", name=name)
    has_weights = any((folder / file).is_file() for file in (WEIGHTS_FILE, PICKLE_FILE))
    return found("config-lost" if has_weights else "no-config", name=name)


def _folders_with(folder: Path, file: str) -> Shown:
    """The first few folders directly inside that hold ``file``."""
    inside = sorted(child.name for child in folder.iterdir() if (child / file).is_file())
    return Shown(", ".join(short(name) for name in inside[:5]))


def _refuse_weights(folder: Path, pickles: bool) -> None:
    """Raise `Defective` when there is no file of weights that may be read. Opens none."""
    if (folder / WEIGHTS_FILE).is_file():
        return
    _refuse_broken_link(folder, WEIGHTS_FILE)
    name = folder_name(folder)
    files = sorted(child.name for child in folder.iterdir())
    shards = [file for file in files if re.fullmatch(r"adapter_model-\d+-of-\d+\.safetensors", file)]
    if shards:
        raise Defective(found("sharded-weights", name=name, count=len(shards)))
    if (folder / PICKLE_FILE).is_file():
        raise Defective(found("pickle-allowed" if pickles else "pickle-weights", name=name))
    if "adapters.safetensors" in files:
        raise Defective(found("mlx"))
    inside = _folders_with(folder, WEIGHTS_FILE)
    if inside:
        raise Defective(found("weights-in-checkpoints", name=name, inside=inside))
    trainers = [short(file) for file in files if file.endswith((".bin", ".pt", ".pth"))]
    if trainers:
        raise Defective(found("trainer-files-only", name=name, files=Shown(", ".join(trainers[:3]))))
    raise Defective(found("no-weights", name=name))
