"""What the page does for trust, over a scripted engine and the real services: report, strength, replay, upload, export."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from playground.config import ROOT, AppConfig, load_config
from playground.errors import AdapterInvalid, OutOfMemory
from playground.services.assembly import Services
from playground.services.exports import MergeComparison
from playground.types import Proof, Status
from playground.ui import texts, wiring
from playground.ui.app import build
from playground.ui.export_panel import ExportPanel
from playground.ui.views.weights import Choice
from tests.ui.fake_engine import FakeEngine
from tests.ui.page import Page, collected, last

pytestmark = pytest.mark.anyio
PIRATE = ROOT / "assets" / "adapters" / "pirate"
SOMEBODY = SimpleNamespace(session_hash="somebody")


@pytest.fixture
def config(tmp_path: Path) -> AppConfig:
    """The configuration with a data folder of the test's own, and a broken adapter on offer."""
    broken = tmp_path / "broken"
    shutil.copytree(PIRATE, broken, ignore=shutil.ignore_patterns("checkpoint-*"))
    weights = broken / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    return load_config(overrides={"data_dir": tmp_path / "data", "adapter": [str(broken)]})


# --- the adapter's report ---


async def test_a_broken_adapters_report_opens_by_itself_and_its_chip_is_red_before_anything_is_loaded(config):
    """G9: every problem a sentence with its remedy; nothing is loaded for it."""
    engine = FakeEngine()
    page = Page(engine, config)
    panel = page.tab.picker.report
    updates = await collected(panel._check("starter", "broken"))
    assert last(updates, panel.frame)["open"] is True
    assert last(updates, panel.frame)["label"] == "Adapter report · cannot be used"
    assert "cut off" in last(updates, panel.found)
    assert last(updates, panel.examine)["visible"] is False
    weights = page.tab.picker.weights(Choice("starter", "broken"), None)
    assert "cut off" in weights.adapter_problem
    assert engine.residents() == ()


async def test_a_sound_adapters_report_is_green_and_stays_as_it_was_opened(config):
    """G9: the folded heading says it; whoever has opened or closed the report finds it so."""
    panel = Page(FakeEngine(), config).tab.picker.report
    updates = await collected(panel._check("starter", "pirate"))
    assert last(updates, panel.frame)["label"] == "Adapter report · sound"
    assert "open" not in last(updates, panel.frame)
    assert "LoRA rank 8 on" in last(updates, panel.found)
    assert last(updates, panel.examine)["visible"] is True
    none = await collected(panel._check("starter", texts.NO_ADAPTER))
    assert texts.REPORT_NONE in last(none, panel.found)
    assert last(none, panel.examine)["visible"] is False


async def test_a_name_that_is_no_adapters_is_told_in_the_report_without_a_toast(config, toasts):
    """P1, G9: the chip and the report say it while the person still types."""
    panel = Page(FakeEngine(), config).tab.picker.report
    updates = await collected(panel._check("starter", "no-such"))
    assert "There is no adapter" in last(updates, panel.found)
    assert last(updates, panel.frame)["open"] is True
    assert toasts == []


async def test_a_look_that_takes_its_time_says_so_after_a_second(config, monkeypatch):
    """P1: never a bare spinner over a second."""
    monkeypatch.setattr(wiring, "PATIENCE_SECONDS", 0.05)
    release = threading.Event()
    page = Page(FakeEngine(), config)
    real = page.services.models.report
    page.services.models.report = lambda *names: release.wait(30) and real(*names)  # type: ignore[method-assign]
    said = []
    async for updates in page.tab.picker.report._check("starter", "pirate"):
        said.append(updates[page.tab.picker.report.found])
        release.set()
    assert "Loading: reading the adapter" in said[0]
    assert "Adapter checked" in said[-1]


async def test_examining_shows_the_plot_and_a_broken_adapter_its_sentence(config, toasts):
    """G9: the doctor, on request."""
    panel = Page(FakeEngine(), config).tab.picker.report
    shown = [html async for html in panel._examine("starter", "pirate")]
    assert texts.EXAMINING in shown[0]
    assert shown[-1].count('class="norm"') == 42
    assert "pirate, examined" in shown[-1]
    failed = [html async for html in panel._examine("starter", "broken")]
    assert "cannot be examined" in failed[-1]
    assert len(toasts) == 1


async def test_the_bar_shows_what_attaching_proved_and_forgets_it_with_the_choice(config):
    """G10: matched, missing, unexpected; how far the logits moved. A no-op is red, in the chip and in the report."""

    class Proving(FakeEngine):
        def load(self, spec, report=None):
            held = super().load(spec, report)
            proof = Proof(84, moved=0.0 if self.noop else 3.2, flipped=0.0 if self.noop else 0.5)
            proven = tuple(dataclasses.replace(adapter, proof=proof) for adapter in held.adapters)
            self._residents[spec.base] = dataclasses.replace(held, adapters=proven)
            return self._residents[spec.base]

    for noop, state, said in ((False, "ready", "changed at 4 of 8 positions"), (True, "bad", "exactly as without it")):
        page = Page(Proving(noop=noop), config)
        await collected(page.tab.picker._load("starter", "pirate", "auto", 1.0))
        chips, *_, proof, _, _ = await page.look("starter", "pirate", "auto", 1.0)
        assert f'data-state="{state}"' in chips.split("Adapter")[0].rsplit("<button", 1)[1]
        assert said in proof
        *_, proof, _, _ = await page.look("starter", texts.NO_ADAPTER, "auto", 1.0)
        assert proof == ""


# --- strength ---


async def test_the_strength_reaches_the_engine_and_is_part_of_the_answers_name(config):
    """G14: scale is part of the request; the line and the chip say it."""
    engine = FakeEngine()
    page = Page(engine, config)
    updates = await collected(page.run("Hi", adapter="pirate", strength=0.5))
    assert engine.requests[0].spec.adapters == ((str(PIRATE), 0.5),)
    assert "starter + pirate ×0.5" in last(updates, page.tab.area.status)
    chips, *_ = await page.look("starter", "pirate", "auto", 0.5)
    assert "pirate ×0.5" in chips


async def test_the_base_has_no_strength_and_an_empty_one_is_refused_in_a_sentence(config, toasts):
    """G14: the field means nothing to the base; values out of bounds are the engine's to refuse."""
    page = Page(FakeEngine(), config)
    assert (await page.tab.picker._for_adapter(texts.NO_ADAPTER))[0]["interactive"] is False
    assert (await page.tab.picker._for_adapter("pirate"))[0]["interactive"] is True
    updates = await collected(page.run("Hi", strength=None))
    assert last(updates, page.tab.area.text) == "One two three."
    await collected(page.run("Hi", adapter="pirate", strength=None))
    await collected(page.run("Hi", adapter="pirate", strength=1000))
    assert toasts[0] == "The strength is empty. Give it a number; 1 is as trained."
    assert "It must be between −100 and 100" in toasts[1]


async def test_a_failure_at_one_strength_leaves_the_chip_of_another_alone(config, toasts):
    """G14: an adapter without strengths fails at 0.5 and works at 1; the sentence is the engine's."""

    class OnlyWhole(FakeEngine):
        def load(self, spec, report=None):
            if spec.adapters and spec.adapters[0][1] != 1:
                raise AdapterInvalid("A soft prompt has no strength.", "Use it at 1.")
            return super().load(spec, report)

    page = Page(OnlyWhole(), config)
    updates = await collected(page.run("Hi", adapter="pirate", strength=0.5))
    failure = last(updates, page.tab.picker.failure)
    assert toasts == ["A soft prompt has no strength. Use it at 1."]
    half, whole = (Choice("starter", "pirate", "auto", scale) for scale in (0.5, 1.0))
    assert page.tab.picker.weights(half, failure).adapter_problem == toasts[0]
    assert page.tab.picker.weights(whole, failure).adapter_problem == ""


# --- provenance and replay ---


async def an_answer(page: Page, **options: Any):
    updates = await collected(page.run("Hi", **options))
    return last(updates, page.tab.area.answer), updates


async def replayed(page: Page, answer: Any, index: int = 0) -> list[dict[Any, Any]]:
    return await collected(page.tab.area.replays._again(SOMEBODY, SimpleNamespace(value=str(index)), answer))


async def test_an_answer_shows_what_made_it_and_the_next_one_starts_clean(config):
    """G14: the fold is filled when the answer has ended, and cleared with it."""
    page = Page(FakeEngine(), config)
    _, updates = await an_answer(page, adapter="pirate", strength=0.5)
    made = [update[page.tab.area.replays.made] for update in updates if page.tab.area.replays.made in update]
    assert made[0] == ""
    assert "pirate ×0.5" in made[-1]
    assert 'data-replay="0"' in last(updates, page.tab.area.status)


async def test_a_replay_says_identical_and_asks_for_the_same_as_this_page(config):
    """G14: the manifest runs again with the seed that was drawn; the answer itself is not touched."""
    engine = FakeEngine()
    page = Page(engine, config)
    answer, _ = await an_answer(page)
    engine.pause = 2 * wiring.WORK_SECONDS  # so that each word is shown
    updates = await replayed(page, answer)
    line = page.tab.area.replays.work.line
    assert any(f"Run again: {number} of 3 tokens" in update.get(line, "") for update in updates for number in (1, 2, 3))
    assert 'data-state="identical"' in last(updates, line)
    assert engine.requests[1].user == "guest somebody"
    assert engine.requests[1].settings.seed == 7
    assert not any(
        part in update for update in updates for part in (page.tab.area.text, page.tab.area.raw, page.tab.area.status)
    )


async def test_a_replay_that_differs_says_where(config):
    """G14: differs at token k."""
    engine = FakeEngine("One two three.")
    page = Page(engine, config)
    answer, _ = await an_answer(page)
    engine.answer = "One two"
    said = last(await replayed(page, answer), page.tab.area.replays.work.line)
    assert 'data-state="differs"' in said
    assert "differs at token 3" in said


async def test_each_of_several_answers_is_replayed_alone(config):
    """G3, G14: the second one by its own manifest, told as the second."""
    page = Page(FakeEngine(), config)
    answer, _ = await an_answer(page)
    answer.request = dataclasses.replace(
        answer.request, settings=answer.request.settings.replace(num_return_sequences=2)
    )
    for part in (answer.parts, answer.token_ids, answer.stats, answer.finish, answer.provenance):
        part[1] = part[0]
    updates = await replayed(page, answer, 1)
    assert "Run again, answer 2:" in last(updates, page.tab.area.replays.work.line)


async def test_an_answer_that_is_forgotten_cannot_be_replayed_and_says_so(config, toasts):
    """G14: a page left open for days."""
    page = Page(FakeEngine(), config)
    updates = await replayed(page, None)
    assert "This answer is forgotten. Generate it again." in last(updates, page.tab.area.replays.work.line)
    assert len(toasts) == 1


async def test_a_pasted_manifest_is_replayed_and_what_is_none_is_refused(config, toasts):
    """G14: what one page copied, another one runs again."""
    page = Page(FakeEngine(), config)
    answer, _ = await an_answer(page)
    text = answer.manifest(0).to_json()
    assert json.loads(text)["prompt_hash"]
    updates = await collected(page.tab.area.replays._pasted(SOMEBODY, text))
    assert 'data-state="identical"' in last(updates, page.tab.area.replays.work.line)
    updates = await collected(page.tab.area.replays._pasted(SOMEBODY, "{}"))
    assert 'data-state="error"' in last(updates, page.tab.area.replays.work.line)
    assert "This is no manifest" in toasts[0]


async def test_stopping_a_replay_closes_the_engines_iterator_and_its_words_stay(config):
    """G14, G6: Stop ends it, and an update that was still on its way does not bring it back."""
    engine = FakeEngine("word " * 1000, pause=0.01)
    page = Page(engine, config)
    answer, _ = await an_answer(page, max_new_tokens=5)
    answer.request = dataclasses.replace(answer.request, settings=answer.request.settings.replace(max_new_tokens=1000))
    task = asyncio.create_task(replayed(page, answer))
    await asyncio.sleep(0.3)
    assert engine.running == 1
    task.cancel()
    await asyncio.wait({task})
    assert engine.running == 0
    work = page.tab.area.replays.work
    for updates in (work._ended("stopped"), work._settled("stopped")):
        assert texts.REPLAY_STOPPED in updates[work.line]
        assert updates[work.stop]["visible"] is False
    assert work._settled("running")[work.line] == ""  # another answer was asked for, which cancelled it
    assert isinstance(work._settled("done")[work.line], dict)  # nothing


async def stopped_once(page: Page, reached: Any) -> tuple[Any, dict[Any, Any]]:
    """The answer and what Stop shows, pressed as soon as ``reached`` is true of the answer."""
    answer = None
    async with contextlib.aclosing(page.run("Hi")) as run:
        async for update in run:
            answer = update.get(page.tab.area.answer, answer)
            if answer is not None and reached(answer):
                break
    return answer, await page.tab._stopped(answer)


async def test_a_stopped_answer_tells_what_made_it_and_is_replayed_as_far_as_it_goes(config):
    """G14: the engine says before the first token what answers, so Stop loses neither the seed nor the prompt."""
    page = Page(FakeEngine("word " * 50, pause=0.01), config)
    answer, shown = await stopped_once(page, lambda answer: answer.length > 10)
    assert "data-replay" in shown[page.tab.area.status]
    assert "What made this answer" in shown[page.tab.area.replays.made]
    manifest = json.loads(answer.manifest(0).to_json())
    assert manifest["prompt_hash"]
    assert manifest["provenance"]["seed"] == 7
    said = last(await replayed(page, answer), page.tab.area.replays.work.line)
    assert "identical as far as it goes" in said


async def test_an_answer_stopped_before_its_first_token_offers_no_replay(config):
    """G14: a button that could only fail is not there."""
    page = Page(FakeEngine(pause=0.01, in_line=(1, 0)), config)
    answer, shown = await stopped_once(page, lambda answer: answer.statuses)
    assert not answer.length
    assert "data-replay" not in shown[page.tab.area.status]


async def test_what_an_answer_hands_out_names_no_folder_of_the_server(config):
    """G14, S2: base and adapter by their offered names, ended or stopped; and it is replayed from them."""
    page = Page(FakeEngine(), config)
    answer, _ = await an_answer(page, adapter="pirate", strength=0.5)
    text = answer.manifest(0).to_json()
    assert str(ROOT) not in text
    assert json.loads(text)["request"]["spec"]["base"] == "starter"
    assert json.loads(text)["request"]["spec"]["adapters"] == [["pirate", 0.5]]
    _, shown = await stopped_once(page, lambda answer: answer.length > 3)
    assert "data-copy" in shown[page.tab.area.status]
    assert str(ROOT) not in shown[page.tab.area.status]


# --- adding and taking along ---


async def test_an_uploaded_zip_is_chosen_and_a_broken_one_says_why(config, tmp_path, toasts):
    """P8: dropped, checked, chosen; what is no adapter leaves nothing behind."""
    page = Page(FakeEngine(), config)
    picker = page.tab.picker
    adding = picker._adding
    packed = shutil.make_archive(str(tmp_path / "mine"), "zip", PIRATE)
    updates = await collected(adding._receive(SOMEBODY, [packed], "", "starter"))
    chosen = last(updates, picker.adapter)
    assert chosen["value"] == "mine"
    assert "mine" in chosen["choices"]
    assert "Added mine" in last(updates, adding.status)
    assert page.tab.picker.spec(Choice("starter", "mine")).adapters[0][0].startswith(str(config.uploads))
    readme = tmp_path / "README.md"
    readme.write_text("hello")
    updates = await collected(adding._receive(SOMEBODY, [str(readme)], "", "starter"))
    assert "error-line" in last(updates, adding.status)
    assert len(toasts) == 1
    assert not any(picker.adapter in update for update in updates)


async def test_only_an_uploaded_adapter_can_be_removed_and_the_question_says_what_it_destroys(config, tmp_path, toasts):
    """P8: asked once; then its files are gone, the base is chosen, and a second try says so."""
    page = Page(FakeEngine(), config)
    picker, removing = page.tab.picker, page.tab.picker._removing
    packed = shutil.make_archive(str(tmp_path / "mine"), "zip", PIRATE)
    await collected(picker._adding._receive(SOMEBODY, [packed], "", "starter"))
    for adapter, offered in ((texts.NO_ADAPTER, False), ("pirate", False), ("no-such", False), ("mine", True)):
        shown = await removing._offered(SOMEBODY, "starter", adapter)
        assert shown[removing.offer]["visible"] is offered
        assert shown[removing.asked]["visible"] is False
    assert "Deletes the uploaded files of mine" in shown[removing.question]
    assert (config.uploads / "mine").is_dir()
    done = await removing._remove(SOMEBODY, "mine", "starter")
    assert not (config.uploads / "mine").exists()
    assert done[picker.adapter]["value"] == texts.NO_ADAPTER
    assert "mine" not in done[picker.adapter]["choices"]
    assert PIRATE.is_dir()
    again = await removing._remove(SOMEBODY, "mine", "starter")
    assert "not an uploaded adapter" in again[removing.said]
    assert len(toasts) == 1


async def test_where_others_reach_the_server_there_is_a_sentence_instead(config):
    """P8, S2: neither upload nor export on a shared deployment."""
    shared = dataclasses.replace(config, free_paths=False)
    engine = FakeEngine()
    demo = build(shared, Services.over(engine, shared))
    ids = {getattr(block, "elem_id", None) for block in demo.blocks.values()}
    assert {"add-refused", "export-refused"} <= ids
    assert not {"adapter-files", "export-adapter", "export-merged", "compare-merged"} & ids


class ScriptedExports:
    """Says how far it is, and then what came of it; raises the result where it is an error."""

    allowed = True

    def __init__(self, result: Any) -> None:
        self.result = result
        self.asked: list[Any] = []

    async def adapter(self, *names: Any, **options: Any):
        self.asked.append((*names, options))
        yield Status("loading", "writing", 0.5)
        if isinstance(self.result, Exception):
            raise self.result
        yield Status("done", "It answers as the adapter does.", 1.0)
        yield self.result

    merged = compare_merged = adapter


def exporting(result: Any) -> tuple[ExportPanel, ScriptedExports]:
    exports = ScriptedExports(result)
    panel = ExportPanel(exports)  # type: ignore[arg-type]
    with gr.Blocks(analytics_enabled=False):
        panel.render()
    return panel, exports


async def test_an_export_says_how_far_it_is_and_then_where_it_lies():
    """P8: at the chosen strength and precision; the path can be copied, with what the merge was found to change."""
    panel, exports = exporting(Path("/data/exports/one"))
    updates = await collected(panel._merged("starter", "pirate", 0.5, "float16"))
    assert exports.asked == [("starter", "pirate", 0.5, {"dtype": "float16"})]
    shown = [update[panel.work.line] for update in updates if panel.work.line in update]
    assert "starting" in shown[0]
    assert "writing 50 %" in shown[1]
    assert updates[0][panel.work.stop]["visible"] is True
    assert last(updates, panel.work.stop)["visible"] is False
    assert 'data-copy="/data/exports/one"' in shown[-1]
    assert "It answers as the adapter does." in shown[-1]
    await collected(panel._adapter("starter", "pirate", 0.5, "float16"))
    assert exports.asked[-1] == ("starter", "pirate", 0.5, {})


async def test_does_merging_change_it_is_answered_with_three_figures():
    """G10: merged against unmerged."""
    panel, _ = exporting(MergeComparison(0.1, 0.0, 1.0, 163, "bfloat16"))
    updates = await collected(panel._compared("starter", "pirate", 1.0, "bfloat16"))
    assert "Same likeliest token" in last(updates, panel.work.line)


@pytest.mark.parametrize(
    ("adapter", "strength", "result", "said"),
    [
        (texts.NO_ADAPTER, 1.0, None, "No adapter is chosen."),
        ("pirate", None, None, "The strength is empty."),
        ("pirate", 1.0, OutOfMemory("It needs 30 GB.", "Unload."), "It needs 30 GB. Unload."),
    ],
)
async def test_an_export_that_cannot_be_is_one_sentence(toasts, adapter, strength, result, said):
    """P8: in the toast and in the line."""
    panel, _ = exporting(result)
    updates = await collected(panel._merged("starter", adapter, strength, "bfloat16"))
    assert toasts[0].startswith(said)
    assert 'data-state="error"' in last(updates, panel.work.line)
    assert last(updates, panel.work.stage) == "done"
