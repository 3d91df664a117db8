"""A6: how often somebody may ask, by who it is and by address."""

from __future__ import annotations

import threading

import pytest

from playground.config import AppConfig
from playground.errors import RateLimited
from playground.services import limits as limits_module
from playground.services.limits import Limits
from playground.services.meters import Meters
from playground.types import Caller, CallerKind


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def caller(address: str = "10.0.0.1", id: str = "", kind: CallerKind = "address") -> Caller:
    return Caller(id or f"address {address}", kind, address=address)


def limits(rate: str, clock: Clock | None = None) -> Limits:
    return Limits(AppConfig(rate_limit=rate), clock=clock or Clock())


def admitted(counted: Limits, who: Caller, times: int) -> int:
    count = 0
    for _ in range(times):
        try:
            counted.admit(who)
            count += 1
        except RateLimited:
            pass
    return count


def test_off_is_free() -> None:
    """A6: the default on loopback; nothing is kept."""
    counted = limits("off")
    assert admitted(counted, caller(), 1000) == 1000
    assert len(counted._windows) == 0


def test_many_at_once_are_all_counted_or_none() -> None:
    """P7, A6: a batch that is more than what is left is refused with what is, and takes none of it."""
    counted = limits("10 per minute")
    counted.admit(caller(), 4)
    with pytest.raises(RateLimited, match=r"These are 7 requests, .*: 6 are left now\. Ask for 6 at most\."):
        counted.admit(caller(), 7)
    counted.admit(caller(), 6)
    with pytest.raises(RateLimited, match="0 are left now"):
        counted.admit(caller(), 2)
    limits("off").admit(caller(), 1000)


def test_what_only_keeps_something_is_counted_apart_and_may_come_more_often() -> None:
    """A6: a program that saves its chats does not use up its answers, and cannot fill the disk in a minute."""
    counted = limits("2 per minute")
    for _ in range(20):
        counted.admit_saving(caller())
    with pytest.raises(RateLimited, match="20 requests per minute"):
        counted.admit_saving(caller())
    assert admitted(counted, caller(), 5) == 2
    limits("off").admit_saving(caller())


def test_the_eleventh_in_a_minute_is_told_when_to_come_again() -> None:
    """A6: 429's Retry-After is when the first one is a minute old; then one more may come, not ten."""
    clock = Clock()
    counted = limits("10 per minute", clock)
    for _ in range(10):
        counted.admit(caller())
        clock.now += 2
    with pytest.raises(RateLimited, match=r"10 requests per minute.*Wait 40 s") as raised:
        counted.admit(caller())
    assert raised.value.retry_after_s == pytest.approx(40)
    clock.now += 40
    assert admitted(counted, caller(), 5) == 1


def test_addresses_have_a_count_each() -> None:
    """A6, S2."""
    counted = limits("2 per minute")
    assert admitted(counted, caller("10.0.0.1"), 5) == 2
    assert admitted(counted, caller("10.0.0.2"), 5) == 2


@pytest.mark.parametrize("kind", ["key", "user"])
def test_a_key_counts_wherever_it_comes_from_and_an_address_whoever_comes(kind: CallerKind) -> None:
    """A6: per key and per address: neither many addresses nor many keys get more."""
    counted = limits("3 per minute")
    assert sum(admitted(counted, caller(f"10.0.0.{at}", f"{kind} a", kind), 1) for at in range(9)) == 3
    assert sum(admitted(counted, caller("10.9.9.9", f"{kind} {at}", kind), 1) for at in range(9)) == 3


def test_a_cookie_that_anybody_can_drop_counts_as_its_address() -> None:
    """A6: a guest who throws the cookie away gains nothing."""
    counted = limits("3 per minute")
    assert sum(admitted(counted, caller("10.0.0.1", f"guest {at}", "guest"), 1) for at in range(9)) == 3


def test_what_is_refused_is_not_counted() -> None:
    """A6: whoever keeps knocking gets in when the window has moved on; and the key is not charged for a full address."""
    clock = Clock()
    counted = limits("2 per minute", clock)
    admitted(counted, caller("10.0.0.1"), 2)
    assert admitted(counted, caller("10.0.0.1", "key a", "key"), 50) == 0
    assert admitted(counted, caller("10.0.0.2", "key a", "key"), 5) == 2
    clock.now += 60.1
    assert admitted(counted, caller("10.0.0.1"), 1) == 1


def test_memory_holds_only_windows_that_are_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """A6, S5: addresses that came once are forgotten, and there are never more than so many."""
    clock = Clock()
    counted = limits("5 per minute", clock)
    for at in range(500):
        counted.admit(caller(f"10.0.{at // 250}.{at % 250}"))
    assert len(counted._windows) == 500
    clock.now += 61
    counted.admit(caller("10.1.0.1"))
    assert len(counted._windows) == 1
    monkeypatch.setattr(limits_module, "MOST_KEYS", 10)
    for at in range(50):
        counted.admit(caller(f"10.2.0.{at}"))
    assert len(counted._windows) == 10


def test_threads_together_get_no_more_than_the_rate() -> None:
    """A6: pages, HTTP and sockets come from many threads."""
    counted, total = limits("50 per minute"), []
    threads = [threading.Thread(target=lambda: total.append(admitted(counted, caller(), 100))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(total) == 50


def test_it_starts_no_threads() -> None:
    """S5: a request costs a dictionary entry, not a thread."""
    before = threading.active_count()
    admitted(limits("100 per hour"), caller(), 100)
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("rate", "says"), [("1/day", "1 request per day"), ("20 per 5 minutes", "20 requests per 5 minutes")]
)
def test_the_rate_is_said_as_a_person_would(rate: str, says: str) -> None:
    """A6."""
    counted = limits(rate)
    admitted(counted, caller(), 30)
    with pytest.raises(RateLimited, match=f"takes {says} from one caller"):
        counted.admit(caller())


def test_refusals_are_counted() -> None:
    """A6: beside all other errors, by their code."""
    meters = Meters()
    admitted(Limits(AppConfig(rate_limit="2 per hour"), meters), caller(), 5)
    assert b'playground_errors_total{code="rate_limited"} 3.0' in meters.text()
