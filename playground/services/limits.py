"""How often somebody may ask: rates by address and by who it is, in a moving window, kept in memory."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from limits import RateLimitItem, parse
from limits.storage import MovingWindowSupport, Storage
from limits.strategies import MovingWindowRateLimiter

from playground.config import AppConfig
from playground.errors import RateLimited
from playground.services.meters import Meters
from playground.types import Caller

OFF = "off"
MOST_KEYS = 100_000
SAVING = 10  # how many messages may be saved for each answer that may be asked for


class Limits:
    """Counts requests for text, and those that save some, for their caller and for the address that they came from.

    ``meters`` counts refusals, ``clock`` is the time in seconds.
    """

    def __init__(self, config: AppConfig, meters: Meters | None = None, clock: Callable[[], float] = time.time) -> None:
        self._meters = meters or Meters()
        self._rate = None if config.rate_limit == OFF else parse(config.rate_limit)
        self._clock = clock
        self._saving = self._rate and type(self._rate)(SAVING * self._rate.amount, self._rate.multiples)
        self._windows = Windows(clock)
        self._limiter = MovingWindowRateLimiter(self._windows)
        self._lock = threading.Lock()

    def admit(self, caller: Caller, count: int = 1) -> None:
        """Count ``count`` requests of ``caller``. Raises `RateLimited` when that is too many; none counts then."""
        self._admit(self._rate, caller, count)

    def admit_saving(self, caller: Caller) -> None:
        """The same for a request that only keeps something, of which there may be `SAVING` times as many."""
        self._admit(self._saving, caller)

    def _admit(self, rate: RateLimitItem | None, caller: Caller, count: int = 1) -> None:
        if rate is None:
            return
        with self._lock:
            whose = _whose(caller)
            refused = next((one for one in whose if not self._limiter.test(rate, one, cost=count)), None)
            if refused is None:
                for one in whose:
                    self._limiter.hit(rate, one, cost=count)
                return
            refusal = self._refusal(rate, refused) if count == 1 else self._too_many(rate, refused, count)
        self._meters.failed(refusal)
        raise refusal

    def _refusal(self, rate: RateLimitItem, one: str) -> RateLimited:
        wait = max(0.0, self._limiter.get_window_stats(rate, one).reset_time - self._clock())
        return RateLimited(
            f"Too many requests: this server takes {said(rate)} from one caller.",
            f"Wait {max(1, math.ceil(wait))} s and ask again.",
            wait,
        )

    def _too_many(self, rate: RateLimitItem, one: str, count: int) -> RateLimited:
        """Why ``count`` at once were not taken, and how many would be."""
        window = self._limiter.get_window_stats(rate, one)
        wait = max(0.0, window.reset_time - self._clock())
        left = max(0, window.remaining)
        return RateLimited(
            f"These are {count:,} requests, and this server takes {said(rate)} from one caller: {left:,} are left now.",
            f"Ask for {left:,} at most." if left else f"Wait {max(1, math.ceil(wait))} s, and ask for less at once.",
            wait,
        )


class Windows(Storage, MovingWindowSupport):
    """When each key was used, for as long as its window lasts; what is over, or beyond `MOST_KEYS`, is forgotten.

    The library's own storage starts a thread for each request and keeps every key for ever. This one is not locked:
    whoever uses it holds a lock.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._clock = clock
        self._used: OrderedDict[str, deque[float]] = OrderedDict()  # the key that was used last comes last

    def __len__(self) -> int:
        return len(self._used)

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Note ``amount`` uses of ``key`` unless there were more than ``limit`` in ``expiry`` seconds; False then."""
        now = self._clock()
        used = self._window(key, expiry)
        if len(used) + amount > limit:
            return False
        used.extend([now] * amount)
        self._used[key] = used
        self._used.move_to_end(key)
        self._forget(now - expiry)
        return True

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """(the oldest use that still counts, how many count)."""
        used = self._window(key, expiry)
        return (used[0] if used else self._clock()), len(used)

    def _window(self, key: str, expiry: int) -> deque[float]:
        used = self._used.get(key) or deque()
        while used and used[0] <= self._clock() - expiry:
            used.popleft()
        return used

    def _forget(self, before: float) -> None:
        while self._used:
            first = next(iter(self._used))
            if len(self._used) <= MOST_KEYS and self._used[first] and self._used[first][-1] > before:
                return
            del self._used[first]

    @property
    def base_exceptions(self) -> type[Exception]:
        """What this storage may raise: nothing of its own."""
        return ValueError

    def clear(self, key: str) -> None:
        """Forget ``key``."""
        self._used.pop(key, None)

    def reset(self) -> int | None:
        """Forget everything; how many keys there were."""
        count = len(self._used)
        self._used.clear()
        return count

    def check(self) -> bool:
        """Memory is always there."""
        return True

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Fixed windows are not kept here."""
        raise NotImplementedError

    def get(self, key: str) -> int:
        """Fixed windows are not kept here."""
        raise NotImplementedError

    def get_expiry(self, key: str) -> float:
        """Fixed windows are not kept here."""
        raise NotImplementedError


def said(rate: RateLimitItem) -> str:
    """``rate`` for a sentence: "10 requests per minute", "1 request per 5 hours"."""
    kind = rate.GRANULARITY.name
    unit = kind if rate.multiples == 1 else f"{rate.multiples} {kind}s"
    return f"{rate.amount} request{'' if rate.amount == 1 else 's'} per {unit}"


def _whose(caller: Caller) -> tuple[str, ...]:
    """What a request of ``caller`` counts for: a cookie is no proof of anything, so a guest is an address only."""
    known = (caller.id,) if caller.kind in ("key", "user") else ()
    address = f"address {caller.address}" if caller.address else ""
    return tuple(dict.fromkeys(filter(None, (*known, address)))) or (caller.id,)
