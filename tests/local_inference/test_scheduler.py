"""Admission and fairness, without a model."""

from __future__ import annotations

from dataclasses import dataclass

from playground.local_inference.scheduler import Scheduler


@dataclass(eq=False)
class _Row:
    name: str
    lane: object = None


def test_rows_join_in_order_up_to_the_slots() -> None:
    """G11: first come, first served."""
    scheduler: Scheduler[_Row] = Scheduler(2)
    rows = [_Row(name) for name in "abc"]
    for row in rows:
        scheduler.add(row)
    assert scheduler.admit() == rows[:2]
    assert scheduler.waiting() == rows[2:]
    scheduler.leave(rows[0])
    assert scheduler.admit() == rows[2:]
    assert scheduler.live() == rows[1:]


def test_a_row_that_needs_the_model_alone_waits_and_is_not_overtaken() -> None:
    """G2: lanes never mix, and nobody starves."""
    scheduler: Scheduler[_Row] = Scheduler(4)
    plain, alone, late = _Row("plain"), _Row("alone", "dora"), _Row("late")
    for row in (plain, alone, late):
        scheduler.add(row)
    assert scheduler.admit() == [plain]
    assert scheduler.admit() == []
    scheduler.leave(plain)
    assert scheduler.admit() == [alone]
    scheduler.leave(alone)
    assert scheduler.admit() == [late]


def test_a_waiting_row_can_leave() -> None:
    """G6: Stop works in line too."""
    scheduler: Scheduler[_Row] = Scheduler(1)
    first, second = _Row("first"), _Row("second")
    scheduler.add(first)
    scheduler.add(second)
    scheduler.admit()
    scheduler.leave(second)
    scheduler.leave(_Row("a stranger"))
    assert scheduler.waiting() == []


def test_a_row_without_memory_waits_but_alone_it_may_try() -> None:
    """G11: admission asks whether there is room."""
    scheduler: Scheduler[_Row] = Scheduler(4, lambda row, live: row.name != "large")
    small, large = _Row("small"), _Row("large")
    scheduler.add(small)
    scheduler.add(large)
    assert scheduler.admit() == [small]
    scheduler.leave(small)
    assert scheduler.admit() == [large]
