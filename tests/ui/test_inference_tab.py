"""The Inference tab's third step over a scripted engine, without a server: the lock, its settings, and a prompt's way."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from playground.config import ROOT, AppConfig
from playground.conversation import Conversation, Query
from playground.errors import ModelUnsupported
from playground.services.readiness import Verdict
from playground.types import Caller, GenerationRequest
from playground.ui import texts
from playground.ui.inference_tab import InferenceTab
from playground.ui.opened import Open
from tests.ui.fake_engine import FakeEngine
from tests.ui.page import Tab, collected, last, seen_by_the_gate

pytestmark = pytest.mark.anyio
BALANCED = {"strategy": "sampling", "temperature": 0.7, "max_new_tokens": 256, "repetition_penalty": 1.15}


class Engine(FakeEngine):
    """One that can forget what it has in memory, and can fail."""

    failure: Exception | None = None

    def anew(self) -> None:
        self._residents.clear()
        self.requests.clear()
        self.failure = None

    async def _words(self, request: GenerationRequest):
        if self.failure:
            raise self.failure
        async for event in super()._words(request):
            yield event


class InferencePage(Tab):
    """The tab, built over ``engine``; ``key`` and ``verdict`` are what the page holds, as the last updates left them."""

    kind = InferenceTab

    def __init__(self, engine: Engine, config: AppConfig) -> None:
        self.engine = engine
        super().__init__(engine, config)
        self.visitor: Any = SimpleNamespace(session_hash="one")
        self.key, self.verdict = "", None

    def ask(self, prompt: str, expected: str = "", adapter: str = "pirate", **changes: Any):
        """The handler of Generate, with the settings as they stand at first and ``changes`` over them."""
        panel = self.side.settings
        values = [changes.get(name, widget.value) for name, widget in panel.widgets.items()]
        return self.tab._generate(
            self.visitor, prompt, expected, self.key, self.verdict, "starter", adapter, "auto", 1.0,
            panel.preset.value, *values,
        )  # fmt: skip

    async def says(self, prompt: str, expected: str = "", **options: Any) -> list[dict[Any, Any]]:
        """All updates of one press of Generate; the page holds afterwards what they brought."""
        updates = await collected(self.ask(prompt, expected, **options))
        for update in updates:
            self.key = update.get(self.opened.key, self.key)
            self.verdict = update.get(self.tab.runs.verdict, self.verdict)
        return updates

    def check(self, adapter: str) -> Verdict:
        return self.services.readiness.check("starter", adapter)

    async def settles(self, verdict: Verdict | None, begun: str = "", **changes: Any) -> dict[Any, Any]:
        """What a verdict brings to the page."""
        panel = self.side.settings
        values = [changes.get(name, widget.value) for name, widget in panel.widgets.items()]
        preset = changes.get("preset", panel.preset.value)
        return await self.tab._settled(self.visitor, verdict, begun, "starter", preset, *values)

    @property
    def conversation(self) -> Conversation:
        return self.services.history.get(self.caller, Open.parse(self.key).conversation)

    @property
    def caller(self) -> Caller:
        return Caller(f"guest {self.visitor.session_hash}", "guest")

    def status(self, updates: list[dict[Any, Any]]) -> str:
        return str(last(updates, self.tab.runs.status))

    def anew(self, answer: str = "Aye, four.", pause: float = 0.0) -> InferencePage:
        """The same tab for a visitor who has nothing yet; the engine says something else."""
        self.engine.anew()
        self.engine.answer, self.engine.pause = answer, pause
        self.visitor, self.key, self.verdict = SimpleNamespace(session_hash="one"), "", None
        self.services.history.delete_all(self.caller)
        return self


@pytest.fixture(scope="module")
async def built(config: AppConfig) -> InferencePage:
    """One for all tests: making it takes longer than they do."""
    return InferencePage(Engine(), config)


@pytest.fixture
def inference(built: InferencePage) -> Callable[..., InferencePage]:
    return built.anew


def interactive(updates: dict[Any, Any], fields: list[Any]) -> set[bool]:
    return {updates[field]["interactive"] for field in fields}


async def test_every_field_of_the_step_is_locked_until_a_verdict_is_sound(inference):
    """I2: at first, while it is found out, and for a run that failed; the line says what opens it."""
    page = inference()
    panel = page.tab.panel
    fields = [panel.prompt, panel.preset, *panel.sliders, panel.generate, *page.tab.samples.widgets]
    assert {field.interactive for field in fields} == {False}
    assert texts.LOCKED in panel.heading.value
    assert len(page.tab.samples.widgets) >= 4
    for verdict in (None, page.check("json-failed"), page.check("sql-incomplete")):
        locked = await page.settles(verdict)
        assert interactive(locked, fields) == {False}
        assert texts.LOCKED in locked[panel.heading]
    opened = await page.settles(page.check("pirate"))
    assert interactive(opened, fields) == {True}
    assert texts.LOCKED not in opened[panel.heading]
    assert interactive(opened, [panel.stop]) == {False}


async def test_the_step_begins_with_balanced_where_nobody_has_chosen_other_settings(inference):
    """I3: Balanced is this tab's default; what somebody changed, or chose, stays, and a second run changes nothing."""
    page = inference()
    panel, mirrors = page.side.settings, page.side.settings.mirrors
    assert mirrors.preset.value == "Balanced"
    assert {name: widget.value for name, widget in mirrors.widgets.items()} == {
        name: value for name, value in BALANCED.items() if name != "strategy"
    }
    sound = page.check("pirate")
    first = await page.settles(sound)
    assert {name: first[panel.widgets[name]]["value"] for name in BALANCED} == BALANCED
    assert (first[panel.preset]["value"], first[mirrors.preset]["value"], first[page.tab.begun]) == (
        "Balanced",
        "Balanced",
        "yes",
    )
    changed = await page.settles(sound, temperature=1.4)
    assert "value" not in changed[panel.widgets["temperature"]]
    shown = [changed[mirror] for mirror in (mirrors.preset, mirrors.widgets["temperature"])]
    assert shown == [gr.update(value=value, interactive=True) for value in (None, 1.4)]
    chosen = await page.settles(sound, preset="Creative", temperature=1.0, top_p=0.95, max_new_tokens=512)
    assert chosen[panel.preset]["value"] == "Creative"
    assert panel.widgets["temperature"] not in await page.settles(sound, begun="yes")


async def test_a_preset_of_ones_own_to_begin_with_is_kept_when_a_run_is_validated(inference):
    """I3, P4: whoever said what pages begin with is not overruled by this tab's default."""
    page = inference()
    panel = page.side.settings
    values = page.side.settings.settings([panel.preset.value, *(widget.value for widget in panel.widgets.values())])
    page.services.presets.save(page.caller, "Mine", values.replace(temperature=0.3))
    page.services.presets.set_first(page.caller, "Mine")
    try:
        updates = await page.settles(page.check("pirate"), preset="Mine", temperature=0.3)
        assert updates[panel.preset]["value"] == "Mine"
        assert "value" not in updates[panel.widgets["temperature"]]
    finally:
        page.services.presets.delete(page.caller, "Mine")


async def test_the_prompt_goes_alone_and_its_answer_joins_the_open_conversation(inference):
    """I5: comparable with what was expected; Full Chat shows the same history, which holds the expected answer."""
    page = inference()
    await page.says("What is two plus two?", "Four.")
    updates = await page.says("And three?", "Six.")
    assert [message.content for message in page.engine.requests[-1].messages] == ["And three?"]
    said = [turn for turn in page.conversation.path() if turn.role == "user"]
    assert [(turn.content, turn.expected) for turn in said] == [
        ("What is two plus two?", "Four."),
        ("And three?", "Six."),
    ]
    assert page.conversation.path()[-1].reply.alone
    assert page.key == last(updates, page.tab.responses.drawn)
    assert last(updates, page.bar.phase) == "idle"
    assert page.tab.panel.prompt not in {part for update in updates for part in update}  # it stays in its field


async def test_the_status_says_that_the_model_is_loaded_only_the_first_time(inference):
    """I5: the two texts, and back to an idle message."""
    page = inference()
    first, later = await page.says("Hi"), await page.says("Hi")
    told = ["".join(str(update.get(page.tab.runs.status, "")) for update in updates) for updates in (first, later)]
    assert texts.LOADING_AND_GENERATING == "Loading fine-tuned model and generating response..."
    assert texts.GENERATING == "Generating response from fine-tuned model..."
    assert texts.LOADING_AND_GENERATING in told[0]
    assert texts.GENERATING not in told[0]
    assert texts.GENERATING in told[1]
    assert 'data-state="ready"' in page.status(later)
    assert "Ready. starter + pirate answered." in page.status(later)


async def test_generate_is_busy_from_the_press_until_its_answer_is_kept(inference):
    """I5: disabled with its ring, Stop beside it; afterwards the step is as the verdict at that time says."""
    page = inference()
    updates = await page.says("Hi")
    assert (updates[0][page.tab.panel.generate]["interactive"], updates[0][page.tab.panel.stop]["interactive"]) == (
        False,
        True,
    )
    assert updates[0][page.tab.panel.generate]["elem_classes"] == ["running"]
    assert all(page.tab.panel.generate not in update for update in updates[1:])
    after = await page.tab._let_go(page.visitor, page.check("pirate"))
    assert interactive(after, [page.tab.panel.generate, page.tab.panel.prompt]) == {True}
    assert after[page.tab.panel.generate]["elem_classes"] == []
    assert interactive(await page.tab._let_go(page.visitor, None), [page.tab.panel.generate]) == {False}


async def test_a_run_that_is_gone_is_found_out_at_generate_and_nothing_is_asked(config, tmp_path, toasts):
    """I2: validation is repeated; red, locked, a toast, and the history as it was."""
    shutil.copytree(
        ROOT / "assets" / "adapters" / "pirate", tmp_path / "mine", ignore=shutil.ignore_patterns("checkpoint-*")
    )
    page = InferencePage(Engine(), replace(config, runs=(str(tmp_path),)))
    assert page.check("mine").is_sound
    await page.says("Hi", adapter="mine")
    before = page.conversation
    shutil.rmtree(tmp_path / "mine")
    page.engine.requests.clear()
    updates = await page.says("Hi again", adapter="mine")
    assert page.engine.requests == []
    assert page.services.history.get(page.caller, before.id) == before
    assert 'data-state="error"' in page.status(updates)
    assert len(toasts) == 1
    assert last(updates, page.tab.runs.settled)
    assert not page.verdict.is_sound
    assert any(
        'data-sound="no"' in str(shown) for update in updates for shown in update.values()
    )  # the green details go as well
    assert interactive(await page.settles(page.verdict), [page.tab.panel.prompt]) == {False}


async def test_a_locked_step_cannot_be_asked_past_its_buttons(inference, toasts):
    """I2: the page's own route refuses as well, for a run that failed, for the base alone, and for no prompt."""
    page = inference()
    page.verdict = page.check("json-failed")
    failed = await page.says("Hi")
    page.verdict = None
    base, blank = await page.says("Hi", adapter=texts.NO_ADAPTER), await page.says("  \n ")
    assert page.engine.requests == []
    assert page.key == ""
    assert page.check("json-failed").problems[0][0] in page.status(failed).replace("&#x27;", "'")
    assert texts.NO_RUN_CHOSEN in page.status(base)
    assert texts.EMPTY_PROMPT in page.status(blank)
    assert len(toasts) == 3


async def test_a_failed_turn_leaves_the_history_and_the_prompt_as_they_were(inference, toasts):
    """I5, I6: the sentence in red with its details; what was typed stays, the step stays open."""
    page = inference()
    await page.says("Hi")
    before = page.conversation
    try:
        raise ModelUnsupported("It cannot be run.", "Use another.") from RuntimeError("shape mismatch")
    except ModelUnsupported as error:
        page.engine.failure = error
    updates = await page.says("Hi again")
    assert page.conversation == before
    assert 'data-state="error"' in page.status(updates)
    assert "It cannot be run." in page.status(updates)
    assert "shape mismatch" in page.status(updates)
    assert toasts == ["It cannot be run. Use another."]
    assert last(updates, page.tab.responses.drawn) == page.key
    assert all(page.tab.panel.prompt not in update and page.tab.runs.settled not in update for update in updates)


async def test_a_rate_limit_is_told_and_nothing_is_asked(config, toasts):
    """S2: each press counts."""
    page = InferencePage(Engine(), replace(config, rate_limit="1/hour"))
    await page.says("Hi")
    updates = await page.says("Hi")
    assert "Too many requests" in page.status(updates)
    assert len(page.engine.requests) == 1


async def test_stop_keeps_what_was_written(inference):
    """I5: the beginning is stored and shown, and the status line is idle again."""
    page = inference("word " * 200, pause=0.01)
    updates = []
    async for update in page.ask("Hi", max_new_tokens=1000):
        updates.append(update)
        if page.engine.running and len(updates) > 4:
            page.tab._stop(page.visitor)
    page.key = last(updates, page.opened.key)
    answer = page.conversation.path()[-1]
    assert answer.reply.finish_reason == "cancelled"
    assert answer.content.startswith("word word")
    assert texts.RESPONSE_STOPPED in page.status(updates)


async def test_another_conversation_is_opened_while_one_is_answered(inference):
    """I6: the answer goes on unseen and is kept where it belongs; the page shows what it has opened."""
    page = inference("One.")
    await page.says("The other one")
    other, page.key = page.key, ""
    page.engine.answer, page.engine.pause = "word " * 60, 0.01
    updates = []
    async for update in page.ask("Hi", max_new_tokens=1000):
        updates.append(update)
        if page.engine.running and len(updates) == 4:
            drawn = await page.tab.responses._draw(page.visitor, other, "")
    assert drawn[page.tab.responses.drawn] == other
    assert last(updates, page.tab.responses.drawn) == other
    assert all(page.opened.key not in update for update in updates)
    for _ in range(200):
        found = page.services.history.find(page.caller, Query()).summaries
        if len(found) == 2:
            break
        await asyncio.sleep(0.02)
    written = next(one.id for one in found if one.id != Open.parse(other).conversation)
    assert page.services.history.get(page.caller, written).path()[-1].content.split() == ["word"] * 60


async def test_clear_empties_the_list_and_what_is_open_and_undo_brings_both_back(inference):
    """I5, I6: the history that Full Chat shows is the same one."""
    page = inference()
    await page.says("Hi")
    kept = page.conversation
    cleared = await page.tab.responses._clear(page.visitor, page.key)
    assert cleared[page.opened.key] == cleared[page.tab.responses.drawn] == ""
    assert cleared[page.tab.responses.clear]["interactive"] is False
    assert cleared[page.tab.responses.undo]["visible"] is True
    assert page.services.history.find(page.caller, Query()).total == 0
    back = await page.tab.responses._undo(page.visitor, cleared[page.tab.responses.deleted])
    assert Open.parse(back[page.opened.key]).conversation == kept.id
    assert page.services.history.get(page.caller, kept.id).turns == kept.turns


async def test_without_a_history_the_status_is_as_it_was_before_the_first_response(inference):
    """I5: whoever cleared it; not while something is written, and not over what is wrong with a run."""
    page = inference()
    sound = page.check("pirate")
    assert texts.VALIDATED in await page.tab._emptied(page.visitor, "", sound)
    await page.says("Hi")
    told = [(page.key, sound), ("", page.check("json-failed")), ("", None)]
    assert [isinstance(await page.tab._emptied(page.visitor, *one), str) for one in told] == [False] * 3


async def test_chats_are_exported_in_four_formats(inference):
    """I5: text, Markdown, ChatML and ShareGPT, as a file that the browser saves."""
    page = inference()
    await page.says("What is two plus two?")
    endings = {"txt": ".txt", "markdown": ".md", "chatml": ".jsonl", "sharegpt": ".jsonl"}
    assert set(endings) == set(texts.CHAT_FORMATS)
    for form, ending in endings.items():
        event = gr.EventData(None, {"value": form})
        name, text = json.loads(
            (await page.tab.responses._export(page.visitor, event, page.key))[page.tab.responses.file]
        )
        assert name.endswith(ending)
        assert all(said in text for said in ("What is two plus two?", "Aye, four."))


@pytest.mark.parametrize("sent", ["exe", {"a": 1}, None])
async def test_an_export_of_nothing_or_of_no_format_says_so(inference, toasts, sent):
    """I5, S1: a page may send anything."""
    page = inference()
    event = gr.EventData(None, {"value": sent})
    assert (
        texts.NOTHING_TO_EXPORT in (await page.tab.responses._export(page.visitor, event, ""))[page.tab.responses.said]
    )


async def test_under_greedy_the_temperature_shows_0_and_a_long_answer_makes_the_slider_longer(inference):
    """I3: no control without effect, and none that shows less than is in force."""
    page = inference()
    panel, mirrors = page.side.settings, page.side.settings.mirrors
    greedy = panel.chosen_elsewhere(page.visitor, "starter", "Deterministic")
    assert greedy[mirrors.widgets["temperature"]]["value"] == 0
    assert greedy[mirrors.preset]["value"] == "Deterministic"
    assert greedy[panel.preset]["value"] == "Deterministic"
    values = {name: widget.value for name, widget in panel.widgets.items()} | {"max_new_tokens": 4000}
    edited = panel._edited(page.visitor, "starter", "Balanced", *values.values())
    assert edited[mirrors.widgets["max_new_tokens"]] == gr.update(value=4000, maximum=4000)
    moving = panel.mirrored(page.visitor, "max_new_tokens", "starter", "Balanced", *values.values())
    assert mirrors.widgets["max_new_tokens"] not in moving  # a slider that is being moved is left alone


async def test_the_three_presets_are_what_the_tab_says_they_are(config):
    """I3: Deterministic (greedy / 128 / 1.2), Balanced (0.7 / 256 / 1.15), Creative (1.0 / 512 / 1.1)."""
    told = {
        name: (its.strategy == "greedy" or its.temperature, its.max_new_tokens, its.repetition_penalty)
        for name, its in config.presets.items()
    }
    assert told == {"Deterministic": (True, 128, 1.2), "Balanced": (0.7, 256, 1.15), "Creative": (1.0, 512, 1.1)}


def test_the_bundled_runs_are_all_there() -> None:
    """I1: what the tests above choose from."""
    assert {"pirate", "json-failed", "sql-incomplete"} <= {
        path.name for path in Path(ROOT / "assets" / "adapters").iterdir()
    }


async def test_on_a_shared_server_a_checkpoint_answers_by_its_label_and_no_path_is_told(config, toasts):
    """I2, I5, S1, S2: what the operator's folders hold is asked without anybody reading where it lies."""
    page = InferencePage(Engine(), replace(config, free_paths=False, host="0.0.0.0"))
    page.visitor = seen_by_the_gate(Caller("user anna", "user"))
    label = "pirate-overfit/checkpoint-50"
    updates = await page.says("Hi", adapter=label)
    assert page.engine.requests[-1].spec.adapters[0][0] == str(ROOT / "assets" / "adapters" / label)
    assert f"starter + {label} answered." in page.status(updates)
    assert str(ROOT) not in "".join(value for update in updates for value in update.values() if isinstance(value, str))
    refused = await page.says("Hi", adapter=str(ROOT / "assets" / "adapters" / label))
    assert "is not offered" in page.status(refused)
