"""Configuration: configs/*.toml, PLAYGROUND_* variables and arguments become one `AppConfig`, read once, passed down."""

from __future__ import annotations

import difflib
import ipaddress
import math
import os
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

from playground.errors import ConfigError, PlaygroundError
from playground.types import DTYPES, QUANTIZATIONS, Dtype, GenerationSettings, Quantization, Template

ROOT = Path(__file__).resolve().parent.parent
_ENGINE_KEYS = {"device", "dtype", "quantization", "memory_budget", "keep_alive", "allow_pickle"}
_SERVER_KEYS = {
    "host", "port", "upload_limit", "auth", "api_key", "admin_key", "oauth_users", "allow_origin", "allow_host",
    "rate_limit", "login_limit", "at_once", "deadline", "drain", "answer_cache", "content_filter", "access_log",
    "session_hours", "metrics",
}  # fmt: skip
_RATE = re.compile(r"(?:off|[1-9]\d{0,8} ?(?:/|per) ?(?:[1-9]\d{0,4})? ?(?:second|minute|hour|day)s?)")
_MOST_CACHED = 1000
_SHORTEST_KEY = 8
_UNITS = {"": 1, "%": 0.01, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_LEAST_BUDGET = 1e6
_MODEL_KEYS = {"path", "description", "adapters", "quantization", "recommended"}


@dataclass(frozen=True)
class ModelEntry:
    """One `[models.NAME]`: an alias for a local folder or hub id, and what is offered on top of it."""

    name: str
    path: str
    description: str = ""
    adapters: tuple[str, ...] = ()
    quantization: Quantization | None = None
    recommended: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class UseCase:
    """One of the six use cases: its template and example prompts."""

    key: str
    label: str
    template: Template
    examples: tuple[str, ...]


@dataclass(frozen=True)
class AppConfig:
    """Everything that is decided at start. ``models`` keeps the order of the file; added models come last.

    ``memory_budget`` is what all models together may take: 0 for what is free, up to 1 a share of the device's memory,
    above that bytes. ``keep_alive`` is after how many seconds an unused model is unloaded; 0 is never.
    ``free_paths`` says whether a person may type a folder or hub id that the configuration does not offer: only where
    the server is reached from this machine alone. ``allow_pickle`` lets adapters be read that are saved as pickles.
    ``upload_limit`` is how many bytes an uploaded adapter may have, unpacked.

    Who may come in: ``auth`` maps user names to passwords, ``api_keys`` are for programs, ``admin_key`` for loading,
    swapping and unloading; ``oauth_users`` are the Hugging Face accounts that a Space lets in ("*": any). ``allow_origins``
    are the other sites whose pages may call the API, ``allow_hosts`` the Host names that are answered to (() for any, on
    loopback always loopback's). ``session_hours`` is how long a login holds, ``login_limit`` how often an address may fail.

    How much: ``rate_limit`` ("10 per minute", "off") counts requests for text by address and by key, ``at_once`` how many
    one caller may have running (0 is no limit), ``deadline`` ends an answer after so many seconds (0 is never), ``drain`` is
    how long a stopping server lets answers finish. ``answer_cache`` is how many answers are kept for being asked again (0 is
    off). ``content_filter`` names a function, "module:function", that may refuse a text. ``access_log`` writes a line for
    each request.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    upload_limit: int = 2_000_000_000
    data_dir: Path = Path("~/.local/share/adapter-playground")
    device: str = "auto"
    dtype: Dtype = "auto"
    quantization: Quantization = "auto"
    memory_budget: float = 0.0
    keep_alive: float = 0.0
    models: Mapping[str, ModelEntry] = field(default_factory=dict)
    adapters: tuple[str, ...] = ()
    preload: bool = False
    free_paths: bool = True
    allow_pickle: bool = False
    auth: Mapping[str, str] = field(default_factory=dict, repr=False)
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    admin_key: str = field(default="", repr=False)
    oauth_users: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    session_hours: float = 24 * 7
    login_limit: str = "5 per minute"
    rate_limit: str = "off"
    at_once: int = 0
    deadline: float = 0.0
    drain: float = 10.0
    answer_cache: int = 0
    content_filter: str = ""
    access_log: bool = False
    metrics: bool = True
    presets: Mapping[str, GenerationSettings] = field(default_factory=dict)
    use_cases: Mapping[str, UseCase] = field(default_factory=dict)

    @property
    def is_shared(self) -> bool:
        """True when others than this machine's own people can reach the server."""
        return not self.free_paths

    @property
    def needs_login(self) -> bool:
        """True when the pages are for people with a password (or a Hugging Face account) only."""
        return bool(self.auth or self.oauth_users)

    @property
    def needs_key(self) -> bool:
        """True when programs must show an API key, or a browser's login."""
        return bool(self.api_keys or self.needs_login)

    @property
    def uploads(self) -> Path:
        """Where adapters lie that were added while the app ran; offered for every base."""
        return self.data_dir / "adapters"

    @property
    def converted(self) -> Path | None:
        """Where adapters that were pickles lie as safetensors; None where pickles are not read at all."""
        return self.data_dir / "converted" if self.allow_pickle else None

    @property
    def adapter_roots(self) -> tuple[Path, ...]:
        """The folders out of which no link of an adapter may lead; () where every path of this machine may be typed."""
        if self.free_paths:
            return ()
        offered = [Path(folder) for entry in self.models.values() for folder in entry.adapters]
        return tuple(
            root for folder in (*offered, *map(Path, self.adapters), self.uploads) for root in _with_its_blobs(folder)
        )


def load_config(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> AppConfig:
    """Read ``path`` (default: configs/playground.toml), the built-in presets and use cases; lay ``overrides`` over them.

    ``overrides`` holds what the command line or the environment gave: config (the path), host, port, data_dir, device,
    dtype, quantization, memory_budget, keep_alive, allow_pickle, preload, any other key of `[server]`, and lists ``model``
    and ``adapter`` that add to what is offered. Values of None are ignored.

    Raises `ConfigError` naming the file and the key for anything unknown or malformed.
    """
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    path = path or Path(given.get("config", ROOT / "configs" / "playground.toml"))
    raw = read_toml(path)
    _refuse_unknown(path, "", raw, {"server", "engine", "models"})
    server, engine = dict(raw.get("server", {})), dict(raw.get("engine", {}))
    _refuse_unknown(path, "server.", server, _SERVER_KEYS)
    _refuse_unknown(path, "engine.", engine, _ENGINE_KEYS)
    merged = {**server, **engine, **given}
    models = {name: _model_entry(path, name, table) for name, table in raw.get("models", {}).items()}
    added, adapters = _added(given)
    for extra in added:
        models.setdefault(extra, ModelEntry(name=extra, path=extra, description="Added when the app was started."))
    host = str(merged.get("host", "127.0.0.1"))
    hosts = _hosts(merged.get("allow_host", ()))
    shared = not (is_loopback(host) and all(map(is_loopback, hosts)))  # another name means that a proxy passes it on
    return AppConfig(
        host=host,
        port=_port(merged.get("port", 7860)),
        upload_limit=_bytes("upload_limit", merged.get("upload_limit", AppConfig.upload_limit)),
        data_dir=Path(merged.get("data_dir", AppConfig.data_dir)).expanduser(),
        device=_device(merged.get("device", "auto")),
        dtype=_one_of("dtype", merged.get("dtype", "auto"), DTYPES),
        quantization=_one_of("quantization", merged.get("quantization", "auto"), QUANTIZATIONS),
        memory_budget=_memory_budget(merged.get("memory_budget", "auto")),
        keep_alive=_seconds("keep_alive", merged.get("keep_alive", 0)),
        models=models,
        adapters=adapters,
        preload=bool(merged.get("preload", False)),
        free_paths=not shared,
        allow_pickle=_flag("allow_pickle", merged.get("allow_pickle", False)),
        auth=_passwords(merged.get("auth", ())),
        api_keys=_secrets("api_key", merged.get("api_key", ())),
        admin_key=_secret("admin_key", merged.get("admin_key", "")),
        oauth_users=_list("oauth_users", merged.get("oauth_users", ())),
        allow_origins=_origins(merged.get("allow_origin", ())),
        allow_hosts=hosts,
        session_hours=_positive("session_hours", merged.get("session_hours", AppConfig.session_hours)),
        login_limit=_rate("login_limit", merged.get("login_limit", AppConfig.login_limit)),
        rate_limit=_rate("rate_limit", merged.get("rate_limit", "10 per minute" if shared else "off")),
        at_once=_count("at_once", merged.get("at_once", 8 if shared else 0)),
        deadline=_seconds("deadline", merged.get("deadline", 600 if shared else 0)),
        drain=_seconds("drain", merged.get("drain", AppConfig.drain)),
        answer_cache=_count("answer_cache", merged.get("answer_cache", 0), _MOST_CACHED),
        content_filter=_text("content_filter", merged.get("content_filter", "")),
        access_log=_flag("access_log", merged.get("access_log", shared)),
        metrics=_flag("metrics", merged.get("metrics", True)),
        presets=_presets(ROOT / "configs" / "presets.toml"),
        use_cases=_use_cases(ROOT / "configs" / "use_cases.toml"),
    )


def environment_overrides(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """`PLAYGROUND_HOST`, `PLAYGROUND_PORT` (or `PORT`), … as overrides for `load_config`; lists are split at commas,
    and users at line breaks where there are any: a password may hold a comma then.

    A Space (`SPACE_ID`) is reached from everywhere, so there all addresses are listened on unless a host is named.
    """
    found: dict[str, Any] = {"host": "0.0.0.0"} if environ.get("SPACE_ID") else {}
    if "PORT" in environ:
        found["port"] = environ["PORT"]
    for key in (
        "config", "host", "port", "data_dir", "device", "dtype", "quantization", "memory_budget", "keep_alive",
        "allow_pickle", "upload_limit", "admin_key", "rate_limit", "login_limit", "at_once", "deadline", "drain",
        "answer_cache", "content_filter", "access_log", "session_hours", "metrics",
    ):  # fmt: skip
        if value := environ.get(f"PLAYGROUND_{key.upper()}"):
            found[key] = value
    for key in ("model", "adapter", "auth", "api_key", "allow_origin", "allow_host", "oauth_users"):
        if value := environ.get(f"PLAYGROUND_{key.upper()}"):
            items = value.splitlines() if key == "auth" and "\n" in value else value.split(",")
            found[key] = [item.strip() for item in items if item.strip()]
    if value := environ.get("PLAYGROUND_PRELOAD"):
        found["preload"] = value.lower() in ("1", "true", "yes", "on")
    return found


def is_loopback(host: str) -> bool:
    """True when ``host`` is a name or address that only this machine reaches."""
    bare = host.strip("[]").lower()
    if bare == "localhost":
        return True
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return False


def prepare_process() -> None:
    """Set what must stand before gradio or torch are imported; values that the user has set already win.

    No telemetry; OpenMP threads sleep instead of spinning when they wait, because the server and the browser share the
    cores with the model; and threads change places often, so that streaming clients do not stall a decode step.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000000000")  # else pandas sums up after every click
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.setswitchinterval(1e-4)


def read_toml(path: Path) -> dict[str, Any]:
    """Parse one TOML file; `ConfigError` when it is missing or malformed."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"There is no configuration file {path}.", "Check --config.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.", "Check --config; it names a TOML file.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.", "Mend that line.") from error


def existing_folder(name: str) -> str:
    """The folder that ``name`` means, resolved; "" where there is none. Never raises, whatever was typed."""
    folder = os.path.expanduser(name)
    return os.path.realpath(folder) if os.path.isdir(folder) else ""


def is_path(name: str) -> bool:
    """True when ``name`` can only be meant as a path, not as a hub id of the form org/name."""
    return name.startswith((".", "~", os.sep)) or (os.sep != "/" and os.sep in name) or name.count("/") > 1


def _added(given: Mapping[str, Any]) -> tuple[list[str], tuple[str, ...]]:
    """The models and adapters added at start. Raises `ConfigError` for a folder that is not there."""
    models, adapters = list(given.get("model", ())), tuple(given.get("adapter", ()))
    for name in models:
        if is_path(name) and not existing_folder(name):
            raise ConfigError(f"There is no model folder {name!r}.", "Check --model.")
    for name in adapters:
        if not existing_folder(name):
            raise ConfigError(f"There is no adapter folder {name!r}.", "Check --adapter.")
    return models, adapters


def _refuse_unknown(path: Path, prefix: str, table: Mapping[str, Any], known: set[str]) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"Did you mean {prefix}{near[0]}?" if near else f"Known keys: {', '.join(sorted(known))}."
            raise ConfigError(f"{path} has an unknown key {prefix}{key}.", hint)


def _model_entry(path: Path, name: str, table: Mapping[str, Any]) -> ModelEntry:
    _refuse_unknown(path, f"models.{name}.", table, _MODEL_KEYS)
    if not table.get("path"):
        raise ConfigError(f"{path}: models.{name} has no path.", "Give it a local folder or a hub id.")
    root = path.resolve().parent.parent
    quantization = table.get("quantization")
    return ModelEntry(
        name=name,
        path=_local_or_hub(root, str(table["path"])),
        description=str(table.get("description", "")),
        adapters=tuple(_local_or_hub(root, str(item)) for item in _texts(path, f"models.{name}.adapters", table)),
        quantization=None if quantization is None else _one_of("quantization", quantization, QUANTIZATIONS),
        recommended=_settings(path, f"models.{name}.recommended", table.get("recommended", {})),
    )


def _texts(path: Path, where: str, table: Mapping[str, Any]) -> Sequence[str]:
    value = table.get("adapters", [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"{path}: {where} is not a list of texts.", 'Write it as ["folder", "folder"].')
    return value


def _local_or_hub(root: Path, name: str) -> str:
    """A path under ``root`` where that exists, else the name itself (absolute path or hub id)."""
    candidate = root / name
    return str(candidate) if candidate.exists() else name


def _settings(path: Path, where: str, table: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        GenerationSettings(**table)
    except (PlaygroundError, TypeError) as error:
        raise ConfigError(f"{path}: {where}: {error}", "Mend that value.") from error
    return dict(table)


def _presets(path: Path) -> dict[str, GenerationSettings]:
    return {name: GenerationSettings(**_settings(path, name, table)) for name, table in read_toml(path).items()}


def _use_cases(path: Path) -> dict[str, UseCase]:
    cases = {}
    for key, table in read_toml(path).items():
        _refuse_unknown(path, f"{key}.", table, {"label", "template", "examples"})
        template = _one_of("template", table.get("template", "chat"), get_args(Template))
        cases[key] = UseCase(key, str(table.get("label", key)), template, tuple(table.get("examples", ())))
    return cases


def _one_of(key: str, value: Any, known: Sequence[Any]) -> Any:
    if value not in known:
        raise ConfigError(f"{key} is {value!r}.", f"Use one of {', '.join(known)}.")
    return value


def _device(value: Any) -> str:
    """A device's name; whether this machine has it is found out when a model is loaded."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", str(value)):
        raise ConfigError(f"device is {value!r}.", "Use auto, cpu, cuda, cuda:N or mps.")
    return str(value)


def _memory_budget(value: Any) -> float:
    """ "auto", a share of the memory (0.5, "50 %") or bytes (8000000000, "8 GB") as a number; see `AppConfig`."""
    text = str(value).strip().lower()
    if text == "auto":
        return 0.0
    number = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\+?\d+)?)\s*([a-z%]*)", text)
    if isinstance(value, bool) or number is None or number[2] not in _UNITS:
        raise ConfigError(f"memory_budget is {value!r}.", 'Write "auto", "8 GB", or a share such as 0.5 or "50%".')
    budget = float(number[1]) * _UNITS[number[2]]
    if budget > 1 and number[2] == "%":
        raise ConfigError(f"memory_budget is {value!r}.", "A share is at most 100%.")
    if 1 < budget < _LEAST_BUDGET:
        raise ConfigError(f"memory_budget is {value!r}, which is {budget:g} bytes.", 'Name the unit, as in "8 GB".')
    return budget


def _bytes(key: str, value: Any) -> int:
    """A number of bytes, also as a person writes it: "2 GB"."""
    number = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", str(value).strip().lower())
    if isinstance(value, bool) or number is None or number[2] not in _UNITS or float(number[1]) == 0:
        raise ConfigError(f"{key} is {value!r}.", 'Write a size such as "2 GB".')
    return int(float(number[1]) * _UNITS[number[2]])


def _flag(key: str, value: Any) -> bool:
    """A boolean, or its word in an environment variable: what opens a door is never guessed from anything else."""
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or value.strip().lower() not in words:
        raise ConfigError(f"{key} is {value!r}.", "Write true or false.")
    return words[value.strip().lower()]


def _with_its_blobs(folder: Path) -> Iterator[Path]:
    """``folder``, and for a snapshot of the Hugging Face cache the folder that its files are links into."""
    folder = Path(os.path.realpath(folder.expanduser()))
    yield folder
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        yield folder.parent.parent / "blobs"


def _seconds(key: str, value: Any) -> float:
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ConfigError(f"{key} is {value!r}.", "It must be a number of seconds; 0 is never.")
    return seconds


def _positive(key: str, value: Any) -> float:
    number = _seconds(key, value)
    if number == 0:
        raise ConfigError(f"{key} is {value!r}.", "It must be above 0.")
    return number


def _count(key: str, value: Any, most: int = 1_000_000) -> int:
    try:
        count = -1 if isinstance(value, (bool, float)) else int(value)
    except (TypeError, ValueError):
        count = -1
    if not 0 <= count <= most:
        raise ConfigError(f"{key} is {value!r}.", f"It must be a whole number from 0 to {most:,}; 0 is off.")
    return count


def _rate(key: str, value: Any) -> str:
    text = " ".join(str(value).lower().split())
    if not _RATE.fullmatch(text):
        raise ConfigError(f"{key} is {value!r}.", 'Write "off", or a rate such as "10 per minute" or "100/hour".')
    return text


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{key} is {value!r}.", "It must be a text.")
    return value.strip()


def _list(key: str, value: Any) -> tuple[str, ...]:
    found = (value,) if isinstance(value, str) else value
    if not isinstance(found, (list, tuple)) or not all(isinstance(one, str) and one.strip() for one in found):
        raise ConfigError(f"{key} holds something that is no text.", 'Write it as ["one", "other"].')
    return tuple(one.strip() for one in found)


def _secrets(key: str, value: Any) -> tuple[str, ...]:
    """Keys as they are; what is wrong with one is told without showing it."""
    found = _list(key, value)
    if any(len(one) < _SHORTEST_KEY or not one.isascii() or not one.isprintable() or " " in one for one in found):
        raise ConfigError(
            f"{key} has a value that is no good as a key.",
            f"Use at least {_SHORTEST_KEY} letters and digits, without spaces.",
        )
    return found


def _secret(key: str, value: Any) -> str:
    """One key; "" for none."""
    if not isinstance(value, str):
        raise ConfigError(f"{key} is no text.", "There is one, written in quotes.")
    return _secrets(key, value)[0] if value.strip() else ""


def _passwords(value: Any) -> Mapping[str, str]:
    """ "USER:PASS" each, or a table of them; what is wrong with one is told without showing it."""
    if isinstance(value, Mapping):
        pairs = [(name, password if isinstance(password, str) else "") for name, password in value.items()]
    else:
        pairs = [(name, password) for name, _, password in (one.partition(":") for one in _list("auth", value))]
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


def _hosts(value: Any) -> tuple[str, ...]:
    """Names as they stand in a Host header, without a port."""
    found = tuple(host.lower() for host in _list("allow_host", value))
    for host in found:
        if "/" in host or "*" in host or any(map(str.isspace, host)):
            raise ConfigError(f"allow_host is {host!r}.", "Write the bare name, such as playground.example.org.")
    return found


def _origins(value: Any) -> tuple[str, ...]:
    found = tuple(origin.rstrip("/").lower() for origin in _list("allow_origin", value))
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


def _port(value: Any) -> int:
    try:
        port = int(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"port is {value!r}.", "It must be a number between 0 and 65535.") from error
    if not 0 <= port <= 65535:
        raise ConfigError(f"port is {port}.", "It must be a number between 0 and 65535.")
    return port
