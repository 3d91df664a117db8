"""Logins that hold for a while: signed values for a cookie, and the secret that signs them."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from itsdangerous import BadData, URLSafeTimedSerializer

from playground.errors import ConfigError

_SECRET_BYTES = 32
Seal = Callable[[str, bool], str | None]


@dataclass(frozen=True)
class Session:
    """Who has logged in; ``admin`` with the admin key."""

    name: str
    admin: bool = False


def _unsealed(name: str, admin: bool) -> str | None:
    return ""


class Sessions:
    """Issues and reads the values of session cookies.

    A value holds the name, whether it is an admin's, when it was issued (by the signature) and ``seal(name, admin)``: a
    fingerprint of what that person came in with. When that has changed (another password), or is None (no such user any
    more), the session is over. ``salt`` keeps the sessions of different ways in apart. Nothing is stored, except which
    sessions were ended early: in memory, until they would have run out.
    """

    def __init__(self, secret: bytes, hours: float, salt: str = "playground session", seal: Seal = _unsealed) -> None:
        self._serializer = URLSafeTimedSerializer(secret, salt=salt, signer_kwargs={"digest_method": hashlib.sha256})
        self._seconds = hours * 3600
        self._seal = seal
        self._ended: dict[str, float] = {}

    @property
    def seconds(self) -> int:
        """How long a session holds."""
        return int(self._seconds)

    def issue(self, name: str, admin: bool = False) -> str:
        """A new session of ``name``, as the value of a cookie."""
        mark = secrets.token_urlsafe(6)  # two logins of a second are two sessions, and end apart
        return self._serializer.dumps([name, admin, self._seal(name, admin), mark])

    def read(self, value: str) -> Session | None:
        """Whose session ``value`` is; None for what was never issued here, has run out, or was ended."""
        try:
            name, admin, seal, mark = self._serializer.loads(value, max_age=self.seconds)
        except (BadData, ValueError, TypeError):
            return None
        if seal is None or seal != self._seal(name, admin) or mark in self._ended:
            return None
        return Session(name, admin)

    def end(self, value: str) -> None:
        """Let the session ``value`` count no more."""
        now = time.time()
        self._ended = {mark: until for mark, until in self._ended.items() if until > now}
        try:
            mark = self._serializer.loads(value, max_age=self.seconds)[3]
        except (BadData, IndexError, TypeError):
            return
        self._ended[mark] = now + self._seconds


def kept_secret(data_dir: Path) -> bytes:
    """The secret of this data directory, made on first use and readable by its owner only.

    Raises `ConfigError` when it can neither be read nor made, or is not what this program writes.
    """
    path = data_dir / "secret"
    try:
        if not path.exists():
            _make(path)
        text = path.read_text(encoding="ascii").strip()
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)  # it was copied or unpacked, and whoever reads it can sign in as anybody
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ConfigError(
            f"The secret that signs logins, {path}, cannot be read or made: {reason}.",
            "Give this user the right to, or name another --data-dir.",
        ) from error
    if len(text) != 2 * _SECRET_BYTES or not all(letter in "0123456789abcdef" for letter in text):
        raise ConfigError(
            f"The secret that signs logins, {path}, is damaged.", "Delete the file; everybody logs in again then."
        )
    return bytes.fromhex(text)


def _make(path: Path) -> None:
    """Write the file whole under another name, then give it its own; whoever was first has made it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".secret-{os.getpid()}-{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(secrets.token_hex(_SECRET_BYTES))
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        pass  # another process was quicker, and its secret counts
    except OSError:
        draft.replace(path)  # a file system without links
        return
    draft.unlink()
