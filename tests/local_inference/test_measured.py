"""What is timed of this machine: float32 or bfloat16, with oneDNN or without; here with figures that are made up."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig

from playground.local_inference import LocalInference, cpu_dtype, kernels, measured, planning
from playground.local_inference.cpu_dtype import DtypePace, pace_on_cpu
from playground.local_inference.kernels import calibrate
from playground.local_inference.measured import Measured
from playground.local_inference.planning import plan_load
from playground.local_inference.survey import Survey
from playground.types import ModelSpec

from .conftest import STARTER

GB = 1_000_000_000
FAST, SLOW = DtypePace(0.010, 0.004, 2, 24), DtypePace(0.010, 0.009, 24, 24)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> Measured:
    """Nothing was timed in this process yet, and what is timed in a test is forgotten after it."""
    fresh = Measured()
    for module in (cpu_dtype, kernels, measured):
        monkeypatch.setattr(module, "measured", fresh)
    return fresh


def _survey(parameters: int = GB // 2, **options: Any) -> Survey:
    """A base of that many parameters, by what its configuration says of a small one."""
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 24,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    }
    config = AutoConfig.for_model(options.pop("kind", "qwen2"), **{**sizes, "vocab_size": 50_000, **options})
    return Survey(Path("model"), config, parameters, 9 * parameters // 10, 2 * parameters, 4096, 50_000, 2 * 24 * 64)


# Remembering.


def test_what_was_measured_once_is_not_measured_again(tmp_path: Path) -> None:
    """G8: in the process, and by the next one where there is a file; other machines and keys are others."""
    file, counted = tmp_path / "cache" / "measured.json", iter(range(10))
    here, later = Measured(), Measured()
    here.keep_in(file)
    assert [here.recall("a", lambda: next(counted)) for _ in range(3)] == [0, 0, 0]
    assert here.recall("b", lambda: next(counted)) == 1
    later.keep_in(file)
    assert (later.recall("a", lambda: next(counted)), later.recall("b", lambda: next(counted))) == (0, 1)
    file.write_text(file.read_text().replace("torch", "another torch"))
    another = Measured()
    another.keep_in(file)
    assert another.recall("a", lambda: next(counted)) == 2


def test_what_could_not_be_measured_is_tried_again() -> None:
    """G8: None is no figure."""
    found = iter([None, 5])
    one = Measured()
    assert [one.recall("a", lambda: next(found)) for _ in range(3)] == [None, 5, 5]


@pytest.mark.parametrize("content", ["no json", "[1, 2]", None], ids=["damaged", "of another kind", "a folder"])
def test_a_file_that_cannot_be_read_is_begun_anew(tmp_path: Path, content: str | None) -> None:
    """G8: it is only what a second of measuring would say."""
    file = tmp_path / "measured.json"
    file.write_text(content) if content else file.mkdir()
    one = Measured()
    one.keep_in(file)
    assert [one.recall("a", lambda: 1.5), one.recall("a", lambda: 2.5)] == [1.5, 1.5]


def test_what_is_no_figure_is_measured_anew(tmp_path: Path) -> None:
    """G8: a file that somebody wrote in, or a disk that lied: no load fails of it, and the file is right again."""
    file, one = tmp_path / "measured.json", Measured()
    one.keep_in(file)
    wrong = ["'text'", [1], None, float("nan"), {"a": 1}]
    for at in range(len(wrong)):
        one.recall(str(at), lambda: 7)
    known = dict(zip(sorted(json.loads(file.read_text())), wrong, strict=True))
    file.write_text(json.dumps(known))
    again = Measured()
    again.keep_in(file)
    assert [again.recall(str(at), lambda: 8) for at in range(len(wrong))] == [8] * len(wrong)
    assert set(json.loads(file.read_text()).values()) == {8}


@pytest.mark.parametrize("wrong", [5, [], [0.1, 0.1, 2], [0.1, 0.1, 2, "24"], [0.0, 0.1, 2, 24]])
def test_a_pace_that_is_none_is_timed_anew(
    monkeypatch: pytest.MonkeyPatch, nothing_known: Measured, wrong: Any
) -> None:
    """G8: a load does not fail of what stands in a file."""
    monkeypatch.setattr(cpu_dtype, "_measure", lambda *args: [0.004, 0.003, 1, 24])
    right = pace_on_cpu(_survey(), lambda job: job())
    (key,) = nothing_known._known
    nothing_known._known[key] = wrong
    assert pace_on_cpu(_survey(), lambda job: job()) == right == DtypePace(0.004, 0.003, 1, 24)


def test_two_processes_keep_what_both_found(tmp_path: Path) -> None:
    """G8: each began with an empty file; neither takes the other's figures out of it."""
    file, one, other = tmp_path / "measured.json", Measured(), Measured()
    for process in (one, other):
        process.keep_in(file)
    one.recall("a", lambda: 1)
    other.recall("b", lambda: 2)
    one.recall("c", lambda: 3)
    later = Measured()
    later.keep_in(file)
    assert [later.recall(key, lambda: 9) for key in "abc"] == [1, 2, 3]


def test_a_file_that_cannot_be_written_costs_no_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """G8: it is said in the log, the figures are known until the end, and nothing half written is left."""
    file = tmp_path / "measured.json"
    file.mkdir()
    one = Measured()
    one.keep_in(file)
    assert [one.recall("a", lambda: 1.5), one.recall("a", lambda: 2.5)] == [1.5, 1.5]
    assert "cannot be kept" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["measured.json"]


# float32 or bfloat16.


@pytest.mark.parametrize(
    ("pace", "available", "asked", "dtype", "says"),
    [
        (
            FAST,
            64 * GB,
            {},
            "bfloat16",
            "bfloat16 is faster here: timed on this CPU, 2 of its 24 layers took 10.0 ms in",
        ),
        (
            SLOW,
            64 * GB,
            {},
            "float32",
            "float32 is exact, and bfloat16 not clearly faster here: timed on this CPU, a token",
        ),
        (SLOW, 2 * GB, {}, "bfloat16", "bfloat16 to save memory"),
        (None, 64 * GB, {}, "float32", "float32 is exact on a CPU"),
        (FAST, 64 * GB, {"dtype": "float32"}, "float32", "float32 as asked"),
    ],
)
def test_auto_takes_the_dtype_that_was_faster_on_this_cpu(
    pace: DtypePace | None, available: int, asked: dict[str, Any], dtype: str, says: str
) -> None:
    """G8: where it is clearly faster, for else float32 is exact; and the reason has the figures."""
    plan, _ = plan_load(ModelSpec("x", **asked), _survey(), "cpu", "as asked", available, (), pace)
    assert (plan.dtype, plan.quantization) == (dtype, "none")
    assert says in plan.reason


def test_only_what_is_left_open_is_timed() -> None:
    """G8: not on a GPU, not what was asked for, not beyond a billion parameters, nothing quantized."""
    assert planning.is_timed(ModelSpec("x"), _survey(), "cpu")
    assert not planning.is_timed(ModelSpec("x"), _survey(), "cuda:0")
    assert not planning.is_timed(ModelSpec("x"), _survey(2 * GB), "cpu")
    assert not planning.is_timed(ModelSpec("x", dtype="bfloat16"), _survey(), "cpu")
    assert not planning.is_timed(ModelSpec("x", quantization="nf4"), _survey(), "cpu")


@pytest.mark.parametrize("kind", ["qwen2", "gemma2", "gpt2", "mixtral"])
def test_a_few_layers_are_timed_in_both_dtypes_once_for_a_shape(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """G8: as a job of whoever computes; few words, both with oneDNN and without; by whatever is fastest."""
    taken: list[tuple[torch.dtype, bool]] = []

    def seconds(step: Any) -> float:
        step()
        taken.append((step.func.dtype, torch._C._get_mkldnn_enabled()))
        return {torch.float32: 0.004, torch.bfloat16: 0.003}[taken[-1][0]] * (1 if taken[-1][1] else 0.5)

    jobs: list[Any] = []

    def compute(job: Callable[[], Any]) -> Any:
        jobs.append(job)
        return job()

    monkeypatch.setattr(cpu_dtype, "seconds", seconds)
    pace = pace_on_cpu(_survey(kind=kind), compute)
    assert pace == DtypePace(0.004, 0.0015, 1, 24)
    assert pace.wanted == "bfloat16"
    assert set(taken) == {(torch.float32, True), (torch.bfloat16, True), (torch.bfloat16, False)}
    assert jobs[0].args[0][0].config.vocab_size < 50_000
    assert pace_on_cpu(_survey(kind=kind), compute) == pace
    assert len(jobs) == 1
    pace_on_cpu(_survey(kind=kind, num_hidden_layers=12), compute)
    assert len(jobs) == 2


def test_what_is_small_or_cannot_be_cut_down_is_not_timed() -> None:
    """G8: float32 then, and the reason claims nothing that was not measured."""

    def compute(job: Callable[[], Any]) -> Any:
        raise AssertionError("nothing is to be timed")

    assert pace_on_cpu(_survey(31_000_000), compute) is None
    assert pace_on_cpu(_survey(kind="vit"), compute) is None


def test_a_load_times_on_the_compute_thread_and_keeps_the_figures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """G8: through the engine: loaded as what was faster, again without timing, and said."""
    threads: list[str] = []

    def seconds(step: Any) -> float:
        threads.append(threading.current_thread().name)
        step()
        return 0.002 if step.func.dtype == torch.bfloat16 else 0.005

    monkeypatch.setattr(cpu_dtype, "SMALL", 1000)
    monkeypatch.setattr(cpu_dtype, "seconds", seconds)
    from playground.local_inference import machinery

    monkeypatch.setattr(machinery, "timings", cpu_dtype.measured)
    for _ in range(2):
        engine = LocalInference(measured=tmp_path / "measured.json")
        try:
            info = engine.load(ModelSpec(str(STARTER)))
            counted = len(threads)
        finally:
            engine.close()
        assert info.dtype == "bfloat16"
        assert "bfloat16 is faster here: timed on this CPU, a token took 5.0 ms in float32 and 2.0 ms" in info.reason
    assert set(threads) == {"compute"}
    assert len(threads) == counted
    assert "float32 and bfloat16" in (tmp_path / "measured.json").read_text()


# oneDNN.


@pytest.fixture
def linears() -> Any:
    """A bf16 model of two linears, as far as `calibrate` looks at it."""
    model: Any = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)).to(torch.bfloat16)
    model.device, model.dtype = torch.device("cpu"), torch.bfloat16
    return model


@pytest.mark.parametrize(("plain", "rows"), [((0.5, 0.5), 2), ((0.5, 1.5), 1), ((1.5, 0.5), 0), ((1.0, 1.0), 0)])
def test_few_rows_run_without_onednn_where_that_was_faster(
    monkeypatch: pytest.MonkeyPatch, linears: Any, plain: tuple[float, float], rows: int
) -> None:
    """G13: by what was measured for one row and for two, once for a shape; the flag is as it was before."""
    calls: list[int] = []

    def seconds(step: Any) -> float:
        step()
        calls.append(len(step.args[0][0]))
        return 1.0 if torch._C._get_mkldnn_enabled() else plain[calls[-1] - 1]

    monkeypatch.setattr(kernels, "seconds", seconds)
    assert calibrate(linears) == rows
    counted = len(calls)
    assert (calibrate(linears), len(calls)) == (rows, counted)
    assert torch._C._get_mkldnn_enabled()


def test_only_bfloat16_on_a_cpu_is_tried_without_onednn(monkeypatch: pytest.MonkeyPatch, linears: Any) -> None:
    """G13: float32 and other devices keep what they have."""
    monkeypatch.setattr(kernels, "seconds", lambda step: 1.0 if torch._C._get_mkldnn_enabled() else 0.1)
    assert calibrate(linears) == 2
    for device, dtype in (("meta", torch.bfloat16), ("cpu", torch.float32), ("cpu", torch.float16)):
        linears.device, linears.dtype = torch.device(device), dtype
        assert calibrate(linears) == 0
