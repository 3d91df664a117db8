"""G11: what was read is not read again, and every answer is the one without reuse, token for token."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig

from playground.local_inference import LocalInference
from playground.local_inference.engine import StepLoop
from playground.local_inference.resident import Resident
from playground.local_inference.row import Row
from playground.types import GenerationEvent, GenerationRequest, GenerationSettings, Message, ModelSpec

from .conftest import PIRATE, SQL, STARTER, at_once, events_of, ids_of
from .family_maker import make_family
from .kind_maker import KINDS, make_kind
from .recurrent_maker import make_recurrent

WORDS = 1536
Adapters = tuple[tuple[Path, float], ...]


@pytest.fixture(scope="module")
def reusing() -> Iterator[LocalInference]:
    """An engine that keeps what it has read."""
    engine = LocalInference(prefix_budget=200e6)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def plain() -> Iterator[LocalInference]:
    """The same without any reuse."""
    engine = LocalInference(prefix_budget=0)
    yield engine
    engine.close()


def _text(seed: object, count: int) -> list[int]:
    """Some token ids."""
    chance = random.Random(str(seed))
    return [chance.randint(3, WORDS - 1) for _ in range(count)]


def _ask(
    ids: Sequence[int], adapters: Adapters = (), tokens: int = 12, base: Path = STARTER, user: str = "", **settings: Any
) -> GenerationRequest:
    """``ids`` as a prompt; greedy, and the end token is never chosen, so that every answer is ``tokens`` long."""
    values = {"strategy": "greedy", "max_new_tokens": tokens, "logit_bias": ((2, -100.0),), **settings}
    spec = ModelSpec(str(base), tuple((str(path), scale) for path, scale in adapters), dtype="float32")
    return GenerationRequest(
        spec, prompt_ids=tuple(ids), template="raw", settings=GenerationSettings(**values), user=user
    )


def _answer(engine: LocalInference, request: GenerationRequest) -> tuple[list[int], int]:
    """(the answer's ids, how many tokens of the prompt were known)."""
    events = events_of(engine, request)
    return ids_of(events), events[-1].stats.reused_tokens  # type: ignore[union-attr]


def _resident(engine: LocalInference, base: Path = STARTER) -> Resident:
    assert engine._machinery is not None
    return next(held for held in engine._machinery.residents.all() if held.asked.base == str(base))


@dataclass
class Chat:
    """One conversation, answered by an engine that reuses and by one that does not."""

    reusing: LocalInference
    plain: LocalInference
    base: Path = STARTER
    turns: list[list[int]] = field(default_factory=list)  # what was said, question and answer in turn
    reused: list[int] = field(default_factory=list)

    def ask(self, question: Sequence[int], adapters: Adapters = (), **options: Any) -> None:
        """One more turn."""
        prompt = [token for turn in self.turns for token in turn] + list(question)
        request = _ask(prompt, adapters, base=self.base, **options)
        found, reused = _answer(self.reusing, request)
        expected, _ = _answer(self.plain, request)
        assert found == expected, f"turn {len(self.turns) // 2 + 1}: {reused} of {len(prompt)} tokens were known"
        self.turns += [list(question), found]
        self.reused.append(reused)

    def back_to(self, turn: int) -> None:
        """Go on after that many turns: an edit, a branch or another answer to the same."""
        del self.turns[2 * turn :]


def _twenty_turns(chat: Chat, mixes: Sequence[Adapters], seed: str, length: int = 20) -> None:
    """A conversation with edits, branches, regenerated answers and swaps of what answers."""
    chance = random.Random(seed)
    last: list[int] = []
    for turn in range(20):
        if turn % 5 == 3:
            chat.back_to(chance.randint(0, len(chat.turns) // 2 - 1))  # an edit, or a branch
        if turn % 5 == 4:
            chat.back_to(len(chat.turns) // 2 - 1)  # the same question once more
        else:
            last = _text((seed, turn), chance.randint(3, length))
        chat.ask(last, mixes[turn // 6 % len(mixes)], tokens=chance.randint(1, 15))


def test_a_second_turn_reads_what_is_new_and_nothing_else(reusing: LocalInference, plain: LocalInference) -> None:
    """G11: all but the answer's last token, which had no reader, and the new question."""
    chat = Chat(reusing, plain)
    chat.ask(_text("first", 120))
    chat.ask(_text("second", 20))
    chat.ask(_text("third", 20))
    assert chat.reused == [0, 120 + 11, 152 + 11]
    again = _answer(reusing, _ask(_text("first", 120)))
    assert again[1] == 119  # the last token of a prompt is always read


@pytest.mark.long
def test_twenty_turns_with_edits_and_swaps_are_those_without_reuse(
    reusing: LocalInference, plain: LocalInference
) -> None:
    """G11: base, one adapter at two strengths and a mix, in one conversation, and the base's own texts for nobody else."""
    mixes: list[Adapters] = [(), ((PIRATE, 1.0),), ((PIRATE, 0.5),), ((SQL, 0.6), (PIRATE, 0.4))]
    chat = Chat(reusing, plain)
    chat.turns = [_text("system", 60), []]
    _twenty_turns(chat, mixes, "packed")
    assert sum(reused > 0 for reused in chat.reused) >= 12
    chat.back_to(len(chat.turns))
    chat.ask([5, 6, 7], ((PIRATE, 0.51),))
    assert chat.reused[-1] == 0  # what was read at another strength is of no use


def test_answers_of_one_prompt_read_it_once(reusing: LocalInference, plain: LocalInference) -> None:
    """G11: they come together, and each but the first waits for what they share; each has a seed of its own."""
    request = _ask(_text("several", 200), num_return_sequences=4, strategy="sampling", temperature=1.0, seed=3)
    found, expected = events_of(reusing, request), events_of(plain, request)
    assert [_of(found, index) for index in range(4)] == [_of(expected, index) for index in range(4)]
    reused = sorted(_last(found, index).stats.reused_tokens for index in range(4))  # type: ignore[union-attr]
    assert reused == [0, 199, 199, 199]


@pytest.mark.long
def test_users_of_one_system_prompt_read_it_once(reusing: LocalInference, plain: LocalInference) -> None:
    """G11: also those who come at the same time, and whose questions differ."""
    system = _text("shared", 400)
    requests = [_ask([*system, *_text(user, 30)], user=str(user)) for user in range(4)]
    found: dict[int, tuple[list[int], int]] = {}
    at_once(lambda at: found.__setitem__(at, _answer(reusing, requests[at])), 4)
    for at, request in enumerate(requests):
        assert found[at][0] == _answer(plain, request)[0]
    assert sorted(reused for _, reused in found.values()) == [0, 400, 400, 400]


@pytest.mark.long
def test_who_waits_for_one_that_is_stopped_goes_on_where_that_was(
    reusing: LocalInference, plain: LocalInference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G11: Stop in the middle of a prompt ends one row, in the next round; what it had read is not read again."""
    step, stopped = StepLoop._advance_packed, list[Row]()

    def stops_the_first(loop: StepLoop, resident: Resident, rows: list[Row]) -> None:
        first, *others = rows
        if others and not stopped and first.state and first.state.reading and first.state.reading.read:
            stopped.append(first)
            first.cancelled.set()
        step(loop, resident, rows)

    monkeypatch.setattr(StepLoop, "_advance_packed", stops_the_first)
    request = _ask(_text("just stopped", 900), num_return_sequences=2, strategy="sampling", temperature=1.0, seed=3)
    found, expected = events_of(reusing, request), events_of(plain, request)
    assert [row.index for row in stopped] == [0]
    assert _last(found, 0).finish_reason == "cancelled"
    assert _of(found, 1) == _of(expected, 1)
    assert any("both prompts share" in event.status.detail for event in found if event.index == 1)
    assert _last(found, 1).stats.reused_tokens >= 256  # type: ignore[union-attr]


def test_a_stopped_answer_is_known_as_far_as_it_was_written(reusing: LocalInference, plain: LocalInference) -> None:
    """G11: whoever stops an answer and asks on does not wait for it to be read again."""
    ids, written = _text("half", 200), list[int]()
    stream = reusing.stream(_ask(ids, tokens=300))
    for event in stream:
        written += [token.id for token in event.tokens]
        if len(written) >= 20:
            break
    stream.close()
    found, reused = _answer(reusing, _ask([*ids, *written, 5, 6]))
    assert reused >= 200 + 19
    assert found == _answer(plain, _ask([*ids, *written, 5, 6]))[0]


@pytest.mark.parametrize("fault", ["find", "keep"])
def test_a_fault_in_what_is_kept_costs_no_answer(
    reusing: LocalInference, plain: LocalInference, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """G11, G6: it only saves time; all of the prompt is read then, and what was kept is not trusted any more."""
    request = _ask(_text("fault", 80))
    expected = _answer(plain, request)[0]
    assert _answer(reusing, request)[0] == expected

    def fails(*args: Any) -> None:
        raise ValueError("planes of another shape")

    with monkeypatch.context() as broken:
        broken.setattr(_resident(reusing).prefixes, fault, fails)
        assert _answer(reusing, request) == (expected, 0 if fault == "find" else 79)
        assert (_resident(reusing).prefixes.bytes == 0) == (fault == "keep")
    assert _answer(reusing, request) == (expected, 79 if fault == "find" else 0)


def test_what_must_not_depend_on_others_reuses_nothing(reusing: LocalInference) -> None:
    """G3: a reproducible answer has no history, and leaves none; neither has a beam search."""
    ids = _text("reproducible", 100)
    for _ in range(2):
        assert _answer(reusing, _ask(ids, reproducible=True))[1] == 0
    assert _answer(reusing, _ask(ids))[1] == 0
    assert _answer(reusing, _ask(ids, strategy="beam_search", num_beams=2))[1] == 0
    assert _answer(reusing, _ask(ids, reproducible=True))[1] == 0


@pytest.mark.long
def test_texts_after_a_soft_prompt_are_known_among_themselves(
    reusing: LocalInference, plain: LocalInference, tmp_path: Path
) -> None:
    """G11: behind its virtual tokens, and never without them."""
    soft = make_kind(KINDS["prefix tuning"], tmp_path / "soft")
    chat = Chat(reusing, plain)
    chat.ask(_text("soft", 60), ((soft, 1.0),))
    chat.ask(_text("soft again", 10), ((soft, 1.0),))
    assert chat.reused == [0, 60 + 11]
    chat.ask([7, 8])
    assert chat.reused[-1] == 0


@pytest.mark.long
@pytest.mark.parametrize("kind", ["ia3", "lora on the head"])
def test_an_adapter_that_peft_serves_knows_its_own_texts(
    kind: str, reusing: LocalInference, plain: LocalInference, tmp_path: Path
) -> None:
    """G11: in a cache of its own, for each strength."""
    alone = make_kind(KINDS[kind], tmp_path / "alone")
    chat = Chat(reusing, plain)
    chat.ask(_text(kind, 70), ((alone, 1.0),))
    chat.ask(_text(f"{kind} again", 10), ((alone, 1.0),))
    assert chat.reused == [0, 70 + 11]
    chat.ask([7, 8])
    assert chat.reused[-1] == 0


@pytest.mark.long
def test_a_turn_that_begins_with_one_token_leaves_the_base_trusted(reusing: LocalInference, tmp_path: Path) -> None:
    """G11, G4: a token has other kernels than a prompt, which is no sign of an adapter that changed the base."""
    alone = make_kind(KINDS["ia3"], tmp_path / "alone")
    for turn, adapters in enumerate((((alone, 1.0),), (), ((alone, 1.0),), ())):
        request = _ask(_text("one token" if adapters else turn, 60), adapters)
        request = replace(request, spec=replace(request.spec, dtype="bfloat16", quantization="none"))
        ids, reused = _answer(reusing, request)
        assert len(ids) == 12
        assert reused == (59 if turn == 2 else 0)


@pytest.mark.long
def test_a_dropped_adapter_leaves_nothing_behind(reusing: LocalInference, make_adapter: Callable[..., Path]) -> None:
    """G11: its texts go with it."""
    adapter = make_adapter(LoraConfig(r=4, target_modules=["q_proj"]), "gone")
    before = _resident(reusing).prefixes.bytes if reusing._machinery else 0
    _answer(reusing, _ask(_text("gone", 100), ((adapter, 1.0),)))
    resident = _resident(reusing)
    assert resident.prefixes.bytes > before
    assert reusing._machinery is not None
    reusing._machinery.compute(lambda: resident.forget(resident.adapters[str(adapter.resolve())]))
    assert resident.prefixes.bytes <= before


@pytest.mark.long
def test_without_a_budget_nothing_is_kept(plain: LocalInference) -> None:
    """G11: prefix_budget = 0 switches it off."""
    ids = _text("nothing", 100)
    assert [_answer(plain, _ask(ids))[1] for _ in range(2)] == [0, 0]
    assert _resident(plain).prefixes.bytes == 0


def test_a_chat_in_words_reuses_its_turns(reusing: LocalInference) -> None:
    """G11: as the page asks, with a template: the second turn begins as the first one ended."""
    spec, settings = ModelSpec(str(STARTER), dtype="float32"), GenerationSettings(strategy="greedy", max_new_tokens=12)
    asked = Message("user", "What is the capital of France?")
    first = GenerationRequest(spec, messages=(asked,), settings=settings)
    said = "".join(event.text for event in events_of(reusing, first))
    second = replace(first, messages=(asked, Message("assistant", said), Message("user", "And of Spain?")))
    stats = events_of(reusing, second)[-1].stats
    assert stats is not None
    assert stats.reused_tokens >= 16


def _of(events: Sequence[GenerationEvent], index: int) -> list[int]:
    return [token.id for event in events if event.index == index for token in event.tokens]


def _last(events: Sequence[GenerationEvent], index: int) -> GenerationEvent:
    return [event for event in events if event.index == index][-1]


@pytest.mark.long
@pytest.mark.parametrize(
    "family",
    [
        "gpt2", "mistral", "gemma2", "gemma3_text", "phi3", "llama, longrope", "qwen3_moe", "gpt_oss", "deepseek_v2",
        "qwen3_5_text",
    ],
)  # fmt: skip
def test_twenty_turns_of_every_sort_of_model(family: str, tmp_path: Path, make_adapter: Callable[..., Path]) -> None:
    """G11, G13: windows, eager attention, rotary regimes, experts, latent attention and recurrent layers alike."""
    base = make_family(tmp_path / "base", family, WORDS)
    mixes: list[Adapters] = [()]
    if family in ("mistral", "qwen3_5_text"):
        adapter = make_adapter(LoraConfig(r=4, target_modules=["q_proj", "down_proj"]), base=base)
        mixes += [((adapter, 1.0),), ((adapter, 0.5),)]
    with _both() as (reusing, plain):
        chat = Chat(reusing, plain, base, [_text("system", 40), []])
        _twenty_turns(chat, mixes, family)
        assert sum(reused > 0 for reused in chat.reused) >= 10


@pytest.mark.long
@pytest.mark.parametrize(("family", "times"), [("lfm2", 10), ("mamba", 3), ("rwkv", 10)])
def test_twenty_turns_of_models_with_states(family: str, times: int, tmp_path: Path) -> None:
    """G13: convolutions, states alone, states in a plain list; Mamba goes on token by token, so only where that is less."""
    base = make_recurrent(tmp_path / "base", family, WORDS)
    with _both() as (reusing, plain):
        chat = Chat(reusing, plain, base, [_text("system", 40), []])
        _twenty_turns(chat, [()], family)
        assert sum(reused > 0 for reused in chat.reused) >= times


@pytest.mark.long
@pytest.mark.parametrize("family", ["mistral", "qwen3_5_text"])
def test_windows_and_recurrent_layers_read_a_common_beginning_once(family: str, tmp_path: Path) -> None:
    """G11, G13: recurrent layers leave their state where the others go on, and where a later one branches off."""
    base, text = make_family(tmp_path / "base", family, WORDS), _text("common", 300)
    with _both() as (reusing, plain):
        several = _ask(text, base=base, num_return_sequences=3, strategy="sampling", temperature=1.0, seed=3)
        found, expected = events_of(reusing, several), events_of(plain, several)
        assert [_of(found, index) for index in range(3)] == [_of(expected, index) for index in range(3)]
        stats = [_last(found, index).stats for index in range(3)]
        assert sorted(one.reused_tokens for one in stats if one) == [0, 299, 299]
        known = []
        for branch in range(3):
            request = _ask([*text[:200], *_text(branch, 20)], base=base)
            ids, reused = _answer(reusing, request)
            assert ids == _answer(plain, request)[0]
            known.append(reused)
        # The first one to branch off a recurrent text finds no state there, and leaves one.
        assert known == ([0, 200, 200] if family == "qwen3_5_text" else [200, 200, 200])


@contextmanager
def _both() -> Iterator[tuple[LocalInference, LocalInference]]:
    """An engine that keeps what it has read, and one that does not."""
    reusing, plain = LocalInference(prefix_budget=200e6), LocalInference(prefix_budget=0)
    try:
        yield reusing, plain
    finally:
        reusing.close()
        plain.close()
