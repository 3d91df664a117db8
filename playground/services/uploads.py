"""Adapters that a person drops onto the page: unpacked beside the others, looked at, and only then given their place.

Nothing of an archive is trusted: not its names, not its sizes, not its number of members. Only the files that an adapter
needs are kept, and no pickle is opened.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from playground.config import AppConfig
from playground.errors import AdapterInvalid, InvalidRequest
from playground.local_inference.adapters import CONFIG_FILE, adapter_files, check_adapter, content_hash, inspect_adapter
from playground.local_inference.doctor import scan_weights
from playground.local_inference.portable import KEPT_FILES
from playground.types import AdapterInfo

_MOST_FILES = 2000
_BLOCK = 1 << 20
# Deflate makes of weights hardly less than they are, and of text a tenth; a thousandth is a bomb.
_RATIO, _RATIO_FROM = 100, 10_000_000
# Not kept, but that they are there tells what is wrong with an adapter.
_TELLING = re.compile(r"[\w.-]{1,100}\.(?:bin|pt|pth|safetensors)|config\.json")
_INCOMING = ".incoming-"
_NOT_HERE = (
    "Adapters can be uploaded only where the server is reached from this machine alone.",
    "Start the app with --adapter FOLDER to offer one to everybody.",
)
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError)


@dataclass(frozen=True)
class _Source:
    """A file of an adapter, not yet read: its name, and how many bytes it takes where it is (compressed)."""

    name: str
    size: int
    path: Path
    member: zipfile.ZipInfo | None = None


class Uploads:
    """Takes adapters in below ``config``'s data folder, where every base is offered them."""

    def __init__(self, config: AppConfig) -> None:
        self._folder = config.uploads.expanduser()
        self._limit = config.upload_limit
        self._allowed = config.free_paths
        self._placing = threading.Lock()

    @property
    def allowed(self) -> bool:
        """True where only this machine reaches the server; elsewhere `receive` and `remove` raise `InvalidRequest`."""
        return self._allowed

    def receive(self, files: Sequence[Path], name: str = "") -> AdapterInfo:
        """Take in one .zip, or the ``files`` of one folder, under ``name`` or the name that they have; blocking.

        The same content twice is the same entry; another content under a taken name gets a number. What is no sound adapter
        leaves nothing behind: `AdapterInvalid` says why.
        """
        self._refuse_strangers()
        paths = list(dict.fromkeys(Path(file) for file in files))
        if not paths:
            raise AdapterInvalid("Nothing was uploaded.", "Drop a .zip, or all files of an adapter's folder.")
        archives = [path for path in paths if path.suffix.lower() == ".zip"]
        if len(paths) > 1 and archives:
            raise AdapterInvalid(
                f"There are {len(paths)} files, and {archives[0].name[:100]!r} is an archive.", "Drop one .zip alone."
            )
        archive = paths[0] if len(paths) == 1 and paths[0].suffix.lower() == ".zip" else None
        found, given = _members(archive) if archive else _loose(paths)
        wanted = _plain(name) or _plain(given) or "adapter"
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=_INCOMING, dir=self._folder) as incoming:
            stage = Path(incoming) / wanted
            stage.mkdir()
            self._copy(found, stage)
            _refuse_unsound(stage, found)
            return inspect_adapter(self._place(stage))

    def remove(self, name: str) -> None:
        """Delete an uploaded adapter's folder. A copy that is attached to a loaded base answers until that is unloaded.

        Raises `AdapterInvalid` where no uploaded adapter has that name.
        """
        self._refuse_strangers()
        names = [folder.name for folder in self._uploaded()]
        if name not in names:
            shown = ", ".join(names) or "none"
            raise AdapterInvalid(
                f"{name!r} is not an uploaded adapter.", f"Uploaded: {shown}. Others are not removed here."
            )
        with self._placing, tempfile.TemporaryDirectory(prefix=_INCOMING, dir=self._folder) as bin_folder:
            os.rename(self._folder / name, Path(bin_folder) / name)  # gone at once, however long deleting takes

    def uploaded_name(self, path: str) -> str:
        """The name by which `remove` knows the adapter at ``path``; "" for one that was not uploaded."""
        return next((folder.name for folder in self._uploaded() if folder.samefile(path)), "")

    def _refuse_strangers(self) -> None:
        if not self._allowed:
            raise InvalidRequest(*_NOT_HERE)

    def _uploaded(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return sorted(child for child in self._folder.iterdir() if (child / CONFIG_FILE).is_file())

    def _copy(self, found: Sequence[_Source], stage: Path) -> None:
        """Copy what is kept, counting the bytes that really come."""
        left = self._limit
        for source in found:
            if source.name in KEPT_FILES:
                with _opened(source) as file, (stage / source.name).open("xb") as target:
                    left -= _pour(file, target, source, left, self._limit)

    def _place(self, stage: Path) -> Path:
        """Give the staged adapter its folder: the one that has this content already, or a free name."""
        content = content_hash(stage)
        with self._placing:
            for folder in self._uploaded():
                if _sizes(folder) == _sizes(stage) and content_hash(folder) == content:
                    return folder
            target, number = self._folder / stage.name, 1
            while os.path.lexists(target):
                number += 1
                target = self._folder / f"{stage.name}-{number}"
            os.rename(stage, target)
            return target


def _members(archive: Path) -> tuple[list[_Source], str]:
    """The files of the one adapter in ``archive``, and its name. Raises `AdapterInvalid`; nothing is unpacked yet."""
    try:
        with zipfile.ZipFile(archive) as opened:
            infos = [info for info in opened.infolist() if not info.is_dir()]
    except _DAMAGED as error:
        raise AdapterInvalid(f"{archive.name!r} is not a zip archive that can be read.", "Pack it again.") from error
    if len(infos) > _MOST_FILES:
        raise AdapterInvalid(
            f"{archive.name!r} holds {len(infos)} files; at most {_MOST_FILES} are looked at.",
            "Pack only the adapter's own folder.",
        )
    paths = {_safe(archive, info): info for info in infos}
    if len(paths) < len(infos):
        raise AdapterInvalid(f"{archive.name!r} holds two files of one name.", "Pack it again.")
    sources = {path: _Source(path.name, info.compress_size, archive, info) for path, info in paths.items()}
    folder, found = _one_adapter(sources)
    return found, folder.name or archive.stem


def _safe(archive: Path, info: zipfile.ZipInfo) -> PurePosixPath:
    """The member's path inside the archive. Raises `AdapterInvalid` for what would lead out of it, or cannot be read."""
    path = PurePosixPath(info.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", info.filename):
        raise AdapterInvalid(
            f"{archive.name!r} holds {info.filename[:100]!r}, a path out of its own folder.", "Pack it again."
        )
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise AdapterInvalid(
            f"{archive.name!r} holds {info.filename[:100]!r}, a link or device.", "Pack the files themselves."
        )
    if info.flag_bits & 1:
        raise AdapterInvalid(f"{archive.name!r} is encrypted.", "Pack it without a password.")
    return path


def _loose(paths: Sequence[Path]) -> tuple[list[_Source], str]:
    """Files that were dropped together, as one adapter; their folders count only where names come twice."""
    for path in paths:
        if not path.is_file() or path.is_symlink():
            raise AdapterInvalid(f"{path.name!r} is not a file.", "Drop a .zip, or all files of an adapter's folder.")
    sources = {path: _Source(path.name, path.stat().st_size, path) for path in paths}
    names = [path.name for path in paths if path.name in KEPT_FILES]
    if len(set(names)) == len(names):
        return list(sources.values()), ""
    folder, found = _one_adapter({PurePosixPath(path.as_posix()): source for path, source in sources.items()})
    return found, folder.name


def _one_adapter(sources: Mapping[PurePosixPath, _Source]) -> tuple[PurePosixPath, list[_Source]]:
    """The folder of the only adapter among ``sources``, its checkpoints aside, and what lies directly in it."""
    hidden = [path for path in sources if path.name.startswith("._") or "__MACOSX" in path.parts]
    shown = {path: source for path, source in sources.items() if path not in hidden}
    folders = {path.parent for path in shown if path.name == CONFIG_FILE}
    outer = [folder for folder in folders if not folders & set(folder.parents)]
    if len(outer) > 1:
        names = ", ".join(sorted(str(folder.name) for folder in outer)[:5])
        raise AdapterInvalid(
            f"There are {len(outer)} adapters in it ({names}).", "Pack one of them as a .zip, and upload that."
        )
    if not shown:
        raise AdapterInvalid("There is nothing in it.", "Pack the folder that the trainer saved the adapter to.")
    folder = outer[0] if outer else min((path.parent for path in shown), key=lambda parent: len(parent.parts))
    return folder, [source for path, source in shown.items() if path.parent == folder]


@contextmanager
def _opened(source: _Source) -> Iterator[IO[bytes]]:
    """The source's bytes. Raises `AdapterInvalid` where an archive breaks off or is damaged there."""
    try:
        if source.member is None:
            with source.path.open("rb") as file:
                yield file
            return
        with zipfile.ZipFile(source.path) as archive, archive.open(source.member) as member:
            yield member
    except _DAMAGED as error:
        raise AdapterInvalid(f"{source.name} could not be read: {error}.", "Pack it again.") from error


def _pour(file: IO[bytes], target: IO[bytes], source: _Source, left: int, limit: int) -> int:
    """Copy block by block and return the bytes; refuses what grows beyond ``left``, or beyond all reason."""
    count = 0
    while block := file.read(_BLOCK):
        count += len(block)
        if count > left:
            shown = f"{limit / 1e9:g} GB" if limit >= 1e9 else f"{limit / 1e6:g} MB"
            raise AdapterInvalid(f"The adapter is larger than {shown}.", "Raise upload_limit in the configuration.")
        if count > _RATIO_FROM and count > _RATIO * source.size:
            raise AdapterInvalid(
                f"{source.name} grows to more than {_RATIO} times its size in the archive.", "Pack real weights."
            )
        try:
            target.write(block)
        except OSError as error:
            why = error.strerror or str(error)
            raise AdapterInvalid(f"{source.name} could not be written: {why}.", "Make room on the disk.") from error
    return count


def _refuse_unsound(stage: Path, found: Sequence[_Source]) -> None:
    """Raise `AdapterInvalid` with every problem of the staged adapter; weights in a pickle are refused by name alone."""
    telling = [source.name for source in found if source.name not in KEPT_FILES and _TELLING.fullmatch(source.name)]
    for name in telling:
        (stage / name).touch()
    problems = list(check_adapter(stage).info.problems)
    for name in telling:
        (stage / name).unlink()
    if not problems:
        problems = [finding.sentence for finding in scan_weights(stage) if finding.severity == "problem"]
    if problems:
        raise AdapterInvalid(f"{stage.name!r} was not taken in.", " ".join(problems))


def _sizes(folder: Path) -> list[tuple[str, int]]:
    return [(file.name, file.stat().st_size) for file in adapter_files(folder)]


def _plain(name: str) -> str:
    """``name`` as a folder's: letters, digits, dots, dashes, never hidden, of readable length."""
    return re.sub(r"[^\w.+-]+", "-", name.strip()).strip(".-_")[:60].rstrip(".-_")
