"""Who is asking: a key, somebody who has logged in, a browser, or an address."""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Scope

from playground.config import AppConfig, is_loopback
from playground.gate import cookies, oauth
from playground.gate.addresses import address_of, is_here
from playground.gate.lockout import Guesses
from playground.gate.origins import hostname
from playground.gate.sessions import Sessions, kept_secret
from playground.types import Caller

ADMIN = "admin"
_KEY_DIGITS = 12
_BEYOND_GUESSING = 20  # letters: a key of so many counts while others guess from the same address, say behind one proxy


@dataclass(frozen=True)
class Visit:
    """What is known about one request: who sends it, whether with a key that is none, and a new guest's number.

    ``wait`` is for how many seconds no short key from there is looked at, after too many guesses.
    """

    caller: Caller
    wrong_key: bool = False
    new_guest: str = ""
    wait: int = 0


class Identity:
    """Finds the `Caller` of each request, and checks passwords. Keys and passwords leave it only as hashes.

    Raises `ConfigError` when the secret that signs logins cannot be read; without any way to log in none is needed.
    """

    def __init__(self, config: AppConfig) -> None:
        self._config = config
        keys = [key for key in (*config.api_keys, config.admin_key) if key]
        self._keys = [(_digest(key), key == config.admin_key, len(key) >= _BEYOND_GUESSING) for key in keys]
        self._passwords = {name: _digest(password) for name, password in config.auth.items()}
        if config.admin_key:
            self._passwords.setdefault(ADMIN, _digest(config.admin_key))
        self._guesses = Guesses()
        self._on_space = bool(os.environ.get("SPACE_ID"))
        self._secret = kept_secret(config.data_dir) if self.offers_login else os.urandom(32)
        self.sessions = Sessions(self._secret, config.session_hours, seal=self._seal)

    @property
    def has_passwords(self) -> bool:
        """True when somebody can log in with a password."""
        return bool(self._passwords)

    @property
    def offers_login(self) -> bool:
        """True when there is any way to log in."""
        return self.has_passwords or oauth.available(self._config)

    def of(self, scope: Scope, headers: Headers, *, cookies_count: bool, page: bool = False) -> Visit:
        """Who sends this request. A key wins over a login, which wins over a guest's cookie, which a ``page`` hands out.

        ``cookies_count`` is False for what another site's page sends: the browser adds cookies to that on its own.
        """
        address = address_of(scope, headers, self._on_space)
        given = [_digest(key) for key in keys_of(headers)] if self._keys else []
        wait = self._guesses.wait(address) if given else 0
        if found := self._by_key(given, address, guessed_at=wait > 0):
            return Visit(found)
        if wait:
            return Visit(_stranger(address, False), wrong_key=True, wait=wait)
        self._guesses.failed(address, given)
        wrong_key = bool(given)
        if not cookies_count:
            return Visit(_stranger(address, False), wrong_key)
        here = self._is_admins_desk(scope, headers)
        session = self.sessions.read(cookies.value_of(cookies.SESSION, scope, headers))
        if session is not None:
            admin = session.admin or (here and not self._config.admin_key)
            return Visit(Caller(f"user {session.name}", "user", _shown(session.name), address, admin), wrong_key)
        value = cookies.value_of(cookies.GUEST, scope, headers)
        new = cookies.new_guest() if page and not cookies.guest_id(value) else ""
        if guest := cookies.guest_id(new or value):
            return Visit(Caller(f"guest {guest}", "guest", "", address, here and self._is_open), wrong_key, new)
        return Visit(_stranger(address, here and self._is_open), wrong_key)

    def login(self, name: str, password: str) -> str | None:
        """The value of a session's cookie for the right password; takes as long for a name that nobody has."""
        expected = self._passwords.get(name, _NOBODY)
        right = hmac.compare_digest(_digest(password), expected)
        if not right or name not in self._passwords:
            return None
        return self.sessions.issue(name, admin=name == ADMIN and ADMIN not in self._config.auth)

    @property
    def _is_open(self) -> bool:
        return not (self._keys or self._config.needs_login)

    def _by_key(self, given: list[bytes], address: str, guessed_at: bool) -> Caller | None:
        """The caller whose key was given; every key is compared, whichever fits. Short ones count for nothing while
        somebody guesses: they may be words, and the admin key is a password as well.
        """
        found: tuple[bytes, bool] | None = None
        for digest in given:
            for known, admin, long in self._keys:
                if hmac.compare_digest(digest, known) and (long or not guessed_at):
                    found = (known, admin or (found is not None and found[1]))
        if found is None:
            return None
        short = found[0].hex()[:_KEY_DIGITS]
        return Caller(f"key {short}", "key", f"{'admin' if found[1] else 'API'} key {short[:6]}…", address, found[1])

    def _is_admins_desk(self, scope: Scope, headers: Headers) -> bool:
        """True on the machine itself, where the server answers to nobody else."""
        bound_here = is_loopback(self._config.host) and not self._on_space
        return bound_here and is_here(scope, headers) and is_loopback(hostname(headers.get("host", "")))

    def _seal(self, name: str, admin: bool) -> str | None:
        """What ends a session when it changes: the password's fingerprint, or the right to come in at all."""
        if name.startswith(oauth.PREFIX):
            let_in = oauth.available(self._config) and oauth.lets_in(self._config, name.removeprefix(oauth.PREFIX))
            return "" if let_in and not admin else None
        if name not in self._passwords or admin != (name == ADMIN and ADMIN not in self._config.auth):
            return None
        return hmac.digest(self._secret, self._passwords[name], "sha256").hex()[:16]


def keys_of(headers: Headers) -> list[str]:
    """The keys that came with a request, as `Authorization: Bearer KEY` or `x-api-key: KEY`."""
    found = []
    for value in headers.getlist("authorization"):
        scheme, _, key = value.strip().partition(" ")
        if scheme.lower() == "bearer" and key.strip():
            found.append(key.strip())
    return found + [value.strip() for value in headers.getlist("x-api-key") if value.strip()]


def _stranger(address: str, admin: bool) -> Caller:
    return Caller(f"address {address}", "address", "", address, admin)


def _shown(name: str) -> str:
    return name.removeprefix(oauth.PREFIX)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


_NOBODY = _digest(os.urandom(16).hex())
