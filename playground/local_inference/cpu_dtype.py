"""float32 or bfloat16 on this CPU: a few layers of the base, with made-up weights, are timed in both before it is read.

float32 is exact (the same text whatever is computed beside it), so bfloat16 has to be clearly faster to be chosen. A small
base answers faster than anybody reads in either, and is not timed at all.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers.initialization import no_init_weights
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from playground.local_inference.kernels import plain_kernels
from playground.local_inference.measured import is_number, measured, seconds, shape_key
from playground.local_inference.survey import Survey, making_models

# A base of fewer parameters is float32 without being timed: 100 MB of weights for a token, 10 ms on a slow machine.
SMALL = 32_000_000
# About so many parameters are timed: in either dtype more than a cache holds, as when decoding goes through all of a base.
_TIMED = 32_000_000
_WORDS = 8192
_TRIES = 3
# bfloat16 must take less than this share of float32's time.
_CLEARLY = 0.8


@dataclass(frozen=True)
class DtypePace:
    """Seconds that one decoded token took in ``layers`` of a base's ``of`` layers, in each dtype, on this CPU."""

    float32: float
    bfloat16: float
    layers: int
    of: int

    @property
    def wanted(self) -> str:
        """The dtype to load it in where both fit."""
        return "bfloat16" if self.bfloat16 < _CLEARLY * self.float32 else "float32"

    def __str__(self) -> str:
        part = f"{self.layers} of its {self.of} layers" if self.layers < self.of else "a token"
        return (
            f"timed on this CPU, {part} took {1000 * self.float32:.1f} ms in float32 and "
            f"{1000 * self.bfloat16:.1f} ms in bfloat16"
        )


def pace_on_cpu(survey: Survey, compute: Callable[[Callable[[], Any]], Any]) -> DtypePace | None:
    """How fast ``survey``'s base is in either dtype; None where it is too small to matter or no layers of it can be made.

    ``compute`` runs a job of about 0.2 s where nothing else computes meanwhile. It is remembered, see measured.py.
    """
    if survey.parameters < SMALL:
        return None
    shape = survey.config.to_dict()
    key = shape_key({name: value for name, value in shape.items() if not name.startswith("_")}, survey.parameters)
    found = measured.recall(f"float32 and bfloat16, {key}", lambda: _measure(survey, compute), _is_pace)
    return DtypePace(*found) if found else None


def _is_pace(value: Any) -> bool:
    """Whether ``value`` is what `_measure` returns."""
    return isinstance(value, list) and len(value) == 4 and all(is_number(one) and one > 0 for one in value)


def _measure(survey: Survey, compute: Callable[[Callable[[], Any]], Any]) -> list[float] | None:
    try:
        models, layers, of = _some_layers(survey)
        single, half = compute(functools.partial(_time, models))
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError):
        return None  # a shape that cannot be cut down; a pass that fails is named when the base itself is tried out
    return [single, half, layers, of]


def _some_layers(survey: Survey) -> tuple[tuple[Any, Any], int, int]:
    """(the model in float32 and bfloat16, its layers, those of the whole base); few words, weights that mean nothing."""
    config = copy.deepcopy(survey.config.get_text_config())
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError("its text layers cannot be made by themselves")
    of = int(config.num_hidden_layers)
    layers = max(1, min(of, _TIMED * of // survey.parameters))
    config.num_hidden_layers = layers
    for name in ("layer_types", "mlp_layer_types"):
        if isinstance(kinds := getattr(config, name, None), (list, tuple)):
            setattr(config, name, list(kinds)[:layers])
    config.vocab_size = min(config.vocab_size, _WORDS)
    config.pad_token_id = None
    with making_models, no_init_weights():
        single = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    for parameter in single.parameters():
        parameter.data.fill_(0.01)  # memory as it is found may hold numbers that are slow to compute with
    single = single.eval().requires_grad_(False)
    return (single, copy.deepcopy(single).to(torch.bfloat16)), layers, of


def _time(models: tuple[Any, Any]) -> tuple[float, float]:
    """Seconds of one token in each of ``models``, float32 first: the fastest of a few turns. On the compute thread."""
    ids = torch.zeros((1, 1), dtype=torch.long)
    single, half = (functools.partial(model, input_ids=ids, use_cache=False) for model in models)
    taken: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        for _ in range(_TRIES + 1):  # in turns, so that whatever else slows the machine slows both
            taken[0].append(seconds(single))
            taken[1].append(seconds(half))
            with plain_kernels(True):
                taken[1].append(seconds(half))
    return min(taken[0][1:]), min(taken[1][2:])
