"""The forward passes: prefill in chunks and one row alone, on the model's own cache; or many rows together, on slots.

Alone runs whatever the architecture: sliding windows, recurrent states, models without a cache. Together runs where keys and
values are plain, and where it was tried out at load that rows answer as they do alone (`why_alone`).
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from playground.local_inference.footprint import input_device
from playground.local_inference.packed import Reading
from playground.local_inference.sampling import Sampler
from playground.local_inference.slots import Slab, Slot, SlotCache, cache_of, planes_of
from playground.local_inference.textstream import TextStream
from playground.types import Token

# Long prompts are read in pieces of this many tokens, so that Stop and other rows need not wait for the whole.
PREFILL_CHUNK = 256
# And on a slow machine, beside rows that decode, in pieces that are no smaller than this.
FEWEST_TOKENS = 32
# Rotary embeddings whose factors depend on the longest position seen: such a prompt must be read in one piece.
_WHOLE_PROMPT_ROPE = {"dynamic", "longrope"}
_INT8 = "int8 rounds each answer by what is computed beside it, so every answer is computed by itself."


class Pace:
    """How many tokens of prompts one step may read while other rows decode: as many as take a quarter of a second here."""

    _STEP_SECONDS = 0.25

    def __init__(self) -> None:
        self.tokens = PREFILL_CHUNK // 4  # until something is known

    @contextmanager
    def measured(self, tokens: int) -> Iterator[None]:
        """Learn from a step that reads ``tokens`` of prompts; too few of them tell nothing."""
        started = time.perf_counter()
        yield
        if tokens >= FEWEST_TOKENS // 2:
            possible = self._STEP_SECONDS * tokens / max(time.perf_counter() - started, 1e-6)
            self.tokens = max(FEWEST_TOKENS, min(PREFILL_CHUNK, int((self.tokens + possible) / 2)))


@dataclass
class DecodeState:
    """How far a row is. ``pending`` are the ids not yet read by the model.

    What is read is in the model's own ``cache``, or on the packed path in ``reading``, and in ``slot`` once the row decodes.
    """

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
    slot: Slot | None = None
    own_slots: SlotCache | None = None  # of a row that is computed alone, instead of a slot among the others
    reading: Reading | None = None

    @property
    def prefilling(self) -> bool:
        """True while more than the newest token is unread."""
        return len(self.pending) > 1 or self.read == 0

    def cache_bytes(self) -> int:
        """Bytes of the keys and values (and recurrent states) that this row holds."""
        planes = self.reading.planes if self.reading else []
        found = {id(tensor): tensor for tensor in (*_tensors(self.cache), *planes)}
        own: int = self.own_slots.bytes() if self.own_slots else 0
        return own + sum(int(tensor.numel() * tensor.element_size()) for tensor in found.values())


def prefill_chunk(model: Any, state: DecodeState, config: Any) -> torch.Tensor | None:
    """Read the next piece of the prompt; the last position's logits [vocab] once it is whole, None before."""
    size = len(state.pending) if needs_whole_prompt(config) else PREFILL_CHUNK
    chunk, state.pending = state.pending[:size], state.pending[size:]
    logits = _forward(model, state, chunk)
    return None if state.pending else logits


def next_logits(model: Any, state: DecodeState) -> torch.Tensor:
    """Logits [vocab] after the newest token, which is read first."""
    chunk, state.pending = state.pending, []
    return _forward(model, state, chunk)


def next_logits_together(model: Any, slab: Slab, newest: Sequence[int]) -> torch.Tensor:
    """Logits [rows, vocab] float32 on the CPU after each row's newest token; ``newest`` is in the slab's order."""
    lengths = slab.lengths()
    uneven = len({slot.length for slot in slab.slots}) > 1
    options = (
        {"attention_mask": slab.mask(lengths)} if uneven else {}
    )  # equal rows need none, and keep the faster kernel
    with torch.inference_mode():
        output = model(
            input_ids=torch.tensor(list(newest), device=lengths.device)[:, None],
            position_ids=lengths[:, None],
            past_key_values=cache_of(slab),
            use_cache=True,
            **options,
        )
    for slot in slab.slots:
        slot.length += 1
    return output.logits[:, -1].float().cpu()


class Words:
    """Tokens as texts, each by itself; remembered, because decoding one takes as long as choosing it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def __getitem__(self, token: int) -> str:
        text = self._known.get(token)
        if text is None:
            text = self._known[token] = self._tokenizer.decode([token])
        return text


def describe(state: DecodeState, chosen: int, logprob: float, top: Sequence[tuple[int, float]], words: Words) -> Token:
    """Note the ``chosen`` token as pending, and say what there is to know of it; ``top`` are (id, log-probability)."""
    state.ids.append(chosen)
    state.pending = [chosen]
    return Token(chosen, words[chosen], logprob, tuple((i, words[i], p) for i, p in top))


def why_alone(model: Any, vocabulary: int) -> str:
    """Why rows of different lengths may not share a forward pass, as a sentence; "" where they may.

    Layers that keep more than keys and values of every position cannot; the others are tried out against each row alone.
    """
    known = _INT8 if getattr(model, "is_loaded_in_8bit", False) else _why_by_shape(model.config)
    if known:
        return known
    try:
        together, apart = _two_rows(model, vocabulary)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        first = next(iter(str(error).splitlines()), "")[:120]
        return f"When it was loaded, two answers in one pass were tried, and that failed ({type(error).__name__}: {first})."
    change = float((together - apart).abs().max())
    allowed = 1e-3 if model.dtype == torch.float32 else 0.05
    if change <= allowed * max(1.0, float(apart.abs().max())):
        return ""
    return f"When it was loaded, two answers in one pass differed from each alone (a logit moved by {change:.2g})."


def _why_by_shape(config: Any) -> str:
    """What about the layers forbids it, as a sentence; "" where nothing does."""
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ("full_attention",))
    attention = {"full_attention", "sliding_attention", "chunked_attention"}
    if not kinds <= attention or not hasattr(text, "num_attention_heads"):
        return "Its recurrent layers keep a running state, which has no place for answers of different lengths."
    if kinds != {"full_attention"} or (
        getattr(text, "sliding_window", None) and not getattr(text, "layer_types", None)
    ):
        return "Some of its layers see only a window of the latest tokens, which each answer moves at its own pace."
    if needs_whole_prompt(config):
        return "Its position embeddings change with the longest text in a pass."
    return ""


def _two_rows(model: Any, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [2, vocab] of two rows of different lengths, in one pass and each alone."""
    device = input_device(model)
    rows = [torch.linspace(0, vocabulary - 1, length).long().tolist() for length in (3, 7)]
    slots = SlotCache()
    alone, newest, joined = [], [], []
    with torch.inference_mode():
        for row in rows:
            whole = model(input_ids=torch.tensor([row], device=device), use_cache=False).logits[0, -1]
            part = model(input_ids=torch.tensor([row[:-1]], device=device), use_cache=True)
            alone.append(whole.float().cpu())
            joined.append(slots.join(*planes_of(part.past_key_values)))
            newest.append(row[-1])
        return next_logits_together(model, slots.groups(joined)[0], newest), torch.stack(alone)


def _forward(model: Any, state: DecodeState, chunk: Sequence[int]) -> torch.Tensor:
    """Logits [vocab] float32 on the CPU after ``chunk``, which joins the cache."""
    device = input_device(model)
    if state.recompute:
        chunk = [*state.sampler.prompt_ids, *state.ids]
    options: dict[str, Any] = {"use_cache": True}
    if state.cache is not None:
        options["past_key_values"] = state.cache
    if takes_logits_to_keep(model):
        options["logits_to_keep"] = 1
    with torch.inference_mode():
        output = model(input_ids=torch.tensor([list(chunk)], device=device), **options)
    state.read += len(chunk)
    state.cache = getattr(output, "past_key_values", None)
    # An architecture without such a cache is read anew from the start at every step: slow, and right.
    state.recompute = state.cache is None
    return output.logits[0, -1].float().cpu()


def takes_logits_to_keep(model: Any) -> bool:
    """Whether the model can be asked for the last position's logits alone."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return _has_parameter(base.__class__, "logits_to_keep")


@functools.cache
def _has_parameter(model_class: Any, name: str) -> bool:
    """Whether forward takes ``name``; remembered, because this is asked for every token."""
    return name in inspect.signature(model_class.forward).parameters


def needs_whole_prompt(config: Any) -> bool:
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
