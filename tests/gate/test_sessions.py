"""Logins that hold for a while, and the secret that signs them."""

from __future__ import annotations

import os
import stat
import threading

import pytest

from playground.errors import ConfigError
from playground.gate.sessions import Session, Sessions, kept_secret

SECRET = b"x" * 32


def test_a_session_is_read_back_and_nothing_else_is():
    """A6: only what was issued here, whole, for this purpose."""
    sessions = Sessions(SECRET, hours=1)
    value = sessions.issue("anna")
    assert sessions.read(value) == Session("anna")
    assert sessions.read(sessions.issue("Zoë: 日本", admin=True)) == Session("Zoë: 日本", admin=True)
    for wrong in ("", "x", value[:-1], value + "x", value.replace(".", "", 1), "é", value.swapcase()):
        assert sessions.read(wrong) is None
    for other in (Sessions(b"y" * 32, 1), Sessions(SECRET, 1, salt="something else")):
        assert other.read(value) is None


def test_a_session_runs_out(monkeypatch):
    """A6: a stolen cookie is of no use for ever."""
    sessions = Sessions(SECRET, hours=1)
    value = sessions.issue("anna")
    later = sessions._serializer.make_signer(b"").get_timestamp() + 3602
    monkeypatch.setattr("itsdangerous.timed.TimestampSigner.get_timestamp", lambda _: later)
    assert sessions.read(value) is None


def test_logging_out_ends_that_session_and_no_other():
    """A6: also one of the same second."""
    sessions = Sessions(SECRET, hours=1)
    one, other = sessions.issue("anna"), sessions.issue("anna")
    sessions.end(one)
    sessions.end("nonsense")
    assert sessions.read(one) is None
    assert sessions.read(other) == Session("anna")


def test_another_password_ends_the_sessions_of_the_old_one():
    """A6: and so does a user who is no more."""
    passwords = {"anna": "one", "ben": "two"}
    sessions = Sessions(SECRET, 1, seal=lambda name, admin: passwords.get(name))
    anna, ben = sessions.issue("anna"), sessions.issue("ben")
    passwords["anna"] = "three"
    del passwords["ben"]
    assert sessions.read(anna) is sessions.read(ben) is None
    assert sessions.read(sessions.issue("ben")) is None
    assert sessions.read(sessions.issue("anna")) == Session("anna")


def test_the_secret_is_made_once_and_is_its_owners(tmp_path):
    """S3: readable by nobody else; the same after a restart, so that logins hold."""
    folder = tmp_path / "not" / "there"
    secret = kept_secret(folder)
    assert len(secret) == 32
    assert kept_secret(folder) == secret
    assert stat.S_IMODE((folder / "secret").stat().st_mode) == 0o600
    assert os.listdir(folder) == ["secret"]
    (folder / "secret").chmod(0o644)  # a copy of the folder
    assert kept_secret(folder) == secret
    assert stat.S_IMODE((folder / "secret").stat().st_mode) == 0o600
    assert kept_secret(tmp_path) != secret


def test_two_that_start_at_once_agree_on_a_secret(tmp_path):
    """A6: whoever is first has made it."""
    found: list[bytes] = []
    starting = threading.Barrier(8)

    def start() -> None:
        starting.wait()
        found.append(kept_secret(tmp_path))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert os.listdir(tmp_path) == ["secret"]


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 64, b"g" * 64])
def test_a_broken_secret_is_a_sentence(tmp_path, content):
    """A6: never a weak key in silence."""
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(ConfigError, match="secret"):
        kept_secret(tmp_path)


def test_a_secret_that_cannot_be_made_is_a_sentence(tmp_path):
    """A6: which path, and what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--data-dir"):
        kept_secret(tmp_path / "file")
    (tmp_path / "secret").mkdir()
    with pytest.raises(ConfigError, match="--data-dir"):
        kept_secret(tmp_path)
