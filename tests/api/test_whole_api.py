"""The whole OpenAPI description against the server: schemathesis makes requests of it, right ones and wrong ones.

Its checks: no 500; statuses, content types, headers and bodies as described; what breaks the description is refused; other
methods are refused, with those that are allowed; what was deleted is gone. One check does not hold here on purpose: that
whatever fits the description is accepted, for fields that exclude one another cannot be said in it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from playground.api import create_app
from playground.config import load_config
from playground.gate import Gate
from playground.local_inference import LocalInference
from playground.services.assembly import Services
from playground.types import ResidentInfo
from tests.api.conftest import listening
from tests.api.fake_engine import FakeEngine

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = "positive_data_acceptance,ignored_auth"
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


class Willing(FakeEngine):
    """A scripted engine in whose memory the starter always is."""

    def load(self, spec: object, report: object = None) -> ResidentInfo:
        return self.residents()[0]

    def unload(self, base: str, wait_s: float = 0.0) -> int:
        return 0

    def residents(self) -> tuple[ResidentInfo, ...]:
        starter = load_config().models["starter"].path
        return (ResidentInfo(starter, starter, "none", "float32", "cpu", 1, 1, 1024, 0.0),)


def serving(engine: object, data: Path) -> Iterator[str]:
    """The API over ``engine`` on a socket, with a worker for its jobs; its address."""
    config = load_config(overrides={"data_dir": str(data), "dtype": "float32", "device": "cpu"})
    services = Services.over(engine, config)  # type: ignore[arg-type]
    services.jobs.start()
    with listening(Gate(create_app(config, services), config=config)) as address:
        yield address
    services.jobs.close()


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from serving(Willing(), tmp_path_factory.mktemp("scripted"))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    engine = LocalInference()
    yield from serving(engine, tmp_path_factory.mktemp("real"))
    engine.close()


def test_every_operation_answers_as_it_is_described(scripted):
    """A1, A3, A4, S5: a handful of requests to each here, thousands in the long run."""
    load_all_checks()
    schema = schemathesis.openapi.from_url(f"{scripted}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) >= 20
    for operation in operations:
        few_requests(operation)()


def few_requests(operation: schemathesis.APIOperation) -> Callable[[], None]:
    """A test of one operation."""

    @given(operation.as_strategy())
    @settings(max_examples=2, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    def answers(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=CHECKS)

    return answers


def explored(address: str, folder: Path, examples: int, seed: int) -> subprocess.CompletedProcess[str]:
    """All that schemathesis has: examples, bounds, random requests, and chains of requests along the links."""
    command = [
        str(Path(sys.executable).parent / "schemathesis"), "run", f"{address}/openapi.json", "--checks", "all",
        "--exclude-checks", LEFT_OUT, "--max-examples", str(examples), "--seed", str(seed), "--generation-deterministic",
        "--request-timeout", "120", "--continue-on-failure", "--no-color", "--suppress-health-check", "all",
    ]  # fmt: skip
    hooks = {"SCHEMATHESIS_HOOKS": "tests.api.sensible_requests", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=os.environ | hooks, capture_output=True, text=True, check=False)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kind", "examples"), [("scripted", 60), ("real", 40)])
def test_thousands_of_requests_of_every_kind_are_answered_as_described(request, tmp_path, kind, examples):
    """S5, A1, A3, A4: well over 1,000 bodies, bounds and chains of requests included."""
    result = explored(request.getfixturevalue(kind), tmp_path, examples, seed=5)
    assert result.returncode == 0, result.stdout[-20_000:] + result.stderr[-2000:]
    assert " passed" in result.stdout
