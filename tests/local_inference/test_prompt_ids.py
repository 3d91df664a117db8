"""Prompts given as token ids, the prompt's own log-probabilities, and biases on single tokens; against transformers."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from playground.errors import ContextOverflow, InvalidRequest, QueueFull
from playground.local_inference import LocalInference, scoring
from playground.types import GenerationRequest, GenerationSettings, ModelSpec

from .conftest import (
    PIRATE,
    PROMPTS,
    SQL,
    STARTER,
    ask,
    at_once,
    chat_ids,
    events_of,
    greedy_ids,
    ids_of,
    plain_model,
    text_of,
    unpack,
)
from .kind_maker import KINDS, MORE_TOKENS, answer_of, logprobs_of, make_kind, plain_peft

VOCABULARY = 1536
# No text comes out as these: single bytes, and an end token in the middle.
ODD = [7, 1500, 2, 2, 900, 33, 0, 1200, 41, 41, 5, 1535]


def given(ids: Any, *adapters: tuple[Path, float], **settings: Any) -> GenerationRequest:
    """A request for what follows ``ids``; greedy, 12 tokens, unless told otherwise."""
    spec = ModelSpec(str(STARTER), tuple((str(path), scale) for path, scale in adapters))
    values = {"strategy": "greedy", "max_new_tokens": 12, **settings}
    return GenerationRequest(spec, settings=GenerationSettings(**values), template="raw", prompt_ids=tuple(ids))


def said(tokens: Any) -> torch.Tensor:
    """The log-probabilities of all but the first."""
    return torch.tensor([token.logprob for token in tokens[1:]])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Any]]:
    """``made(kind)``: an adapter's folder, and PEFT's own model with it."""

    def make(name: str) -> tuple[Path, Any]:
        folder = make_kind(KINDS[name], tmp_path_factory.mktemp("kinds") / name.replace(" ", "-"))
        return folder, plain_peft(KINDS[name], folder)

    return make


def test_token_ids_are_read_as_they_are(inference: LocalInference, tokenizer: Any) -> None:
    """A4: no BOS before them and nothing normalised; the answer is transformers' own, and the prompt can be shown."""
    inference.load(ModelSpec(str(STARTER)))
    rendered = inference.render(given(ODD))
    assert list(rendered.token_ids) == ODD
    assert rendered.text == tokenizer.decode(ODD)
    assert ids_of(events_of(inference, given(ODD))) == greedy_ids(plain_model(), ODD, 12)


def test_ids_of_a_text_are_answered_as_the_text(inference: LocalInference, tokenizer: Any) -> None:
    """A4: joined text included; with an adapter, with beams, and computed alone."""
    ids = chat_ids(tokenizer, PROMPTS[0])
    text = tokenizer.decode(ids)
    for adapters, settings in (
        ((), {}),
        (((PIRATE, 0.7),), {"strategy": "sampling", "seed": 3, "reproducible": True}),
        (((SQL, 1.0),), {"strategy": "beam_search", "num_beams": 2}),
    ):
        by_ids = given(ids, *adapters, **settings)
        by_text = GenerationRequest(by_ids.spec, text, settings=by_ids.settings, template="raw")
        assert text_of(events_of(inference, by_ids)) == text_of(events_of(inference, by_text))


def test_ids_that_the_model_lacks_are_refused_by_name(inference: LocalInference) -> None:
    """A4, G4: before the row is in line, by whoever reads the request; nothing stays behind."""
    for request in (given([5, VOCABULARY]), given([5], logit_bias=[(VOCABULARY, 1.0)])):
        for read in (
            lambda request: events_of(inference, request),
            inference.render,
            inference.prompt_tokens,
            lambda request: inference.score(request, "yes"),
        ):
            inference.load(request.spec)
            with pytest.raises(InvalidRequest, match="holds 1536, and this model's token ids end at 1535"):
                read(request)
    assert inference.activity() == (0, 0)
    inference.unload(str(STARTER))


def test_too_many_ids_are_an_overflow_and_a_full_window_can_still_be_scored(inference: LocalInference) -> None:
    """A4, G7: an answer needs a place of its own, log-probabilities do not."""
    inference.load(ModelSpec(str(STARTER)))
    window = inference.residents()[0].context_window
    with pytest.raises(ContextOverflow, match="Shorten it by at least 1 token"):
        events_of(inference, given([5] * window))
    assert len(inference.prompt_tokens(given([5] * window))) == window
    with pytest.raises(ContextOverflow, match="Shorten it by at least 1 token"):
        inference.prompt_tokens(given([5] * (window + 1)))


def check_prompt(inference: LocalInference, request: GenerationRequest, model: Any, top: int = 3) -> None:
    """``request``'s tokens have the log-probabilities that ``model`` gives them in one plain pass."""
    ids = list(request.prompt_ids)
    first, *rest = inference.prompt_tokens(request, top)
    assert [first.id, *(token.id for token in rest)] == ids
    assert math.isnan(first.logprob)
    assert first.top == ()
    expected = logprobs_of(model, ids[:1], ids[1:])
    torch.testing.assert_close(said([first, *rest]), expected.float(), atol=5e-4, rtol=1e-4)
    assert all(len(token.top) == top for token in rest)


def test_a_prompts_tokens_have_transformers_log_probabilities(inference: LocalInference, tokenizer: Any) -> None:
    """A4: over several passes, under a template too; alternatives likeliest first."""
    model = plain_model()
    long = (ODD * 40)[:450]
    check_prompt(inference, given(long), model)
    rendered = inference.prompt_tokens(ask(PROMPTS[0]), 2)
    ids = chat_ids(tokenizer, PROMPTS[0])
    assert [token.id for token in rendered] == ids
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    best = logits[:-1].topk(2)
    assert [[i for i, *_ in token.top] for token in rendered[1:]] == best.indices.tolist()
    assert rendered[1].top[0][1] == tokenizer.decode([rendered[1].top[0][0]])


def test_a_prompt_of_one_token_has_nothing_to_predict(inference: LocalInference) -> None:
    """A4."""
    (only,) = inference.prompt_tokens(given([9]), 5)
    assert only.id == 9
    assert math.isnan(only.logprob)
    with pytest.raises(InvalidRequest, match="Ask for 0 to 20"):
        inference.prompt_tokens(given([9]), 21)


def test_an_adapters_prompt_is_scored_with_the_adapter(
    inference: LocalInference, made: Callable[[str], tuple[Path, Any]]
) -> None:
    """A4, G2: as PEFT computes it; a soft prompt's positions come before, and the base is the base afterwards."""
    before = inference.prompt_tokens(given(ODD))
    folder, model = made("prompt tuning")
    check_prompt(inference, given(ODD * 12, (folder, 1.0)), model)
    assert abs(said(inference.prompt_tokens(given(ODD, (PIRATE, 1.0)))) - said(before)).max() > 1e-2
    torch.testing.assert_close(said(inference.prompt_tokens(given(ODD))), said(before), atol=1e-5, rtol=0)


@pytest.mark.long
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    "name", ["lora", "dora", "prefix tuning", "p-tuning", "loha", "ia3", "saved module", "more tokens"]
)
def test_every_kind_of_adapter_scores_a_prompt_as_peft(
    inference: LocalInference,
    made: Callable[[str], tuple[Path, Any]],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    packed: bool,
) -> None:
    """A4, G2: and generates from ids as PEFT, in our own pass and in transformers'; words that it brings are words."""
    folder, model = made(name)
    inference.load(ModelSpec(str(STARTER)))
    assert inference._machinery is not None
    if not packed:
        unpack(monkeypatch, inference._machinery.residents.all()[0])
    ids = ODD * 12
    check_prompt(inference, given(ids, (folder, 1.0)), model)
    assert ids_of(events_of(inference, given(ids, (folder, 1.0)))) == answer_of(model, ids, 12)
    own = [*ODD, VOCABULARY + MORE_TOKENS - 1]
    if name == "more tokens":
        check_prompt(inference, given([*own, 5], (folder, 1.0)), model)
        bias = [(own[-1], 100.0)]
        assert (
            ids_of(events_of(inference, given(own, (folder, 1.0), logit_bias=bias, max_new_tokens=2))) == [own[-1]] * 2
        )
    else:
        with pytest.raises(InvalidRequest, match="holds 1543"):
            inference.prompt_tokens(given(own, (folder, 1.0)))


def test_many_prompts_at_once_share_passes_and_have_their_own_numbers(
    inference: LocalInference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A4: as evaluation programs send them; adapters mixed, rows beside them; one that fails is the only one."""
    company = ((), ((PIRATE, 1.0),), ((SQL, 0.5),))
    requests = [given((ODD * 9)[at : at + 4 + 7 * at], *company[at % 3]) for at in range(14)]
    apart = [inference.prompt_tokens(request, 1) for request in requests]
    inference.load(requests[0].spec)
    sizes: list[int] = []
    original = scoring._read_together

    def together(resident: Any, pieces: Any) -> None:
        sizes.append(len(pieces))
        if len(pieces) > 1 and len(sizes) % 2:
            raise RuntimeError("this pass fails, and its parts do not")
        original(resident, pieces)

    monkeypatch.setattr(scoring, "_read_together", together)
    held, go = threading.Event(), threading.Event()
    assert inference._machinery is not None
    inference._machinery.loop.run(lambda: (held.set(), go.wait(30)))  # so that all of them wait at once
    inference._machinery.thread.wake()
    held.wait(30)
    found: dict[int, Any] = {}

    def read(at: int) -> None:
        if at == len(requests):
            found[at] = ids_of(events_of(inference, ask(PROMPTS[0], (PIRATE, 1.0))))
        elif at > len(requests):
            line = inference._machinery._prompts  # type: ignore[union-attr]
            while len(line._waiting) < len(requests):
                threading.Event().wait(0.005)
            go.set()
        else:
            found[at] = inference.prompt_tokens(requests[at], 1)

    at_once(read, len(requests) + 2)
    assert max(sizes) > 1  # how many fit into one depends on the order in which they came
    for at, tokens in enumerate(apart):
        assert [token.id for token in found[at]] == [token.id for token in tokens]
        torch.testing.assert_close(said(found[at]), said(tokens), atol=2e-4, rtol=1e-4)
    assert found[len(requests)] == ids_of(events_of(inference, ask(PROMPTS[0], (PIRATE, 1.0))))


def test_a_line_of_prompts_is_not_endless(inference: LocalInference, monkeypatch: pytest.MonkeyPatch) -> None:
    """A7, G6: who finds it full is told, and what fails in a pass is told to whom it belongs; the pins come back."""
    monkeypatch.setattr(scoring, "MOST_WAITING", 0)
    with pytest.raises(QueueFull, match="wait to be read"):
        inference.prompt_tokens(given(ODD))
    monkeypatch.undo()

    def breaks(*args: Any, **options: Any) -> None:
        raise RuntimeError("out of luck")

    assert inference._machinery is not None
    monkeypatch.setattr(inference._machinery.residents.all()[0], "packed_step", breaks)
    with pytest.raises(Exception, match="out of luck"):
        inference.prompt_tokens(given(ODD))
    monkeypatch.undo()
    assert len(inference.prompt_tokens(given(ODD))) == len(ODD)
    assert inference._machinery.residents.all()[0].pins == 0


def test_a_prompt_that_nobody_wants_any_more_is_not_read_on(inference: LocalInference) -> None:
    """A7: whoever asked for its log-probabilities has left; the line is empty again, and nothing is pinned."""
    assert inference._machinery is not None
    machinery = inference._machinery
    going_on = threading.Event()
    machinery._run(going_on.wait)  # the compute thread has other work meanwhile
    with pytest.raises(CancelledError):
        inference.prompt_tokens(given(ODD), 0, lambda: False)
    assert not machinery._prompts._waiting
    going_on.set()
    assert len(inference.prompt_tokens(given(ODD))) == len(ODD)
    assert machinery.residents.all()[0].pins == 0


def test_a_reproducible_prompt_has_the_same_numbers_in_any_company(inference: LocalInference) -> None:
    """G3, A4: to the last bit, in float32 as it is loaded here: its passes hold nothing else."""
    request = given(ODD * 15, (PIRATE, 1.0), reproducible=True)
    alone = said(inference.prompt_tokens(request))
    others = [given((ODD * 9)[at:], (SQL, 1.0)) for at in range(8)]
    found: list[torch.Tensor] = []

    def read(at: int) -> None:
        if at < len(others):
            inference.prompt_tokens(others[at])
        else:
            found.append(said(inference.prompt_tokens(request)))

    at_once(read, len(others) + 3)
    assert all(torch.equal(one, alone) for one in found)


@pytest.mark.parametrize("strategy", [{"strategy": "greedy"}, {"temperature": 1.0, "seed": 4}, {"strategy": "top_k"}])
def test_a_bias_bans_and_forces_tokens(inference: LocalInference, strategy: dict[str, Any]) -> None:
    """A4: −100 never, 100 always, whatever the strategy; the numbers that are told stay the raw model's."""
    plain = events_of(inference, given(ODD, **strategy))
    first = next(token for event in plain for token in event.tokens)
    banned = events_of(inference, given(ODD, **strategy, logit_bias={first.id: -100}, top_logprobs=20))
    assert first.id not in ids_of(banned)
    told = {i: logprob for i, _, logprob in next(token for event in banned for token in event.tokens).top}
    if first.id in told:
        assert told[first.id] == pytest.approx(first.logprob, abs=1e-4)
    forced = events_of(inference, given(ODD, **strategy, logit_bias={77: 100}, max_new_tokens=5))
    assert ids_of(forced) == [77] * 5
    expected = logprobs_of(plain_model(), ODD, [77] * 5)
    numbers = [token.logprob for event in forced for token in event.tokens]
    torch.testing.assert_close(torch.tensor(numbers), expected.float(), atol=5e-4, rtol=1e-4)


def test_a_bias_is_transformers_sequence_bias_in_every_search(inference: LocalInference) -> None:
    """G4, A4: greedy and beams, against transformers' own processor."""
    model = AutoModelForCausalLM.from_pretrained(STARTER, dtype=torch.float32).eval()
    plain = greedy_ids(model, ODD, 12)
    bias = [(plain[0], -100.0), (plain[2], -3.5), (604, 4.0), (313, 6.0)]
    theirs = {"sequence_bias": {(token,): value for token, value in bias}, "renormalize_logits": True}
    assert ids_of(events_of(inference, given(ODD, logit_bias=bias))) == greedy_ids(model, ODD, 12, **theirs)
    beams = {"num_beams": 3, "early_stopping": False, "length_penalty": 1.0}
    expected = greedy_ids(model, ODD, 12, **beams, **theirs)
    request = given(ODD, strategy="beam_search", num_beams=3, logit_bias=bias)
    inference.load(request.spec)
    assert inference._machinery is not None
    words = inference._machinery.residents.all()[0].loaded.tokenizer
    assert text_of(events_of(inference, request)) == words.decode(expected, skip_special_tokens=True)
    forced = given(ODD, strategy="beam_search", num_beams=3, logit_bias=[(77, 100.0)], max_new_tokens=4)
    assert text_of(events_of(inference, forced)) == words.decode([77] * 4)


def test_rows_with_and_without_a_bias_share_a_pass(inference: LocalInference) -> None:
    """G2, A4: each as alone."""
    requests = [given(ODD, logit_bias=[(77, 3.0 * at)] if at % 2 else []) for at in range(6)]
    alone = [ids_of(events_of(inference, request)) for request in requests]
    together: dict[int, list[int]] = {}

    def run(at: int) -> None:
        together[at] = ids_of(events_of(inference, requests[at]))

    at_once(run, len(requests))
    assert [together[at] for at in range(len(requests))] == alone
    assert alone[5] != alone[0]
