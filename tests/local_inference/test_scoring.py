"""Teacher-forced scores: each model's own log-probabilities, whatever is scored beside it."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoHaConfig, PeftModel, PromptTuningConfig

from playground.errors import ContextOverflow, InvalidRequest
from playground.local_inference import LocalInference
from playground.types import ModelSpec, Scores

from .conftest import PIRATE, PROMPTS, SQL, STARTER, ask, chat_ids, events_of, ids_of, plain_model

ANSWER = "The capital of France is Paris, and it is a large and old city. " * 5


def _spec(*adapters: tuple[Path, float]) -> ModelSpec:
    return ModelSpec(str(STARTER), tuple((str(path), scale) for path, scale in adapters))


def _plainly(prompt: list[int], answer: list[int], folder: Path | None) -> torch.Tensor:
    """Log-probabilities [answer, vocab] by plain transformers and PEFT."""
    model = plain_model()
    if folder is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = PeftModel.from_pretrained(model, folder).eval()
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0]
    return torch.log_softmax(logits[len(prompt) - 1 : -1].float(), dim=-1)


def _check(got: Scores, expected: torch.Tensor, first: torch.Tensor, ids: list[int]) -> None:
    assert [token.id for token in got.tokens] == ids
    said = expected.gather(1, torch.tensor(ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor([t.logprob for t in got.tokens]), said, atol=2e-4, rtol=1e-4)
    kl = (expected.exp() * (expected - first)).sum(-1)
    torch.testing.assert_close(torch.tensor(got.divergence), kl.clamp_min(0), atol=2e-3, rtol=1e-3)
    best = expected.topk(3).values
    torch.testing.assert_close(torch.tensor([[p for *_, p in t.top] for t in got.tokens]), best, atol=2e-4, rtol=1e-4)
    assert got.perplexity == pytest.approx(math.exp(-float(said.mean())), rel=1e-3)


@pytest.mark.parametrize("packed", [True, False])
def test_scores_are_plain_transformers_and_pefts(
    inference: LocalInference,
    tokenizer: Any,
    make_adapter: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    packed: bool,
) -> None:
    """C5, G10: base, two LoRAs and one through PEFT over the same ids; several chunks of prompt and answer."""
    inference.load(_spec())
    assert inference._machinery is not None
    if not packed:
        monkeypatch.setattr(inference._machinery.residents.all()[0], "packed", None)
    loha = make_adapter(LoHaConfig(r=4, alpha=8, target_modules=["q_proj", "up_proj"]), "loha")
    folders = [PIRATE, SQL] if packed else [PIRATE, loha]
    request = ask("word " * 90 + PROMPTS[0])
    prompt = chat_ids(tokenizer, request.prompt or "")
    ids = tokenizer(ANSWER, add_special_tokens=False)["input_ids"]
    base, *tuned = inference.score(request, ANSWER, [_spec((folder, 1.0)) for folder in folders], top=3)
    first = _plainly(prompt, ids, None)
    _check(base, first, first, ids)
    assert set(base.divergence) == {0.0}
    for folder, scores in zip(folders, tuned, strict=True):
        _check(scores, _plainly(prompt, ids, folder), first, ids)
        assert max(scores.divergence) > 1e-3


def test_scoring_beside_an_answer_changes_neither(inference: LocalInference) -> None:
    """G2: rows go on between the chunks."""
    request = ask(PROMPTS[2], (PIRATE, 1.0), max_new_tokens=60)
    alone = ids_of(events_of(inference, request))
    quiet = inference.score(ask(PROMPTS[0]), ANSWER, [_spec((SQL, 0.5))])
    got: list[list[int]] = []
    thread = threading.Thread(target=lambda: got.append(ids_of(events_of(inference, request))))
    thread.start()
    beside = inference.score(ask(PROMPTS[0]), ANSWER, [_spec((SQL, 0.5))])
    thread.join()
    assert got == [alone]
    for one, other in zip(quiet, beside, strict=True):
        assert [t.logprob for t in one.tokens] == pytest.approx([t.logprob for t in other.tokens], abs=1e-4)


def test_what_cannot_be_scored_is_refused_and_nothing_stays_pinned(inference: LocalInference) -> None:
    """G4: before work starts."""
    with pytest.raises(InvalidRequest, match="nothing to score"):
        inference.score(ask(PROMPTS[0]), "")
    with pytest.raises(InvalidRequest, match="Ask for 0 to 20"):
        inference.score(ask(PROMPTS[0]), ANSWER, top=21)
    with pytest.raises(ContextOverflow, match="Shorten one of them"):
        inference.score(ask(PROMPTS[0]), "word " * 1200)
    inference.unload(str(STARTER))


@pytest.mark.parametrize("packed", [True, False])
def test_chunks_stay_under_a_size_whatever_is_scored(
    inference: LocalInference, make_adapter: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    """C5: positions × vocabulary × models × 4 bytes; a soft prompt among the models, and the scores are the same."""
    from playground.local_inference import scoring

    soft = make_adapter(PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4), "soft")
    others = [_spec((PIRATE, 1.0)), _spec((soft, 1.0)), _spec((soft, 0.0))]
    whole = inference.score(ask(PROMPTS[0]), ANSWER, others)
    assert inference._machinery is not None
    if not packed:
        monkeypatch.setattr(inference._machinery.residents.all()[0], "packed", None)
    most = 7 * 4 * 4 * 1536
    held: list[int] = []
    note = scoring.Scorer._note

    def notes(self: Any, logits: Any, expected: Any) -> None:
        held.append(sum(one.numel() * one.element_size() for one in logits))
        note(self, logits, expected)

    monkeypatch.setattr(scoring, "CHUNK_BYTES", most)
    monkeypatch.setattr(scoring.Scorer, "_note", notes)
    pieces = inference.score(ask(PROMPTS[0]), ANSWER, others)
    assert max(held) == most
    for one, other in zip(whole, pieces, strict=True):
        assert [t.logprob for t in one.tokens] == pytest.approx([t.logprob for t in other.tokens], abs=1e-4)
    assert pieces[2].logprob != pytest.approx(pieces[0].logprob, abs=1e-2)
    assert pieces[3].logprob == pytest.approx(pieces[0].logprob, abs=1e-4)
