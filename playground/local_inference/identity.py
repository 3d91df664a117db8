"""What identifies a base's files, wherever they lie. No torch; reads at most 256 MB, so that a load hardly notices.

The identity is a SHA-256 over names, sizes and contents of the files that an answer depends on. Weights of more than 256 MB
together are not read whole: of each file the header counts (the names, shapes and places of all tensors), and of
all together 1,024 blocks of 64 KiB, at even distances in each file. So another model, another training run, a quantized or
truncated copy, a changed configuration, tokenizer or template are told apart; a change of a few weights in a large file may
not be.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path

WHOLE_BYTES = 256_000_000
BLOCKS = 1024
BLOCK_BYTES = 1 << 16
# A longer header than this is not one.
_LONGEST_HEADER = 100_000_000
_WEIGHTS = (".safetensors", ".bin")
_WEIGHT_NAMES = ("model", "pytorch_model")
_OTHERS = frozenset({
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json",
    "vocab.txt", "merges.txt", "added_tokens.json", "special_tokens_map.json", "chat_template.jinja", "chat_template.json",
})  # fmt: skip


def base_identity(folder: Path) -> str:
    """The identity (hex) of the base in ``folder``; "" where nothing of a model lies there.

    Found once for these paths, sizes and modification times. Raises `OSError` when a file cannot be read.
    """
    files = [path for path in sorted(folder.iterdir()) if _counts(path)]
    if any(path.suffix == ".safetensors" for path in files):  # then nothing is read from an older copy beside them
        files = [path for path in files if path.suffix != ".bin"]
    stats = [path.stat() for path in files]
    seen = tuple((str(path), one.st_size, one.st_mtime_ns) for path, one in zip(files, stats, strict=True))
    return _identity(seen) if seen else ""


def _counts(path: Path) -> bool:
    weights = path.suffix in _WEIGHTS and path.name.startswith(_WEIGHT_NAMES)
    return path.is_file() and (weights or path.name in _OTHERS)


@functools.lru_cache(maxsize=64)
def _identity(files: tuple[tuple[str, int, int], ...]) -> str:
    """The identity of ``files`` (path, size, modification time)."""
    weights = [size for path, size, _ in files if path.endswith(_WEIGHTS)]
    whole = sum(weights) <= WHOLE_BYTES
    digest = hashlib.sha256()
    for path, size, _ in files:
        digest.update(f"{Path(path).name}\0{size}\0".encode())
        sampled = path.endswith(_WEIGHTS) and not whole
        for block in _samples(Path(path), size, max(2, BLOCKS // len(weights))) if sampled else _blocks(Path(path)):
            digest.update(block)
    return digest.hexdigest()


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            yield block


def _samples(path: Path, size: int, count: int) -> Iterator[bytes]:
    """A safetensors file's header, and ``count`` blocks at even distances, the first and the last bytes among them."""
    with path.open("rb") as file:
        if path.suffix == ".safetensors":
            start = file.read(8)
            (length,) = struct.unpack("<Q", start) if len(start) == 8 else (0,)
            yield start + file.read(min(length, _LONGEST_HEADER))
        last = max(0, size - BLOCK_BYTES)
        for at in sorted({last * step // (count - 1) for step in range(count)}):
            file.seek(at)
            yield file.read(BLOCK_BYTES)
