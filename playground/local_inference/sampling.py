"""Logits of a row → its next token: biases, penalties, temperature, top-k, top-p, min-p, and a generator of its own per row.

The order is transformers' (biases, penalties, temperature, top-k, top-p, min-p), whose LogitsProcessor classes are the
oracle in the tests. Every value is passed explicitly; nothing comes from the model's own defaults.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

from playground.types import GenerationSettings

# Enough candidates for nearly every nucleus; the whole row is sorted when a nucleus turns out to be wider.
_FIRST_CANDIDATES = 512
# Below this the draw is certain anyway, and dividing by it would overflow.
_COLDEST = 1e-6


@dataclass
class Sampler:
    """Chooses one row's tokens. ``prompt_ids`` count as repeated when ``settings.penalize_prompt``."""

    settings: GenerationSettings
    prompt_ids: Sequence[int]
    seed: int

    def __post_init__(self) -> None:
        self._generator = torch.Generator(device="cpu").manual_seed(self.seed)
        self._counts: dict[int, int] = {}
        self._biases = Biases(self.settings)
        self._penalties = Penalties(self.settings, self.prompt_ids)

    def adjusted(self, logits: torch.Tensor) -> torch.Tensor:
        """``logits`` [vocab] with this row's biases, then its penalties; the same tensor where there are none."""
        return self._penalties.apply(self._biases.apply(logits), self._counts)

    def point(self) -> float:
        """This row's next random number in [0, 1)."""
        return float(torch.rand((), generator=self._generator, dtype=torch.float64))

    def note(self, token: int) -> int:
        """Remember ``token`` for the penalties."""
        self._counts[token] = self._counts.get(token, 0) + 1
        return token


class Biases:
    """What ``settings.logit_bias`` adds to the logits of single tokens (OpenAI's)."""

    def __init__(self, settings: GenerationSettings) -> None:
        self._ids = self._values = None
        if settings.logit_bias:
            ids, values = zip(*settings.logit_bias, strict=True)
            self._ids, self._values = torch.tensor(ids), torch.tensor(values)

    def __bool__(self) -> bool:
        return self._ids is not None

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """``logits`` [..., vocab] with the biases; a copy when changed."""
        if self._ids is None or self._values is None:
            return logits
        values = self._values.to(logits).expand(*logits.shape[:-1], -1)
        return logits.index_add(-1, self._ids.to(logits.device), values)


@dataclass
class Penalties:
    """Repetition (Keskar et al. 2019, arXiv:1909.05858), presence and frequency (OpenAI's) penalties."""

    settings: GenerationSettings
    prompt_ids: Sequence[int]

    def apply(self, logits: torch.Tensor, counts: dict[int, int]) -> torch.Tensor:
        """``logits`` [vocab] with the penalties of tokens in ``counts`` (id → times generated); a copy when changed."""
        s = self.settings
        seen = set(counts) | (set(self.prompt_ids) if s.penalize_prompt else set())
        scores = logits
        if s.repetition_penalty != 1.0 and seen:
            ids = torch.tensor(sorted(seen), device=logits.device)
            picked = scores[ids]
            penalized = torch.where(picked < 0, picked * s.repetition_penalty, picked / s.repetition_penalty)
            scores = scores.index_copy(0, ids, penalized)
        if (s.presence_penalty or s.frequency_penalty) and counts:
            ids = torch.tensor(list(counts), device=logits.device)
            times = torch.tensor(list(counts.values()), device=logits.device, dtype=scores.dtype)
            scores = scores.index_add(0, ids, -(s.presence_penalty + s.frequency_penalty * times))
        return scores


def choose_tokens(samplers: Sequence[Sampler], logits: torch.Tensor) -> list[int]:
    """The next token id of every row for raw float32 ``logits`` [rows, vocab], each by its own sampler.

    Rows of equal filters are drawn together; what a row gets does not depend on its company.
    """
    scores = logits
    for at, sampler in enumerate(samplers):
        changed = sampler.adjusted(logits[at])
        if changed is not logits[at] and changed.data_ptr() != logits[at].data_ptr():
            scores = scores.clone() if scores is logits else scores
            scores[at] = changed
    drawn = [at for at, sampler in enumerate(samplers) if not sampler.settings.is_greedy]
    greedy = [at for at, sampler in enumerate(samplers) if sampler.settings.is_greedy]
    tokens: dict[int, int] = {}
    if greedy:
        tokens |= zip(greedy, _rows(scores, greedy).argmax(dim=-1).tolist(), strict=True)
    if drawn:
        points = [samplers[at].point() for at in drawn]
        tokens |= zip(drawn, _draw(_rows(scores, drawn), [samplers[at].settings for at in drawn], points), strict=True)
    return [sampler.note(tokens[at]) for at, sampler in enumerate(samplers)]


def _rows(scores: torch.Tensor, chosen: Sequence[int]) -> torch.Tensor:
    """``scores`` of the ``chosen`` rows, without a copy where that is all of them."""
    return scores if len(chosen) == scores.shape[0] else scores[torch.tensor(chosen)]


def _draw(scores: torch.Tensor, settings: Sequence[GenerationSettings], points: Sequence[float]) -> list[int]:
    """One token id per row by inverse CDF, ``points`` being the rows' random numbers.

    Rows are looked at with those that take as many candidates: equal logits are put in another order when more are taken,
    and a row's draw must not depend on its company.
    """
    tokens = [0] * len(settings)
    for members in _alike(settings):
        ids, probabilities = candidates(_rows(scores, members), [settings[at] for at in members])
        cumulative = probabilities.cumsum(-1)
        targets = torch.tensor([points[at] for at in members], dtype=torch.float64)[:, None] * cumulative[:, -1:]
        places = torch.searchsorted(cumulative, targets, right=True).clamp_(max=ids.shape[1] - 1)
        for at, token in zip(members, ids.gather(1, places)[:, 0].tolist(), strict=True):
            tokens[at] = int(token)
    return tokens


def _alike(settings: Sequence[GenerationSettings]) -> list[list[int]]:
    """The rows in groups that take equally many candidates."""
    groups: dict[int, list[int]] = {}
    for at, one in enumerate(settings):
        groups.setdefault(one.top_k or _FIRST_CANDIDATES, []).append(at)
    return list(groups.values())


@dataclass(frozen=True)
class _Filters:
    """The rows' filters as columns [rows, 1], made once for each company of settings."""

    temperature: torch.Tensor
    top_k: torch.Tensor | None
    top_p: torch.Tensor | None
    min_p: torch.Tensor | None
    first: int
    open_rows: list[int]


class _Draw(NamedTuple):
    """What of a row's settings its filters are made of: no texts and no biases, which would be remembered with them."""

    nucleus: bool
    temperature: float
    top_k: int
    top_p: float
    min_p: float

    @classmethod
    def of(cls, s: GenerationSettings) -> _Draw:
        return cls(s.strategy == "sampling", s.temperature, s.top_k, s.top_p, s.min_p)


@functools.lru_cache(maxsize=256)
def _filters(settings: tuple[_Draw, ...], vocabulary: int) -> _Filters:
    ks = [min(s.top_k or vocabulary, vocabulary) for s in settings]
    ps = [s.top_p if s.nucleus else 1.0 for s in settings]
    ms = [s.min_p if s.nucleus else 0.0 for s in settings]
    first = min(max(s.top_k or _FIRST_CANDIDATES for s in settings), vocabulary)

    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64)[:, None]

    return _Filters(
        temperature=column([max(s.temperature, _COLDEST) for s in settings]),
        top_k=torch.tensor(ks)[:, None] if any(k < first for k in ks) else None,
        top_p=column([p if p < 1.0 else 2.0 for p in ps]) if min(ps) < 1.0 else None,  # 2: nothing is beyond it
        min_p=column(ms) if max(ms) > 0.0 else None,
        first=first,
        open_rows=[at for at, s in enumerate(settings) if not s.top_k],
    )


def candidates(scores: torch.Tensor, settings: Sequence[GenerationSettings]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [rows, n], likeliest first, and their float64 probabilities [rows, n] (unnormalised; 0: filtered out).

    ``scores`` are penalised logits [rows, vocab]; temperatures must be above 0.
    """
    filters = _filters(tuple(map(_Draw.of, settings)), scores.shape[1])
    values, ids = scores.topk(filters.first, dim=-1)
    probabilities = _probabilities(values, scores, filters)
    narrow = _too_narrow(probabilities, filters, scores.shape[1])
    if narrow is not None:
        values, order = scores.sort(dim=-1, descending=True)
        missing = scores.shape[1] - filters.first
        ids = torch.where(narrow, order, F.pad(ids, (0, missing)))
        probabilities = torch.where(narrow, _probabilities(values, scores, filters), F.pad(probabilities, (0, missing)))
    keep = torch.ones_like(probabilities, dtype=torch.bool)
    if filters.top_p is not None:
        keep &= probabilities.cumsum(-1) - probabilities < filters.top_p
    if filters.min_p is not None:
        keep &= probabilities >= filters.min_p * probabilities[:, :1]
    keep[:, 0] = True
    return ids, probabilities * keep


def _too_narrow(probabilities: torch.Tensor, filters: _Filters, vocabulary: int) -> torch.Tensor | None:
    """[rows, 1] bool: the rows without top-k that need more candidates than were looked at; None when there are none."""
    if not filters.open_rows or filters.first == vocabulary:
        return None
    reached = probabilities.sum(-1, keepdim=True)
    wanted = filters.top_p.clamp(max=1.0) if filters.top_p is not None else torch.ones_like(reached)
    is_open = torch.zeros_like(reached, dtype=torch.bool)
    is_open[filters.open_rows] = True
    narrow = is_open & (reached < wanted)
    return narrow if bool(narrow.any()) else None


def _probabilities(values: torch.Tensor, scores: torch.Tensor, filters: _Filters) -> torch.Tensor:
    """Probabilities of the sorted ``values`` [rows, n]: of the k best where top-k is on, else of the whole row."""
    scaled = values.double() / filters.temperature
    if filters.top_k is not None:
        scaled = scaled.masked_fill(torch.arange(values.shape[1])[None, :] >= filters.top_k, float("-inf"))
    total = torch.logsumexp(scaled, dim=-1, keepdim=True)
    if filters.open_rows:
        whole = scores[filters.open_rows] / filters.temperature[filters.open_rows].float()
        total[filters.open_rows] = torch.logsumexp(whole, dim=-1, keepdim=True).double()
    return (scaled - total).exp()


def log_probabilities(logits: torch.Tensor, tokens: Sequence[int]) -> list[float]:
    """The raw model's log-probability (natural log) of each row's token, for float32 ``logits`` [rows, vocab]."""
    picked = logits.gather(1, torch.tensor(tokens)[:, None])[:, 0]
    values: list[float] = (picked - torch.logsumexp(logits, dim=-1)).tolist()
    return values


def likeliest(logits: torch.Tensor, counts: Sequence[int]) -> list[list[tuple[int, float]]]:
    """The raw model's likeliest tokens as (id, log-probability) for ``logits`` [rows, vocab], ``counts`` of each row."""
    found: list[list[tuple[int, float]]] = [[] for _ in counts]
    asked = [at for at, count in enumerate(counts) if count]
    if asked:
        rows = _rows(logits, asked)
        best = rows.topk(min(max(counts), rows.shape[1]), dim=-1)
        values = best.values - torch.logsumexp(rows, dim=-1, keepdim=True)
        for at, ids, own in zip(asked, best.indices.tolist(), values.tolist(), strict=True):
            found[at] = list(zip(ids, own, strict=True))[: counts[at]]
    return found
