"""Running other people's clients as the programs that they are, in the environment that they were installed in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from playground.config import ROOT

CLIENTS = ROOT / ".venv-clients" / "bin"
SCRIPTS = Path(__file__).parent / "scripts"
LIMIT_S = 300
# Nothing that a client does by itself may leave this machine, nor find what the person at it has configured.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LANGSMITH_TRACING": "false",
    "DO_NOT_TRACK": "1",
    "NO_PROXY": "*",
    "OPENAI_API_KEY": "none",
}


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """Run a program with arguments; what it has printed. It fails with what the program said of the reason."""

    def printed(program: str | Path, *arguments: object, **environment: str) -> str:
        if not Path(program).exists():
            pytest.fail("The clients are not installed: run `make .venv-clients/.installed`, or `make test`.")
        known = {name: os.environ[name] for name in ("PATH", "LANG", "SSL_CERT_FILE") if name in os.environ}
        done = subprocess.run(
            [program, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            cwd=tmp_path,
            env={**known, **OFFLINE, "HOME": str(tmp_path), **environment},
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    return printed


@pytest.fixture
def script(run: Callable[..., str]) -> Callable[..., Any]:
    """Run a script of ours over somebody's package; what it has found, which is the last line that it prints."""

    def found(name: str, *arguments: object, python: str | Path = CLIENTS / "python") -> Any:
        return json.loads(run(python, SCRIPTS / f"{name}.py", *arguments).splitlines()[-1])

    return found


@pytest.fixture
def our_python() -> str:
    """The app's own environment, which brings clients as well."""
    return sys.executable
