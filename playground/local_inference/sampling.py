"""Logits of one row → its next token: penalties, temperature, top-k, top-p, min-p, and a generator of its own per row.

The order is transformers' (penalties, temperature, top-k, top-p, min-p), whose LogitsProcessor classes are the oracle in
the tests. Every value is passed explicitly; nothing comes from the model's own defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from playground.types import GenerationSettings

# Enough candidates for nearly every nucleus; the whole row is sorted when a nucleus turns out to be wider.
_FIRST_CANDIDATES = 512


def row_seed(seed: int, index: int) -> int:
    """The seed of answer ``index`` of a request: the first answer has the request's own."""
    return (seed + index * 0x9E3779B97F4A7C15) % 2**63


@dataclass
class Sampler:
    """Chooses one row's tokens. ``prompt_ids`` count as repeated when ``settings.penalize_prompt``."""

    settings: GenerationSettings
    prompt_ids: Sequence[int]
    seed: int

    def __post_init__(self) -> None:
        self._generator = torch.Generator(device="cpu").manual_seed(self.seed)
        self._counts: dict[int, int] = {}
        self._penalties = Penalties(self.settings, self.prompt_ids)

    def choose(self, logits: torch.Tensor) -> int:
        """The next token id for raw ``logits`` of shape [vocab], float32; remembers it for the penalties."""
        scores = self._penalties.apply(logits, self._counts)
        token = int(scores.argmax()) if self.settings.is_greedy else self._draw(scores)
        self._counts[token] = self._counts.get(token, 0) + 1
        return token

    def _draw(self, scores: torch.Tensor) -> int:
        ids, probabilities = candidates(scores, self.settings)
        cumulative = probabilities.cumsum(0)
        point = torch.rand((), generator=self._generator, dtype=torch.float64) * cumulative[-1]
        place = int(torch.searchsorted(cumulative, point, right=True))
        return int(ids[min(place, len(ids) - 1)])


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


def candidates(scores: torch.Tensor, settings: GenerationSettings) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [n] and their float64 probabilities [n] (unnormalised), likeliest first, after temperature and filters.

    ``scores`` are penalised logits [vocab]; the temperature must be above 0.
    """
    use_nucleus = settings.strategy == "sampling"
    scaled = scores.double() / settings.temperature
    vocabulary = scaled.numel()
    first = min(settings.top_k or _FIRST_CANDIDATES, vocabulary)
    values, ids = scaled.topk(first)
    # With top-k the nucleus is taken of what top-k left over, else of the whole row.
    total = torch.logsumexp(values if settings.top_k else scaled, dim=0)
    probabilities = (values - total).exp()
    top_p = settings.top_p if use_nucleus else 1.0
    if not settings.top_k and first < vocabulary and float(probabilities.sum()) < top_p:
        values, ids = scaled.sort(descending=True)
        probabilities = (values - total).exp()
    keep = torch.ones_like(probabilities, dtype=torch.bool)
    if top_p < 1.0:
        keep &= probabilities.cumsum(0) - probabilities < top_p
    if use_nucleus and settings.min_p > 0.0:
        keep &= probabilities >= settings.min_p * probabilities[0]
    keep[0] = True
    return ids[keep], probabilities[keep]


def log_probabilities(logits: torch.Tensor, token: int, top: int) -> tuple[float, list[tuple[int, float]]]:
    """The raw model's log-probability of ``token`` and its ``top`` likeliest (id, log-probability), natural log."""
    total = torch.logsumexp(logits, dim=0)
    best = (logits.topk(top) if top else None) if top <= logits.numel() else logits.sort(descending=True)
    ranked = [(int(i), float(v - total)) for v, i in zip(best[0], best[1], strict=True)] if best is not None else []
    return float(logits[token] - total), ranked
