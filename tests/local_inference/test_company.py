"""What happens to one row, its adapter or its listener reaches no other row. Each test here was a defect once."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoHaConfig, LoraConfig

from playground.errors import AdapterInvalid, EngineFailure, InvalidRequest, PlaygroundError
from playground.local_inference import LocalInference
from playground.types import GenerationEvent, GenerationRequest, Message, ModelSpec

from .conftest import PIRATE, PROMPTS, SQL, STARTER, ask, events_of, ids_of, text_of, unpack

LINEARS = ["q_proj", "v_proj", "up_proj", "down_proj"]


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that end by their length only."""
    from playground.local_inference.resident import Resident

    monkeypatch.setattr(Resident, "stop_ids", lambda *args: frozenset())


def _resident(engine: LocalInference) -> Any:
    engine.load(ModelSpec(str(STARTER)))
    assert engine._machinery is not None
    return engine._machinery.residents.all()[0]


class _Background:
    """A request that is read in a thread; ``until(phase)`` waits for a phase of it."""

    def __init__(self, engine: LocalInference, request: GenerationRequest) -> None:
        self.events: list[GenerationEvent] = []
        self.error: Exception | None = None
        self._stream = engine.stream(request)
        self._seen = threading.Condition()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            for event in self._stream:
                with self._seen:
                    self.events.append(event)
                    self._seen.notify_all()
        except PlaygroundError as error:
            self.error = error

    def until(self, phase: str) -> None:
        with self._seen:
            assert self._seen.wait_for(lambda: any(e.status.phase == phase for e in self.events), timeout=60)

    def done(self) -> list[GenerationEvent]:
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.events


def _search(*adapters: tuple[Path, float], **settings: Any) -> GenerationRequest:
    return ask(PROMPTS[2], *adapters, **{"strategy": "beam_search", "num_beams": 4, "max_new_tokens": 120, **settings})


@pytest.mark.usefixtures("endless")
def test_an_adapter_overwritten_in_place_does_not_change_a_running_answer(
    inference: LocalInference, make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    """G2: its weights are copied, not mapped from the file."""
    folders = [make_adapter(LoraConfig(r=4, target_modules=LINEARS), f"a{seed}", seed=seed) for seed in (1, 2)]
    folder = Path(shutil.copytree(folders[0], tmp_path / "retrained"))
    request = ask(PROMPTS[0], (folder, 4.0), max_new_tokens=100)
    alone = ids_of(events_of(inference, request))
    running = _Background(inference, request)
    running.until("generating")
    with (folder / "adapter_model.safetensors").open("r+b") as file:
        file.write((folders[1] / "adapter_model.safetensors").read_bytes())
    assert ids_of(running.done()) == alone
    assert ids_of(events_of(inference, request)) != alone, "a new request must get the retrained one"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_a_dora_on_a_quantized_base_is_refused_and_the_base_lives(
    inference: LocalInference, make_adapter: Callable[..., Path], quantization: Any
) -> None:
    """G8, G6: reading such a base's weights in full is wrong on some machines, and breaks it on others."""
    folder = make_adapter(LoraConfig(r=4, use_dora=True, target_modules=LINEARS), "dora")
    plain = ModelSpec(str(STARTER), quantization=quantization)
    base = GenerationRequest(plain, PROMPTS[0], settings=ask().settings)
    before = ids_of(events_of(inference, base))
    spec = ModelSpec(str(STARTER), ((str(folder), 1.0),), quantization=quantization)
    with pytest.raises(AdapterInvalid, match="Load the base without quantization"):
        events_of(inference, GenerationRequest(spec, PROMPTS[0], settings=ask().settings))
    assert ids_of(events_of(inference, base)) == before


@pytest.mark.usefixtures("endless")
def test_a_beam_searchs_adapter_stays_its_own_where_linears_are_not_joined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """G2: packed rows beside it call the same modules, hooks and all."""
    from playground.local_inference import packed

    monkeypatch.setattr(packed, "_WORTH_JOINING", 0)
    engine = LocalInference()
    request = ask(PROMPTS[0], max_new_tokens=60)
    alone = ids_of(events_of(engine, request))
    search = _Background(engine, _search((PIRATE, 1.0)))
    _until_searching(engine)
    assert ids_of(events_of(engine, request)) == alone
    search.done()
    engine.close()


@pytest.mark.long
@pytest.mark.usefixtures("endless")
@pytest.mark.parametrize("packed", [True, False])
def test_cancelling_a_row_that_waits_for_its_turn_harms_nobody(
    inference: LocalInference, make_adapter: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    """G6: paused rows are not stepped, also not when they have just been cancelled."""
    if not packed:
        unpack(monkeypatch, _resident(inference))
    ia3 = make_adapter(IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]), "ia3")
    request = _search((ia3, 1.0), max_new_tokens=60)
    inference.load(ModelSpec(str(STARTER), ((str(PIRATE), 1.0),)))  # attaching it would wait for the search
    alone = text_of(events_of(inference, request))
    for _ in range(3):
        ends: list[Any] = []
        cancels = [
            inference.submit(ask(PROMPTS[at], (PIRATE, 1.0), max_new_tokens=900), _note_end(ends)) for at in range(2)
        ]
        search = _Background(inference, request)
        assert _eventually(lambda: inference.activity()[0] == 3)
        for cancel in cancels:
            cancel()
        assert text_of(search.done()) == alone
        assert _eventually(lambda ends=ends: len(ends) == 2)
        assert ends == ["cancelled", "cancelled"]


def _note_end(ends: list[Any]) -> Callable[[GenerationEvent | Exception], None]:
    def sink(event: GenerationEvent | Exception) -> None:
        if isinstance(event, Exception):
            ends.append(event)
        elif event.finish_reason:
            ends.append(event.finish_reason)

    return sink


def _until_searching(engine: LocalInference) -> None:
    """Wait until a beam search runs."""
    assert _eventually(lambda: engine._machinery is not None and engine._machinery.loop._searching is not None)


def _eventually(true: Callable[[], bool]) -> bool:
    """Whether it becomes true within ten seconds."""
    for _ in range(1000):
        if true():
            return True
        time.sleep(0.01)
    return False


@pytest.mark.long
@pytest.mark.usefixtures("endless")
@pytest.mark.parametrize("adapters", [(), ((PIRATE, 1.0),)], ids=["base", "lora"])
def test_attaching_through_peft_beside_a_beam_search_changes_neither(
    make_adapter: Callable[..., Path], adapters: tuple[tuple[Path, float], ...]
) -> None:
    """G2, G1: the search goes on with the base as it was, and the base is not taken for damaged."""
    engine = LocalInference()
    folder = make_adapter(LoHaConfig(r=4, alpha=8, target_modules=["q_proj", "up_proj"]), "loha")
    alone = text_of(events_of(engine, _search(*adapters)))
    search = _Background(engine, _search(*adapters))
    _until_searching(engine)
    tuned = events_of(engine, ask(PROMPTS[0], (folder, 1.0), max_new_tokens=20))
    assert text_of(search.done()) == alone
    assert search.error is None
    assert len(ids_of(tuned)) == 20
    assert len(ids_of(events_of(engine, ask(PROMPTS[0], max_new_tokens=5)))) == 5
    engine.close()


@pytest.mark.long
@pytest.mark.usefixtures("endless")
def test_scoring_with_peft_beside_a_beam_search_changes_neither(
    inference: LocalInference, make_adapter: Callable[..., Path]
) -> None:
    """G2: a score is a job between two steps of the search, which must go on with the base as it was."""
    folder = make_adapter(LoHaConfig(r=4, alpha=8, target_modules=["q_proj", "up_proj"]), "loha")
    scored = ask(PROMPTS[0], (folder, 4.0))
    for adapters in ((), ((PIRATE, 1.0),)):
        alone, score = text_of(events_of(inference, _search(*adapters))), inference.score(scored, PROMPTS[1])
        search = _Background(inference, _search(*adapters))
        _until_searching(inference)
        assert inference.score(scored, PROMPTS[1]) == score
        assert inference._machinery is not None
        assert inference._machinery.loop._searching is not None, "the search was over before the score"
        assert text_of(search.done()) == alone


def test_a_prompt_without_tokens_is_refused(inference: LocalInference) -> None:
    """G6: it would wait for ever."""
    turn = (Message("assistant", "Hello"),)
    for strategy in ("greedy", "beam_search"):
        request = ask("x", strategy=strategy)
        request = GenerationRequest(request.spec, messages=turn, settings=request.settings, template="raw")
        with pytest.raises(InvalidRequest, match="has no tokens"):
            events_of(inference, request)


@pytest.mark.usefixtures("endless")
def test_a_cancelled_search_ends_each_of_its_answers(inference: LocalInference) -> None:
    """G5: exactly one last event for each, so that no reader waits for the others."""
    heard: list[GenerationEvent | Exception] = []
    cancel = inference.submit(_search(num_return_sequences=3), heard.append)
    _until_searching(inference)
    cancel()
    assert _eventually(lambda: inference.activity() == (0, 0))
    ends = [(e.index, e.finish_reason) for e in heard if isinstance(e, GenerationEvent) and e.finish_reason]
    assert sorted(ends) == [(0, "cancelled"), (1, "cancelled"), (2, "cancelled")]


def test_a_searchs_own_stops_end_nobody_elses_answer(inference: LocalInference, tokenizer: Any) -> None:
    """G2: rows that begin while it runs keep the model's declared end tokens."""
    resident = _resident(inference)
    alone = resident.stop_ids(tokenizer, "raw")
    search = _Background(inference, _search(stop=["<|im_start|>"], max_new_tokens=60))
    _until_searching(inference)
    assert resident.stop_ids(tokenizer, "raw") == alone
    search.done()


def test_a_failure_after_a_pass_is_told_and_not_repeated(
    inference: LocalInference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G6: what was counted once must not be counted twice; a wrong answer would be worse than none."""
    from playground.local_inference import engine

    requests = [ask(PROMPTS[at], max_new_tokens=40) for at in range(3)]
    alone = [ids_of(events_of(inference, request)) for request in requests]
    original, broken = engine.choose_tokens, []

    def breaks_once(samplers: Any, logits: Any) -> Any:
        if len(samplers) >= 3 and not broken:
            broken.append(True)
            raise MemoryError("no memory for the draw")
        return original(samplers, logits)

    monkeypatch.setattr(engine, "choose_tokens", breaks_once)
    running = [_Background(inference, request) for request in requests]
    for one, expected in zip(running, alone, strict=True):
        assert ids_of(one.done()) == expected or one.error is not None


def test_nan_is_an_error_and_not_an_answer(inference: LocalInference, monkeypatch: pytest.MonkeyPatch) -> None:
    """G6: with a remedy, and only for the row that has it."""
    packed = _resident(inference).packed
    original = packed.step

    def poisons_long_prompts(slabs: Any, newest: Any, pieces: Any, adapters: Any, **options: Any) -> Any:
        logits = original(slabs, newest, pieces, adapters, **options).clone()
        for at, (_, ids) in enumerate(pieces, len(newest)):
            if len(ids) > 30:
                logits[at] = float("nan")
        return logits

    alone = ids_of(events_of(inference, ask(PROMPTS[0])))
    monkeypatch.setattr(packed, "step", poisons_long_prompts)
    beside = _Background(inference, ask(PROMPTS[0]))
    with pytest.raises(EngineFailure, match="NaN or infinite"):
        events_of(inference, ask("word " * 60))
    assert ids_of(beside.done()) == alone


def test_a_listener_that_raises_harms_only_its_own_row(inference: LocalInference) -> None:
    """G6: at any event, the last one included."""
    alone = ids_of(events_of(inference, ask(PROMPTS[2])))

    def raises(event: GenerationEvent | Exception) -> None:
        raise RuntimeError("the listener is broken")

    beside = _Background(inference, ask(PROMPTS[2]))
    for _ in range(3):
        inference.submit(ask(PROMPTS[0]), raises)
    assert ids_of(beside.done()) == alone
    assert _eventually(lambda: inference.activity() == (0, 0))
    assert ids_of(events_of(inference, ask(PROMPTS[2]))) == alone


def test_closing_while_the_engine_starts_leaves_no_thread() -> None:
    """R1: neither now nor once it has started."""
    before = set(threading.enumerate())
    engine = LocalInference()
    running = _Background(engine, ask(PROMPTS[0]))
    engine.close()
    running.done()
    assert _eventually(lambda: set(threading.enumerate()) <= before)


def test_equal_logits_are_drawn_the_same_in_any_company() -> None:
    """G3: another row's top-k must not change the order of this row's ties."""
    from playground.local_inference.sampling import Sampler, choose_tokens
    from playground.types import GenerationSettings

    logits = torch.zeros(2, 3000)
    few, many = (GenerationSettings(strategy="top_k", temperature=1.0, top_k=k) for k in (50, 900))
    for seed in range(40):
        (alone,) = choose_tokens([Sampler(few, (), seed)], logits[:1])
        together = choose_tokens([Sampler(few, (), seed), Sampler(many, (), seed)], logits)
        assert together[0] == alone


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_named_twice_has_twice_the_strength(
    inference: LocalInference, make_adapter: Callable[..., Path], dora: bool
) -> None:
    """G14: also a DoRA, whose gain belongs to the whole strength."""
    folder = make_adapter(LoraConfig(r=4, use_dora=dora, target_modules=LINEARS), "twice")
    once = ids_of(events_of(inference, ask(PROMPTS[0], (folder, 1.0))))
    assert ids_of(events_of(inference, ask(PROMPTS[0], (folder, 0.5), (folder, 0.5)))) == once
    assert ids_of(events_of(inference, ask(PROMPTS[0], (folder, 1.0), (SQL, 0.0)))) == once
