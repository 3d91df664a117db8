"""How often somebody may give a wrong password, or guess a key, before having to wait."""

from __future__ import annotations

import hashlib
import math
import time
from collections import deque
from collections.abc import Iterable

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

OFF = "off"
_GUESSES, _REMEMBERED = "20 per minute", 1000
_BY_NAME = "30 per hour"  # from all addresses together, so that many of them are no way around


class Lockout:
    """Counts failures by address, and more slowly by the name that was tried, whether somebody has it or not.

    Where a name has come in from an address before, only the address counts: nobody elsewhere can keep that person out.
    """

    def __init__(self, rate: str, by_name: str = _BY_NAME) -> None:
        self._rates: tuple[RateLimitItem, RateLimitItem] | None = None
        if rate != OFF:
            self._rates = parse(rate), parse(by_name)
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._came_in: deque[tuple[str, str]] = deque(maxlen=_REMEMBERED)

    def wait(self, address: str, name: str) -> int:
        """For how many seconds nothing is tried for this address or name; 0 when it may be tried now."""
        if self._rates is None:
            return 0
        keys = _keys(address, name)
        rates = self._rates[:1] if keys in self._came_in else self._rates
        closed = [
            self._limiter.get_window_stats(rate, key).reset_time
            for rate, key in zip(rates, keys, strict=False)
            if not self._limiter.test(rate, key)
        ]
        return max(1, math.ceil(max(closed) - time.time())) if closed else 0

    def succeeded(self, address: str, name: str) -> None:
        """Remember that somebody of that name has come in from there."""
        keys = _keys(address, name)
        if keys not in self._came_in:
            self._came_in.append(keys)

    def failed(self, address: str, name: str) -> None:
        """Count one failure."""
        for rate, key in zip(self._rates or (), _keys(address, name), strict=False):
            self._limiter.hit(rate, key)


class Guesses:
    """Counts the different wrong keys of an address. A program that repeats one wrong key guesses nothing."""

    def __init__(self, rate: str = _GUESSES) -> None:
        self._rate = parse(rate)
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._seen: deque[tuple[str, bytes]] = deque(maxlen=_REMEMBERED)

    def wait(self, address: str) -> int:
        """For how many seconds no key of this address is tried that could be guessed; 0 when they are."""
        if self._limiter.test(self._rate, address):
            return 0
        return max(1, math.ceil(self._limiter.get_window_stats(self._rate, address).reset_time - time.time()))

    def failed(self, address: str, digests: Iterable[bytes]) -> None:
        """Count the keys that were wrong, each of them once."""
        for guess in {(address, digest) for digest in digests}.difference(self._seen):
            self._seen.append(guess)
            self._limiter.hit(self._rate, address)


def _keys(address: str, name: str) -> tuple[str, str]:
    """Names are hashed: somebody may have typed a password there, or a megabyte."""
    return f"address {address}", "name " + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()


def in_words(seconds: int) -> str:
    """A waiting time as a person says it."""
    if seconds < 90:
        return f"{seconds} seconds" if seconds != 1 else "1 second"
    return f"{math.ceil(seconds / 60)} minutes"
