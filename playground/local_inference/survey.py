"""What a base is, before any of its weights is read: config.json, safetensors headers, its modules without memory."""

from __future__ import annotations

import copy
import inspect
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert

from playground.errors import ModelUnsupported
from playground.local_inference.adapters import read_safetensors_header
from playground.local_inference.places import is_snapshot, weight_files

# How many outputs, and how many inputs, bitsandbytes lays out together for its 4-bit product on a CPU.
_OUT_AT_ONCE, _IN_AT_ONCE = 32, 64

# transformers' progress hook and torch's default dtype are one for the whole process, so models are made one at a time.
making_models = threading.Lock()


@dataclass(frozen=True)
class Survey:
    """What is known of a base before any of its weights is read.

    ``linear`` counts those of the ``parameters`` that bitsandbytes quantizes; ``stored`` are the checkpoint's bytes,
    ``row`` the elements of the keys and values of one token. Of the linears ``odd`` parameters are in those whose sizes
    bitsandbytes cannot compute in four bits on a CPU; ``kept`` are then the modules to leave as they are there.
    """

    path: Path
    config: Any
    parameters: int
    linear: int
    stored: int
    window: int
    vocabulary: int
    row: int
    odd: int = 0
    kept: tuple[str, ...] = ()


def survey_base(path: Path) -> Survey:
    """What config.json and the safetensors headers in ``path`` say. Raises `ModelUnsupported` for what cannot be run."""
    config = _read_config(path)
    _refuse_other_models(path, config)
    stored_parameters, stored = _checkpoint_size(path)
    layout = _layout(config) or _Layout(stored_parameters, stored_parameters)
    text = config.get_text_config()
    vocabulary = getattr(text, "vocab_size", 0)
    return Survey(
        path=path,
        config=config,
        parameters=layout.parameters,
        linear=layout.linear,
        odd=layout.odd,
        kept=layout.kept,
        stored=stored,
        window=context_window(config, None),
        vocabulary=vocabulary if isinstance(vocabulary, int) else 0,
        row=row_elements(text),
    )


def _read_config(path: Path) -> Any:
    try:
        return transformers.AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelUnsupported(
            f"{path.name!r} cannot be run: {first_line(error)}",
            "Models that bring their own code are not run; others may need a newer transformers.",
        ) from error


def _refuse_other_models(path: Path, config: Any) -> None:
    names = list(getattr(config, "architectures", None) or [])
    if getattr(config, "is_encoder_decoder", False):
        raise ModelUnsupported(
            f"{path.name!r} is an encoder-decoder model ({', '.join(names) or config.model_type}).",
            "Choose a decoder-only (causal) language model.",
        )
    known = set(_class_names(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)) | set(
        _class_names(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    )
    if model_class(config) is None or (names and not known.intersection(names)):
        raise ModelUnsupported(
            f"{path.name!r} is a {', '.join(names) or config.model_type}, which does not generate text.",
            "Choose a causal language model.",
        )
    needed = _needed_beside_text(config)
    if needed:
        raise ModelUnsupported(
            f"{path.name!r} is a {', '.join(names) or config.model_type}, which needs {', '.join(needed)} with each prompt.",
            "Only text is given to models here; choose one that answers to text alone.",
        )
    if not any(not file.name.startswith("adapter_") for file in path.glob("*.safetensors")):
        raise ModelUnsupported(
            f"{path.name!r} has no .safetensors weights; other formats can run code when opened.",
            "Convert it with save_pretrained(…) of a current transformers"
            + (", or load it again with a network if its download was broken off." if is_snapshot(path) else "."),
        )


def _needed_beside_text(config: Any) -> list[str]:
    """What the model must be given with the token ids: images, of which there are none here."""
    made = model_class(config)._model_mapping[type(config)]
    forward = inspect.signature((made[0] if isinstance(made, (tuple, list)) else made).forward)
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    given = {name for name, one in forward.parameters.items() if one.default is not one.empty or one.kind not in kinds}
    return [name for name in forward.parameters if name not in given | {"self", "input_ids"}]


def _class_names(mapping: Any) -> Iterator[str]:
    for value in mapping.values():
        yield from (value,) if isinstance(value, str) else value


def model_class(config: Any) -> Any:
    """transformers' class that makes models of ``config``, None for what does not generate text."""
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return transformers.AutoModelForCausalLM
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return transformers.AutoModelForImageTextToText
    return None


def _checkpoint_size(path: Path) -> tuple[int, int]:
    """(parameters, bytes) of the checkpoint, from its safetensors headers."""
    try:
        headers = [read_safetensors_header(file) for file in weight_files(path)]
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        raise ModelUnsupported(f"{path.name!r} cannot be loaded: {error}", "Copy or download it again.") from error
    tensors = [tensor for header in headers for tensor in header.values()]
    return sum(tensor.numel for tensor in tensors), sum(tensor.end - tensor.start for tensor in tensors)


@dataclass(frozen=True)
class _Layout:
    """See `Survey`."""

    parameters: int
    linear: int
    odd: int = 0
    kept: tuple[str, ...] = ()


def _layout(config: Any) -> _Layout | None:
    """What modules the model is made of, without its memory; None where it cannot be made.

    The headers do not tell: experts stored one by one become a single tensor, and neither it nor a head is quantized.
    """
    config = copy.deepcopy(config)
    if getattr(config, "quantization_config", None) is not None:
        del config.quantization_config
    try:
        # float32 is torch's own default: any other would be every thread's default while the model is made.
        with making_models, torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = model_class(config).from_config(config, dtype=torch.float32, trust_remote_code=False)
    except Exception:  # whatever it is, reading the weights says it better
        return None
    ends = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    linears = {
        name: module.weight
        for name, module in model.named_modules()
        if type(module) in (torch.nn.Linear, Conv1D) and id(module) not in ends
    }
    odd = {name: weight for name, weight in linears.items() if _is_odd(model.get_submodule(name))}
    return _Layout(
        parameters=sum(p.numel() for p in model.parameters()),
        linear=sum(weight.numel() for weight in linears.values()),
        odd=sum(weight.numel() for weight in odd.values()),
        kept=(*sorted(odd), *get_keys_to_not_convert(model)) if odd else (),
    )


def _is_odd(module: Any) -> bool:
    """Whether bitsandbytes cannot lay the weight out for its 4-bit product on a CPU."""
    into, out = (module.nx, module.nf) if isinstance(module, Conv1D) else (module.in_features, module.out_features)
    return bool(out % _OUT_AT_ONCE or into % _IN_AT_ONCE)


def context_window(config: Any, tokenizer: Any) -> int:
    """How many tokens the model reads, prompt and answer together."""
    text = config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "n_ctx"):
        value = getattr(text, name, None)
        if isinstance(value, int) and value > 0:
            return int(value * _stretched(text))
    limit = getattr(tokenizer, "model_max_length", None)
    return int(limit) if isinstance(limit, int) and limit < 10_000_000 else 32_768


def _stretched(text_config: Any) -> float:
    """By how much dynamic rotary embeddings lengthen the window: there max_position_embeddings is what it was before."""
    rope = getattr(text_config, "rope_parameters", None) or {}
    factor = rope.get("factor") if rope.get("rope_type") == "dynamic" else None
    return max(1.0, float(factor)) if isinstance(factor, (int, float)) else 1.0


def row_elements(text_config: Any) -> int:
    """How many numbers one token's keys and values are; 0 where the architecture does not tell."""
    layers = getattr(text_config, "num_hidden_layers", None)
    if not isinstance(layers, int):
        return 0
    if getattr(text_config, "is_heterogeneous", False):  # then the whole has no such number, and must not be asked
        found = [_layer_elements(one) for one in text_config.per_layer_config]
        return sum(found) if all(found) else 0
    return layers * _layer_elements(text_config)


def _layer_elements(config: Any) -> int:
    """`row_elements` of one layer with this configuration."""
    heads = getattr(config, "num_key_value_heads", None) or getattr(config, "num_attention_heads", None)
    size, width = getattr(config, "head_dim", None), getattr(config, "hidden_size", None)
    if size is None and isinstance(heads, int) and isinstance(width, int):
        size = width // config.num_attention_heads
    return 2 * heads * size if isinstance(heads, int) and isinstance(size, int) else 0


def first_line(error: BaseException) -> str:
    """What ``error`` says, in a line of 200 characters at most."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[0] if lines else type(error).__name__
    return line if len(line) <= 200 else line[:197] + "…"
