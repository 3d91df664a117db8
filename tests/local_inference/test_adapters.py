"""G9: what is wrong with an adapter folder is said without loading anything, each problem with its remedy."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from playground.local_inference.adapters import content_hash, discover_adapters, fingerprint, inspect_adapter

from .conftest import PIRATE, STARTER

Break = Callable[[Path], None]


def _config(**changes: Any) -> Break:
    def edit(folder: Path) -> None:
        file = folder / "adapter_config.json"
        config = json.loads(file.read_text()) | changes
        file.write_text(json.dumps({key: value for key, value in config.items() if value != "drop"}))

    return edit


def _weights(change: Callable[[bytes], bytes]) -> Break:
    def edit(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        file.write_bytes(change(file.read_bytes()))

    return edit


def _file(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


def _half_a_pair(folder: Path) -> None:
    from safetensors.numpy import save_file

    numpy = pytest.importorskip("numpy")
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({name: numpy.zeros((8, 192), dtype="float32")}, folder / "adapter_model.safetensors")


def _to_pickle(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


BROKEN: dict[str, tuple[Break, str]] = {
    "no config": (lambda folder: (folder / "adapter_config.json").unlink(), "has no adapter_config.json"),
    "config is no JSON": (lambda folder: (folder / "adapter_config.json").write_text("{"), "cannot be read"),
    "config is a list": (lambda folder: (folder / "adapter_config.json").write_text("[]"), "not an object"),
    "no kind": (_config(peft_type="drop"), "no peft_type"),
    "no alpha": (_config(lora_alpha=None), "lora_alpha is None"),
    "a classifier": (_config(task_type="SEQ_CLS"), "not for text generation"),
    "soft prompts": (_config(peft_type="PREFIX_TUNING"), "not supported yet"),
    "rewrites the base": (_config(init_lora_weights="pissa_niter_4"), "rewrites the base"),
    "repeats layers": (_config(layer_replication=[[0, 2]]), "repeats layers"),
    "no weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "may not have finished"),
    "pickle": (_to_pickle, "a pickle file"),
    "cut off": (_weights(lambda data: data[:-10]), "cut off"),
    "empty": (_weights(lambda data: b""), "empty or cut off"),
    "no safetensors": (_weights(lambda data: b"x" * 5000), "not a whole safetensors"),
    "header is a list": (_weights(lambda data: _file(b"[]")), "no object"),
    "header nests deeply": (_weights(lambda data: _file(b"[" * 100_000)), "not JSON"),
    "offsets are null": (
        _weights(lambda data: _file(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": null}}')),
        "bad entry for a",
    ),
    "a negative shape": (
        _weights(lambda data: _file(b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}')),
        "bad entry for a",
    ),
    "target_modules is a number": (_config(target_modules=5), "target_modules is 5"),
    "half a pair": (_half_a_pair, "without its other half"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_adapter_says_what_is_wrong(tmp_path: Path, what: str) -> None:
    """G9."""
    folder = tmp_path / "broken"
    shutil.copytree(PIRATE, folder)
    breaks, says = BROKEN[what]
    breaks(folder)
    problems = inspect_adapter(folder).problems
    assert any(says in problem for problem in problems), problems
    assert all(problem.rstrip().endswith((".", ")")) for problem in problems)


@pytest.mark.parametrize("path", ["x" * 5000, "~nosuchuser/adapter", "\0", "a\nb"])
def test_whatever_is_typed_is_a_sentence(path: str) -> None:
    """P1: a path that no file system knows is refused like any other."""
    assert "no folder" in inspect_adapter(Path(path)).problems[0]
    assert discover_adapters(Path(path)) == []


def test_a_good_adapter_tells_what_it_is() -> None:
    """G9, I2."""
    info = inspect_adapter(PIRATE)
    assert info.problems == ()
    assert (info.name, info.base, info.peft_type) == ("pirate", "starter", "LORA")
    assert info.rank
    assert "q_proj" in info.target_modules
    assert info.bytes > 100_000


def test_the_folder_above_adapters_lists_them(tmp_path: Path) -> None:
    """P1: pointing at the parent offers what is inside; a whole model is told apart."""
    assert {info.name for info in discover_adapters(PIRATE.parent)} >= {"pirate", "sql"}
    assert [info.name for info in discover_adapters(PIRATE)] == ["pirate"]
    assert discover_adapters(tmp_path / "nowhere") == []
    assert "Choose one of" in inspect_adapter(PIRATE.parent).problems[0]
    assert "whole model" in inspect_adapter(STARTER).problems[0]


def test_the_hash_is_of_the_content_not_of_the_place(tmp_path: Path) -> None:
    """G1: a copy is the same adapter, one changed byte is another; the fingerprint notices a rewrite."""
    copy = tmp_path / "copy"
    shutil.copytree(PIRATE, copy)
    assert content_hash(copy) == content_hash(PIRATE)
    before = fingerprint(copy)
    file = copy / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert content_hash(copy) != content_hash(PIRATE)
    assert fingerprint(copy) != before


def test_inspection_imports_no_torch() -> None:
    """G9, R5: milliseconds, not seconds."""
    code = (
        "import sys; from pathlib import Path; from playground.local_inference.adapters import inspect_adapter;"
        f"inspect_adapter(Path({str(PIRATE)!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
