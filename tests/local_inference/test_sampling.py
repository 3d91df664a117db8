"""G3, G4: our sampler against transformers' LogitsProcessor classes, and its own promises."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from playground.local_inference.sampling import (
    Penalties,
    Sampler,
    candidates,
    choose_tokens,
    likeliest,
    log_probabilities,
)
from playground.types import GenerationSettings, row_seed

VOCABULARY = 4000


def _logits(seed: int, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(seed)) * spread


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 0.7},
        {"temperature": 1.3, "top_k": 40},
        {"temperature": 1.0, "top_p": 0.9},
        {"temperature": 2.0, "top_p": 0.99},
        {"temperature": 0.8, "top_k": 50, "top_p": 0.8},
        {"temperature": 1.0, "min_p": 0.05},
        {"temperature": 1.5, "top_k": 100, "top_p": 0.95, "min_p": 0.02},
        {"temperature": 1.0, "top_p": 0.0},
        {"temperature": 0.05, "top_p": 0.5},
    ],
    ids=str,
)
def test_the_candidates_are_transformers_candidates(values: dict[str, Any], seed: int) -> None:
    """G4: the same tokens with the same probabilities, also when the nucleus is wider than a first glance."""
    settings = GenerationSettings(**{"top_k": 0, "top_p": 1.0, **values})
    logits = _logits(seed, spread=0.5 if settings.temperature == 2.0 else 3.0)
    warpers: list[Any] = [TemperatureLogitsWarper(settings.temperature)]
    warpers += [TopKLogitsWarper(settings.top_k)] if settings.top_k else []
    warpers += [TopPLogitsWarper(settings.top_p)] if 0 < settings.top_p < 1 else []
    warpers += [MinPLogitsWarper(settings.min_p)] if settings.min_p else []
    if settings.top_p == 0.0:
        warpers.append(TopKLogitsWarper(1))
    expected = LogitsProcessorList(warpers)(torch.zeros(1, 1, dtype=torch.long), logits.double()[None])[0].softmax(0)
    (ids,), (probabilities,) = candidates(logits[None], [settings])
    ids, probabilities = ids[probabilities > 0], probabilities[probabilities > 0]
    got = torch.zeros(VOCABULARY, dtype=torch.double).index_copy(0, ids, probabilities / probabilities.sum())
    assert torch.allclose(got, expected, atol=1e-9)
    assert set(ids.tolist()) == set(expected.nonzero().flatten().tolist())


def test_a_row_has_transformers_candidates_in_any_company() -> None:
    """G3, G4: a nucleus over thousands of tokens beside rows with a small or a large top-k; which token a probability of
    a millionth falls to at the nucleus' edge is rounding.
    """
    for trial in range(40):
        chance = random.Random(trial)
        rows = [_drawn_at_random(chance) for _ in range(chance.randint(1, 5))]
        scores = torch.stack([_logits(10 * trial + at, chance.choice([0.1, 0.5, 2.0, 4.0])) for at in range(len(rows))])
        for settings, logits, ids, kept in zip(rows, scores, *candidates(scores, rows), strict=True):
            got = torch.zeros(VOCABULARY, dtype=torch.double).index_add(0, ids, kept / kept.sum())
            assert float((got - _warped(logits, settings)).abs().sum()) < 1e-5, settings


def _drawn_at_random(chance: random.Random) -> GenerationSettings:
    return GenerationSettings(
        strategy=chance.choice(["sampling", "sampling", "top_k"]),
        temperature=chance.choice([0.1, 0.7, 1.0, 1.5, 2.0]),
        top_k=chance.choice([0, 0, 0, 1, 5, 50, 511, 512, 513, 900]),
        top_p=chance.choice([0.1, 0.5, 0.9, 0.99, 0.999, 1.0]),
        min_p=chance.choice([0.0, 0.0, 0.01, 0.2]),
    )


def _warped(logits: torch.Tensor, settings: GenerationSettings) -> torch.Tensor:
    """The probabilities that transformers draws from, in float64."""
    nucleus = settings.strategy == "sampling"
    warpers: list[Any] = [TemperatureLogitsWarper(settings.temperature)]
    warpers += [TopKLogitsWarper(settings.top_k)] if settings.top_k else []
    warpers += [TopPLogitsWarper(settings.top_p)] if nucleus and settings.top_p < 1 else []
    warpers += [MinPLogitsWarper(settings.min_p)] if nucleus and settings.min_p else []
    return LogitsProcessorList(warpers)(torch.zeros(1, 1, dtype=torch.long), logits.double()[None])[0].softmax(0)


@pytest.mark.parametrize("over_prompt", [False, True])
def test_the_repetition_penalty_is_transformers(over_prompt: bool) -> None:
    """G4: over generated text only, over the prompt too as an option."""
    prompt, generated = [1, 2, 3], {3: 2, 9: 1}
    settings = GenerationSettings(repetition_penalty=1.4, penalize_prompt=over_prompt)
    seen = torch.tensor([[3, 9, *(prompt if over_prompt else [])]])
    logits = _logits(1)
    expected = RepetitionPenaltyLogitsProcessor(1.4)(seen, logits[None].clone())[0]
    assert torch.equal(Penalties(settings, prompt).apply(logits, generated), expected)


def test_presence_and_frequency_are_subtracted_as_documented() -> None:
    """G4: presence once, frequency per occurrence, generated tokens only."""
    settings = GenerationSettings(presence_penalty=0.5, frequency_penalty=-0.25)
    logits = _logits(2)
    after = Penalties(settings, [5]).apply(logits, {7: 3})
    assert after[7] == pytest.approx(float(logits[7]) - (0.5 - 0.25 * 3))
    assert after[5] == logits[5]


def test_draws_follow_the_probabilities() -> None:
    """G3: the inverse-CDF draw is not biased."""
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    sampler = Sampler(GenerationSettings(temperature=1.0, top_k=0, top_p=1.0), (), seed=1)
    counts = Counter(choose_tokens([sampler], logits[None])[0] for _ in range(4000))
    for token, probability in enumerate(logits.softmax(0).tolist()):
        assert counts[token] / 4000 == pytest.approx(probability, abs=0.03)


def test_a_sampler_touches_no_global_random_state() -> None:
    """G3: other rows' draws, and anybody else's, are never disturbed."""
    before = torch.random.get_rng_state()
    choose_tokens([Sampler(GenerationSettings(), (), seed=3)], _logits(0)[None])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_greedy_takes_the_penalised_best() -> None:
    """G4: penalties hold under greedy too."""
    sampler = Sampler(GenerationSettings(strategy="greedy", presence_penalty=2.0), (), seed=0)
    logits = torch.tensor([1.0, 0.5, 0.0])
    assert [choose_tokens([sampler], logits[None])[0] for _ in range(3)] == [0, 1, 2]


def test_a_temperature_next_to_zero_is_greedy() -> None:
    """G3: no overflow into nonsense."""
    logits = _logits(9)
    cold = Sampler(GenerationSettings(temperature=1e-309, top_k=0, top_p=1.0), (), seed=1)
    assert choose_tokens([cold], logits[None]) == [int(logits.argmax())]


def test_log_probabilities_are_the_raw_models() -> None:
    """ENGINE: before temperature and penalties."""
    logits = _logits(4)
    expected = logits.log_softmax(0)
    assert log_probabilities(logits[None], [11])[0] == pytest.approx(float(expected[11]), abs=1e-5)
    both = torch.stack([logits.flip(0), logits, logits])
    none, best, two = likeliest(both, [0, 5, 2])  # each row as many as it asks for
    assert none == []
    assert [token for token, _ in best] == expected.topk(5).indices.tolist()
    torch.testing.assert_close(torch.tensor([p for _, p in best]), expected.topk(5).values)
    assert two == best[:2]
    assert likeliest(logits[None, :3], [20])[0][0][0] == int(logits[:3].argmax())


def test_answers_of_one_request_have_seeds_of_their_own() -> None:
    """G3."""
    assert row_seed(5, 0) == 5
    assert len({row_seed(5, index) for index in range(8)}) == 8
    assert all(0 <= row_seed(2**63 - 1, index) < 2**63 for index in range(8))
