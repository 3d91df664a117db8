"""As what a base is loaded where one memory is too small for it, or bitsandbytes cannot: figures by hand, no weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from playground.errors import ModelUnsupported
from playground.local_inference.devices import other_memories
from playground.local_inference.memory import Need
from playground.local_inference.planning import Plan, plan_load
from playground.local_inference.survey import Survey
from playground.types import ModelSpec

GB = 1_000_000_000
CPU = ("cpu", 64 * GB)


def _survey(parameters: int, **options: Any) -> Survey:
    """A base of that size, nine tenths of it in linears."""
    return Survey(
        path=Path("model"),
        config=AutoConfig.for_model("llama"),
        parameters=parameters,
        linear=9 * parameters // 10,
        stored=2 * parameters,
        window=4096,
        vocabulary=32000,
        row=2 * 32 * 8 * 128,
        **options,
    )


def _plan(available: int, elsewhere: Sequence[tuple[str, int]], parameters: int = 7 * GB, **asked: Any) -> Any:
    return plan_load(ModelSpec("x", **asked), _survey(parameters), "cuda:0", "a GPU is present", available, elsewhere)


def _places(plan: Plan) -> list[str]:
    return [where for where, _ in plan.limits]


def test_other_memories_are_asked_for_only_where_a_gpu_may_be_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """G8: every GPU where none was named, and the CPU last."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert other_memories("auto", "cuda:0") == ["cuda:1", "cuda:2", "cpu"]
    assert other_memories("cuda:1", "cuda:1") == ["cpu"]
    assert other_memories("auto", "cpu") == other_memories("auto", "mps") == []


def test_what_one_gpu_holds_stays_on_it() -> None:
    """G8: however many others there are."""
    plan, need = _plan(24 * GB, [("cuda:1", 24 * GB), CPU])
    assert (plan.quantization, plan.limits, need.elsewhere) == ("none", (), ())


def test_several_gpus_hold_unquantized_what_one_cannot() -> None:
    """G8: before anything is quantized; each keeps room for keys and values, and takes no more than it has."""
    plan, need = _plan(12 * GB, [("cuda:1", 12 * GB), CPU])
    assert (plan.dtype, plan.quantization, _places(plan)) == ("bfloat16", "none", ["cuda:0", "cuda:1"])
    assert need.total <= 12 * GB
    ((other, bytes_there),) = need.elsewhere
    assert (other, bytes_there <= 12 * GB) == ("cuda:1", True)
    assert need.weights + bytes_there / 1.15 >= 14 * GB
    assert plan.reason == (
        "a GPU is present; bfloat16 on a GPU; unquantized; bfloat16, unquantized would need 16.4 GB, and 12.0 GB can be had "
        "on cuda:0; so it is spread over cuda:0 and cuda:1"
    )


def test_a_gpu_that_holds_it_quantized_does_before_a_part_waits_on_the_cpu() -> None:
    """G8: every pass would fetch that part."""
    plan, _ = _plan(8 * GB, [CPU])
    assert (plan.quantization, plan.limits) == ("nf4", ())


@pytest.mark.parametrize(
    ("parameters", "asked"), [(25 * GB, {}), (7 * GB, {"quantization": "none"})], ids=["auto", "unquantized as asked"]
)
def test_what_is_too_large_for_the_gpu_waits_on_the_cpu_and_says_so(parameters: int, asked: dict[str, Any]) -> None:
    """G8: unquantized, because bitsandbytes does not quantize what waits there."""
    plan, need = _plan(10 * GB, [CPU], parameters, **asked)
    assert (plan.device, plan.quantization, _places(plan)) == ("cuda:0", "none", ["cuda:0", "cpu"])
    assert need.total <= 10 * GB
    assert [where for where, _ in need.elsewhere] == ["cpu"]
    assert "and 10.0 GB can be had on cuda:0; so a part of it waits in the CPU's memory and is fetched" in plan.reason


def test_what_fits_nowhere_is_refused_with_what_would() -> None:
    """G8: quantized is never spread over the CPU, and the remedy says what is."""
    plan, need = _plan(10 * GB, [CPU], 25 * GB, quantization="nf4")
    assert (plan.quantization, plan.limits) == ("nf4", ())
    assert need.total > 10 * GB
    assert need.remedy == "As bfloat16, unquantized, spread over cuda:0 and cpu it would fit; auto chooses that."
    _, need = _plan(10 * GB, [("cpu", 10 * GB)], 25 * GB)
    assert need.total > 10 * GB
    assert "choose a smaller one" in need.remedy


@pytest.mark.parametrize("quantization", ["int8", "nf4", "int4", "fp4"])
def test_apples_gpu_computes_nothing_quantized(quantization: Any) -> None:
    """G8: refused with a sentence; auto never picks it there, but float16 or nothing."""
    with pytest.raises(ModelUnsupported, match=rf"{quantization} cannot be computed on Apple's GPU.*device cpu"):
        plan_load(ModelSpec("x", quantization=quantization), _survey(GB), "mps", "as asked", 64 * GB)
    stored = _survey(GB)
    stored.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    with pytest.raises(ModelUnsupported, match="Apple's GPU"):
        plan_load(ModelSpec("x"), stored, "mps", "as asked", 64 * GB)
    plan, need = plan_load(ModelSpec("x"), _survey(7 * GB), "mps", "as asked", 8 * GB)
    assert (plan.dtype, plan.quantization) == ("float16", "none")
    assert need.total > 8 * GB


def test_linears_that_four_bits_do_not_fit_stay_as_they_are_on_a_cpu() -> None:
    """G8: counted in the estimate and said; a GPU computes them."""
    survey = _survey(GB, odd=GB // 10, kept=("model.layers.0.mlp.up_proj", "lm_head"))
    spec = ModelSpec("x", quantization="nf4", dtype="bfloat16")
    plan, need = plan_load(spec, survey, "cpu", "as asked", 64 * GB)
    assert plan.kept == survey.kept
    assert "10% of it unquantized, in linears of sizes that 4 bits do not fit" in plan.reason
    assert need.weights == pytest.approx(2 * 0.2 * GB + 0.5625 * 0.8 * GB)
    plan, _ = plan_load(spec, survey, "cuda:0", "as asked", 64 * GB)
    assert (plan.kept, "unquantized" in plan.reason) == ((), False)
    plan, _ = plan_load(ModelSpec("x", quantization="int8"), survey, "cpu", "as asked", 64 * GB)
    assert plan.kept == ()


def test_int8_says_that_it_answers_one_by_one() -> None:
    """G8."""
    plan, _ = plan_load(ModelSpec("x", quantization="int8"), _survey(GB), "cuda:0", "as asked", 64 * GB)
    assert (
        "int8 as asked; answers are computed one by one, because int8 rounds each by what is beside it" in plan.reason
    )


def test_a_need_counts_its_own_memory_only() -> None:
    """G8: what lies elsewhere is reserved there."""
    assert Need("x", GB, elsewhere=(("cpu", 9 * GB),)).total == int(1.15 * GB)


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), "float16"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")])
def test_a_gpu_without_bfloat16_computes_in_float16(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: str
) -> None:
    """G8: those before Ampere have no units for it, and that is said."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    plan, _ = _plan(24 * GB, [CPU])
    assert plan.dtype == dtype
    assert ("which does not compute bfloat16 itself" in plan.reason) == (dtype == "float16")
    assert _plan(24 * GB, [CPU], dtype="bfloat16")[0].dtype == "bfloat16"


def test_gpus_are_filled_in_the_order_of_their_numbers() -> None:
    """G8: as accelerate fills them, also where the model begins to be planned on the emptiest."""
    plan, need = plan_load(
        ModelSpec("x"), _survey(7 * GB), "cuda:1", "as asked", 12 * GB, [("cuda:0", 6 * GB), ("cuda:2", 12 * GB), CPU]
    )
    assert _places(plan) == ["cuda:0", "cuda:1", "cuda:2"]
    assert (plan.device, [where for where, _ in need.elsewhere]) == ("cuda:1", ["cuda:0", "cuda:2"])
