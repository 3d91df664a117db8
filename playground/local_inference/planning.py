"""As what a base is loaded, and why: device, dtype and quantization, from what it takes and what can be had. No weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from playground.errors import ModelUnsupported
from playground.local_inference.cpu_dtype import SMALL, DtypePace
from playground.local_inference.devices import gpu_dtype, index
from playground.local_inference.memory import HEADROOM, Need, size_text
from playground.local_inference.survey import Survey
from playground.types import ModelSpec

# Bytes that bitsandbytes takes for one weight of a linear: 4 bits and a float32 scale for every 64 of them, or 8 bits.
_BYTES = {"int8": 1.0, "nf4": 0.5625, "fp4": 0.5625}
_FOUR_BITS = ("nf4", "fp4")
_WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
# Kinds of stored checkpoints that transformers unpacks where there is no CUDA.
_NEEDS_CUDA = {"mxfp4", "fp8"}
# Up to so many parameters a base may be float32 on a CPU.
_MEDIUM = 1_000_000_000
# Room beside the weights: a conversation of so many tokens, and the logits of so many rows, twice.
_MODERATE = 2048
_ROWS = 32
# What a base that is spread over several memories is given, as a share of its weights.
_UNCUT = 1.1
FEWER = "Unload another model, choose a smaller one, or let models take more (memory_budget)."


@dataclass(frozen=True)
class Plan:
    """How a base will be loaded, and why; ``stored`` says that the quantization is the checkpoint's own.

    ``device`` is where it computes, or begins to. ``limits`` are (device, bytes) where it is spread over several memories,
    what is on the CPU being fetched for each pass. ``kept`` are modules that are left unquantized.
    """

    device: str
    dtype: str
    quantization: str
    reason: str
    stored: bool = False
    limits: tuple[tuple[str, int], ...] = ()
    kept: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Way:
    """One way to load a base, and what it takes; ``limits`` as in `Plan`."""

    dtype: str
    quantization: str
    need: Need
    limits: tuple[tuple[str, int], ...] = ()


def plan_load(
    spec: ModelSpec,
    survey: Survey,
    device: str,
    why_device: str,
    available: int,
    elsewhere: Sequence[tuple[str, int]] = (),
    pace: DtypePace | None = None,
) -> tuple[Plan, Need]:
    """How to load ``survey``'s base on ``device`` where ``available`` bytes can be had: the best that fits, and its need.

    ``elsewhere`` are (device, bytes) that can be had besides: what fits nowhere as a whole is spread over several GPUs, and
    unquantized over a GPU and the CPU. ``pace`` is how fast it is in either dtype on a CPU, where that was timed. The plan
    gives the reason for each choice. Where nothing fits it is the smallest, and the need is more than there is. Raises
    `ModelUnsupported` where a quantization is asked for that cannot be.
    """
    if stored := stored_quantization(survey.config):
        return _plan_stored(spec, survey, device, why_device, stored)
    if device == "mps" and spec.quantization not in ("auto", "none"):
        raise _not_on_mps(spec.quantization)
    ways = _ways(spec, survey, device, available, elsewhere, pace)
    whole = [way for way in ways if not way.limits]
    way = next((way for way in ways if way.need.total <= available), min(whole, key=lambda way: way.need.total))
    need = replace(way.need, name=repr(spec.base))
    if need.total > available:
        need = replace(need, remedy=_remedy(spec, survey, device, available, elsewhere))
    kept = survey.kept if device == "cpu" and way.quantization in _FOUR_BITS else ()
    return Plan(
        device, way.dtype, way.quantization, _why(spec, survey, device, why_device, ways[0], way, available, pace),
        limits=way.limits, kept=kept,
    ), need  # fmt: skip


def _why(
    spec: ModelSpec,
    survey: Survey,
    device: str,
    why_device: str,
    best: _Way,
    chosen: _Way,
    available: int,
    pace: DtypePace | None,
) -> str:
    """The reasons for device, dtype and quantization, and the figures that decided."""
    dtype, quantization = chosen.dtype, chosen.quantization
    if spec.dtype != "auto":
        why_dtype = f"{dtype} as asked"
    elif quantization != "none":
        why_dtype = f"computed in {dtype}"
    else:
        why_dtype = _why_dtype(dtype, device, survey.parameters, pace)
    why = [why_device, why_dtype, _why_quantization(spec, quantization)]
    if quantization == "int8":
        why.append("answers are computed one by one, because int8 rounds each by what is beside it")
    if device == "cpu" and quantization in _FOUR_BITS and survey.odd:
        why.append(
            f"{survey.odd / survey.parameters:.0%} of it unquantized, in linears of sizes that 4 bits do not fit"
        )
    if chosen is best:
        why.append(f"it needs about {size_text(best.need.total)} of the {size_text(available)} that can be had")
    else:
        on = f" on {device}" if chosen.limits else ""
        why.append(
            f"{best.need.what} would need {size_text(best.need.total)}, and {size_text(available)} can be had{on}"
        )
    if chosen.limits:
        why.append(_why_spread([where for where, _ in chosen.limits]))
    return "; ".join(why)


def _why_spread(places: Sequence[str]) -> str:
    if "cpu" in places:
        return "so a part of it waits in the CPU's memory and is fetched for each pass, which is slow"
    return f"so it is spread over {' and '.join(places)}"


def _ways(
    spec: ModelSpec,
    survey: Survey,
    device: str,
    available: int,
    elsewhere: Sequence[tuple[str, int]],
    pace: DtypePace | None = None,
) -> list[_Way]:
    """Ways to load it in the order in which they are wanted; those that spread it are there only where they fit.

    Unquantized on one GPU, on several; quantized on one, on several; at last with a part of it on the CPU. bitsandbytes
    does not quantize what waits on a CPU, so that is never combined.
    """
    choices = _choices(spec, survey.parameters, device, pace)
    # In the order of their numbers, as accelerate fills them.
    gpus = sorted([(device, available), *(one for one in elsewhere if one[0] != "cpu")], key=lambda one: index(one[0]))
    waiting = [one for one in elsewhere if one[0] == "cpu"]
    ways = []
    for group in ([one for one in choices if one[1] == "none"], [one for one in choices if one[1] != "none"]):
        ways += [_Way(dtype, kind, _need(survey, device, dtype, kind)) for dtype, kind in group]
        if len(gpus) > 1:
            ways += _spread_ways(survey, device, group, gpus)
    unquantized = [one for one in choices if one[1] == "none"]
    if waiting:
        ways += _spread_ways(survey, device, unquantized, [*gpus, *waiting])
    return ways


def _spread_ways(
    survey: Survey, device: str, choices: Sequence[tuple[str, str]], places: Sequence[tuple[str, int]]
) -> list[_Way]:
    spread = [_spread(_need(survey, device, *choice), device, places) for choice in choices]
    return [_Way(*choice, *one) for choice, one in zip(choices, spread, strict=True) if one is not None]


def _spread(
    need: Need, device: str, places: Sequence[tuple[str, int]]
) -> tuple[Need, tuple[tuple[str, int], ...]] | None:
    """``need`` shared out over ``places`` (device, bytes that can be had), filled in turn; None where it does not fit.

    Every GPU keeps room for keys, values and logits. What is given out is a little more than the weights, because layers are
    not cut in two.
    """
    beside = need.row + need.logits
    room = [(where, int(count / HEADROOM) - (beside if where != "cpu" else 0)) for where, count in places]
    left, limits = int(_UNCUT * need.weights), []
    for where, count in room:
        share = max(0, min(count, left))
        left -= share
        limits.append((where, share))
    if left > 0 or dict(limits)[device] == 0:
        return None
    taken = [(where, share) for where, share in limits if share]
    others = tuple(
        (where, int((share + (beside if where != "cpu" else 0)) * HEADROOM))
        for where, share in taken
        if where != device
    )
    what = f"{need.what}, spread over {' and '.join(where for where, _ in taken)}"
    need = replace(need, what=what, weights=dict(taken)[device], reading=0, elsewhere=others)
    last = taken[-1][0]  # takes what the others leave, which nobody knows to the byte
    return need, (*taken[:-1], (last, dict(room)[last]))


def _not_on_mps(quantization: str) -> ModelUnsupported:
    return ModelUnsupported(
        f"{quantization} cannot be computed on Apple's GPU: bitsandbytes would download the code for it from the hub.",
        "Choose none, or the device cpu.",
    )


def _plan_stored(spec: ModelSpec, survey: Survey, device: str, why_device: str, stored: str) -> tuple[Plan, Need]:
    asked = "nf4" if spec.quantization == "int4" else spec.quantization
    if asked not in ("auto", "none", stored):
        raise ModelUnsupported(
            f"{survey.path.name!r} is stored quantized as {stored} and cannot become {asked}.",
            "Choose auto to load it as it is stored.",
        )
    if device == "mps" and stored in _BYTES:
        raise _not_on_mps(stored)
    spread = stored in _NEEDS_CUDA and not device.startswith("cuda")
    weights = max(survey.stored, survey.parameters * width("bfloat16")) if spread else survey.stored
    need = Need(f"stored, {stored}", weights, name=repr(spec.base), remedy=FEWER)
    why = f"{why_device}; {stored}, as the checkpoint is stored{', but without a GPU it is unpacked' if spread else ''}"
    return Plan(device, "stored", stored, why, stored=True), _beside(need, survey, "bfloat16")


def stored_quantization(config: Any) -> str:
    """How the checkpoint is quantized already, by our names where it is bitsandbytes; "" where it is not."""
    stored = getattr(config, "quantization_config", None)
    if not stored:
        return ""
    said = stored if isinstance(stored, dict) else stored.to_dict()
    if said.get("load_in_8bit"):
        return "int8"
    if said.get("load_in_4bit"):
        return str(said.get("bnb_4bit_quant_type", "fp4"))
    return str(said.get("quant_method", "unknown"))


def is_timed(spec: ModelSpec, survey: Survey, device: str) -> bool:
    """Whether it is worth knowing in which dtype ``survey``'s base is faster: where ``spec`` leaves it open."""
    left_open = spec.dtype == "auto" and spec.quantization in ("auto", "none")
    stored = bool(stored_quantization(survey.config))
    return device == "cpu" and left_open and not stored and survey.parameters <= _MEDIUM


def _choices(spec: ModelSpec, parameters: int, device: str, pace: DtypePace | None = None) -> list[tuple[str, str]]:
    """(dtype, quantization) in the order in which they are wanted."""
    if spec.dtype != "auto":
        dtypes = [str(spec.dtype)]
    elif device == "cpu":
        exact = parameters <= _MEDIUM and (pace is None or pace.wanted == "float32")
        dtypes = ["float32", "bfloat16"] if exact else ["bfloat16"]
    else:
        dtypes = [gpu_dtype(device)]
    if spec.quantization != "auto":
        return [(dtype, "nf4" if spec.quantization == "int4" else str(spec.quantization)) for dtype in dtypes]
    smaller = ("int8", "nf4") if device.startswith("cuda") else () if device == "mps" else ("nf4",)
    return [(dtype, "none") for dtype in dtypes] + [(dtypes[-1], kind) for kind in smaller]


def _remedy(spec: ModelSpec, survey: Survey, device: str, available: int, elsewhere: Sequence[tuple[str, int]]) -> str:
    """What to do where ``spec`` does not fit."""
    freely = replace(spec, dtype="auto", quantization="auto")
    for way in _ways(freely, survey, device, available, elsewhere):
        if way.need.total <= available:
            takes = "" if way.limits else f" it needs {size_text(way.need.total)} and"
            return f"As {way.need.what}{takes} {'it ' if way.limits else ''}would fit; auto chooses that."
    return FEWER


def _why_dtype(dtype: str, device: str, parameters: int, pace: DtypePace | None) -> str:
    if device == "mps":
        return f"{dtype} on Apple’s GPU"
    if device != "cpu":
        return f"{dtype} on a GPU{', which does not compute bfloat16 itself' if dtype == 'float16' else ''}"
    if dtype == "float32":
        return f"float32 is exact{_beside_pace(parameters, pace)}"
    if parameters > _MEDIUM:
        return "bfloat16 halves the memory of a large model on a CPU"
    return f"bfloat16 is faster here: {pace}" if pace and pace.wanted == dtype else "bfloat16 to save memory"


def _beside_pace(parameters: int, pace: DtypePace | None) -> str:
    """What speaks for float32 besides that it is exact."""
    if pace is not None:
        return f", and bfloat16 not clearly faster here: {pace}"
    return " and fast enough for so small a model on any CPU" if parameters < SMALL else " on a CPU"


def _why_quantization(spec: ModelSpec, quantization: str) -> str:
    if spec.quantization == "int4":
        return "nf4 as asked (int4 means nf4)"
    if spec.quantization != "auto":
        return f"{quantization} as asked" if quantization != "none" else "unquantized as asked"
    return "unquantized" if quantization == "none" else f"{quantization} to save memory"


def _need(survey: Survey, device: str, dtype: str, quantization: str) -> Need:
    """What the base takes so. On a CPU bitsandbytes reads all of it unquantized before memory comes back."""
    whole = survey.parameters * width(dtype)
    if quantization == "none":
        return _beside(Need(f"{dtype}, unquantized", whole, remedy=FEWER), survey, dtype)
    linear = survey.linear - (survey.odd if device == "cpu" and quantization in _FOUR_BITS else 0)
    weights = whole - linear * width(dtype) + int(linear * _BYTES[quantization])
    reading = whole if device == "cpu" else 0
    return _beside(Need(f"{dtype}, {quantization}", weights, reading=reading, remedy=FEWER), survey, dtype)


def _beside(need: Need, survey: Survey, dtype: str) -> Need:
    """``need`` with a conversation's keys and values, and logits."""
    row = survey.row * width(dtype) * min(survey.window, _MODERATE)
    return replace(need, row=row, logits=2 * _ROWS * survey.vocabulary * width("float32"))


def width(dtype: str) -> int:
    """Bytes of one number."""
    return _WIDTHS[dtype]
