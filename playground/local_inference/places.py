"""From a name to a folder: a path, or a hub id that is in the local cache or is downloaded. No torch.

Nothing here runs code from a checkpoint; only configuration, tokenizer files and safetensors are fetched.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from playground.errors import ModelNotFound, ModelUnsupported
from playground.types import Status

Report = Callable[[Status], None]

_HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken")


def locate(base: str) -> str:
    """Where ``base`` is on this machine: the resolved folder, or its revision's snapshot; ``base`` itself where neither is.

    Never fetches anything; a few file system calls.
    """
    folder = os.path.expanduser(base)
    if os.path.isdir(folder):
        return os.path.realpath(folder)
    name, revision = _revision(base)
    try:
        file = try_to_load_from_cache(name, "config.json", revision=revision)
    except (HFValidationError, ValueError):
        return base
    return os.path.realpath(os.path.dirname(file)) if isinstance(file, str) else base


def resolve(base: str, report: Report) -> Path:
    """The local folder of ``base``; a hub id (``org/name`` or ``org/name@revision``) is looked up in the local cache first.

    What the cache has not as a whole is downloaded. Raises `ModelNotFound` with what to do: a mistyped id, a gated model,
    no network.
    """
    if folder := _folder(base):
        return folder
    name, revision = _revision(base)
    try:
        found = snapshot_download(name, revision=revision, allow_patterns=list(_HUB_FILES), local_files_only=True)
        if _is_whole(Path(found)):
            return Path(found).resolve()
    except HFValidationError as error:
        raise ModelNotFound(f"{base!r} is no folder and no hub id.", "A hub id looks like org/name.") from error
    except (LocalEntryNotFoundError, FileNotFoundError):
        pass  # nothing of it is here
    report(Status("loading", f"downloading {base}"))
    return _download(base)


def is_here(base: str) -> bool:
    """Whether ``base`` is on this machine as a whole, so that `resolve` fetches nothing. A few file system calls.

    Raises `ModelNotFound` and `ModelUnsupported` for the path of what is no model.
    """
    if _folder(base):
        return True
    found = locate(base)
    return found != base and _is_whole(Path(found))


def weight_files(path: Path) -> list[Path]:
    """The safetensors files that make up the model: those of the index, or the one, but never an adapter's."""
    index = path / "model.safetensors.index.json"
    if index.is_file():
        return [path / name for name in sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))]
    one = path / "model.safetensors"
    return (
        [one] if one.is_file() else sorted(f for f in path.glob("*.safetensors") if not f.name.startswith("adapter_"))
    )


def is_snapshot(folder: Path) -> bool:
    """Whether ``folder`` is a hub revision in the local cache."""
    return folder.parent.name == "snapshots"


def _folder(base: str) -> Path | None:
    """The model's folder, resolved, where ``base`` is a path. Raises `ModelNotFound`, `ModelUnsupported`."""
    folder = Path(os.path.expanduser(base))
    if os.path.isdir(folder):
        _refuse_other_folders(folder)
        return folder.resolve()
    if folder.is_absolute() or base.startswith("."):
        raise ModelNotFound(f"There is no model folder {base!r}.", "Check the path.")
    return None


def _revision(base: str) -> tuple[str, str | None]:
    """A hub id and its revision, None for the newest that is there."""
    name, _, revision = base.partition("@")
    return name, revision or None


def _is_whole(folder: Path) -> bool:
    """Whether a snapshot has its configuration and weights; a download that was broken off, or fetched less, has not."""
    index = folder / "model.safetensors.index.json"
    try:
        files = weight_files(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return index.is_file()  # damaged; it is refused by name when it is read
    return (folder / "config.json").is_file() and bool(files) and all(file.is_file() for file in files)


def _refuse_other_folders(folder: Path) -> None:
    if (folder / "config.json").is_file():
        return
    if (folder / "adapter_config.json").is_file():
        raise ModelNotFound(
            f"{folder.name!r} is an adapter, not a base model.", "Name it as the adapter, and its base as the model."
        )
    if any(folder.glob("*.gguf")):
        raise ModelUnsupported(
            f"{folder.name!r} holds a GGUF file, which this program does not read.",
            "Use the safetensors checkpoint of the same model.",
        )
    raise ModelNotFound(f"{str(folder)!r} has no config.json.", "Choose the folder that holds the model's files.")


def _download(base: str) -> Path:
    """Fetch ``base`` from the hub. Raises `ModelNotFound`, also where only a part of it could be had."""
    name, revision = _revision(base)
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(_HUB_FILES))).resolve()
    except GatedRepoError as error:
        raise ModelNotFound(
            f"{base!r} is gated.", f"Accept its terms at huggingface.co/{name}, then start the app with HF_TOKEN set."
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"The hub has no model {base!r}, or it is private.", "Check the id; for a private one set HF_TOKEN."
        ) from error
    except RevisionNotFoundError as error:
        raise ModelNotFound(f"{name!r} has no revision {revision!r}.", "Name a branch, a tag or a commit.") from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelNotFound(
            f"{base!r} is not on this machine and could not be downloaded.",
            "Check the id and the network, or type the path of a folder.",
        ) from error
    # Without a network huggingface_hub gives what there is. That there are no weights at all is refused in its own words.
    if _is_whole(folder) or ((folder / "config.json").is_file() and not weight_files(folder)):
        return folder
    raise ModelNotFound(
        f"Only part of {base!r} is on this machine, and the rest could not be downloaded.",
        "Check the network, then try again.",
    )
