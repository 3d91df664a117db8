"""Tiny models of the families whose layers keep a state of the whole text, and how each of them may be read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .family_maker import EXPERTS, FOUR, LATENT, LINEAR, LLAMA, NO_GROUPS, WINDOW, make_family

MAMBA = {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}
# The Mamba-2 layers of hybrids.
SSM = {"mamba_d_state": 16, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_expand": 2}
MIXED = {**LLAMA, **LINEAR, "layer_types": ["linear_attention", "full_attention"]}
SHARED_EXPERT = {**EXPERTS, "shared_expert_intermediate_size": 32}
CONVOLVED = {**LLAMA, "layer_types": ["conv", "full_attention"]}
JAMBA = {
    **LLAMA, "num_experts": 4, "num_experts_per_tok": 2, "attn_layer_period": 2, "attn_layer_offset": 1,
    "expert_layer_period": 2, "expert_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 4,
}  # fmt: skip
ZAMBA = {**LLAMA, "attention_head_dim": 32, "attention_hidden_size": 128, "mamba_d_state": 8}
KIMI = {**LATENT, "layer_types": MIXED["layer_types"], "head_dim": 16, "num_local_experts": 4}

# Name → (transformers' model_type, what its configuration changes).
RECURRENT: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "qwen3_5": ("qwen3_5_text", MIXED),
    "qwen3_5_moe": ("qwen3_5_moe_text", {**MIXED, **SHARED_EXPERT}),
    "qwen3_next": ("qwen3_next", {**MIXED, **SHARED_EXPERT}),
    "lfm2": ("lfm2", CONVOLVED),
    "lfm2_moe": ("lfm2_moe", {**CONVOLVED, **EXPERTS, "num_dense_layers": 1}),
    "lfm3": ("lfm3", {**FOUR, **WINDOW, "layer_types": ["conv", "full_attention", "conv", "sliding_attention"]}),
    "mamba": ("mamba", MAMBA),
    "mamba2": ("mamba2", {**MAMBA, "num_heads": 8, "head_dim": 16, "n_groups": 1}),
    "falcon_mamba": ("falcon_mamba", MAMBA),
    "falcon_h1": ("falcon_h1", {**LLAMA, "mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 16}),
    "jamba": ("jamba", JAMBA),
    "bamba": ("bamba", {**LLAMA, **SSM, "attn_layer_indices": [1]}),
    "granitemoehybrid": (
        "granitemoehybrid",
        {**LLAMA, **SSM, "layer_types": ["mamba", "attention"], "num_local_experts": 4, "num_experts_per_tok": 2,
            "shared_intermediate_size": 32},
    ),
    "nemotron_h": (
        "nemotron_h",
        {**FOUR, "hybrid_override_pattern": "M*M-", "ssm_state_size": 16, "mamba_num_heads": 8, "mamba_head_dim": 16,
            "n_groups": 1},
    ),
    "zamba": ("zamba", {**ZAMBA, "num_hidden_layers": 6, "n_mamba_heads": 2, "mamba_dt_rank": 4,
        "layers_block_type": ["linear_attention", "linear_attention", "hybrid"] * 2}),
    "zamba2": ("zamba2", {**ZAMBA, "num_hidden_layers": 4, "n_mamba_heads": 8, "mamba_headdim": 16, "mamba_ngroups": 1,
        "num_mem_blocks": 1, "layers_block_type": ["mamba", "hybrid"] * 2}),
    "olmo_hybrid": ("olmo_hybrid", MIXED),
    "kimi_linear": ("kimi_linear", {**KIMI, "linear_head_dim": 16, "linear_num_heads": 4}),
    "bailing_hybrid": ("bailing_hybrid", KIMI),
    "zaya": ("zaya", LLAMA),
    "rwkv": ("rwkv", {"hidden_size": 64, "attention_hidden_size": 64, "num_hidden_layers": 3, "context_length": 512}),
    "recurrent_gemma": (
        "recurrent_gemma", {**NO_GROUPS, "num_hidden_layers": 3, "lru_width": 64, "attention_window_size": 32},
    ),
    "xlstm": ("xlstm", {"hidden_size": 128, "num_hidden_layers": 2, "num_heads": 4}),
    "minimax": ("minimax", {**LLAMA, "num_local_experts": 4}),
}  # fmt: skip
# Those whose answers do not share a pass: RWKV's own code mixes up the rows of a pass, the others keep what they have read
# in ways of their own.
ALONE = frozenset({"rwkv", "recurrent_gemma", "xlstm", "minimax"})
# Their passes of several tokens begin from nothing, so that prompts are read whole, and a copy is gone on from one by one.
WHOLE = frozenset({"mamba", "falcon_mamba", "jamba", "recurrent_gemma"})
# What was read of a text cannot be copied.
NO_COPIES = frozenset({"recurrent_gemma", "xlstm", "minimax"})


def make_recurrent(folder: Path, family: str, words: int, *, seed: int = 0) -> Path:
    """A checkpoint of ``family`` in ``folder``, as `make_family` makes it."""
    return make_family(folder, family, words, seed=seed, of=RECURRENT)
