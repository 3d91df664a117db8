"""F1, F2, G10: exchanges with the real model over a history on the disk; each answer can be made again from it."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from playground.config import ROOT, ModelEntry, load_config
from playground.conversation import Conversation, Turn
from playground.local_inference import LocalInference
from playground.services.assembly import Services
from playground.services.chat import Ask
from playground.services.manifests import Manifest
from playground.services.replay import ReplayResult
from playground.store import Store
from playground.types import Caller, GenerationSettings

ME = Caller("address 127.0.0.1", "address", address="127.0.0.1")
LIMIT_S = 60  # which only a hang reaches
DRAWN = GenerationSettings(temperature=1.2, top_p=1.0, max_new_tokens=6, system_prompt="Be brief.")
ENDLESS = DRAWN.replace(max_new_tokens=900, logit_bias=dict.fromkeys((0, 1, 2), -100))
THINKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


class House:
    """The services over the real engine and a history in a folder, which can be opened again."""

    def __init__(self, engine: LocalInference, folder: Path, base: str = "", **config: Any) -> None:
        self._engine, self._folder = engine, folder
        self._config = dataclasses.replace(load_config(), **config)
        self._base = base or "starter"
        self.open()

    def open(self) -> None:
        self.store = Store.open(self._folder)
        self.services = Services.over(self._engine, self._config, self.store)

    def close(self) -> None:
        self.services.chat.close()
        self.store.close()

    def ask(self, content: str = "", action: str = "send", adapter: str = "pirate", **fields: Any) -> Ask:
        spec = self.services.models.spec(self._base, adapter, 0.8, quantization="none", dtype="float32")
        return Ask(spec, action, content=content, **{"settings": DRAWN} | fields)  # type: ignore[arg-type]

    def says(self, ask: Ask, until: int = 10_000) -> Conversation:
        """What is stored when ``ask`` has been answered, or was stopped after so many tokens."""
        return asyncio.run(self._says(ask, until))

    async def _says(self, ask: Ask, until: int) -> Conversation:
        exchange, tokens = self.services.chat.ask(ME, ask), 0
        async with asyncio.timeout(LIMIT_S):
            async for event in exchange.events():
                tokens += len(event.tokens)
                if tokens >= until:
                    exchange.stop()
            stored = await exchange.saved()
        assert stored is not None
        return stored

    def again(self, manifest: Manifest) -> ReplayResult:
        async def run() -> ReplayResult:
            async with asyncio.timeout(LIMIT_S):
                *_, result = [item async for item in self.services.replay.run(manifest, ME.id)]
            assert isinstance(result, ReplayResult)
            return result

        return asyncio.run(run())


@pytest.fixture
def house(engine: LocalInference, tmp_path: Path) -> Iterator[House]:
    found = House(engine, tmp_path / "history")
    yield found
    found.close()


def test_every_answer_of_a_stored_conversation_replays_identically(house: House) -> None:
    """F1, G10: sent, answered again, continued, begun, alone, one of several, stopped; and no path of ours is stored."""
    there = house.says(house.ask("Tell me about the sea."))
    where: Callable[[], dict[str, str]] = lambda: {"conversation": there.id, "turn": there.leaf}  # noqa: E731
    there = house.says(house.ask("And more?", **where()))
    there = house.says(house.ask(action="regenerate", **where(), settings=DRAWN.replace(num_return_sequences=3)))
    there = house.says(house.ask("Tell a story.", **where(), adapter="", settings=ENDLESS.replace(max_new_tokens=4)))
    there = house.says(house.ask(action="continue", **where(), adapter="", settings=ENDLESS.replace(max_new_tokens=6)))
    there = house.says(house.ask("Sing!", **where(), prefill="Arr, "))
    there = house.says(house.ask("Alone", **where(), alone=True))
    there = house.says(house.ask("Once", **where(), template="raw"))
    beams = {"strategy": "beam_search", "num_beams": 3, "num_return_sequences": 2}
    there = house.says(house.ask("Hi", **where(), settings=DRAWN.replace(**beams)))
    there = house.says(house.ask("Tell a long story.", **where(), settings=ENDLESS), until=3)
    house.close()
    house.open()
    assert house.services.history.get(ME, there.id) == there
    answers = [turn for turn in there.turns if turn.reply]
    assert len(answers) == 13
    assert answers[-1].stopped
    for turn in answers:
        text = house.services.chat.manifest(ME, there.id, turn.id).to_json()
        assert str(ROOT) not in text
        result = house.again(Manifest.from_json(text))
        assert (result.identical, result.changed) == (True, ()), f"{turn.content!r}: {result.sentence}"
    house.close()
    assert all(os.fsencode(ROOT) not in file.read_bytes() for file in house._folder.iterdir())
    house.open()


def test_who_leaves_frees_the_engine_and_keeps_what_was_written(house: House, engine: LocalInference) -> None:
    """G6, F1."""

    async def run() -> Turn:
        ask = house.ask("Tell a long story.", settings=ENDLESS)
        exchange = house.services.chat.ask(ME, ask)
        async with asyncio.timeout(LIMIT_S):
            async with aclosing(exchange.events()) as events:
                async for event in events:
                    if event.text:
                        break
            while engine.activity() != (0, 0):  # noqa: ASYNC110 – it ends on a thread of its own
                await asyncio.sleep(0.005)
            stored = await exchange.saved()
        assert stored is not None
        return stored.path()[-1]

    left = asyncio.run(run())
    assert left.stopped
    assert left.content
    assert left.reply is not None
    assert left.reply.stats.completion_tokens < 900


def test_turns_that_no_longer_fit_are_told_with_the_answer(house: House) -> None:
    """G7, F1: the system prompt stays, and the turn says how many were left out."""
    pairs = [("user", "assistant")[at % 2] for at in range(40)]
    turns = [Turn(str(at), str(at - 1) if at else "", role, "word " * 60, 1.0) for at, role in enumerate(pairs)]  # type: ignore[arg-type]
    house.services.history.append(ME, "long", turns, begins=True)
    there = house.says(house.ask("And now?", conversation="long", turn="39"))
    reply = there.path()[-1].reply
    assert reply is not None
    assert any("oldest messages were left out" in notice for notice in reply.notices)
    rendered = house.services.generation.render(
        house.services.chat.ask(ME, house.ask("x", conversation="long")).request
    )
    assert "Be brief." in rendered.text


@pytest.fixture
def thinker(engine: LocalInference, tmp_path: Path) -> Iterator[House]:
    """A model whose template opens its thoughts in the prompt; answers are kept for being asked again."""
    base = Path(shutil.copytree(ROOT / "assets" / "models" / "starter", tmp_path / "thinker"))
    (base / "chat_template.jinja").write_text(THINKS)
    models = {"thinker": ModelEntry("thinker", str(base))}
    found = House(engine, tmp_path / "history", "thinker", models=models, answer_cache=4)
    yield found
    found.close()
    engine.unload(str(base), wait_s=LIMIT_S)


def test_thoughts_that_a_template_opens_are_kept_as_thoughts(thinker: House) -> None:
    """F1: the answer begins inside of them, also one that is made from the cache, continued or begun; all replay."""
    greedy = GenerationSettings(strategy="greedy", max_new_tokens=5)
    asked = thinker.ask("Hi", adapter="", settings=greedy)
    first, cached = thinker.says(asked), thinker.says(asked)
    replies = [one.path()[1].reply for one in (first, cached)]
    assert [reply and (reply.cached, reply.opened) for reply in replies] == [(False, "<think>\n"), (True, "<think>\n")]
    assert [reply and reply.prompt_hash for reply in replies] == [replies[0] and replies[0].prompt_hash] * 2
    where = {"conversation": first.id, "turn": first.leaf, "adapter": "", "settings": greedy}
    longer = thinker.says(thinker.ask(action="continue", **where))
    assert longer.path()[1].content.startswith(first.path()[1].content)
    begun = thinker.says(thinker.ask("And?", **where, prefill="So"))
    assert begun.path()[-1].content.startswith("So")
    for there in (first, longer, begun):
        manifest = thinker.services.chat.manifest(ME, there.id, there.leaf)
        assert manifest.prompt_hash
        result = thinker.again(Manifest.from_json(manifest.to_json()))
        assert (result.identical, result.changed) == (True, ())
