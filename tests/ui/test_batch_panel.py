"""P7: the batch test under the Playground, over a scripted engine: what its handlers send to the page."""

from __future__ import annotations

import asyncio
import base64
import csv
import io
import itertools
import json
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import pytest

from playground.config import AppConfig
from playground.services.columns import Columns
from playground.services.trials import Place, TrialPlan, TrialPrompt, TrialRow
from playground.types import GenerationEvent, GenerationSettings, ModelSpec, Status
from playground.ui import texts
from playground.ui.batch_board import Board
from playground.ui.batch_columns import BASE, RIGHT
from playground.ui.batch_panel import BatchPanel
from playground.ui.batch_prompts import mapped
from tests.ui.fake_engine import FakeEngine
from tests.ui.page import Page, collected, last

pytestmark = pytest.mark.anyio
VISITOR = SimpleNamespace(session_hash="somebody")


class Batch:
    """The panel in its tab, and what its handlers send."""

    def __init__(self, engine: FakeEngine, config: AppConfig) -> None:
        self.engine, self.page = engine, Page(engine, config)
        self.panel: BatchPanel = self.page.tab.batch

    def asked(self, prompts: str = "", models: Any = (RIGHT,), settings: Any = (RIGHT,), **more: Any) -> list[Any]:
        """The values of all fields, the panel on the right as it stands at first."""
        side = self.page.tab.panel
        choice = [
            more.get("model", "starter"),
            more.get("adapter", texts.NO_ADAPTER),
            "auto",
            more.get("strength", 1.0),
        ]
        values = [more.get(name, widget.value) for name, widget in side.widgets.items()]
        source = [more.get("source", "typed"), prompts, more.get("file"), more.get("rows")]
        return [*source, list(models), list(settings), *choice, side.preset.value, *values]

    def run(self, *asked: Any, **more: Any):
        return self.panel._run(VISITOR, more.pop("template", "chat"), *self.asked(*asked, **more))

    async def sized(self, *asked: Any, **more: Any) -> str:
        return await self.panel._sized(VISITOR, *self.asked(*asked, **more))


@pytest.fixture(scope="module")
async def batch(config: AppConfig) -> Batch:
    """One panel for all tests: it remembers nothing but what its page sends it."""
    return Batch(FakeEngine(), config)


@pytest.fixture
def engine(batch: Batch) -> FakeEngine:
    """The engine behind it, as new."""
    batch.engine.__init__("One two three.")  # type: ignore[misc]
    return batch.engine


def lines(table: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in table.splitlines()]


async def test_a_test_fills_its_table_and_compares_the_columns(batch: Batch, engine: FakeEngine, toasts: list[str]):
    """P7: every prompt with both models and both settings; Run comes back, and the result can be saved."""
    updates = await collected(batch.run("one\ntwo", (RIGHT, "adapter:pirate"), ("Deterministic", "Creative")))
    panel = batch.panel
    table = lines(last(updates, panel.table))
    assert table[0]["html"].count("data-cell=") == 8
    assert sum(line.get("state") == "done" for line in table) == 8
    assert table[-1] == {"ended": "done"}
    assert "8 answers in" in last(updates, panel.progress)
    assert last(updates, panel.run) == {"visible": True, "__type__": "update"}
    assert last(updates, panel.saves["csv"])["visible"] is True
    summary = last(updates, panel.summary)
    assert summary.count("<b>starter + pirate</b>") == 2
    assert "Creative" in summary
    assert toasts == []
    assert {one.settings.max_new_tokens for one in engine.requests} == {128, 512}


async def test_the_table_only_ever_grows(batch: Batch, engine: FakeEngine):
    """P7: each update carries what is new, so a page that missed one has all of it with the next."""
    engine.pause = 0.1
    updates = await collected(batch.run("\n".join(f"prompt {at}" for at in range(12))))
    tables = [update[batch.panel.table] for update in updates if batch.panel.table in update]
    assert len(tables) > 2
    assert all(later.startswith(before) for before, later in itertools.pairwise(tables))
    assert any(line.get("state") == "writing" for line in lines(tables[-1]))


@pytest.mark.parametrize(("source", "remedy"), [("typed", "line of its own"), ("file", "file"), ("dataset", "dataset")])
async def test_a_test_without_prompts_is_refused_with_a_sentence(
    batch: Batch, engine: FakeEngine, toasts, source, remedy
):
    """P7: nothing starts, Run stays, and the sentence says what to do."""
    updates = await collected(batch.run(" \n ", source=source))
    assert "There are no prompts." in last(updates, batch.panel.progress)
    assert remedy in last(updates, batch.panel.progress)
    assert last(updates, batch.panel.run)["visible"] is True
    assert engine.requests == []
    assert len(toasts) == 1


async def test_too_many_answers_are_said_before_and_refused_at_run(batch: Batch, engine: FakeEngine, toasts: list[str]):
    """P7: a thousand at most."""
    many = "\n".join(f"prompt {at}" for at in range(501))
    assert 'data-state="over"' in await batch.sized(many, (RIGHT,), ("Deterministic", "Creative"))
    updates = await collected(batch.run(many, (RIGHT,), ("Deterministic", "Creative")))
    assert "1,002 answers" in last(updates, batch.panel.progress)
    assert engine.requests == []
    assert len(toasts) == 1


async def test_what_is_chosen_twice_is_asked_once_and_the_page_says_so(batch: Batch, engine: FakeEngine):
    """P7: the base that is chosen on the right and the base alone, and settings that are a preset's."""
    assert "= 1 answer." in await batch.sized("one")
    said = await batch.sized("one", (RIGHT, BASE, "adapter:pirate"), (RIGHT, texts.MODELS_OWN, "Creative"))
    assert "1 prompt × 2 models × 2 sets of settings = 4 answers." in said
    assert "“The base alone” is what is chosen on the right" in said
    assert "“As set on the right” is the same as “Model&#x27;s own”" in said
    other = await batch.sized("one", (RIGHT, BASE, "adapter:pirate"), adapter="pirate", strength=0.5)
    assert "3 models" in other


async def test_changed_settings_are_a_column_of_their_own(batch: Batch, engine: FakeEngine):
    """P7: the panel on the right as it stands, under a name that says so."""
    updates = await collected(batch.run("one", (RIGHT,), (RIGHT, "Deterministic"), max_new_tokens=2))
    head = lines(last(updates, batch.panel.table))[0]["html"]
    assert "<small>As set on the right</small>" in head
    assert "cut at the token limit" in last(updates, batch.panel.table)
    assert await batch.sized("one", (RIGHT,), (RIGHT,), max_new_tokens=0) == await batch.sized("", max_new_tokens=0)
    assert "must be at least 1" in await batch.sized("one", max_new_tokens=0)


async def test_a_failing_answer_is_a_cell_that_says_why(batch: Batch, engine: FakeEngine, toasts: list[str]):
    """P7: a prompt that is too long fails in its own cell; the other one is answered."""
    updates = await collected(batch.run("short\n" + "word " * 600))
    cells = {
        line["cell"]: line for line in lines(last(updates, batch.panel.table)) if line.get("state") in ("done", "error")
    }
    assert [cells[name]["state"] for name in ("0.0.0", "1.0.0")] == ["done", "error"]
    assert "The prompt is too long. Shorten it." in cells["1.0.0"]["html"]
    assert "1 answer failed; the cells say why." in last(updates, batch.panel.progress)
    assert toasts == []


async def test_a_model_that_is_not_there_is_told_once(batch: Batch, engine: FakeEngine, toasts: list[str]):
    """P7, S1: names are looked up before anything starts; what a page makes up is refused."""
    updates = await collected(batch.run("one", ("adapter:made up",)))
    assert "There is no adapter" in last(updates, batch.panel.progress)
    updates = await collected(batch.run("one", (RIGHT,), ("Made up",)))
    assert "no settings" in last(updates, batch.panel.progress)
    updates = await collected(batch.run("one", (RIGHT,), (RIGHT,), template="<b>"))
    assert "Unknown template" in last(updates, batch.panel.progress)
    assert "There are no models" in last(await collected(batch.run("one", ())), batch.panel.progress)
    assert engine.requests == []
    assert len(toasts) == 4


async def test_the_playgrounds_template_is_applied(batch: Batch, engine: FakeEngine):
    """P7, P2: chat, instruction and raw mean the same here."""
    await collected(batch.run("one", template="raw"))
    assert [(one.template, one.prompt) for one in engine.requests] == [("raw", "one")]


async def test_leaving_stops_what_is_being_answered(batch: Batch, engine: FakeEngine):
    """P7, G6: a closed page ends every answer of its test, and nothing more is asked."""
    engine.pause = 0.05
    engine.answer = "word " * 500
    async with aclosing(batch.run("\n".join(f"prompt {at}" for at in range(40)))) as updates:
        async for update in updates:
            if '"state": "writing"' in update.get(batch.panel.table, ""):
                break
    assert engine.running == 0
    assert len(engine.requests) <= 8


async def test_stop_keeps_what_was_finished_and_says_how_far_it_came(batch: Batch, engine: FakeEngine):
    """P7: the finished answers stay and can be saved; late updates do not bring the test back."""
    first = TrialRow(0, 0, 0, "Yes", "stop")
    board = Board(
        TrialPlan((TrialPrompt("a"), TrialPrompt("b")), (("m", ModelSpec("m")),), (("s", GenerationSettings()),))
    )
    board.add(first)
    updates = await batch.panel._stopped(board)
    assert "Stopped after 1 of 2 answers." in updates[batch.panel.progress]
    assert lines(updates[batch.panel.table])[-1] == {"ended": "stopped"}
    assert updates[batch.panel.saves["csv"]]["visible"] is True
    settled = await batch.panel._settled("stopped", board)
    assert settled[batch.panel.table] == updates[batch.panel.table]
    assert "Stopped before the first answer." in (await batch.panel._stopped(None))[batch.panel.progress]
    assert set(await batch.panel._settled("done", board)) == {batch.panel.stage}


async def test_files_hold_the_finished_answers(batch: Batch, engine: FakeEngine):
    """P7: CSV and JSONL of what is there; a page that waited too long is told."""
    updates = await collected(batch.run("=1+1\ntwo", (RIGHT,), ("Deterministic",)))
    board = last(updates, batch.panel.board)
    name, text = json.loads((await batch.panel._saver("csv")(board))[batch.panel.file])
    assert name.endswith(".csv")
    assert [line["prompt"] for line in csv.DictReader(io.StringIO(text))] == ["'=1+1", "two"]
    name, text = json.loads((await batch.panel._saver("jsonl")(board))[batch.panel.file])
    assert [json.loads(line)["answer"] for line in text.splitlines()] == ["One two three."] * 2
    assert "forgotten" in (await batch.panel._saver("csv")(None))[batch.panel.progress]


def event(said: dict[str, Any]) -> Any:
    return SimpleNamespace(_data={"value": said})


async def test_a_file_that_the_browser_read_brings_prompts_and_columns(batch: Batch, engine: FakeEngine):
    """P7: with its columns to change, and the answers that are expected."""
    data = b"question,answer\nWhat is 1 + 1?,2\nAnd 2 + 2?,4\n"
    prompts = batch.panel._prompts
    said = {"name": "sums.csv", "bytes": len(data), "base64": base64.b64encode(data).decode()}
    updates = await prompts._file_came(VISITOR, event(said))
    brought = updates[prompts.file]
    assert "2 prompts from sums.csv. Each has an expected answer." in updates[prompts.file_line]
    assert updates[prompts.prompt_column]["value"] == "question"
    assert "2 prompts" in await batch.sized(source="file", file=brought)
    again = await prompts._mapped("file", brought, None, 20, "answer", "")
    assert [one.text for one in again[prompts.file].prompts] == ["2", "4"]
    table = last(await collected(batch.run(source="file", file=brought)), batch.panel.table)
    assert 'data-match=\\"none\\"' in table


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"name": "big.csv", "bytes": 21_000_000}, "20 MB are read at most"),
        ({"name": "x.csv", "bytes": 3, "base64": "%%%"}, "did not arrive whole"),
        ({"name": "x.exe", "bytes": 3, "base64": "AAAA"}, "is no file that prompts are read from"),
        ({}, "20 MB are read at most"),
    ],
)
async def test_a_file_that_cannot_be_read_says_why(
    batch: Batch, engine: FakeEngine, said: dict[str, Any], sentence: str
):
    """P7: in the line under it, and the prompts of the file before are gone."""
    updates = await batch.panel._prompts._file_came(VISITOR, event(said))
    assert sentence in updates[batch.panel._prompts.file_line]
    assert updates[batch.panel._prompts.file] is None


async def test_a_dataset_on_offer_brings_its_first_rows(batch: Batch, engine: FakeEngine):
    """P7: chosen from those on offer, with as many rows as somebody wants."""
    prompts = batch.panel._prompts
    offered = await prompts._offered("dataset", None)
    assert "triage/test.csv" in [name for _, name in offered["choices"]]
    updates = await collected(prompts._read(VISITOR, "triage/test.csv", 3))
    assert len(last(updates, prompts.rows).prompts) == 3
    refused = await collected(prompts._read(VISITOR, "triage/test.csv", ""))
    assert "not a number" in last(refused, prompts.dataset_line)
    assert last(refused, prompts.rows) is None


def test_a_column_of_conversations_stays_one_while_the_other_column_changes():
    """P7: what was guessed of messages is kept unless another column holds the prompts."""
    before = Columns(messages="messages", system="system")
    assert mapped(before, "messages", "") is before
    assert mapped(before, "text", "label") == Columns("text", "label", "", "system")
    assert mapped(Columns("a", "b", "c"), "a", "d") == Columns("a", "d", "c")
    assert mapped(Columns("a", "b", "c"), "x", "b") == Columns("x", "b")


async def test_what_may_be_chosen_follows_the_model_and_ones_own_presets(batch: Batch, engine: FakeEngine):
    """P7: the model's adapters and a preset that was saved meanwhile are on offer; what is gone is no longer chosen."""
    columns = batch.panel._columns
    services = batch.page.services
    from playground.ui.visitor import caller_of

    services.presets.save(caller_of(VISITOR), "Mine", GenerationSettings(temperature=0.1))
    updates = await columns._offer(VISITOR, "starter", [RIGHT, "adapter:gone"], [RIGHT, "Gone"])
    assert ("pirate", "adapter:pirate") in updates[columns.models]["choices"]
    assert updates[columns.models]["value"] == [RIGHT]
    assert ("Mine", "Mine") in updates[columns.settings]["choices"]
    assert updates[columns.settings]["value"] == [RIGHT]


def test_the_time_left_is_counted_from_the_first_answer():
    """P7: what loading took is no measure of what is left."""
    now = [0.0]
    plan = TrialPlan(
        tuple(TrialPrompt(str(at)) for at in range(4)), (("m", ModelSpec("m")),), (("s", GenerationSettings()),)
    )
    board = Board(plan, lambda: now[0])
    now[0] = 100.0
    board.told(Place(0, 0, 0), GenerationEvent(Status("generating")))
    assert "left" not in board.progress
    now[0] = 110.0
    board.add(TrialRow(0, 0, 0, "x", "stop"))
    assert "about 30.0 s left" in board.progress


async def test_two_tests_at_once_do_not_mix(batch: Batch, engine: FakeEngine):
    """P7, S2: each page has its own table."""
    engine.pause = 0.01
    first, second = await asyncio.gather(collected(batch.run("one")), collected(batch.run("two\nthree")))
    tables = [lines(last(updates, batch.panel.table)) for updates in (first, second)]
    assert [sum(line.get("state") == "done" for line in table) for table in tables] == [1, 2]
    assert tables[0][0]["test"] != tables[1][0]["test"]
