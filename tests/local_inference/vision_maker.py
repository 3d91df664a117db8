"""Tiny vision-language checkpoints with random weights, adapters on them, and the names of older transformers."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from .conftest import STARTER

_TEXT = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 1024,
}  # fmt: skip
_WIDE = {**_TEXT, "head_dim": 16}
_CLIP = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
_VISUAL = {"depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64}
_TURNING = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
_LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}


@dataclass(frozen=True)
class Seeing:
    """A family: configurations of what reads text and of what sees, and of both."""

    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    both: Mapping[str, Any] = field(default_factory=dict)


def _llava(kind: str, text: Mapping[str, Any] = _TEXT, tower: str = "clip_vision_model", **vision: Any) -> Seeing:
    return Seeing({**text, "model_type": kind}, {**_CLIP, "model_type": tower, **vision})


SEEING: Mapping[str, Seeing] = {
    "qwen2_vl": Seeing(
        {**_TEXT, "rope_parameters": _TURNING},
        {"depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2},
    ),
    "qwen2_5_vl": Seeing({**_TEXT, "rope_parameters": _TURNING}, {**_VISUAL, "fullatt_block_indexes": [0]}),
    "qwen3_vl": Seeing(
        {**_WIDE, "rope_parameters": {**_TURNING, "mrope_interleaved": True}},
        {**_VISUAL, "deepstack_visual_indexes": [0], "num_position_embeddings": 16},
    ),
    "qwen3_vl_moe": Seeing(
        {**_WIDE, "rope_parameters": _TURNING, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
        {**_VISUAL, "deepstack_visual_indexes": [0], "num_position_embeddings": 16},
    ),
    "qwen3_5": Seeing({**_WIDE, **_LINEAR, "num_hidden_layers": 4}, {**_VISUAL, "num_position_embeddings": 16}),
    "gemma3": Seeing({**_WIDE, "sliding_window": 32, "num_hidden_layers": 6}, _CLIP, {"mm_tokens_per_image": 4}),
    "gemma4": Seeing(
        {**_WIDE, "vocab_size_per_layer_input": 1536, "hidden_size_per_layer_input": 8, "global_head_dim": 32},
        {**_CLIP, "head_dim": 16},
    ),
    "mistral3": _llava("mistral", {**_WIDE, "sliding_window": None}, "pixtral", head_dim=16),
    "llava": _llava("llama"),
    "llava_next": _llava("llama"),
    "llava_onevision": _llava("qwen2", tower="siglip_vision_model"),
    "idefics3": Seeing({**_TEXT, "model_type": "llama"}, _CLIP, {"scale_factor": 1}),
    "smolvlm": Seeing({**_TEXT, "model_type": "llama"}, _CLIP, {"scale_factor": 1}),
    "internvl": Seeing(
        {**_TEXT, "model_type": "qwen2"},
        {**_CLIP, "image_size": [28, 28], "patch_size": [14, 14]},
        {"downsample_ratio": 0.5},
    ),
    "paligemma": Seeing(
        {**_WIDE, "model_type": "gemma"},
        {**_CLIP, "model_type": "siglip_vision_model", "projection_dim": 64},
        {"projection_dim": 64},
    ),
    "llama4": Seeing(
        {**_WIDE, "num_local_experts": 2, "intermediate_size_mlp": 128, "attention_chunk_size": 32},
        {**_CLIP, "vision_output_dim": 64, "projector_input_dim": 64, "projector_output_dim": 64},
    ),
    "mllama": Seeing(
        {**_TEXT, "cross_attention_layers": [1]},
        {
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "attention_heads": 2, "image_size": 28,
            "patch_size": 14, "num_global_layers": 1, "intermediate_layers_indices": [0], "vision_output_dim": 64,
            "max_num_tiles": 1, "supported_aspect_ratios": [[1, 1]],
        },
    ),
    "glm4v": Seeing(
        {**_TEXT, "rope_parameters": {**_TURNING, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 2]}},
        {**_VISUAL, "image_size": 28},
    ),
    "aya_vision": _llava("cohere2", {**_TEXT, "sliding_window": 32}, "siglip_vision_model"),
    "lfm2_vl": _llava("lfm2", tower="siglip2_vision_model"),
}  # fmt: skip


def make_seeing(folder: Path, family: str, tokenizer: Any) -> Path:
    """A checkpoint of ``family`` as transformers saves the whole model; large weights, so that winners are clear."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = _class_of(_config(family, len(tokenizer)))(_config(family, len(tokenizer))).float()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, _deviation(name))
        model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(STARTER / name, folder / name)
    return folder


def _deviation(name: str) -> float:
    """Small embeddings beside large layers, lest every token be followed by itself."""
    return 0.4 if "lm_head" in name else 0.05 if "embed_tokens" in name else 0.15


def _config(family: str, words: int) -> Any:
    one = SEEING[family]
    ids = {"vocab_size": words, "bos_token_id": 1, "pad_token_id": 0, "eos_token_id": 2, "tie_word_embeddings": False}
    return AutoConfig.for_model(
        family, text_config={**ids, **one.text}, vision_config=dict(one.vision), tie_word_embeddings=False, **one.both
    )


def _class_of(config: Any) -> Any:
    return MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]


def whole_model(folder: Path) -> Any:
    """The checkpoint in plain transformers, with all that it sees with, float32."""
    config = AutoConfig.from_pretrained(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _class_of(config).from_pretrained(folder, dtype=torch.float32).eval()


def make_adapter_on(base: Path, folder: Path, config: Any, seed: int = 1) -> Path:
    """An adapter with random weights, trained on the whole model in ``base``."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(whole_model(base), config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(folder)
    return folder


def with_adapter(base: Path, folder: Path) -> Any:
    """The whole model with the adapter in ``folder``, by PEFT alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(whole_model(base), folder).eval()


def _before_4_52(name: str) -> str:
    name = name.replace(".model.model.language_model.", ".model.language_model.model.")
    return re.sub(r"^base_model\.model\.model\.(vision_tower|multi_modal)", r"base_model.model.\1", name)


def _first_qwen(name: str) -> str:
    return name.replace(".model.language_model.", ".model.").replace(".model.model.visual.", ".model.visual.")


def _text_alone(name: str) -> str:
    return re.sub(r"\.model\.(?:language|text)_model\.", ".model.", name) if not re.search("visi|visual", name) else ""


# How else a tensor may be called; "" where it is not there.
NAMES: Mapping[str, Callable[[str], str]] = {
    "whole": lambda name: name,
    "older": _before_4_52,
    "Qwen's first": _first_qwen,
    "text alone": _text_alone,
}


def renamed(adapter: Path, folder: Path, names: str) -> Path:
    """``adapter`` as if it had been trained on a model with other ``names``; its patterns speak of them as well."""
    shutil.copytree(adapter, folder)
    file = folder / "adapter_model.safetensors"
    tensors = {NAMES[names](name): tensor for name, tensor in load_file(file).items()}
    save_file({name: tensor for name, tensor in tensors.items() if name}, file)
    config = json.loads((folder / "adapter_config.json").read_text())
    prefix = "base_model.model."
    for pattern in ("rank_pattern", "alpha_pattern"):
        keys = config.get(pattern) or {}
        config[pattern] = {NAMES[names](prefix + key).removeprefix(prefix): value for key, value in keys.items()}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
