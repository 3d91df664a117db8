"""Promises of the engine as its callers see it, with the real model."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from playground.errors import (
    AdapterInvalid,
    ContextOverflow,
    EngineFailure,
    ModelBusy,
    ModelNotFound,
    ModelNotLoaded,
    ShuttingDown,
)
from playground.local_inference import LocalInference, engine
from playground.types import GenerationEvent, GenerationRequest, Message, ModelSpec
from tests.process_border import crossed

from .conftest import (
    PIRATE,
    PROMPTS,
    SQL,
    STARTER,
    TABLE,
    ask,
    at_once,
    chat_ids,
    events_of,
    greedy_ids,
    ids_of,
    plain_model,
    text_of,
)

LONG = {"strategy": "sampling", "temperature": 2.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 900}


def _wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


@pytest.fixture
def endless(inference: LocalInference, monkeypatch: pytest.MonkeyPatch) -> GenerationRequest:
    """A request that goes on until its window is full: nothing ends it early."""
    from playground.local_inference.resident import Resident

    monkeypatch.setattr(Resident, "stop_ids", lambda *args: frozenset())
    return ask("Tell me everything.", **LONG)


def test_a_seed_gives_the_same_text_again(inference: LocalInference) -> None:
    """G3: same request and seed, same text, also with something else running beside it; another seed, another text."""
    sampled = {"strategy": "sampling", "temperature": 1.5, "top_k": 0, "top_p": 1.0, "max_new_tokens": 60}
    first = text_of(events_of(inference, ask(PROMPTS[2], seed=7, **sampled)))
    beside = inference.stream(ask(PROMPTS[1], seed=1, **LONG))
    next(beside)
    again = text_of(events_of(inference, ask(PROMPTS[2], seed=7, **sampled)))
    beside.close()
    assert again == first
    assert text_of(events_of(inference, ask(PROMPTS[2], seed=8, **sampled))) != first


def test_a_seed_that_was_drawn_is_told_and_repeats(inference: LocalInference) -> None:
    """G10: provenance names the seed, so that any answer can be made again."""
    events = events_of(inference, ask(PROMPTS[2], strategy="sampling", temperature=1.2))
    assert events[-1].provenance is not None
    again = ask(PROMPTS[2], strategy="sampling", temperature=1.2, seed=events[-1].provenance.seed)
    assert text_of(events_of(inference, again)) == text_of(events)


def test_temperature_zero_is_greedy(inference: LocalInference) -> None:
    """G3."""
    zero = text_of(events_of(inference, ask(PROMPTS[0], strategy="sampling", temperature=0.0)))
    assert zero == text_of(events_of(inference, ask(PROMPTS[0])))


def test_two_adapters_never_mix(inference: LocalInference) -> None:
    """G2: answers of base and adapters running at the same time equal the same requests run alone."""
    requests = [
        ask(prompt, *adapters, max_new_tokens=30)
        for prompt in (TABLE, *PROMPTS)
        for adapters in ((), ((PIRATE, 1.0),), ((SQL, 1.0),), ((PIRATE, 0.5),))
    ]
    alone = [ids_of(events_of(inference, request)) for request in requests]
    together: list[list[int]] = [[] for _ in requests]

    def run(at: int) -> None:
        together[at] = ids_of(events_of(inference, requests[at]))

    at_once(run, len(requests))
    assert together == alone
    assert len({tuple(ids) for ids in alone[:8]}) >= 4


def test_rows_that_need_peft_take_turns_with_the_others(
    inference: LocalInference, make_adapter: Callable[..., Path]
) -> None:
    """G2: an adapter that needs the model to itself never leaks into a base answer beside it."""
    from peft import LoHaConfig

    alone_only = make_adapter(LoHaConfig(r=4, alpha=8, target_modules=["q_proj", "up_proj"]), "loha")
    requests = [ask(PROMPTS[0]), ask(PROMPTS[0], (alone_only, 1.0)), ask(PROMPTS[0], (PIRATE, 1.0)), ask(PROMPTS[1])]
    alone = [ids_of(events_of(inference, request)) for request in requests]

    async def all_at_once() -> list[list[int]]:
        async def one(request: GenerationRequest) -> list[int]:
            return [token.id async for event in inference.astream(request) for token in event.tokens]

        return await asyncio.gather(*(one(request) for request in requests))

    for _ in range(3):
        assert asyncio.run(all_at_once()) == alone


def test_deltas_join_to_the_answer_and_one_event_is_the_last(inference: LocalInference, tokenizer: Any) -> None:
    """G5."""
    events = events_of(inference, ask(PROMPTS[2], max_new_tokens=80))
    assert [event.finish_reason is not None for event in events].count(True) == 1
    assert events[-1].finish_reason in ("stop", "length")
    assert text_of(events) == tokenizer.decode(ids_of(events), skip_special_tokens=True)
    assert events[-1].stats.prompt_tokens == len(chat_ids(tokenizer, PROMPTS[2]))
    totals = [event.stats.completion_tokens for event in events]
    assert totals == sorted(totals)


def test_the_token_limit_ends_with_length(inference: LocalInference) -> None:
    """G5: the finish reason is true."""
    events = events_of(inference, ask(PROMPTS[2], max_new_tokens=3))
    assert events[-1].finish_reason == "length"
    assert len(ids_of(events)) == 3 == events[-1].stats.completion_tokens


def test_a_stop_sequence_is_never_shown_not_even_its_beginning(inference: LocalInference) -> None:
    """G5: cut inside a word and across tokens, and the text before it is whole."""
    whole = text_of(events_of(inference, ask(PROMPTS[2], max_new_tokens=60)))
    stop = whole[9:16]
    events = events_of(inference, ask(PROMPTS[2], max_new_tokens=60, stop=(stop, "never said")))
    shown = ""
    for event in events:
        shown += event.text
        assert whole[: whole.index(stop)].startswith(shown)
    assert shown == whole[: whole.index(stop)]
    assert events[-1].finish_reason == "stop"


def test_a_special_token_is_a_stop_sequence_too(inference: LocalInference) -> None:
    """G4: its text is never decoded, so it has to be matched by id."""
    plain = text_of(events_of(inference, ask(PROMPTS[0])))
    assert text_of(events_of(inference, ask(PROMPTS[0], stop=("<|im_end|>",)))) == plain


def test_streamed_emoji_hold_no_replacement_character(
    inference: LocalInference, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G5: characters split over several tokens arrive whole, whatever the model writes."""
    script = tokenizer("Ahoy 🙂🚀 Grüße, 日本語 👩‍🚀!", add_special_tokens=False)["input_ids"]
    assert len(script) > 20, "the tokenizer must split these characters for this test to mean anything"
    forced = iter(script)
    monkeypatch.setattr(engine, "choose_tokens", lambda samplers, logits: [next(forced)])
    events = events_of(inference, ask(PROMPTS[0], max_new_tokens=len(script)))
    assert text_of(events) == "Ahoy 🙂🚀 Grüße, 日本語 👩‍🚀!"
    assert not any("\ufffd" in event.text for event in events)


def test_an_emoji_cut_by_the_limit_is_left_out(
    inference: LocalInference, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G5: half a character is no text."""
    forced = iter(tokenizer("Hi 🚀", add_special_tokens=False)["input_ids"][:-1])
    monkeypatch.setattr(engine, "choose_tokens", lambda samplers, logits: [next(forced)])
    count = len(tokenizer("Hi 🚀", add_special_tokens=False)["input_ids"]) - 1
    assert text_of(events_of(inference, ask(PROMPTS[0], max_new_tokens=count))).rstrip() == "Hi"


def test_closing_the_stream_leaves_the_engine_idle_within_a_step(
    inference: LocalInference, endless: GenerationRequest
) -> None:
    """G6: Stop."""
    stream = inference.stream(endless)
    for event in stream:
        if event.stats.completion_tokens > 3:
            break
    stream.close()
    assert _wait_until(lambda: inference.activity() == (0, 0), 1.0)


def test_cancel_ends_with_cancelled_and_keeps_the_text(inference: LocalInference, endless: GenerationRequest) -> None:
    """G6: whoever listens to the sink hears one last event."""
    heard: list[GenerationEvent | Exception] = []
    cancel = inference.submit(endless, heard.append)
    assert _wait_until(lambda: len(heard) > 8)
    cancel()
    assert _wait_until(lambda: isinstance(heard[-1], GenerationEvent) and heard[-1].finish_reason == "cancelled")
    count = len(heard)
    assert not _wait_until(lambda: len(heard) > count, 0.2), "nothing may follow the last event"


def test_a_dropped_async_reader_stops_the_row(inference: LocalInference, endless: GenerationRequest) -> None:
    """G6: a cancelled task, as a server cancels for a client that left."""

    async def leave() -> None:
        async def read() -> None:
            async for _ in inference.astream(endless):
                pass

        task = asyncio.create_task(read())
        await asyncio.sleep(0.3)
        assert inference.activity() != (0, 0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(leave())
    assert _wait_until(lambda: inference.activity() == (0, 0), 1.0)


def test_a_reader_whose_loop_closed_does_no_harm(inference: LocalInference, endless: GenerationRequest) -> None:
    """G6: a loop that vanishes under its reader neither hangs nor kills the engine."""

    async def abandon() -> Any:
        stream = inference.astream(endless)
        await anext(stream)
        return stream

    loop = asyncio.new_event_loop()
    stream = loop.run_until_complete(abandon())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    del stream
    assert _wait_until(lambda: inference.activity() == (0, 0))
    assert text_of(events_of(inference, ask(PROMPTS[0])))


def test_stop_ends_a_beam_search(inference: LocalInference, endless: GenerationRequest) -> None:
    """G6: within one beam step."""
    request = replace(endless, settings=endless.settings.replace(strategy="beam_search", num_beams=4))
    stream = inference.stream(request)
    started = time.monotonic()
    for _ in stream:
        if time.monotonic() - started > 0.5:
            break
    stream.close()
    assert _wait_until(lambda: inference.activity() == (0, 0), 1.0)


def test_an_exception_in_the_worker_ends_only_its_row(
    inference: LocalInference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G6: nothing hangs, and the next request is answered."""
    with monkeypatch.context() as broken:
        broken.setattr(engine, "choose_tokens", lambda samplers, logits: 1 / 0)
        with pytest.raises(EngineFailure, match=r"ZeroDivisionError.*Try again"):
            events_of(inference, ask(PROMPTS[0]))
    assert inference.activity() == (0, 0)
    assert text_of(events_of(inference, ask(PROMPTS[0])))


def test_a_failure_between_rows_reaches_their_readers_and_the_engine_lives(
    inference: LocalInference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G6: not even a bug in admission hangs anybody."""
    from playground.local_inference.scheduler import Scheduler

    inference.load(ModelSpec(str(STARTER)))
    with monkeypatch.context() as broken:
        broken.setattr(Scheduler, "admit", lambda self: 1 / 0)
        with pytest.raises(EngineFailure, match="ZeroDivisionError"):
            events_of(inference, ask(PROMPTS[0]))
    assert text_of(events_of(inference, ask(PROMPTS[0])))


def test_beams_are_transformers_beams(inference: LocalInference, tokenizer: Any) -> None:
    """G3: whatever the checkpoint's generation_config says, only the request's settings count."""
    ids = chat_ids(tokenizer, PROMPTS[2])
    neutral = {"num_beams": 3, "temperature": 1.0, "top_p": 1.0}
    expected = greedy_ids(plain_model(), ids, 25, **neutral)
    events = events_of(inference, ask(PROMPTS[2], strategy="beam_search", num_beams=3, max_new_tokens=25))
    assert text_of(events) == tokenizer.decode(expected, skip_special_tokens=True)
    assert sum(bool(event.text) for event in events) == 1


def test_a_long_prompt_is_read_in_pieces_by_a_beam_search(
    inference: LocalInference, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G6: the same answer as in one piece, and others are stepped between the pieces."""
    from playground.local_inference import beams

    request = ask("Repeat: " + "word " * 120, strategy="beam_search", num_beams=3, max_new_tokens=12)
    whole = text_of(events_of(inference, request))
    monkeypatch.setattr(beams, "PREFILL_CHUNK", 40)
    asked = 0
    original = beams._read_ahead

    def counted(model: Any, ids: Any, count: int, cancelled: Any, prefix: Any) -> Any:
        def ask_and_count() -> bool:
            nonlocal asked
            asked += 1
            return bool(cancelled())

        return original(model, ids, count, ask_and_count, prefix)

    monkeypatch.setattr(beams, "_read_ahead", counted)
    assert text_of(events_of(inference, request)) == whole
    assert asked >= 3


def test_beams_return_as_many_answers_as_asked(inference: LocalInference) -> None:
    """G3: each answer has its index and one last event."""
    request = ask(PROMPTS[2], strategy="beam_search", num_beams=4, num_return_sequences=3, max_new_tokens=12)
    events = events_of(inference, request)
    assert sorted(event.index for event in events if event.finish_reason) == [0, 1, 2]
    assert len({event.text for event in events if event.finish_reason}) == 3


def test_several_sampled_answers_differ_and_the_first_is_the_seeds_own(inference: LocalInference) -> None:
    """G3: num_return_sequences with sampling."""
    sampled = {"strategy": "sampling", "temperature": 2.0, "top_k": 0, "seed": 5, "max_new_tokens": 60}
    events = events_of(inference, ask(PROMPTS[2], num_return_sequences=3, **sampled))
    texts = ["".join(event.text for event in events if event.index == index) for index in range(3)]
    assert len(set(texts)) == 3
    assert texts[0] == text_of(events_of(inference, ask(PROMPTS[2], **sampled)))
    assert sum(event.finish_reason is not None for event in events) == 3


def test_an_over_long_prompt_is_one_clear_error(inference: LocalInference) -> None:
    """G7: with the figures, and before any work."""
    with pytest.raises(ContextOverflow, match=r"The prompt has \d+ tokens.*at most 1024.*Shorten it"):
        events_of(inference, ask("long " * 3000))


def test_a_long_conversation_drops_its_oldest_turns_and_says_so(inference: LocalInference) -> None:
    """G7: the system message and the last turn stay."""
    turns = [Message("system", "You are a parrot named Kiki.")]
    for number in range(60):
        turns += [Message("user", f"Question number {number}, please?"), Message("assistant", f"Answer {number}. " * 4)]
    turns.append(Message("user", "The last question."))
    request = replace(ask(), prompt=None, messages=tuple(turns))
    events = events_of(inference, request)
    notices = " ".join(event.notice for event in events)
    assert "oldest messages were left out" in notices
    rendered = inference.render(request)
    assert "Kiki" in rendered.text
    assert "The last question." in rendered.text
    assert "number 0," not in rendered.text
    assert rendered.dropped_turns > 0
    assert len(rendered.token_ids) < rendered.window


def test_the_window_ends_the_answer_with_length_announced_at_start(
    inference: LocalInference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G7."""
    from playground.local_inference.resident import Resident

    monkeypatch.setattr(Resident, "stop_ids", lambda *args: frozenset())
    long = "word " * 900
    events = events_of(inference, ask(long, max_new_tokens=500))
    prompt = events[-1].stats.prompt_tokens
    assert prompt > 800
    assert events[-1].finish_reason == "length"
    assert prompt + events[-1].stats.completion_tokens == 1024
    first_text = next(at for at, event in enumerate(events) if event.tokens)
    assert any("at most" in event.notice for event in events[:first_text])


def test_chunked_prefill_answers_as_transformers(inference: LocalInference, tokenizer: Any) -> None:
    """G2: a prompt of several chunks gives the same tokens."""
    long = "A cat sat on the mat. " * 90
    expected = greedy_ids(plain_model(), chat_ids(tokenizer, long), 20)
    assert ids_of(events_of(inference, ask(long, max_new_tokens=20))) == expected


def test_two_first_requests_load_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """G1: single flight."""
    from playground.local_inference import machinery

    loads: list[ModelSpec] = []
    original = machinery.load_resident

    def counted(spec: ModelSpec, report: Any) -> Any:
        loads.append(spec)
        return original(spec, report)

    monkeypatch.setattr(machinery, "load_resident", counted)
    engine = LocalInference()
    try:
        threads = [
            threading.Thread(target=events_of, args=(engine, ask(prompt, *adapters)))
            for prompt, adapters in zip(PROMPTS, ((), ((PIRATE, 1.0),), ((SQL, 1.0),)), strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(loads) == 1
        (info,) = engine.residents()
        assert {adapter.name for adapter in info.adapters} == {"pirate", "sql"}
    finally:
        engine.close()


def test_an_adapter_is_attached_without_loading_the_base_again(inference: LocalInference) -> None:
    """G1, P1: swapping adapters keeps the one copy of the base."""
    inference.load(ModelSpec(str(STARTER)))
    before = inference.residents()[0].loaded_at
    info = inference.load(ModelSpec(str(STARTER), ((str(SQL), 1.0),)))
    assert info.loaded_at == before
    assert len(inference.residents()) == 1


def test_a_symbolic_link_is_the_same_entry(inference: LocalInference, tmp_path: Path) -> None:
    """G1."""
    (tmp_path / "link").symlink_to(STARTER)
    inference.load(ModelSpec(str(STARTER)))
    inference.load(ModelSpec(str(tmp_path / "link")))
    assert len(inference.residents()) == 1


def test_a_retrained_adapter_directory_is_read_again(
    inference: LocalInference, make_adapter: Callable[..., Path]
) -> None:
    """G1: the files on disk are what answers."""
    from peft import LoraConfig

    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"])
    folder, other = make_adapter(config, "retrained", 1), make_adapter(config, "later", 2)
    first = ids_of(events_of(inference, ask(PROMPTS[1], (folder, 40.0))))
    (folder / "adapter_model.safetensors").write_bytes((other / "adapter_model.safetensors").read_bytes())
    second = ids_of(events_of(inference, ask(PROMPTS[1], (folder, 40.0))))
    assert second == ids_of(events_of(inference, ask(PROMPTS[1], (other, 40.0))))
    assert second != first


def test_unload_is_refused_while_answering_and_frees_afterwards(
    inference: LocalInference, endless: GenerationRequest
) -> None:
    """G1, P1: with the figures."""
    stream = inference.stream(endless)
    for event in stream:
        if event.tokens:
            break
    with pytest.raises(ModelBusy, match="answering 1"):
        inference.unload(str(STARTER))
    stream.close()
    assert _wait_until(lambda: inference.activity() == (0, 0))
    inference.unload(str(STARTER))
    assert inference.residents() == ()
    with pytest.raises(ModelNotLoaded):
        inference.unload(str(STARTER))


def test_render_needs_a_loaded_model(tmp_path: Path) -> None:
    """P2: counts come from the model's own tokenizer or not at all."""
    engine = LocalInference()
    with pytest.raises(ModelNotLoaded, match="Load it first"):
        engine.render(ask())
    engine.close()


def test_rendered_prompt_is_what_transformers_templates(inference: LocalInference, tokenizer: Any) -> None:
    """G7: text and ids, one BOS at most."""
    inference.load(ModelSpec(str(STARTER)))
    rendered = inference.render(ask(PROMPTS[0]))
    assert list(rendered.token_ids) == chat_ids(tokenizer, PROMPTS[0])
    assert PROMPTS[0] in rendered.text
    assert inference.count_tokens(ModelSpec(str(STARTER)), "Hello there") == len(tokenizer.tokenize("Hello there"))


@pytest.mark.parametrize(
    ("base", "adapter", "error", "says"),
    [
        ("/no/such/folder", None, ModelNotFound, "no model folder"),
        (str(PIRATE), None, ModelNotFound, "is an adapter, not a base"),
        (str(STARTER), "/no/such/adapter", AdapterInvalid, "no folder"),
        (str(STARTER), str(STARTER), AdapterInvalid, "whole model"),
    ],
)
def test_a_wrong_name_is_one_sentence_and_never_the_base(
    inference: LocalInference, base: str, adapter: str | None, error: type[Exception], says: str
) -> None:
    """G6, R3: and its remedy is told apart, for programs."""
    spec = ModelSpec(base, ((adapter, 1.0),) if adapter else ())
    with pytest.raises(error, match=says) as refused:
        events_of(inference, replace(ask(), spec=spec))
    assert refused.value.remedy.strip()
    assert refused.value.remedy not in refused.value.message
    assert inference.activity() == (0, 0)


def test_a_hub_id_without_a_network_says_what_to_do(inference: LocalInference, monkeypatch: pytest.MonkeyPatch) -> None:
    """R3: one line, with the remedy."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFound, match=r"not on this machine.*network"):
        inference.load(ModelSpec("no-such-org-here/no-such-model"))


def test_a_no_op_adapter_is_known_as_one(inference: LocalInference, make_adapter: Callable[..., Path]) -> None:
    """G10: the probe says that the logits did not move."""
    from peft import LoraConfig
    from safetensors.torch import load_file, save_file

    folder = make_adapter(LoraConfig(r=2, target_modules=["q_proj"]), "noop")
    file = folder / "adapter_model.safetensors"
    save_file({name: tensor * ("lora_A" in name) for name, tensor in load_file(file).items()}, file)
    info = inference.load(ModelSpec(str(STARTER), ((str(folder), 1.0),)))
    assert [a.moves_logits for a in info.adapters if a.name == "noop"] == [False]


def test_an_adapter_with_nan_is_refused(inference: LocalInference, make_adapter: Callable[..., Path]) -> None:
    """G9."""
    from peft import LoraConfig
    from safetensors.torch import load_file, save_file

    folder = make_adapter(LoraConfig(r=2, target_modules=["q_proj"]), "nan")
    file = folder / "adapter_model.safetensors"
    save_file({name: tensor * float("nan") for name, tensor in load_file(file).items()}, file)
    with pytest.raises(AdapterInvalid, match=r"NaN.*diverged"):
        inference.load(ModelSpec(str(STARTER), ((str(folder), 1.0),)))


def test_a_slow_load_sends_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """G5: an event at least every 250 ms, so that nobody looks at a frozen page and a closed tab is noticed."""
    from playground.local_inference import machinery

    original = machinery.load_resident

    def slow(spec: ModelSpec, report: Any) -> Any:
        time.sleep(1.5)
        return original(spec, report)

    monkeypatch.setattr(machinery, "load_resident", slow)
    engine = LocalInference()
    phases = [event.status.phase for event in engine.stream(ask())]
    engine.close()
    assert phases.count("loading") >= 5


def test_requests_and_what_the_engine_tells_of_them_cross_a_process_border(inference: LocalInference) -> None:
    """G9: the engine may move to a process of its own; what it tells needs no torch to be read."""
    request = ask()
    assert crossed(request) == request
    events = events_of(inference, request)
    for told in (*events, *inference.residents(), *inference.memories(), inference.render(request)):
        assert crossed(told) == told


def test_closing_the_engine_ends_every_stream() -> None:
    """G6: a shutdown leaves no reader hanging."""
    engine = LocalInference()
    ended: list[str] = []

    def read() -> None:
        for event in engine.stream(ask(PROMPTS[2], **LONG)):
            if event.finish_reason:
                ended.append(event.finish_reason)

    thread = threading.Thread(target=read)
    thread.start()
    assert _wait_until(lambda: engine.activity()[0] == 1, 30)
    engine.close()
    thread.join(5)
    assert not thread.is_alive()
    assert ended
    with pytest.raises(ShuttingDown, match="shutting down"):
        next(iter(engine.stream(ask())))
    with pytest.raises(ShuttingDown, match="shutting down"):
        engine.load(ModelSpec(str(STARTER), ((str(SQL), 1.0),)))


def test_an_adapter_in_the_bases_own_folder_is_not_put_on_it(inference: LocalInference, tmp_path: Path) -> None:
    """G1: transformers would load it unasked, and the base pane would not be the base."""
    import shutil

    both = tmp_path / "both"
    shutil.copytree(STARTER, both)
    shutil.copytree(PIRATE, both, dirs_exist_ok=True, ignore=shutil.ignore_patterns("README.md"))
    spec = ModelSpec(str(both))
    assert ids_of(events_of(inference, replace(ask(), spec=spec))) == ids_of(events_of(inference, ask()))
    tuned = replace(spec, adapters=((str(both), 1.0),))
    assert ids_of(events_of(inference, replace(ask(), spec=tuned))) == ids_of(
        events_of(inference, ask(PROMPTS[0], (PIRATE, 1.0)))
    )
    infos = {info.path: info.parameters for info in inference.residents()}
    assert infos[str(both)] == infos[str(STARTER)]
    inference.unload(str(both))


def test_an_adapter_behind_a_symbolic_link_is_the_same_entry(inference: LocalInference, tmp_path: Path) -> None:
    """G1."""
    (tmp_path / "link").symlink_to(SQL)
    inference.load(ModelSpec(str(STARTER), ((str(SQL), 1.0),)))
    count = len(inference.residents()[0].adapters)
    inference.load(ModelSpec(str(STARTER), ((str(tmp_path / "link"), 1.0),)))
    assert len(inference.residents()[0].adapters) == count


def test_loading_leaves_no_threads_behind(inference: LocalInference) -> None:
    """S5: neither what loads nor what fails."""
    inference.load(ModelSpec(str(STARTER)))
    before = threading.active_count()
    for _ in range(10):
        with pytest.raises(AdapterInvalid):
            inference.load(ModelSpec(str(STARTER), (("/no/such/adapter", 1.0),)))
        with pytest.raises(ModelNotFound):
            inference.load(ModelSpec("/no/such/model"))
    assert _wait_until(lambda: threading.active_count() <= before)


def test_an_adapter_that_changes_while_it_is_read_is_a_sentence(
    inference: LocalInference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G6: a training that saves at this very moment."""
    from itertools import count

    from playground.local_inference import resident

    ticks = count()
    monkeypatch.setattr(resident, "fingerprint", lambda folder: ((str(folder), 0, next(ticks)),))
    with pytest.raises(AdapterInvalid, match="keep changing"):
        inference.load(ModelSpec(str(STARTER), ((str(PIRATE), 1.0),)))


@pytest.fixture(autouse=True)
def _idle_at_the_end(inference: LocalInference) -> Iterator[None]:
    """Every test leaves the engine idle."""
    yield
    assert _wait_until(lambda: inference.activity() == (0, 0))


def test_a_bug_in_the_slots_hangs_nobody(inference: LocalInference, monkeypatch: pytest.MonkeyPatch) -> None:
    """G6: even when tidying up after a row fails, every reader hears of it, and the next request is answered."""
    from playground.local_inference.slots import Slab

    inference.load(ModelSpec(str(STARTER)))
    with monkeypatch.context() as broken:
        broken.setattr(Slab, "lengths", lambda self: 1 / 0)
        broken.setattr(Slab, "remove", lambda self, slot: 1 / 0)
        for _ in range(2):
            with pytest.raises(EngineFailure, match="ZeroDivisionError"):
                events_of(inference, ask(PROMPTS[0]))
    assert text_of(events_of(inference, ask(PROMPTS[0])))
