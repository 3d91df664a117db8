"""Admission and fairness, without a model."""

from __future__ import annotations

import random
from dataclasses import dataclass

from playground.local_inference.scheduler import TURN_S, Scheduler, Turns, shares


@dataclass(eq=False)
class _Row:
    name: str
    user: str = ""


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


def test_users_take_turns_however_many_rows_one_of_them_sends() -> None:
    """G11: whoever sends ten rows at once does not push the others behind all of them."""
    scheduler: Scheduler[_Row] = Scheduler(2)
    greedy = [_Row(f"greedy {at}", "ann") for at in range(5)]
    for row in greedy:
        scheduler.add(row)
    assert scheduler.admit() == greedy[:2]
    modest, third = _Row("modest", "bob"), _Row("third", "cy")
    scheduler.add(modest)
    scheduler.add(third)
    assert scheduler.waiting() == [modest, third, *greedy[2:]]
    scheduler.leave(greedy[0])
    assert scheduler.admit() == [modest]
    scheduler.leave(modest)
    assert scheduler.admit() == [third]
    scheduler.leave(third)
    assert scheduler.admit() == [greedy[2]]


def test_every_user_is_served_in_the_end() -> None:
    """G11: a random crowd; nobody waits for ever, and two rows of one user keep their order."""
    chance = random.Random(3)
    scheduler: Scheduler[_Row] = Scheduler(3)
    sent: list[_Row] = []
    served: list[_Row] = []
    for step in range(400):
        if step < 300 and chance.random() < 0.5:
            sent.append(_Row(str(step), chance.choice("abcd")))
            scheduler.add(sent[-1])
        served += scheduler.admit()
        assert len(scheduler.live()) <= 3
        if scheduler.live() and chance.random() < 0.7:
            scheduler.leave(chance.choice(scheduler.live()))
    assert sorted(row.name for row in served) == sorted(row.name for row in sent)
    for user in "abcd":
        assert [row for row in served if row.user == user] == [row for row in sent if row.user == user]


def test_lanes_take_turns_of_two_seconds() -> None:
    """G2: an adapter that needs the base to itself neither waits for ever nor keeps the others waiting for ever."""
    turns = Turns()
    assert turns.choose([None], 0.0) is None
    assert turns.choose([None], 50.0) is None
    assert turns.choose([None, "ia3"], 51.0) == "ia3"
    assert turns.choose([None, "ia3"], 51.0 + TURN_S - 0.1) == "ia3"
    assert turns.choose([None, "ia3", "loha"], 51.0 + TURN_S) == "loha"
    assert turns.choose(["ia3", "loha", None], 51.0 + 2 * TURN_S) is None
    assert turns.choose(["ia3", "loha", None], 51.0 + 3 * TURN_S) == "ia3"
    assert turns.choose(["loha"], 51.0 + 3 * TURN_S + 0.1) == "loha", "its turn ends when its rows are done"


def test_room_is_shared_out() -> None:
    """G11: a short prompt does not wait behind a long one, and the long one goes on."""
    assert shares([2000, 20, 30], 256, 32) == [206, 20, 30]
    assert shares([500, 500], 256, 32) == [128, 128]
    assert shares([500, 500, 500], 32, 32) == [32, 0, 0]
    assert shares([5], 0, 32) == [0]
    assert shares([], 256, 32) == []


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
