"""The pages' wiring over a scripted engine, without a server: what is built, and what the handlers send to the page."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from types import SimpleNamespace

import gradio as gr
import pytest

from playground.services.assembly import Services
from playground.types import knobs
from playground.ui import texts
from playground.ui.app import build, launch_options, names_an_address
from playground.ui.pace import LONGEST_PAUSE, UPDATES_PER_SECOND
from playground.ui.topbar import BUSY_SECONDS, IDLE_SECONDS
from playground.ui.views.weights import Choice
from tests.ui.fake_engine import FakeEngine
from tests.ui.page import Page, begun, collected, last

SOMEBODY = SimpleNamespace(session_hash="somebody")
pytestmark = pytest.mark.anyio  # all of them: outside of a running loop Gradio makes one and never closes it


async def test_the_shell_holds_the_tabs_that_work_and_nothing_is_offered_as_gradios_own_api(config):
    """P1: the tabs with the answer's own inside; programs have the HTTP API, the pages' functions are their own."""
    engine = FakeEngine()
    demo = build(config, Services.over(engine, config))
    tabs = [block.label for block in demo.blocks.values() if isinstance(block, gr.Tab)]
    assert tabs == ["Playground", "Text", "Raw", "Inference", "Full Chat"]
    assert {fn.api_visibility for fn in demo.fns.values()} == {"private"}


async def test_no_page_can_have_the_server_fetch_an_address(config):
    """S2, S4: Gradio would download what a file's place names, for whichever field it was sent to."""
    engine = FakeEngine()
    demo = build(config, Services.over(engine, config))
    for path in ("http://192.0.2.1/weights", "https://evil.com/?said=this", "/tmp/a\nforged line of the log"):
        for depth in ({"path": path, "meta": {"_type": "gradio.FileData"}}, [{"a": [{"path": path}]}]):
            taking = next(fn for fn in demo.fns.values() if fn.inputs and not fn.inputs[0].stateful)
            with pytest.raises(gr.Error, match="nothing is fetched"):
                await demo.preprocess_data(taking, [depth, *([None] * (len(taking.inputs) - 1))], None)
    assert not names_an_address(
        [{"path": "/tmp/gradio/0a/adapter.zip", "url": "http://localhost/x"}, "https://a", 1, None]
    )


async def test_the_pages_ask_nobody_else_for_anything():
    """S3 and the pages' look: system fonts, own styles and scripts, no stored prompts."""
    options = launch_options()
    assert "//" not in options["css"].replace("/*", "").replace("*/", "")
    assert "http" not in options["head"]
    assert options["theme"]._stylesheets == []
    assert options["run_history"] is False


async def test_a_file_may_be_dropped_only_as_large_as_adapters_may_be():
    """P8, S2: Gradio's own door takes nothing where none is taken in, and the configured size elsewhere."""
    assert launch_options()["max_file_size"] == 1
    assert launch_options(upload_bytes=2_000_000)["max_file_size"] == 2_000_000


async def test_every_setting_is_a_widget_with_the_bounds_of_its_knob(config):
    """P4, G4: the same bounds everywhere, because they are declared once."""
    panel = Page(FakeEngine(), config).tab.panel
    assert set(panel.widgets) == set(knobs()) - {"top_logprobs", "logit_bias"}
    for name, widget in panel.widgets.items():
        knob = knobs()[name]
        assert widget.label == knob.label
        assert knob.help in widget.info
        if isinstance(widget, (gr.Slider, gr.Number)):
            assert (widget.minimum, widget.maximum) == (knob.low, knob.high)


async def test_an_answer_ends_whole_with_the_buttons_back(config):
    """P2, P3: text, status line and buttons after the last event; the engine got what the page showed."""
    engine = FakeEngine("One two three.")
    page = Page(engine, config)
    updates = await collected(page.run("Hi", system_prompt="Be kind."))
    assert last(updates, page.tab.area.text) == last(updates, page.tab.area.raw) == "One two three."
    assert "starter (base)" in last(updates, page.tab.area.status)
    assert last(updates, page.tab.area.generate)["visible"] is True
    assert last(updates, page.tab.area.stop)["visible"] is False
    assert last(updates, page.bar.phase) == "idle"
    assert engine.requests[0].settings.system_prompt == "Be kind."


async def test_updates_come_at_most_every_50_ms_however_fast_the_engine_is(config):
    """P3: a browser that gets one update per token falls behind."""
    page = Page(FakeEngine("word " * 400, pause=0.0005), config)
    started = time.monotonic()
    updates = [update async for update in page.run("Hi", max_new_tokens=1000) if page.tab.area.text in update]
    assert 2 < len(updates) < (time.monotonic() - started) / 0.05 + 4


async def test_without_streaming_the_text_comes_once_and_the_status_lives(config):
    """P3: the streaming toggle."""
    page = Page(FakeEngine("word " * 39 + "end", pause=0.01), config)
    updates = await collected(page.run("Hi", streaming=False))
    assert [text for update in updates if (text := update.get(page.tab.area.text))] == ["word " * 39 + "end"]
    assert sum(page.tab.area.status in update for update in updates) > 4


async def test_closing_the_run_closes_the_engines_iterator(config):
    """G6: Stop and a closed tab close the handler; nothing goes on behind it."""
    engine = FakeEngine("word " * 100, pause=0.01)
    page = Page(engine, config)
    run = page.run("Hi")
    async for update in run:
        if engine.running and update.get(page.tab.area.text):
            break
    await run.aclose()
    assert engine.activity() == (0, 0)


async def test_cancelling_the_run_closes_the_engines_iterator(config):
    """G6: Gradio's Stop cancels the task."""
    engine = FakeEngine("word " * 1000, pause=0.01)
    task = asyncio.create_task(collected(Page(engine, config).run("Hi", max_new_tokens=1000)))
    await asyncio.sleep(0.3)
    assert engine.running == 1
    task.cancel()
    await asyncio.wait({task})
    assert engine.activity() == (0, 0)


@pytest.mark.parametrize(
    ("prompt", "model", "adapter", "changes", "said"),
    [
        ("  ", "starter", texts.NO_ADAPTER, {}, "The prompt is empty."),
        ("word " * 600, "starter", texts.NO_ADAPTER, {}, "The prompt is too long."),
        ("Hi", "no-such", texts.NO_ADAPTER, {}, "There is no model 'no-such'."),
        ("Hi", "starter", "no-such", {}, "There is no adapter 'no-such'"),
        ("Hi", "org/missing", texts.NO_ADAPTER, {}, "There is no model 'org/missing'."),
        ("Hi", "starter", texts.NO_ADAPTER, {"seed": "x"}, "The seed is 'x'."),
    ],
)
async def test_what_cannot_be_answered_is_one_sentence_in_toast_and_status_line(
    config, toasts, prompt, model, adapter, changes, said
):
    """P1, P2: one clear sentence with its remedy, no text from anybody else, and the page is ready again."""
    page = Page(FakeEngine(), config)
    updates = await collected(page.run(prompt, model, adapter, **changes))
    assert len(toasts) == 1
    assert toasts[0].startswith(said)
    assert 'data-state="error"' in last(updates, page.tab.area.status)
    assert last(updates, page.bar.phase) == "error"
    assert last(updates, page.tab.area.generate)["visible"] is True
    assert not any(update.get(page.tab.area.raw) for update in updates)


async def test_a_failure_of_ours_is_logged_and_told_without_a_traceback(config, toasts, caplog):
    """G6: nothing hangs, nothing is hidden, nothing leaks."""
    engine = FakeEngine()
    engine.load = lambda *_: {}["secret"]  # type: ignore[method-assign, assignment]
    page = Page(engine, config)
    updates = await collected(page.run("Hi"))
    assert toasts == [texts.UNEXPECTED]
    assert "secret" not in last(updates, page.tab.area.status)
    assert "KeyError" in caplog.text


async def test_swap_attaches_to_the_base_in_memory_and_refuses_without_one(config, toasts):
    """P1: Swap Adapter never loads a base by surprise."""
    engine = FakeEngine()
    page = Page(engine, config)
    picker = page.tab.picker
    await collected(picker._swap("starter", "pirate", "auto"))
    assert "starter is not in memory. Press Load" in toasts[0]
    await collected(picker._load("starter", texts.NO_ADAPTER, "auto"))
    updates = await collected(picker._swap("starter", "pirate", "auto"))
    assert "Swapped: starter + pirate answers now." in last(updates, picker.progress)
    assert len(engine.residents()) == 1
    weights = picker.weights(Choice("starter", "pirate", "auto"), None)
    assert (weights.label, weights.adapter_problem) == ("starter + pirate", "")
    assert weights.attached is not None


async def test_a_failed_choice_keeps_its_chip_red_until_another_is_made(config, toasts):
    """P1: the chip says why."""
    page = Page(FakeEngine(), config)
    updates = await collected(page.run("Hi", "org/missing"))
    failure = last(updates, page.tab.picker.failure)
    weights = page.tab.picker.weights(Choice("org/missing", texts.NO_ADAPTER, "auto", 1.0), failure)
    assert weights.base_problem == "There is no model 'org/missing'. Check the name."
    assert page.tab.picker.weights(Choice("starter", texts.NO_ADAPTER, "auto"), failure).base_problem == ""


async def test_the_prompts_tokens_are_counted_only_by_a_loaded_model(config):
    """P2: characters before that; with the model its own tokenizer and the rendered prompt."""
    page = Page(FakeEngine(), config)
    choice = ("", "", "starter", texts.NO_ADAPTER, "auto")
    counter, _ = await page.tab.size.look(SOMEBODY, "a b c", "chat", *choice)
    assert "5 characters · <span" in counter
    await collected(page.tab.picker._load(*choice[2:]))
    counter, preview = await page.tab.size.look(SOMEBODY, "a b c", "chat", *choice)
    assert "5 characters · 3 tokens" in counter
    assert "&lt;user&gt;a b c&lt;/user&gt;" in preview
    counter, preview = await page.tab.size.look(SOMEBODY, "word " * 600, "chat", *choice)
    assert "too long for this model" in counter
    assert "The prompt is too long. Shorten it." in preview
    counter, preview = await page.tab.size.look(SOMEBODY, "word " * 100_000, "chat", *choice)
    assert "500,000 characters" in counter
    assert texts.PREVIEW_TOO_LONG in preview


async def test_a_use_case_brings_its_template_and_examples(config):
    """P1, P2: six use cases, each with examples to click."""
    page = Page(FakeEngine(), config)
    assert [label for label, _ in page.tab.cases.use_case.choices] == [
        "Chatbot", "Code Generation", "Summarization", "Question Answering", "Creative Writing", "Domain Adaptation",
    ]  # fmt: skip
    for key, case in config.use_cases.items():
        template, *examples = page.tab.cases._chosen(key)
        assert template == case.template
        assert tuple(example["value"] for example in examples if example["visible"]) == case.examples


async def test_reset_can_be_undone(config):
    """P2: nothing is lost by one click."""
    tab = Page(FakeEngine(), config).tab
    saved = ("prompt", "text", "raw", "status", "made", None)
    cleared = await tab._reset(*saved)
    assert cleared[tab.prompt] == cleared[tab.area.raw] == ""
    restored = tab._undo(cleared[tab.before_reset])
    parts = (tab.prompt, tab.area.text, tab.area.raw, tab.area.status, tab.area.replays.made, tab.area.answer)
    assert [restored[part] for part in parts] == list(saved)


# --- several people at once ---


async def test_nothing_that_takes_its_time_waits_for_somebody_elses(config):
    """P3: Generate, Load and Swap have no limit of their own, everything else is answered outside of the queue."""
    page = Page(FakeEngine(), config)
    queued = {fn.name: fn.concurrency_limit for fn in page.demo.fns.values() if fn.queue and fn.fn}
    assert set(queued) >= {"_run", "_load", "_swap", "_unload", "_check", "_examine", "_again", "_receive", "_merged"}
    assert set(queued.values()) == {None}


async def test_an_open_page_holds_no_connection(config):
    """P3: a browser has six for all of its tabs; one kept by each tab, and a third tab's Stop would not be sent."""
    engine = FakeEngine()
    demo = build(config, Services.over(engine, config))
    assert demo.get_config_file()["connect_heartbeat"] is False


async def test_each_page_is_somebody_of_its_own_where_answers_wait_in_line(config):
    """P3, G2: the engine lets people take turns; a page says who it is, the browser's session."""
    engine = FakeEngine()
    page = Page(engine, config)
    await asyncio.gather(*(collected(page.run("Hi", visitor=name)) for name in ("one", "other")))
    assert {request.user for request in engine.requests} == {"guest one", "guest other"}


async def test_one_answers_failure_leaves_the_one_beside_it_alone(config, toasts):
    """P3, G6: whoever else is answered at that time sees nothing of it."""
    engine = FakeEngine("word " * 20, pause=0.01)
    page = Page(engine, config)
    fine, failed = await asyncio.gather(
        collected(page.run("Hi")), collected(page.run("Hi", adapter="no-such", visitor="other"))
    )
    assert 'data-state="error"' in last(failed, page.tab.area.status)
    assert last(fine, page.tab.area.text).startswith("word word")
    assert last(fine, page.bar.phase) == "idle"
    assert len(toasts) == 1


async def test_many_pages_share_what_the_server_can_send(config):
    """P3, S5: thirty answers at once get fewer updates each, so that sending them does not hold up writing them."""
    page = Page(FakeEngine("word " * 100, pause=0.01), config)
    started = time.monotonic()
    runs = await asyncio.gather(*(collected(page.run("Hi", visitor=str(number))) for number in range(30)))
    taken = time.monotonic() - started
    sent = sum(page.tab.area.text in update for updates in runs for update in updates)
    assert sent < UPDATES_PER_SECOND * taken + 4 * 30
    assert all(last(updates, page.tab.area.text) == "word " * 100 for updates in runs)
    assert page.tab._pace.streams == 0


async def test_who_waits_in_line_sees_the_place_and_who_left_is_not_asked_for(config):
    """P3, G6: the status line has the place with the seconds; the bar's dot is the session's own."""
    engine = FakeEngine(in_line=(2, 1, 0), pause=0.2)
    page = Page(engine, config)
    run = page.run("Hi")
    said, phases = [], []
    async for update in run:
        said.append(update.get(page.tab.area.status, ""))
        phases.append(update.get(page.bar.phase))
        if "yours is next" in said[-1]:
            break
    await run.aclose()
    assert any("2 answers before yours" in line for line in said)
    assert "queued" in phases
    assert engine.activity() == (0, 0)
    assert LONGEST_PAUSE < 0.5  # an update is when a closed page is noticed


async def test_the_bar_follows_what_others_do(config):
    """P1: rows, memory and the list of models are everybody's; the look at the memory is shared for half a second."""
    engine = FakeEngine("word " * 50, pause=0.02)
    page = Page(engine, config)
    *parts, shown = await page.look()
    assert parts == list(shown)
    chips, _, _, dot, loaded, _, pace = shown
    assert ("Idle" in dot, pace) == (True, IDLE_SECONDS)
    assert texts.NOTHING_LOADED in loaded
    task = asyncio.create_task(collected(page.run("Hi", visitor="other", max_new_tokens=50)))
    for _ in range(1000):
        if engine.running and page.services.models.loaded():
            break
        await asyncio.sleep(0.01)
    *parts, shown = await page.look(shown=shown)
    chips, _, figures, dot, loaded, _, pace = parts
    assert 'data-state="ready"' in chips
    assert "1 answering" in dot
    assert "Unload, frees" in loaded
    assert "starter" in figures
    assert pace == BUSY_SECONDS
    looks = engine.looks
    for _ in range(20):
        *parts, shown = await page.look(shown=shown)
    assert engine.looks - looks <= 2
    assert all(isinstance(part, dict) for part in parts[:2])  # nothing new, nothing sent
    task.cancel()
    await asyncio.wait({task})
    *_, shown = await page.look(shown=shown)
    assert "Idle" in shown[3]


async def test_ten_who_load_hold_up_nobody_who_asks(config):
    """P1, P3: a download may take minutes, and there are only a few threads for everybody."""
    release = threading.Event()

    class Slow(FakeEngine):
        def load(self, spec, report=None):
            if "slow" in spec.base:
                release.wait(30)
            return super().load(spec, report)

    page = Page(Slow(), config)
    loads = [asyncio.create_task(collected(page.tab.picker._load("org/slow", "", "auto"))) for _ in range(10)]
    await asyncio.sleep(0.1)
    updates = await asyncio.wait_for(collected(page.run("Hi")), timeout=10)
    release.set()
    assert last(updates, page.tab.area.text) == "One two three."
    assert all(last(updates, page.bar.phase) == "idle" for updates in await asyncio.gather(*loads))


async def test_what_stop_or_reset_said_is_said_again_when_the_run_is_over(config):
    """P2: an update that was on its way to the page comes after the answer to the click, and must not stay."""
    page = Page(FakeEngine("word " * 100, pause=0.01), config)
    run, answer = await begun(page)
    stopped = await page.tab._stopped(answer)
    assert [update async for update in run] == []  # the run itself has nothing more to say
    assert stopped[page.tab.area.stage] == "stopped"
    assert "stopped" in (await page.tab._settled("stopped", answer))[page.tab.area.status]
    unheard = dataclasses.replace(answer, stopped=False, finish={})  # stopped before the page knew its answer
    assert "stopped" in (await page.tab._settled("stopped", unheard))[page.tab.area.status]
    assert texts.RESET_DONE in (await page.tab._settled("cleared", None))[page.tab.area.status]
    assert isinstance((await page.tab._settled("done", answer))[page.tab.area.status], dict)  # nothing


async def test_an_undo_that_is_too_late_does_nothing(config):
    """P2: what Reset cleared is forgotten with the session's memory."""
    tab = Page(FakeEngine(), config).tab
    assert set(tab._undo(None)) == {tab.undo}
