"""The tokenizers of bases and adapters: read from their folders, and none that needs code of its own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import transformers

from playground.errors import AdapterInvalid, ModelUnsupported
from playground.local_inference.adapters import TEMPLATE_FILE
from playground.local_inference.survey import first_line


def read_tokenizer(path: Path) -> Any:
    """The tokenizer stored in ``path``. Raises `ModelUnsupported` when there is none that works without own code."""
    try:
        return transformers.AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError) as error:
        raise ModelUnsupported(
            f"{path.name!r} has no tokenizer that can be read: {first_line(error)}",
            "Copy tokenizer.json and tokenizer_config.json beside the weights.",
        ) from error


def adapter_tokenizer(folder: Path, base_tokenizer: Any, vocabulary: int) -> Any:
    """The tokenizer to use with the adapter in ``folder``: its own one or its own template where it brought them.

    ``vocabulary`` is the base's number of embeddings. Raises `AdapterInvalid` when the adapter's tokenizer cannot be read or
    does not fit the base.
    """
    tokenizer = base_tokenizer
    if any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")):
        tokenizer = _own_tokenizer(folder, vocabulary)
    template = _own_template(folder)
    if template or not tokenizer.chat_template:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.chat_template = template or base_tokenizer.chat_template
    return tokenizer


def _own_tokenizer(folder: Path, vocabulary: int) -> Any:
    try:
        tokenizer = read_tokenizer(folder)
    except ModelUnsupported as error:
        raise AdapterInvalid(
            f"Adapter {folder.name!r} brought a tokenizer that cannot be read: {error.message}",
            "Remove its tokenizer files to use the base's, or save them again.",
        ) from error
    if len(tokenizer) > vocabulary:
        raise AdapterInvalid(
            f"Adapter {folder.name!r} has {len(tokenizer)} tokens, the base has embeddings for {vocabulary}.",
            "It was trained on a base with more tokens; load that base.",
        )
    return tokenizer


def _own_template(folder: Path) -> str:
    """The chat template beside the adapter, "" where there is none or an empty one."""
    file = folder / TEMPLATE_FILE
    try:
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise AdapterInvalid(
            f"Adapter {folder.name!r}: {TEMPLATE_FILE} cannot be read: {error}.",
            "Save it again as UTF-8, or remove it.",
        ) from error
    return text if text.strip() else ""
