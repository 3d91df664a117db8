"""Beam search: transformers' own, with every setting passed explicitly, and something to do between its steps.

The answer comes whole, at the end; stop sequences cut it there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from playground.errors import InvalidRequest
from playground.local_inference.decode import PREFILL_CHUNK, needs_whole_prompt, takes_logits_to_keep
from playground.local_inference.footprint import input_device
from playground.local_inference.row_cache import form_of
from playground.local_inference.sampling import Biases, Penalties
from playground.local_inference.soft_prompts import Prefix
from playground.types import GenerationSettings


class _Cancelled(StoppingCriteria):  # type: ignore[misc]
    """Asks ``asked`` after every step, and ends all beams when it says so. Never by raising: generate must end tidily."""

    def __init__(self, asked: Callable[[], bool]) -> None:
        self._asked = asked

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self._asked(), dtype=torch.bool, device=input_ids.device)


class _OurPenalties(LogitsProcessor):  # type: ignore[misc]
    """The same biases and penalties as the other strategies have, beam by beam.

    Beams are compared by their log-probabilities, which is what comes here. After a bias they are made anew, as if it had
    been in the logits: otherwise a beam would win by how many tokens with a bias it has.
    """

    def __init__(self, settings: GenerationSettings, prompt_ids: Sequence[int], before: int) -> None:
        self._biases = Biases(settings)
        self._penalties = Penalties(settings, prompt_ids)
        self._prompt = before + len(prompt_ids)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self._biases:
            scores = torch.log_softmax(self._biases.apply(scores), dim=-1)
        rows = []
        for ids, row in zip(input_ids, scores, strict=True):
            counts: dict[int, int] = {}
            for token in ids[self._prompt :].tolist():
                counts[token] = counts.get(token, 0) + 1
            rows.append(self._penalties.apply(row, counts))
        return torch.stack(rows)


def beam_search(
    model: Any,
    prompt_ids: Sequence[int],
    settings: GenerationSettings,
    limit: int,
    stop_ids: frozenset[int],
    cancelled: Callable[[], bool],
    prefix: Prefix | None = None,
) -> list[list[int]]:
    """``settings.num_return_sequences`` answers as token ids, the best first, without prompt and padding.

    ``prefix`` holds the keys and values of a soft prompt, which come before the prompt's. Raises `InvalidRequest` where the
    model's cache cannot be repeated for the beams with them, or cannot follow the beams at all.

    ``cancelled`` is called once for each step and ends the search when it returns True; a search that is cancelled while
    its prompt is read has no answers.
    """
    if form_of(model).listed:
        raise InvalidRequest(
            "This model keeps what it has read as a list of states, which transformers cannot sort by beams (RWKV).",
            "Choose another strategy than beam search.",
        )
    device = input_device(model)
    ids = torch.tensor([list(prompt_ids)], device=device)
    read = _read_ahead(model, ids, settings.num_beams, cancelled, prefix)
    if read.left:
        return []
    before = prefix.positions if prefix else 0
    if before:  # generate takes a cache for that of the first ids; these are never read
        ids = torch.cat((ids.new_zeros((1, before)), ids), dim=1)
    end = sorted(stop_ids)
    pad = end[0] if end else 0
    config = GenerationConfig(
        do_sample=False,
        num_beams=settings.num_beams,
        num_return_sequences=settings.num_return_sequences,
        max_new_tokens=limit,
        min_new_tokens=0,
        eos_token_id=end or None,
        pad_token_id=pad,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        length_penalty=1.0,
        early_stopping=False,
        use_cache=True,
    )
    with torch.inference_mode(), _own_defaults_only(model, end):
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            **({"past_key_values": read.cache} if read.cache is not None else {}),
            logits_processor=LogitsProcessorList([_OurPenalties(settings, prompt_ids, before)]),
            stopping_criteria=StoppingCriteriaList([_Cancelled(cancelled)]),
        )
    return [_without_padding(row[before + len(prompt_ids) :].tolist(), stop_ids, pad) for row in output]


@dataclass(frozen=True)
class _Read:
    """Keys and values of a prompt but for its last token, for every beam; None where generate reads the prompt itself."""

    cache: Any = None
    left: bool = False


def _read_ahead(
    model: Any, ids: torch.Tensor, beams: int, cancelled: Callable[[], bool], prefix: Prefix | None
) -> _Read:
    """Read a long prompt, or one after a soft prompt, in pieces, so that nobody waits for the whole of it.

    Only where the model's cache is plain keys and values, which can be repeated for the beams.
    """
    possible = takes_logits_to_keep(model) and not needs_whole_prompt(model.config)
    if prefix is None and (ids.shape[1] <= PREFILL_CHUNK or not possible):
        return _Read()
    cache: Any = prefix.copy() if prefix else None
    with torch.inference_mode():
        for piece in ids[:, :-1].split(PREFILL_CHUNK, dim=1) if possible and ids.shape[1] > 1 else ():
            cache = model(input_ids=piece, past_key_values=cache, use_cache=True, logits_to_keep=1).past_key_values
            if not _repeatable(cache):
                break
            if cancelled():
                return _Read(left=True)
        if possible and _repeatable(cache):
            cache.batch_repeat_interleave(beams)
            return _Read(cache)
    if prefix is not None:
        raise InvalidRequest(
            "Beam search with a soft prompt is not possible on this base, whose cache cannot be copied for each beam.",
            "Use sampling or greedy decoding.",
        )
    return _Read()


def _repeatable(cache: Any) -> bool:
    return type(cache) in (Cache, DynamicCache) and {type(layer) for layer in cache.layers} == {DynamicLayer}


class _own_defaults_only:
    """Sets aside the model's own generation defaults, which generate would mix into whatever is not given."""

    def __init__(self, model: Any, end: list[int]) -> None:
        self._model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._neutral = GenerationConfig(eos_token_id=end or None, pad_token_id=end[0] if end else 0)

    def __enter__(self) -> None:
        self._kept, self._model.generation_config = self._model.generation_config, self._neutral

    def __exit__(self, *error: object) -> None:
        self._model.generation_config = self._kept


def _without_padding(ids: list[int], stop_ids: frozenset[int], pad: int) -> list[int]:
    """``ids`` up to and including the first end token; padding behind an unfinished beam goes too."""
    for at, token in enumerate(ids):
        if token in stop_ids:
            return ids[: at + 1]
    while not stop_ids and ids and ids[-1] == pad:
        ids = ids[:-1]
    return ids
