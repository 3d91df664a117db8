"""Looking once for many."""

from __future__ import annotations

import pytest

from playground.services.kept import Kept


def test_many_ask_and_one_looks_until_it_is_too_old():
    """P1: cheap with many pages open, and never older than it says."""
    now, looks = 0.0, 0

    def look() -> int:
        nonlocal looks
        looks += 1
        return looks

    kept: Kept[int] = Kept(0.5, lambda: now)
    assert [kept.get("memory", look) for _ in range(100)] == [1] * 100
    now = 0.5
    assert kept.get("memory", look) == 2
    assert kept.get("other", look) == 3


def test_a_failed_look_is_not_kept():
    """G6: the next one may succeed."""
    kept: Kept[int] = Kept(60)
    with pytest.raises(KeyError):
        kept.get("a", lambda: {}["nothing"])  # type: ignore[arg-type, return-value]
    assert kept.get("a", lambda: 1) == 1


def test_what_is_old_is_forgotten():
    """S5: keys of people who left do not pile up."""
    now = 0.0
    kept: Kept[int] = Kept(1, lambda: now)
    for number in range(100):
        now += 0.5
        kept.get(number, lambda: 0)
    assert len(kept._found) < 5
