"""The forward passes of one row: prefill in chunks, then one token at a time, with the model's own cache.

A row is stepped alone here, on whatever cache its architecture makes (keys and values, sliding windows, recurrent
states), so every causal model runs, and an answer cannot depend on what else is running.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from playground.local_inference.sampling import Sampler, log_probabilities
from playground.local_inference.textstream import TextStream
from playground.types import Token

# Long prompts are read in pieces of this many tokens, so that Stop and other rows need not wait for the whole.
PREFILL_CHUNK = 256
# Rotary embeddings whose factors depend on the longest position seen: such a prompt must be read in one piece.
_WHOLE_PROMPT_ROPE = {"dynamic", "longrope"}


@dataclass
class DecodeState:
    """How far a row is. ``pending`` are the ids not yet read by the model; ``cache`` is the model's own object."""

    pending: list[int]
    sampler: Sampler
    text: TextStream
    stop_ids: frozenset[int]
    limit: int
    top_logprobs: int
    cache: Any = None
    read: int = 0
    ids: list[int] = field(default_factory=list)
    recompute: bool = False

    @property
    def prefilling(self) -> bool:
        """True while more than the newest token is unread."""
        return len(self.pending) > 1 or self.read == 0

    def cache_bytes(self) -> int:
        """Bytes of the keys and values (and recurrent states) that this row holds."""
        found = {id(tensor): tensor for tensor in _tensors(self.cache)}
        return sum(tensor.numel() * tensor.element_size() for tensor in found.values())


def prefill_chunk(model: Any, state: DecodeState, config: Any) -> torch.Tensor | None:
    """Read the next piece of the prompt; the last position's logits [vocab] once it is whole, None before."""
    size = len(state.pending) if _needs_whole_prompt(config) else PREFILL_CHUNK
    chunk, state.pending = state.pending[:size], state.pending[size:]
    logits = _forward(model, state, chunk)
    return None if state.pending else logits


def next_logits(model: Any, state: DecodeState) -> torch.Tensor:
    """Logits [vocab] after the newest token, which is read first."""
    chunk, state.pending = state.pending, []
    return _forward(model, state, chunk)


def choose_token(state: DecodeState, logits: torch.Tensor, tokenizer: Any) -> Token:
    """Draw the next token from float32 ``logits`` [vocab] and note it as pending."""
    chosen = state.sampler.choose(logits)
    logprob, top = log_probabilities(logits, chosen, state.top_logprobs)
    state.ids.append(chosen)
    state.pending = [chosen]
    return Token(chosen, tokenizer.decode([chosen]), logprob, tuple((i, tokenizer.decode([i]), p) for i, p in top))


def _forward(model: Any, state: DecodeState, chunk: Sequence[int]) -> torch.Tensor:
    """Logits [vocab] float32 on the CPU after ``chunk``, which joins the cache."""
    device = next(model.parameters()).device
    if state.recompute:
        chunk = [*state.sampler.prompt_ids, *state.ids]
    options: dict[str, Any] = {"use_cache": True}
    if state.cache is not None:
        options["past_key_values"] = state.cache
    if _takes_logits_to_keep(model):
        options["logits_to_keep"] = 1
    with torch.inference_mode():
        output = model(input_ids=torch.tensor([list(chunk)], device=device), **options)
    state.read += len(chunk)
    state.cache = getattr(output, "past_key_values", None)
    # An architecture without such a cache is read anew from the start at every step: slow, and right.
    state.recompute = state.cache is None
    return output.logits[0, -1].float().cpu()


def _takes_logits_to_keep(model: Any) -> bool:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return _has_parameter(base.__class__, "logits_to_keep")


@functools.cache
def _has_parameter(model_class: Any, name: str) -> bool:
    """Whether forward takes ``name``; remembered, because this is asked for every token."""
    return name in inspect.signature(model_class.forward).parameters


def _needs_whole_prompt(config: Any) -> bool:
    """True for recurrent and hybrid layers, and for rotary embeddings that look at the whole length."""
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    nested = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    dynamic = any(entry.get("rope_type", entry.get("type")) in _WHOLE_PROMPT_ROPE for entry in nested)
    attention = {"full_attention", "sliding_attention", "chunked_attention"}
    return dynamic or not kinds <= attention or not hasattr(text, "num_attention_heads")


def _tensors(cache: Any) -> list[torch.Tensor]:
    """The tensors that a transformers cache object holds, one level of lists and layers deep."""
    found = []
    for layer in getattr(cache, "layers", None) or ():
        for value in vars(layer).values():
            values = value if isinstance(value, (list, tuple)) else (value,)
            found += [item for item in values if isinstance(item, torch.Tensor)]
    return found
