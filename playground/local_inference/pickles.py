"""Adapters saved as pickles, read only where the operator allows it: their numbers, once, into a copy as safetensors.

The rest of the engine never sees the pickle. What is opened is the format of torch ≥ 1.6, a zip with its parts stored as
they are; torch's ``weights_only`` reads the pickle in it with a machine that knows tensors and dictionaries and calls
nothing else. The trainer's other pickles (training_args.bin, optimizer.pt) are never opened.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from playground.local_inference.adapters import PICKLE_FILE, WEIGHTS_FILE, adapter_files, content_hash, place
from playground.local_inference.defects import Defective, Shown, found

# Tensors may share their numbers (a tied head), and each is written out in full: so many times the file at most.
_LARGER = 4


def as_safetensors(folder: Path, into: Path | None) -> Path:
    """The folder to read the adapter in ``folder`` from: itself, or the copy of a pickle in ``into``, made if need be.

    A copy lies in a folder named by the hash of all files that count, under the adapter's own name, and appears as a whole
    or not at all. With ``into`` None no pickle is opened. Raises `Defective` for a pickle that holds anything but tensors,
    and OSError.
    """
    if into is None or (folder / WEIGHTS_FILE).is_file() or not (folder / PICKLE_FILE).is_file():
        return folder
    key = content_hash(folder)
    target = Path(place(str(into))) / key / (Path(place(str(folder))).name or "adapter")
    if not (target / WEIGHTS_FILE).is_file():
        into.mkdir(parents=True, exist_ok=True, mode=0o700)
        _convert(folder, target, key)
    return target


def _convert(folder: Path, target: Path, key: str) -> None:
    """Make ``target`` from ``folder``, whose files have the hash ``key``; two who do it at once end with one of theirs."""
    work = Path(tempfile.mkdtemp(prefix=".", dir=target.parent.parent))
    try:
        for file in adapter_files(folder):
            shutil.copyfile(file, work / file.name)
        if content_hash(work) != key:
            raise OSError(f"{PICKLE_FILE} was written again while it was read")
        _write_numbers(work / PICKLE_FILE, work / WEIGHTS_FILE)
        (work / PICKLE_FILE).unlink()
        target.parent.mkdir(exist_ok=True, mode=0o700)
        os.replace(work, target)
    except OSError:
        if not (target / WEIGHTS_FILE).is_file():  # else somebody else was quicker
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write_numbers(pickle: Path, weights: Path) -> None:
    """The tensors of ``pickle`` as safetensors. Raises `Defective` where there is anything else in it."""
    from safetensors.torch import save_file

    _refuse_archive(pickle)
    tensors = _read(pickle)
    _refuse_contents(tensors, pickle.stat().st_size)
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, weights)


def _read(pickle: Path) -> Any:
    import torch

    try:
        return torch.load(pickle, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # what a file that anybody may have made raises in there is of any type
        raise _refused("it holds more than tensors, or is damaged") from error


def _refuse_archive(pickle: Path) -> None:
    """Refuse what is no zip of stored parts: an older format, or one that would unfold to any size."""
    try:
        with zipfile.ZipFile(pickle) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise _refused("it is not a file of torch.save, or one of before 2020") from error
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise _refused("its parts are compressed, which torch.save never does")


def _refuse_contents(tensors: Any, size: int) -> None:
    """Refuse all but named dense tensors that are about as large as the file of ``size`` bytes."""
    import torch

    if not isinstance(tensors, Mapping) or not all(isinstance(name, str) for name in tensors):
        raise _refused("it holds no tensors by name")
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise _refused(f"{name} is no plain tensor")
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > _LARGER * size:
        raise _refused("its tensors claim to be far larger than the file")


def _refused(why: str) -> Defective:
    return Defective(found("pickle-refused", file=Shown(PICKLE_FILE), why=why))
