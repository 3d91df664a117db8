"""What several groups of tests share: the app as a process of its own, the engine, and a browser."""

from __future__ import annotations

import atexit
import gc
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from playground.config import prepare_process
from playground.local_inference import LocalInference

prepare_process()
# Whatever a test starts without naming a data folder gets this one, never the person's own.
os.environ["PLAYGROUND_DATA_DIR"] = tempfile.mkdtemp(prefix="playground-tests-")
atexit.register(shutil.rmtree, os.environ["PLAYGROUND_DATA_DIR"], ignore_errors=True)
ROOT = Path(__file__).resolve().parent.parent
START_LIMIT_S = 90
STOP_LIMIT_S = 20
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER_TESTS = "tests/browser/"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Modules and tests stay to the end: the garbage collector need not look through them again and again.

    They are half a million objects and more, and each full collection, as the engine does one when it lets go of a model,
    would take a third of a second. What the tests themselves make is collected as ever.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist, which a run in one process does without
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Which tests go together to a worker: a file's, which share an engine, and all that drive a browser.

    A page that is written to takes a core of its own: with two browsers on two cores, people would wait for seconds. They
    are what takes longest, so whoever else asks a `live_app` has one of the other workers'.
    """
    from xdist.scheduler import LoadFileScheduling

    class OneBrowser(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return BROWSER_TESTS if nodeid.startswith(BROWSER_TESTS) else str(super()._split_scope(nodeid))

    config.option.loadscopereorder = False  # in order of names these, which take longest, are among the first
    return OneBrowser(config, log)


@dataclass
class LiveApp:
    """A running app: its address, its process and what it has printed so far."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def printed(self) -> str:
        """Everything on stdout and stderr."""
        return self.log.read_text(encoding="utf-8")


@contextmanager
def started_app(directory: Path, *options: str) -> Iterator[LiveApp]:
    """`app.py` in a process of its own on a free port, offline, answering /health; stopped at the end."""
    log = directory / "app.log"
    command = [sys.executable, "app.py", "--port", "0", "--data-dir", str(directory / "data"), *options]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, env=environment)
    try:
        yield LiveApp(_answering(process, log), process, log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answering(process: subprocess.Popen[bytes], log: Path) -> str:
    """The address that the process has printed, once it answers there."""
    limit = time.monotonic() + START_LIMIT_S
    while time.monotonic() < limit and process.poll() is None:
        found = re.search(r"running on (http://[^\s/]+)", log.read_text(encoding="utf-8"))
        if found and httpx.get(f"{found[1]}/health", timeout=10).is_success:
            return found[1]
        time.sleep(0.1)
    raise RuntimeError(f"The app did not start:\n{log.read_text(encoding='utf-8')}")


@pytest.fixture(scope="session")
def live_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApp]:
    """The real app with the bundled starter model, shared by all tests that only look at it from outside."""
    with started_app(tmp_path_factory.mktemp("live_app")) as app:
        yield app


@pytest.fixture(scope="session")
def engine() -> Iterator[LocalInference]:
    """The real engine in this process, shared; tests that unload or close take one of their own."""
    real = LocalInference()
    yield real
    real.close()


@pytest.fixture(scope="session")
def browser_path() -> str:
    """The system's Chromium or Chrome. Without one the tests that need it are left out, but never in CI."""
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    if os.environ.get("CI"):
        pytest.fail("No Chromium or Chrome was found; `make browser` installs one.")
    pytest.skip("No Chromium or Chrome was found; `make browser` says how to get one.")
