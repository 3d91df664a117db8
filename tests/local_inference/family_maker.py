"""Tiny models of many families with random weights, saved as checkpoints, and which of them answer one by one."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from .conftest import STARTER

LLAMA = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512,
}  # fmt: skip
FOUR = {**LLAMA, "num_hidden_layers": 4}  # where every fourth layer is of another kind
NO_GROUPS = {**LLAMA, "num_key_value_heads": 4}
GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512}
LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
WINDOW, KINDS = {"sliding_window": 32}, ["sliding_attention", "full_attention"]
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
# Multi-head latent attention: keys and values of different sizes.
LATENT = {
    **NO_GROUPS, "kv_lora_rank": 16, "q_lora_rank": None, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
    "head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1, "moe_intermediate_size": 32, "n_shared_experts": 1,
}  # fmt: skip
LONGROPE = {"original_max_position_embeddings": 64}


def _longrope(half: int) -> dict[str, Any]:
    return {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0] * half,
        "long_factor": [1.0 + 4 * at for at in range(half)],
        "original_max_position_embeddings": 64,
    }


# Name → (transformers' model_type, what its configuration changes).
FAMILIES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "gpt2": ("gpt2", GPT2),
    "llama": ("llama", LLAMA),
    "llama, yarn": ("llama", {**LLAMA, "rope_parameters": {
        "rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 128}}),
    "llama, dynamic": ("llama", {**LLAMA, "max_position_embeddings": 64, "rope_parameters": {
        "rope_type": "dynamic", "factor": 8.0, "rope_theta": 1e4}}),
    "llama, longrope": ("llama", {**LLAMA, "rope_parameters": _longrope(8)}),
    "mistral": ("mistral", {**LLAMA, **WINDOW}),
    "mistral, no window": ("mistral", {**LLAMA, "sliding_window": None}),
    "ministral": ("ministral", {**LLAMA, **WINDOW, "layer_types": KINDS}),
    "ministral3": ("ministral3", {**LLAMA, "rope_parameters": {
        "type": "yarn", "rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 64,
        "max_position_embeddings": 512, "beta_fast": 32.0, "beta_slow": 1.0, "mscale_all_dim": 1.0, "mscale": 1.0,
        "llama_4_scaling_beta": 0.1}}),
    "qwen2": ("qwen2", LLAMA),
    "qwen2, windows": ("qwen2", {**FOUR, **WINDOW, "use_sliding_window": True, "max_window_layers": 2}),
    "qwen3": ("qwen3", LLAMA),
    "gemma": ("gemma", LLAMA),
    "gemma2": ("gemma2", {**LLAMA, **WINDOW}),
    "gemma3_text": ("gemma3_text", {**LLAMA, **WINDOW, "layer_types": KINDS}),
    "gemma3n_text": ("gemma3n_text", {**FOUR, **WINDOW, "layer_types": KINDS * 2, "num_kv_shared_layers": 2,
        "intermediate_size": [128] * 4, "activation_sparsity_pattern": [0.0] * 4, "vocab_size_per_layer_input": 4096,
        "hidden_size_per_layer_input": 16, "laurel_rank": 8}),
    "gemma4_text": ("gemma4_text", {**LLAMA, **WINDOW, "layer_types": KINDS, "global_head_dim": 32,
        "vocab_size_per_layer_input": 4096, "hidden_size_per_layer_input": 16}),
    "phi": ("phi", {**NO_GROUPS, "partial_rotary_factor": 0.5}),
    "phi3": ("phi3", {**LLAMA, **LONGROPE, "rope_parameters": _longrope(8)}),
    "phi3, partial": ("phi3", {**LLAMA, **LONGROPE, **WINDOW, "partial_rotary_factor": 0.5,
        "rope_parameters": {**_longrope(4), "partial_rotary_factor": 0.5}}),
    "phimoe": ("phimoe", {**LLAMA, **LONGROPE, "num_local_experts": 4,
        "rope_parameters": {**_longrope(8), "long_mscale": 1.2, "short_mscale": 1.0}}),
    "mixtral": ("mixtral", {**LLAMA, "num_local_experts": 4}),
    "qwen2_moe": ("qwen2_moe", {**LLAMA, **EXPERTS, "shared_expert_intermediate_size": 32}),
    "qwen3_moe": ("qwen3_moe", {**LLAMA, **EXPERTS}),
    "gpt_oss": ("gpt_oss", {**LLAMA, **WINDOW, "num_local_experts": 4}),
    "olmo": ("olmo", LLAMA),
    "olmo2": ("olmo2", LLAMA),
    "olmo3": ("olmo3", {**FOUR, **WINDOW}),
    "olmoe": ("olmoe", {**LLAMA, "num_experts": 4, "num_experts_per_tok": 2}),
    "granite": ("granite", {**LLAMA, "attention_multiplier": 0.25}),
    "granitemoe": ("granitemoe", {**LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2, "attention_multiplier": 0.25}),
    "cohere": ("cohere", LLAMA),
    "cohere2": ("cohere2", {**FOUR, **WINDOW}),
    "starcoder2": ("starcoder2", {**LLAMA, **WINDOW}),
    "stablelm": ("stablelm", {**LLAMA, "partial_rotary_factor": 0.25}),
    "smollm3": ("smollm3", {**FOUR, "no_rope_layers": [1, 1, 1, 0]}),
    "exaone4": ("exaone4", {**LLAMA, **WINDOW, "sliding_window_pattern": 2}),
    "glm": ("glm", LLAMA),
    "glm4": ("glm4", LLAMA),
    "deepseek_v2": ("deepseek_v2", LATENT),
    "deepseek_v3": ("deepseek_v3", LATENT),
    "llama4_text": ("llama4_text", {**FOUR, "attention_chunk_size": 32, "num_local_experts": 2,
        "intermediate_size_mlp": 128}),
    "nemotron": ("nemotron", LLAMA),
    "helium": ("helium", LLAMA),
    "apertus": ("apertus", LLAMA),
    "arcee": ("arcee", LLAMA),
    "ernie4_5": ("ernie4_5", LLAMA),
    "seed_oss": ("seed_oss", LLAMA),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", LLAMA),
    "gpt_neox": ("gpt_neox", {**NO_GROUPS, "rotary_pct": 0.25}),
    "gptj": ("gptj", {**GPT2, "rotary_dim": 8}),
    "codegen": ("codegen", {**GPT2, "rotary_dim": 8}),
    "gpt_bigcode": ("gpt_bigcode", GPT2),
    "gpt_neo": ("gpt_neo", {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "window_size": 32,
        "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 512}),
    "opt": ("opt", {"hidden_size": 64, "ffn_dim": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "word_embed_proj_dim": 64, "max_position_embeddings": 512}),
    "bloom": ("bloom", {"hidden_size": 64, "n_layer": 2, "n_head": 4}),
    "falcon": ("falcon", {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}),
    "mpt": ("mpt", {"d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 512}),
    "persimmon": ("persimmon", NO_GROUPS),
    "qwen3_5_text": ("qwen3_5_text", {**FOUR, **LINEAR}),
}  # fmt: skip
# The words of the page about those whose answers do not share a pass.
ALONE: Mapping[str, str] = {
    "phimoe": "position embeddings change with the longest text",
    "llama4_text": "scale what they see by the longest text",
    "gpt_neo": "see only a window of the latest tokens",
    "bloom": "were tried, and that failed",
}


# Where answers would still be of one token.
_LARGER = {"bloom": 16}
_SOME = ["q_proj", "v_proj", "o_proj"]
# What adapters are made on that share a pass. Else PEFT takes all linears, here with routers or experts among them: those it
# serves by itself, or fails on (llama4_text, phimoe).
TARGETS: Mapping[str, Any] = dict.fromkeys(
    ("phimoe", "llama4_text", "mixtral", "qwen3_moe", "olmoe", "granitemoe", "deepseek_v2", "deepseek_v3"), _SOME
)


def make_family(
    folder: Path, family: str, words: int, *, seed: int = 0, of: Mapping[str, tuple[str, Mapping[str, Any]]] = FAMILIES
) -> Path:
    """A checkpoint of ``family`` in ``folder`` with ``words`` token ids and the starter's tokenizer beside it."""
    kind, options = of[family]
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ends = {"bos_token_id": 1, "pad_token_id": 0, "eos_token_id": 2}
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(kind, vocab_size=words, **ends, **options)
        ).float()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() > 1 and not any(word in name for word in ("emb", "wte", "wpe")):
                    parameter.mul_(_LARGER.get(family, 8))  # answers that do not repeat one token, and no near ties
        model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(STARTER / name, folder / name)
    return folder
