"""Which offered model a trainer meant: base models are written down as names, hub ids, and paths of other machines."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator

from playground.config import ModelEntry, existing_folder, is_path

_SNAPSHOT = re.compile(r"models--(?P<org>[^/\\]+?)--(?P<name>[^/\\]+)[/\\]snapshots[/\\]")


def offered_name(base: str, offered: Collection[ModelEntry]) -> str | None:
    """The name of the model among ``offered`` that ``base`` stands for, the surest sign first; None where there is none.

    What only looks alike is taken where it is one model alone: whether an adapter fits is found out from the files.
    """
    base = base.strip()
    signs: tuple[Callable[[ModelEntry], bool], ...] = (
        lambda entry: base == entry.name,
        lambda entry: base == entry.path,
        lambda entry: _same_folder(base, entry.path),
        lambda entry: _hub_id(base) is not None and _hub_id(base) == _hub_id(entry.path),
        lambda entry: _alike(base, entry),
    )
    for sign in signs if base else ():
        found = [entry.name for entry in offered if sign(entry)]
        if found and (sign is not signs[-1] or len(found) == 1):
            return found[0]
    return None


def last_part(path: str) -> str:
    """What a path of any system ends with: the model's or the adapter's own name."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def _same_folder(base: str, path: str) -> bool:
    folder = existing_folder(base)
    return bool(folder) and folder == existing_folder(path)


def _hub_id(name: str) -> str | None:
    """The hub id that ``name`` is, or whose snapshot in the Hugging Face cache it is the path of; in small letters."""
    if snapshot := _SNAPSHOT.search(name + "/"):
        return f"{snapshot['org']}/{snapshot['name']}".lower()
    return None if _is_path(name) or existing_folder(name) else name.lower()


def _alike(base: str, entry: ModelEntry) -> bool:
    """Whether the names that they end with are the same, where one of them at least is a path: ids are whole names."""
    paths = [name for name in (base, entry.path) if _is_path(name)]
    return bool(paths) and last_part(base).lower() in _last_parts(entry)


def _last_parts(entry: ModelEntry) -> Iterator[str]:
    yield last_part(entry.path).lower()
    yield last_part(entry.name).lower()


def _is_path(name: str) -> bool:
    """Also one of another system."""
    return is_path(name) or "\\" in name or bool(re.match(r"[A-Za-z]:", name))
