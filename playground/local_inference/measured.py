"""What was timed of this machine, remembered: for the process, and between starts where there is a file for it.

A timing that is taken again may fall out otherwise, and a model would then be loaded in another dtype than yesterday. So
each is taken once for a machine, a version of torch and a shape of model.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import math
import os
import platform
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_log = logging.getLogger(__name__)
_CPU_INFO = Path("/proc/cpuinfo")
# thread_time counts only what this thread computes, and so not what others do meanwhile; on Windows it is too coarse.
_OWN_TIME = time.get_clock_info("thread_time").resolution < 1e-4
_clock = time.thread_time if _OWN_TIME else time.perf_counter


def is_number(value: Any) -> bool:
    """Whether ``value`` is a finite number, or true or false."""
    return isinstance(value, (int, float)) and math.isfinite(value)


class Measured:
    """Figures by machine and key. Any thread may ask; two that ask for the same at once may both measure, and agree.

    So may processes that share a file: each adds what it found to what is there.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, Any] = {}
        self._file: Path | None = None

    def keep_in(self, file: Path | None) -> None:
        """Keep the figures in ``file`` from now on, those that it has included. A file that cannot be read is begun anew."""
        with self._lock:
            self._file = file
            self._known = {**_read(file), **self._known}

    def recall(self, key: str, measure: Callable[[], Any], is_figure: Callable[[Any], bool] = is_number) -> Any:
        """What ``measure`` said for ``key`` on this machine, now or earlier: a value that JSON can hold.

        None stands for what could not be measured and is not remembered. What the file has in its place and is no figure
        is measured anew.
        """
        key = f"{machine()}; {key}"
        with self._lock:
            if is_figure(self._known.get(key)):
                return self._known[key]
            self._known.pop(key, None)
        value = measure()
        if value is None:
            return None
        with self._lock:
            value = self._known.setdefault(key, value)  # the first one counts
            _add(self._file, {key: value})
        return value


# One for the process: what is timed is the machine, whichever engine asks; the first data directory that is named keeps it.
measured = Measured()


@functools.cache
def _processor() -> str:
    """The processor's name as the system tells it."""
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def machine() -> str:
    """What decides how fast torch computes here: processor, its instructions, threads, version of torch."""
    instructions = torch.backends.cpu.get_cpu_capability()
    return f"{_processor()}, {instructions}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def shape_key(*parts: object) -> str:
    """A short name for ``parts``, the same in every process."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def seconds(step: Callable[[], object]) -> float:
    """Seconds that one call of ``step`` takes: of this thread's time where the system counts that finely enough."""
    started = _clock()
    step()
    return _clock() - started


def _read(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        _log.warning("%s cannot be read (%s); what it held is measured again", file, error)
        return {}
    return found if isinstance(found, dict) else {}


def _add(file: Path | None, found: dict[str, Any]) -> None:
    """Put what was ``found`` into ``file``, which is replaced as a whole; another process may have added to it meanwhile.

    Where that fails, or two add something in the same moment, figures are measured again at the next start.
    """
    if file is None:
        return
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({**_read(file), **found}, indent=1, sort_keys=True), encoding="utf-8")
        partial.replace(file)
    except OSError as error:
        _log.warning("what was measured of this machine cannot be kept in %s: %s", file, error)
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
