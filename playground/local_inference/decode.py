"""transformers' forward pass: prompts read in chunks and one row alone, on a cache of its own; or many rows on slots.

Alone runs whatever the architecture, models without a cache included. Together runs where it was tried out at load that rows
answer as they do alone (ragged_trial.py).
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
from playground.local_inference.masks import ATTENTION, Masks
from playground.local_inference.packed import Reading
from playground.local_inference.regimes import FIRST, moving_rope
from playground.local_inference.row_cache import cache_in, cache_of, cache_options, positions_in, tensors_in
from playground.local_inference.sampling import Sampler
from playground.local_inference.slots import Slab, Slot, SlotCache
from playground.local_inference.textstream import TextStream
from playground.types import Token

# Long prompts are read in pieces of this many tokens, so that Stop and other rows need not wait for the whole.
PREFILL_CHUNK = 256
# And on a slow machine, beside rows that decode, in pieces that are no smaller than this.
FEWEST_TOKENS = 32
# Or so many at once where each is read by itself.
_TOKENS_ONE_BY_ONE = 16
# Models whose first position is 1.
_FROM_ONE = {"PaliGemmaForConditionalGeneration"}


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

    What is read is in the model's own ``cache``, or on the packed path in ``reading``, and in ``slot`` once the row decodes;
    ``regime`` is the one in which it was read (regimes.py).
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
    regime: int = FIRST
    stops: set[int] = field(default_factory=set)  # where reading pauses, for what recurrent layers keep to be copied

    @property
    def prefilling(self) -> bool:
        """True while more than the newest token is unread."""
        return len(self.pending) > 1 or self.read == 0

    def until_stop(self, size: int) -> int:
        """How many of the next ``size`` tokens may be read before the next stop."""
        return min((stop - self.read for stop in self.stops if stop > self.read), default=size) if size > 1 else size

    def read_anew(self, cache: Any) -> None:
        """Forget what was read, prompt and answer: all of it is to be read again, into ``cache``."""
        self.pending = [*self.sampler.prompt_ids, *self.ids]
        self.cache, self.read = cache, 0

    def cache_bytes(self) -> int:
        """Bytes of the keys and values (and recurrent states) that this row holds."""
        reading = self.reading  # the compute thread may take it away meanwhile
        held = [*tensors_in(self.cache), *(reading.planes if reading else ())]
        own: int = self.own_slots.bytes() if self.own_slots else 0
        return own + sum(int(tensor.numel() * tensor.element_size()) for tensor in held)


def prefill_chunk(model: Any, state: DecodeState, *, whole: bool = False) -> torch.Tensor | None:
    """Read the next piece of the prompt, or the ``whole``; the last position's logits [vocab] at its end, None before.

    What must be read whole, but is known in part, goes on token by token.
    """
    if whole and state.read:
        for _ in range(min(len(state.pending) - 1, _TOKENS_ONE_BY_ONE)):
            _forward(model, state, [state.pending.pop(0)])
        return None if len(state.pending) > 1 else next_logits(model, state)
    size = len(state.pending) if whole else state.until_stop(PREFILL_CHUNK)
    chunk, state.pending = state.pending[:size], state.pending[size:]
    logits = _forward(model, state, chunk)
    return None if state.pending else logits


def next_logits(model: Any, state: DecodeState) -> torch.Tensor:
    """Logits [vocab] after the newest token, which is read first."""
    chunk, state.pending = state.pending, []
    return _forward(model, state, chunk)


def next_logits_together(
    model: Any, slab: Slab, newest: Sequence[int], masks: Masks, cache: Any = None
) -> torch.Tensor:
    """Logits [rows, vocab] float32 on the CPU after each row's newest token; ``newest`` is in the slab's order.

    ``cache`` is what the model sees of the slab, where that is not `cache_of`.
    """
    lengths = slab.lengths()
    with torch.inference_mode():
        output = model(
            input_ids=torch.tensor(list(newest), device=lengths.device)[:, None],
            **cache_options(model, cache_of(model, slab) if cache is None else cache),
            **places(model, lengths),
            **masks.options(slab, lengths),
        )
    logits: torch.Tensor = output.logits[:, -1].float().cpu()
    for slot in slab.slots:  # last: where anything before it fails, nothing has been read
        slot.length += 1
    return logits


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


def _forward(model: Any, state: DecodeState, chunk: Sequence[int]) -> torch.Tensor:
    """Logits [vocab] float32 on the CPU after ``chunk``, which joins the cache."""
    device = input_device(model)
    if state.recompute:
        chunk = [*state.sampler.prompt_ids, *state.ids]
    options: dict[str, Any] = {"use_cache": True}
    if state.cache is not None:
        options |= cache_options(model, state.cache)
        options |= places(model, torch.tensor([positions_in(state.cache, state.read)], device=device), len(chunk))
    if takes_logits_to_keep(model):
        options["logits_to_keep"] = 1
    with torch.inference_mode():
        output = model(input_ids=torch.tensor([list(chunk)], device=device), **options)
    state.read += len(chunk)
    state.cache = cache_in(output)
    # An architecture without such a cache is read anew from the start at every step: slow, and right.
    state.recompute = state.cache is None
    return output.logits[0, -1].float().cpu()


def takes_logits_to_keep(model: Any) -> bool:
    """Whether the model can be asked for the last position's logits alone."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return _has_parameter(base.__class__, "logits_to_keep")


def places(model: Any, at: torch.Tensor, count: int = 1) -> dict[str, Any]:
    """The argument that says where ``count`` new tokens of rows stand that hold ``at`` [rows] positions; none where the
    model does not ask. Some would count from 0 in every pass (Jamba, Bamba)."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not _has_parameter(base.__class__, "position_ids"):
        return {}
    first = 1 if base.__class__.__name__ in _FROM_ONE else 0
    return {"position_ids": at[:, None] + torch.arange(first, first + count, device=at.device)}


@functools.cache
def _has_parameter(model_class: Any, name: str) -> bool:
    """Whether forward takes ``name``; remembered, because this is asked for every token."""
    return name in inspect.signature(model_class.forward).parameters


def needs_whole_prompt(config: Any) -> bool:
    """True for recurrent and hybrid layers, and for rotary embeddings that look at the whole length."""
    return bool(moving_rope(config)) or keeps_a_state(config)


def keeps_a_state(config: Any) -> bool:
    """True for recurrent and hybrid layers, whose state is of the whole text so far."""
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    return not kinds <= ATTENTION or not hasattr(text, "num_attention_heads")
