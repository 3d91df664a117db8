"""What a setting's value may be: each check returns the value as it is used, or raises `ConfigError` naming the key."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from playground.errors import ConfigError

_RATE = re.compile(r"(?:off|[1-9]\d{0,8} ?(?:/|per) ?(?:[1-9]\d{0,4})? ?(?:second|minute|hour|day)s?)")
_SHORTEST_KEY = 8
_UNITS = {"": 1, "%": 0.01, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_LEAST_BUDGET = 1e6


def one_of(key: str, value: Any, known: Sequence[Any]) -> Any:
    """One of the ``known`` words."""
    if value not in known:
        raise ConfigError(f"{key} is {value!r}.", f"Use one of {', '.join(known)}.")
    return value


def device(value: Any) -> str:
    """A device's name; whether this machine has it is found out when a model is loaded."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", str(value)):
        raise ConfigError(f"device is {value!r}.", "Use auto, cpu, cuda, cuda:N or mps.")
    return str(value)


def memory_budget(value: Any) -> float:
    """ "auto", a share of the memory (0.5, "50 %") or bytes (8000000000, "8 GB") as a number: 0 is "auto"."""
    return 0.0 if _said(value) == "auto" else _budget("memory_budget", value, "auto")


def prefix_budget(value: Any) -> float:
    """ "off", a share of the memory or bytes, as in `memory_budget`: 0 is "off"."""
    return 0.0 if _said(value) == "off" else _budget("prefix_budget", value, "off")


def _said(value: Any) -> str:
    return str(value).strip().lower()


def _budget(key: str, value: Any, word: str) -> float:
    """A share up to 1, or bytes."""
    said = _said(value)
    number = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\+?\d+)?)\s*([a-z%]*)", said)
    if isinstance(value, bool) or number is None or number[2] not in _UNITS:
        raise ConfigError(f"{key} is {value!r}.", f'Write "{word}", "8 GB", or a share such as 0.5 or "50%".')
    budget = float(number[1]) * _UNITS[number[2]]
    if budget > 1 and number[2] == "%":
        raise ConfigError(f"{key} is {value!r}.", "A share is at most 100%.")
    if 1 < budget < _LEAST_BUDGET:
        raise ConfigError(f"{key} is {value!r}, which is {budget:g} bytes.", 'Name the unit, as in "8 GB".')
    return budget


def size(key: str, value: Any) -> int:
    """A number of bytes, also as a person writes it: "2 GB"."""
    number = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", str(value).strip().lower())
    if isinstance(value, bool) or number is None or number[2] not in _UNITS or float(number[1]) == 0:
        raise ConfigError(f"{key} is {value!r}.", 'Write a size such as "2 GB".')
    return int(float(number[1]) * _UNITS[number[2]])


def flag(key: str, value: Any) -> bool:
    """A boolean, or its word in an environment variable: what opens a door is never guessed from anything else."""
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or value.strip().lower() not in words:
        raise ConfigError(f"{key} is {value!r}.", "Write true or false.")
    return words[value.strip().lower()]


def seconds(key: str, value: Any) -> float:
    """Seconds, 0 for never."""
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not (math.isfinite(found) and found >= 0):
        raise ConfigError(f"{key} is {value!r}.", "It must be a number of seconds; 0 is never.")
    return found


def positive(key: str, value: Any) -> float:
    """A number above 0."""
    number = seconds(key, value)
    if number == 0:
        raise ConfigError(f"{key} is {value!r}.", "It must be above 0.")
    return number


def count(key: str, value: Any, most: int = 1_000_000) -> int:
    """A whole number from 0, which is off, to ``most``."""
    try:
        found = -1 if isinstance(value, (bool, float)) else int(value)
    except (TypeError, ValueError):
        found = -1
    if not 0 <= found <= most:
        raise ConfigError(f"{key} is {value!r}.", f"It must be a whole number from 0 to {most:,}; 0 is off.")
    return found


def rate(key: str, value: Any) -> str:
    """ "off", or so many in a time."""
    said = " ".join(str(value).lower().split())
    if not _RATE.fullmatch(said):
        raise ConfigError(f"{key} is {value!r}.", 'Write "off", or a rate such as "10 per minute" or "100/hour".')
    return said


def text(key: str, value: Any) -> str:
    """A text, without spaces around it."""
    if not isinstance(value, str):
        raise ConfigError(f"{key} is {value!r}.", "It must be a text.")
    return value.strip()


def texts(key: str, value: Any) -> tuple[str, ...]:
    """A list of texts, or a single one."""
    found = (value,) if isinstance(value, str) else value
    if not isinstance(found, (list, tuple)) or not all(isinstance(one, str) and one.strip() for one in found):
        raise ConfigError(f"{key} holds something that is no text.", 'Write it as ["one", "other"].')
    return tuple(one.strip() for one in found)


def secrets(key: str, value: Any) -> tuple[str, ...]:
    """Keys as they are; what is wrong with one is told without showing it."""
    found = texts(key, value)
    if any(len(one) < _SHORTEST_KEY or not one.isascii() or not one.isprintable() or " " in one for one in found):
        raise ConfigError(
            f"{key} has a value that is no good as a key.",
            f"Use at least {_SHORTEST_KEY} letters and digits, without spaces.",
        )
    return found


def secret(key: str, value: Any) -> str:
    """One key; "" for none."""
    if not isinstance(value, str):
        raise ConfigError(f"{key} is no text.", "There is one, written in quotes.")
    return secrets(key, value)[0] if value.strip() else ""


def passwords(value: Any) -> Mapping[str, str]:
    """ "USER:PASS" each, or a table of them; what is wrong with one is told without showing it."""
    if isinstance(value, Mapping):
        pairs = [(name, password if isinstance(password, str) else "") for name, password in value.items()]
    else:
        pairs = [(name, password) for name, _, password in (one.partition(":") for one in texts("auth", value))]
    if any(not name.strip() or ":" in name or not password for name, password in pairs):
        raise ConfigError(
            "auth has an entry without a user or a password.",
            "Write each as USER:PASS. In PLAYGROUND_AUTH commas part them, unless line breaks do: end the line after a "
            "password with a comma.",
        )
    found = {name.strip(): password for name, password in pairs}
    if len(found) < len(pairs):
        raise ConfigError("auth names a user twice.", "Give each user one password.")
    return found


def hosts(value: Any) -> tuple[str, ...]:
    """Names as they stand in a Host header, without a port."""
    found = tuple(host.lower() for host in texts("allow_host", value))
    for host in found:
        if "/" in host or "*" in host or any(map(str.isspace, host)):
            raise ConfigError(f"allow_host is {host!r}.", "Write the bare name, such as playground.example.org.")
    return found


def origins(value: Any) -> tuple[str, ...]:
    """Sites as browsers name them."""
    found = tuple(origin.rstrip("/").lower() for origin in texts("allow_origin", value))
    for origin in found:
        if not _is_origin(origin):
            raise ConfigError(
                f"allow_origin is {origin.rpartition('@')[2]!r}.",
                "Write the site as https://example.org, with its port if it has one.",
            )
    return found


def _is_origin(text: str) -> bool:
    """Whether ``text`` is a site as browsers name it in the Origin header."""
    try:
        parts = urlsplit(text)
        whole = parts.hostname and f"{parts.scheme}://{parts.netloc}" == text and (parts.port or 1) > 0
    except ValueError:  # an address in brackets that is none, or a port that is no number
        return False
    return bool(whole) and parts.scheme in ("http", "https") and not set(text) & set("*@ ")


def port(value: Any) -> int:
    """A port's number; 0 is any that is free."""
    try:
        found = int(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"port is {value!r}.", "It must be a number between 0 and 65535.") from error
    if not 0 <= found <= 65535:
        raise ConfigError(f"port is {found}.", "It must be a number between 0 and 65535.")
    return found
