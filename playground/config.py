"""Configuration: configs/*.toml, PLAYGROUND_* variables and arguments become one `AppConfig`, read once, passed down."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from playground import config_values as check
from playground.errors import ConfigError, PlaygroundError
from playground.types import DTYPES, QUANTIZATIONS, Dtype, GenerationSettings, Quantization, Template

ROOT = Path(__file__).resolve().parent.parent
_ENGINE_KEYS = {"device", "dtype", "quantization", "memory_budget", "prefix_budget", "keep_alive", "allow_pickle"}
_SERVER_KEYS = {
    "host", "port", "upload_limit", "auth", "api_key", "admin_key", "oauth_users", "allow_origin", "allow_host",
    "rate_limit", "login_limit", "at_once", "deadline", "drain", "answer_cache", "content_filter", "access_log",
    "session_hours", "metrics",
}  # fmt: skip
_MOST_CACHED = 1000
_MODEL_KEYS = {"path", "description", "adapters", "quantization", "recommended"}
_FOLDER_KEYS = {"runs", "datasets"}
_BUNDLED_DATASETS = ROOT / "assets" / "datasets"
DATASET_ID = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?::([\w.-]+))?(?:/([\w.-]+))?")
_DATA_FILES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".txt", ".gz", ".zst")


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
    above that bytes; ``prefix_budget`` likewise what all may keep of texts that they have read, for later ones that
    begin alike, 0 for nothing. ``keep_alive`` is after how many seconds an unused model is unloaded; 0 is never.
    ``free_paths`` says whether a person may type a folder or hub id that the configuration does not offer: only where
    the server is reached from this machine alone. ``runs`` are folders to look for training runs in, beside those of the
    adapters; ``datasets`` are folders and files of datasets, and hub ids. ``allow_pickle`` lets adapters be read that are
    saved as pickles. ``upload_limit`` is how many bytes an uploaded adapter may have, unpacked.

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
    prefix_budget: float = 0.1
    keep_alive: float = 0.0
    models: Mapping[str, ModelEntry] = field(default_factory=dict)
    adapters: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
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
    def measured(self) -> Path:
        """Where figures are kept that were timed of this machine."""
        return self.data_dir / "measured.json"

    @property
    def adapter_roots(self) -> tuple[Path, ...]:
        """The folders out of which no link of an adapter may lead; () where every path of this machine may be typed."""
        if self.free_paths:
            return ()
        offered = [Path(folder) for entry in self.models.values() for folder in entry.adapters]
        return tuple(
            root
            for folder in (*offered, *map(Path, (*self.adapters, *self.runs)), self.uploads)
            for root in _with_its_blobs(folder)
        )


def load_config(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> AppConfig:
    """Read ``path`` (default: configs/playground.toml), the built-in presets and use cases; lay ``overrides`` over them.

    ``overrides`` holds what the command line or the environment gave: config (the path), host, port, data_dir, device,
    dtype, quantization, memory_budget, prefix_budget, keep_alive, allow_pickle, preload, any other key of `[server]`, and
    lists ``model``,
    ``adapter``, ``runs`` and ``datasets`` that add to what is offered. Values of None are ignored.

    Raises `ConfigError` naming the file and the key for anything unknown or malformed.
    """
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    path = path or Path(given.get("config", ROOT / "configs" / "playground.toml"))
    raw = read_toml(path)
    _refuse_unknown(path, "", raw, {"server", "engine", "folders", "models"})
    server, engine = (_table(path, name, raw.get(name, {})) for name in ("server", "engine"))
    _refuse_unknown(path, "server.", server, _SERVER_KEYS)
    _refuse_unknown(path, "engine.", engine, _ENGINE_KEYS)
    merged = {**server, **engine, **given}
    listed = _table(path, "models", raw.get("models", {}))
    models = {name: _model_entry(path, name, _table(path, f"models.{name}", entry)) for name, entry in listed.items()}
    runs, datasets = _folders(path, _table(path, "folders", raw.get("folders", {})), given)
    added, adapters = _added(given)
    for extra in added:
        models.setdefault(extra, ModelEntry(name=extra, path=extra, description="Added when the app was started."))
    host = str(merged.get("host", "127.0.0.1"))
    hosts = check.hosts(merged.get("allow_host", ()))
    shared = not (is_loopback(host) and all(map(is_loopback, hosts)))  # another name means that a proxy passes it on
    return AppConfig(
        host=host,
        port=check.port(merged.get("port", 7860)),
        upload_limit=check.size("upload_limit", merged.get("upload_limit", AppConfig.upload_limit)),
        data_dir=Path(merged.get("data_dir", AppConfig.data_dir)).expanduser(),
        device=check.device(merged.get("device", "auto")),
        dtype=check.one_of("dtype", merged.get("dtype", "auto"), DTYPES),
        quantization=check.one_of("quantization", merged.get("quantization", "auto"), QUANTIZATIONS),
        memory_budget=check.memory_budget(merged.get("memory_budget", "auto")),
        prefix_budget=check.prefix_budget(merged.get("prefix_budget", AppConfig.prefix_budget)),
        keep_alive=check.seconds("keep_alive", merged.get("keep_alive", 0)),
        models=models,
        adapters=adapters,
        runs=runs,
        datasets=datasets,
        preload=bool(merged.get("preload", False)),
        free_paths=not shared,
        allow_pickle=check.flag("allow_pickle", merged.get("allow_pickle", False)),
        auth=check.passwords(merged.get("auth", ())),
        api_keys=check.secrets("api_key", merged.get("api_key", ())),
        admin_key=check.secret("admin_key", merged.get("admin_key", "")),
        oauth_users=check.texts("oauth_users", merged.get("oauth_users", ())),
        allow_origins=check.origins(merged.get("allow_origin", ())),
        allow_hosts=hosts,
        session_hours=check.positive("session_hours", merged.get("session_hours", AppConfig.session_hours)),
        login_limit=check.rate("login_limit", merged.get("login_limit", AppConfig.login_limit)),
        rate_limit=check.rate("rate_limit", merged.get("rate_limit", "10 per minute" if shared else "off")),
        at_once=check.count("at_once", merged.get("at_once", 8 if shared else 0)),
        deadline=check.seconds("deadline", merged.get("deadline", 600 if shared else 0)),
        drain=check.seconds("drain", merged.get("drain", AppConfig.drain)),
        answer_cache=check.count("answer_cache", merged.get("answer_cache", 0), _MOST_CACHED),
        content_filter=check.text("content_filter", merged.get("content_filter", "")),
        access_log=check.flag("access_log", merged.get("access_log", shared)),
        metrics=check.flag("metrics", merged.get("metrics", True)),
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
        "config", "host", "port", "data_dir", "device", "dtype", "quantization", "memory_budget", "prefix_budget",
        "keep_alive", "allow_pickle", "upload_limit", "admin_key", "rate_limit", "login_limit", "at_once", "deadline",
        "drain", "answer_cache", "content_filter", "access_log", "session_hours", "metrics",
    ):  # fmt: skip
        if value := environ.get(f"PLAYGROUND_{key.upper()}"):
            found[key] = value
    for key in (
        "model", "adapter", "runs", "datasets", "auth", "api_key", "allow_origin", "allow_host", "oauth_users",
    ):  # fmt: skip
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
    os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "FALSE")  # else `datasets` tells a counter what was read
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
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


def is_text(name: str) -> bool:
    """False for half characters, which some folders' names hold, and nothing that is sent or shown can."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_path(name: str) -> bool:
    """True when ``name`` can only be meant as a path, not as a hub id of the form org/name."""
    return name.startswith((".", "~", os.sep)) or (os.sep != "/" and os.sep in name) or name.count("/") > 1


def is_dataset_id(name: str) -> bool:
    """Whether ``name`` can be a dataset's hub id: ``org/name``, ``org/name:configuration`` or
    ``org/name:configuration/split``."""
    found = DATASET_ID.fullmatch(name)
    return bool(found and (found[2] or not found[3]) and ".." not in name and "--" not in name)


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


def _folders(path: Path, table: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The folders of training runs, and the folders, files and hub ids of datasets; those of the start come last.

    Raises `ConfigError` for what is not there.
    """
    _refuse_unknown(path, "folders.", table, _FOLDER_KEYS)
    root = _root(path)
    runs = [_runs_folder(root / name, name, str(path)) for name in _texts(path, "folders.", "runs", table)]
    runs += [_runs_folder(Path(name), name, "--runs") for name in given.get("runs", ())]
    datasets = [_dataset(root / name, name, str(path)) for name in _texts(path, "folders.", "datasets", table)]
    if "datasets" not in table and _BUNDLED_DATASETS.is_dir():
        datasets.append(str(_BUNDLED_DATASETS))
    datasets += [_dataset(Path(name), name, "--datasets") for name in given.get("datasets", ())]
    return tuple(dict.fromkeys(runs)), tuple(dict.fromkeys(datasets))


def _runs_folder(folder: Path, name: str, where: str) -> str:
    """``folder`` as an absolute path; ``name`` is how it was written, at ``where``."""
    found = _absolute(folder, name)
    if not name.strip() or not os.path.isdir(found):
        raise ConfigError(f"There is no folder of training runs {name!r}.", f"Check {where}.")
    return found


def _dataset(file: Path, name: str, where: str) -> str:
    """The absolute path of a folder or file that is there, or a plausible hub id as it is."""
    found = _absolute(file, name)
    if name.strip() and os.path.exists(found):
        return found
    if not is_dataset_id(name.strip()) or is_path(name.partition(":")[0]) or name.lower().endswith(_DATA_FILES):
        raise ConfigError(f"There is no dataset {name!r}.", f"Check {where}: a folder, a file, or a hub id: org/name.")
    return name.strip()


def _absolute(place: Path, name: str) -> str:
    """``place`` in full; a ``name`` that begins with ~ is in somebody's home, wherever it was written."""
    return os.path.abspath(os.path.expanduser(name) if name.startswith("~") else place)


def _table(path: Path, name: str, value: Any) -> Mapping[str, Any]:
    """``value``, which is to be the table ``[name]``. Raises `ConfigError` for anything else."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path}: {name} is no table.", f"Write [{name}] on a line of its own, and its keys below.")
    return value


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
    root = _root(path)
    quantization = table.get("quantization")
    return ModelEntry(
        name=name,
        path=_local_or_hub(root, str(table["path"])),
        description=str(table.get("description", "")),
        adapters=tuple(_local_or_hub(root, str(item)) for item in _texts(path, f"models.{name}.", "adapters", table)),
        quantization=None if quantization is None else check.one_of("quantization", quantization, QUANTIZATIONS),
        recommended=_settings(path, f"models.{name}.recommended", table.get("recommended", {})),
    )


def _texts(path: Path, prefix: str, key: str, table: Mapping[str, Any]) -> Sequence[str]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"{path}: {prefix}{key} is not a list of texts.", 'Write it as ["folder", "folder"].')
    return value


def _root(path: Path) -> Path:
    """What relative paths in the configuration file ``path`` are relative to."""
    return path.resolve().parent.parent


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
        template = check.one_of("template", table.get("template", "chat"), get_args(Template))
        cases[key] = UseCase(key, str(table.get("label", key)), template, tuple(table.get("examples", ())))
    return cases


def _with_its_blobs(folder: Path) -> Iterator[Path]:
    """``folder``, and for a snapshot of the Hugging Face cache the folder that its files are links into."""
    folder = Path(os.path.realpath(folder.expanduser()))
    yield folder
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        yield folder.parent.parent / "blobs"
