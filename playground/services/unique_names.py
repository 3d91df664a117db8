"""Telling folders of one name apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path


def unique_names(named: Sequence[tuple[str, str]]) -> list[str]:
    """Tell (name, path) of one name apart by the folders above, as many as it takes: ``pirate``, ``pirate (b/run)``.

    Where no folder above them is needed a name stays as it is, so the first of two is ``pirate (a)`` as soon as there is
    another. One that is not called as its folder is told apart by that folder as well: ``pirate (3f2a)``.
    """
    named = _numbered(named)
    places = [Path(path).parts[: -1 if Path(path).name == name else None] for name, path in named]
    taken = [0] * len(named)
    while True:
        names = [
            _name_with(name, place[len(place) - count :])
            for (name, _), place, count in zip(named, places, taken, strict=True)
        ]
        alike = Counter(names)
        short = [at for at, name in enumerate(names) if alike[name] > 1 and taken[at] < len(places[at])]
        if not short:
            return names
        for at in short:
            taken[at] += 1


def _name_with(name: str, folders: Sequence[str]) -> str:
    """The name, with these folders in brackets."""
    return f"{name} ({Path(*folders)})" if folders else name


def _numbered(named: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The same; where names and paths are alike, as where what cannot be shown was taken out of both, with a number."""
    known: Counter[tuple[str, str]] = Counter()
    told: list[tuple[str, str]] = []
    for name, path in named:
        known[name, path] += 1
        told.append((name if known[name, path] == 1 else f"{name} {known[name, path]}", path))
    return told
