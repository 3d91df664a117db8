"""A8: the kept answers: how many, how much memory, which ones go first."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from playground.config import ROOT, AppConfig
from playground.local_inference import LocalInference
from playground.services.answer_cache import AnswerCache, KeptAnswer, key_of
from playground.services.generation import Generation
from playground.types import GenerationEvent, GenerationRequest, GenerationSettings, ModelSpec, Token
from tests.services.scripted_engine import MADE, ask


def kept(text: str = "x", tokens: int = 1) -> KeptAnswer:
    return KeptAnswer(text, (Token(1, "x", 0.0),) * tokens, (), "stop", 1, tokens, MADE)


def test_the_one_that_was_used_longest_ago_goes_first() -> None:
    """A8: LRU; a look is a use."""
    cache = AnswerCache(2)
    cache.put("a", [kept("a")])
    cache.put("b", [kept("b")])
    assert cache.get("a")
    cache.put("c", [kept("c")])
    assert cache.get("b") is None
    assert [found[0].text for key in "ac" if (found := cache.get(key))] == ["a", "c"]


def test_memory_is_bounded_too() -> None:
    """A8: a thousand long answers with alternatives would be gigabytes; one that is larger than everything is not kept."""
    cache = AnswerCache(1000, most_bytes=100_000)
    for at in range(100):
        cache.put(str(at), [kept("x" * 1000, 10)])
    assert 1 < len(cache) < 20
    assert cache.get("99")
    cache.put("large", [kept("x" * 50_000)])
    assert cache.get("large") is None
    assert cache.get("99")


def test_keeping_the_same_again_takes_no_more_room() -> None:
    """A8: two who asked at the same time both leave their answer."""
    cache = AnswerCache(10)
    for _ in range(5):
        cache.put("a", [kept()])
    cache.put("b", [kept("much longer" * 100)])
    assert (len(cache), cache._bytes) == (2, kept().bytes + kept("much longer" * 100).bytes)


def test_many_threads_keep_the_count_right() -> None:
    """A8: every surface puts and gets from its own thread."""
    cache = AnswerCache(50)

    def use(thread: int) -> None:
        for at in range(300):
            cache.put(f"{(thread * 7 + at) % 90}", [kept("x" * at)])
            cache.get(f"{at % 90}")

    threads = [threading.Thread(target=use, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cache) == 50
    assert cache._bytes == sum(answer.bytes for answers in cache._kept.values() for answer in answers)


@pytest.mark.parametrize(
    ("settings", "takes"),
    [
        (GenerationSettings(strategy="greedy"), True),
        (GenerationSettings(temperature=0), True),
        (GenerationSettings(strategy="beam_search"), True),
        (GenerationSettings(seed=0), True),
        (GenerationSettings(), False),
        (GenerationSettings(strategy="top_k"), False),
    ],
    ids=str,
)
def test_only_what_comes_out_the_same_is_kept(settings: GenerationSettings, takes: bool) -> None:
    """A8: greedy, beams, or a seed; and nothing at all where the cache is off."""
    assert AnswerCache(1).takes(ask(settings=settings)) is takes
    assert not AnswerCache(0).takes(ask(settings=settings))


def test_a_key_stands_for_odd_requests_too() -> None:
    """A8: whatever a template may be given, in whatever order."""
    one = ask(chat_template_kwargs={"a": [1, None, float("inf")], "b": {"c": "ü"}})
    other = ask(chat_template_kwargs={"b": {"c": "ü"}, "a": [1, None, float("inf")]})
    assert key_of(one, MADE) == key_of(other, MADE)
    assert key_of(one, MADE) != key_of(ask(chat_template_kwargs={"a": [1, None, 0.0], "b": {"c": "ü"}}), MADE)


def test_another_prompt_from_the_same_words_is_another_key() -> None:
    """A8: a template may put the date before them."""
    assert key_of(ask(), MADE, "today's") != key_of(ask(), MADE, "tomorrow's")
    assert key_of(ask(), MADE, "today's") == key_of(ask(), MADE, "today's")


STARTER = str(ROOT / "assets" / "models" / "starter")


@pytest.mark.long
def test_the_real_engines_answers_are_kept_until_the_adapter_is_trained_again(
    engine: LocalInference, tmp_path: Path
) -> None:
    """A8: the same text, tokens with log-probabilities and provenance; other weights in the same folder are another key."""
    folder = tmp_path / "mine"
    shutil.copytree(ROOT / "assets" / "adapters" / "pirate", folder)
    door = Generation(engine, AppConfig(answer_cache=5))
    request = GenerationRequest(
        ModelSpec(STARTER, ((str(folder), 1.0),), dtype="float32"),
        prompt="What is the capital of France?",
        settings=GenerationSettings(strategy="greedy", max_new_tokens=12, top_logprobs=2),
    )
    made, kept = (list(door.stream(request)) for _ in range(2))
    assert not any(event.cached for event in made)
    assert kept[-1].cached
    for part in ("text", "tokens"):
        assert _joined(kept, part) == _joined(made, part)
    assert len(_joined(kept, "tokens")) > 3
    assert (kept[-1].finish_reason, kept[-1].stats.completion_tokens) == (
        made[-1].finish_reason,
        made[-1].stats.completion_tokens,
    )
    assert kept[-1].provenance == made[-1].provenance
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copyfile(ROOT / "assets" / "adapters" / "sql" / file, folder / file)
    again = list(door.stream(request))
    assert not any(event.cached for event in again)
    assert _joined(again, "text") != _joined(made, "text")
    assert engine.activity() == (0, 0)


@pytest.mark.long
def test_a_template_that_tells_the_time_gets_no_answer_from_before(engine: LocalInference, tmp_path: Path) -> None:
    """A8: as Llama 3's does with the day; while it says the same the answer is kept."""
    folder = tmp_path / "mine"
    shutil.copytree(ROOT / "assets" / "adapters" / "pirate", folder)
    door = Generation(engine, AppConfig(answer_cache=5))
    request = GenerationRequest(
        ModelSpec(STARTER, ((str(folder), 1.0),), dtype="float32"),
        prompt="What time is it?",
        settings=GenerationSettings(strategy="greedy", max_new_tokens=2),
    )
    for form, kept in (("%f", False), ("%%", True)):  # microseconds, and what is always the same
        (folder / "chat_template.jinja").write_text(f"{{{{ strftime_now('{form}') }}}} {{{{ messages[-1].content }}}}")
        answers = [list(door.stream(request)) for _ in range(2)]
        assert answers[1][-1].cached is kept


def _joined(events: list[GenerationEvent], part: str) -> list[object]:
    return [one for event in events for one in getattr(event, part)]
