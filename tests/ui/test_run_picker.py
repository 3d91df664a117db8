"""Steps 1 and 2 of the Inference tab, without a server: what is chosen, what is validated, and what the page is sent."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from playground.config import ROOT, AppConfig
from playground.services.assembly import Services
from playground.services.runs import Listing
from playground.types import Caller
from playground.ui import texts, wiring
from playground.ui.run_picker import RunPicker
from playground.ui.run_verdict import Turn
from playground.ui.side_panel import SidePanel
from playground.ui.topbar import TopBar
from tests.ui.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio  # all of them: outside of a running loop Gradio makes one and never closes it

SOMEBODY = SimpleNamespace(session_hash="somebody")
ME = Caller("guest somebody", "guest")
ADAPTERS = ROOT / "assets" / "adapters"


class Pages:
    """The picker beside the panel that it fills."""

    def __init__(self, config: AppConfig) -> None:
        self.services = Services.over(FakeEngine(), config)
        self.side = SidePanel(config, self.services)
        bar = TopBar(self.services.models, self.services.generation, config)
        self.picker = RunPicker(config, self.services, self.side)
        with gr.Blocks(analytics_enabled=False) as self.demo:
            bar.render()
            self.side.render()
            self.picker.render()
            self.picker.listen(self.demo, bar)


class Page:
    """What one open page shows of them."""

    def __init__(self, pages: Pages) -> None:
        self.services, self.side, self.picker = pages.services, pages.side, pages.picker
        self.turn = Turn()
        self.shown: dict[Any, Any] = {}
        self.settled: list[str] = []

    def take(self, update: dict[Any, Any]) -> None:
        """What the page shows after ``update``."""
        for component, value in update.items():
            changed = value if isinstance(value, dict) and "__type__" in value else {"value": value}
            if "value" in changed:
                self.shown[component] = changed["value"]
                self.settled += [changed["value"]] if component is self.picker.settled else []

    async def all_of(self, updates: Any) -> None:
        async for update in updates:
            self.take(update)

    async def open(self, model: str = "starter", adapter: str = texts.NO_ADAPTER) -> dict[Any, Any]:
        update: dict[Any, Any] = await self.picker._opened(self.turn, model, adapter, "")
        self.take(update)
        return update

    async def choose(self, name: str | None) -> None:
        await self.all_of(self.picker._choose_run(self.turn, name, "starter"))

    async def checkpoint(self, label: str | None) -> None:
        await self.all_of(self.picker._choose_checkpoint(self.turn, label, "starter"))

    async def beside(self, adapter: str, model: str = "starter", pinned: str = "") -> None:
        await self.all_of(self.picker._follow(self.turn, model, adapter, pinned))

    async def point_at(self, folder: str) -> None:
        await self.all_of(self.picker._point_at(SOMEBODY, self.turn, folder, "starter"))

    async def refresh(self) -> None:
        await self.all_of(self.picker._refresh(self.turn, *self.taken))

    @property
    def taken(self) -> tuple[Any, ...]:
        """The fields beside, as the page shows them."""
        return tuple(map(self.shown.get, self.side.picker.taken))

    @property
    def state(self) -> str:
        """What the status line says of itself."""
        status: str = self.shown[self.picker.status]
        return status.partition('data-state="')[2].partition('"')[0]

    @property
    def status(self) -> str:
        return str(self.shown[self.picker.status])

    @property
    def open_for(self) -> str | None:
        """The adapter that step 3 is unlocked for."""
        verdict = self.shown.get(self.picker.verdict)
        return verdict.label if verdict and verdict.is_sound else None

    @property
    def fields(self) -> tuple[Any, Any, Any]:
        """Run, checkpoint, and the adapter of the panel beside."""
        return tuple(map(self.shown.get, (self.picker.run, self.picker.checkpoint, self.side.picker.adapter)))  # type: ignore[return-value]


@pytest.fixture(scope="module")
async def pages(config: AppConfig, tmp_path_factory: pytest.TempPathFactory) -> Pages:
    return Pages(replace(config, data_dir=tmp_path_factory.mktemp("data")))


@pytest.fixture
def page(pages: Pages) -> Iterator[Page]:
    yield Page(pages)
    for folder in pages.services.runs.pointed_at():
        pages.services.runs.forget(ME, str(folder))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of one's own with a finished run, and one that was broken off."""
    folder = tmp_path / "outputs"
    shutil.copytree(ADAPTERS / "sql", folder / "my-sql")
    shutil.copytree(ADAPTERS / "sql-incomplete", folder / "half")
    return folder


async def test_a_page_that_is_opened_lists_the_runs_and_has_chosen_none(page):
    """I1: the bundled runs with their states; nothing is validated, and nothing is unlocked."""
    update = await page.open()
    labels = {value: label for label, value in update[page.picker.run]["choices"]}
    assert " · completed · " in labels["pirate"]
    assert " · incomplete · " in labels["sql-incomplete"]
    assert " · failed · " in labels["json-failed"]
    assert page.open_for is None
    assert not page.settled


async def test_a_page_follows_what_the_panel_beside_has_when_it_opens(page):
    """I1: an adapter that is chosen there already is validated."""
    await page.open(adapter="pirate")
    assert page.open_for == "pirate"
    assert page.fields[:2] == ("pirate", "pirate")


async def test_choosing_a_completed_run_validates_it_and_chooses_it_for_the_whole_page(page, capsys):
    """I1, I2: the exact words, a toast, path and base; the panel beside takes model and adapter together."""
    await page.open()
    await page.choose("pirate-overfit")
    assert texts.VALIDATED in page.status
    assert page.state == "ready"
    assert page.open_for == "pirate-overfit"
    assert page.fields == ("pirate-overfit",) * 3
    assert json.loads(page.shown[page.side.picker.pinned]) == ["starter", "pirate-overfit"]
    details = page.shown[page.picker._step.details]
    assert str(ADAPTERS / "pirate-overfit") in details
    assert "LoRA rank 8" in details
    assert "<polyline" in page.shown[page.picker._fields.curve]
    assert "Adapter validated: pirate-overfit on starter." in capsys.readouterr().out
    assert len(page.settled) == len(set(page.settled)) == 2


async def test_what_follows_is_locked_from_the_moment_of_a_choice_until_its_verdict(page):
    """I2: the verdict of the choice before unlocks nothing meanwhile, and the ring turns."""
    await page.choose("pirate")
    going = page.picker._choose_run(page.turn, "sql", "starter")
    page.take(await anext(going))
    assert page.state == "validating"
    assert 'class="ring"' in page.status
    assert page.open_for is None
    await page.all_of(going)
    assert page.open_for == "sql"


async def test_a_run_that_was_interrupted_cannot_be_chosen_but_its_checkpoints_can(page, toasts):
    """I1, I2: red, why, a toast, locked, and the panel beside left as it was; the checkpoint is an adapter like any."""
    await page.choose("pirate")
    await page.choose("sql-incomplete")
    assert page.state == "error"
    assert "stopped at step 150 of 500" in page.status
    assert page.open_for is None
    assert page.fields == ("sql-incomplete", None, "pirate")
    assert "stopped at step 150" in toasts[-1]
    await page.checkpoint("sql-incomplete/checkpoint-150")
    assert page.open_for == "sql-incomplete/checkpoint-150"
    assert page.fields == ("sql-incomplete", *["sql-incomplete/checkpoint-150"] * 2)


async def test_a_run_that_failed_cannot_be_chosen(page, toasts):
    """I1, I2: it says why, and where its loss ended."""
    await page.choose("json-failed")
    assert page.state == "error"
    assert page.open_for is None
    assert "diverged" in page.shown[page.picker._fields.curve]


async def test_a_slow_check_of_an_earlier_choice_never_unlocks_a_later_one(page, toasts, monkeypatch):
    """I2: the last choice wins, however long the one before takes, and whatever it finds."""
    check, may_end = page.services.readiness.check, threading.Event()

    def slow(base: str, label: str) -> Any:
        if label == "pirate":
            assert may_end.wait(60)
        return check(base, label)

    monkeypatch.setattr(page.services.readiness, "check", slow)
    monkeypatch.setattr(wiring, "PATIENCE_SECONDS", 0.0)
    earlier = page.picker._choose_run(page.turn, "pirate", "starter")
    page.take(await anext(earlier))
    waits = await anext(earlier)  # it is looking at the files, and says for how long
    page.take(waits)
    await page.choose("json-failed")
    may_end.set()
    assert [update async for update in earlier] == []
    assert page.state == "error"
    assert page.open_for is None
    assert page.fields[0] == "json-failed"
    assert len(toasts) == 1


async def test_leaving_a_field_as_it_is_validates_nothing_again(page):
    """I2: Gradio tells of an input whenever a field is left."""
    await page.choose("pirate")
    settled = list(page.settled)
    await page.choose("pirate")
    await page.choose(None)
    await page.checkpoint("pirate")
    await page.all_of(page.picker._choose_base(page.turn, "starter", "starter"))
    assert page.settled == settled
    assert page.open_for == "pirate"
    assert page.fields[0] == "pirate"


async def test_another_base_for_the_same_run_is_validated_anew(page, toasts):
    """I1, I2: a base that there is none of is a problem in a sentence, and locks."""
    await page.choose("pirate")
    await page.all_of(page.picker._choose_base(page.turn, "no-such-model", "starter"))
    assert page.state == "error"
    assert "no-such-model" in page.status
    assert page.open_for is None
    assert page.shown[page.side.picker.model] == "no-such-model"


async def test_what_is_chosen_by_hand_in_the_panel_beside_is_shown_and_validated(page, toasts):
    """I1, I2: a run's checkpoint fills the fields, the base alone empties and locks; nothing pops up for it."""
    await page.open()
    await page.beside("pirate-overfit/checkpoint-50")
    assert page.open_for == "pirate-overfit/checkpoint-50"
    assert page.fields[:2] == ("pirate-overfit", "pirate-overfit/checkpoint-50")
    await page.beside("no-such-adapter")
    assert page.state == "error"
    assert page.fields[0] is None
    await page.beside(texts.NO_ADAPTER)
    assert page.state == "idle"
    assert page.open_for is None
    assert toasts == []


async def test_a_folder_that_is_typed_beside_is_known_as_the_run_that_lies_there(page):
    """I1: the same adapter by its path."""
    await page.beside(str(ADAPTERS / "pirate-overfit" / "checkpoint-50"))
    assert page.fields[:2] == ("pirate-overfit", "pirate-overfit/checkpoint-50")
    assert page.state == "ready"


async def test_the_echo_of_an_own_choice_from_the_panel_beside_is_no_choice(page, toasts):
    """I2: what was sent there comes back as a change, also late, when something else has been chosen."""
    await page.choose("pirate")
    await page.choose("json-failed")
    settled = list(page.settled)
    await page.beside("pirate", pinned='["starter","pirate"]')
    assert page.settled == settled
    assert page.fields[0] == "json-failed"
    await page.beside("pirate", pinned="")  # by hand
    assert page.open_for == "pirate"


async def test_use_latest_takes_the_newest_completed_run_and_says_when_there_is_none(page, toasts, monkeypatch):
    """I1: looked for at the moment of the click."""
    listing = page.services.runs.all()
    await page.all_of(page.picker._choose_latest(page.turn, "starter"))
    assert page.open_for == listing.latest_completed.name
    only = tuple(run for run in listing.runs if run.state != "completed")
    monkeypatch.setattr(page.services.runs, "all", lambda: Listing(only))
    await page.all_of(page.picker._choose_latest(page.turn, "starter"))
    assert page.state == "error"
    assert texts.NONE_COMPLETED in page.status
    assert page.open_for is None


async def test_an_earlier_choice_that_overtakes_one_made_beside_is_followed(page, toasts):
    """I2: what the panel beside has in the end is what this tab tells of; a late word on an earlier run changes nothing."""
    await page.choose("pirate")
    sent = page.shown[page.side.picker.pinned]
    await page.choose("sql-incomplete")
    await page.beside("pirate", pinned=sent)
    assert page.fields[0] == "sql-incomplete"
    await page.beside(texts.NO_ADAPTER)
    await page.beside("pirate", pinned=sent)
    assert page.fields[:2] == ("pirate", "pirate")
    assert page.open_for == "pirate"


async def test_refresh_keeps_the_choice_and_validates_it_as_it_is_now(page, own, toasts):
    """I1, I2: what was damaged or taken away meanwhile is locked."""
    await page.point_at(str(own))
    await page.refresh()
    assert page.open_for == "my-sql"
    (own / "my-sql" / "adapter_config.json").write_text("{")
    await page.refresh()
    assert page.state == "error"
    assert page.open_for is None
    shutil.rmtree(own / "my-sql")
    await page.refresh()
    assert page.open_for is None
    assert page.fields[0] is None


async def test_an_adapter_of_ones_own_is_two_clicks_away(page, own):
    """I1: pointing at a folder lists its runs first, and chooses the only one that is completed."""
    await page.open()
    await page.point_at(str(own))
    assert page.open_for == "my-sql"
    assert page.fields == ("my-sql",) * 3
    assert set(page.turn.listed[:2]) == {"my-sql", "half"}
    assert str(own) in page.shown[page.picker._another.pointed]
    event = SimpleNamespace(value=str(own))
    await page.all_of(page.picker._forget(SOMEBODY, event, page.turn, *page.taken))
    assert "my-sql" not in page.turn.listed
    assert texts.RUN_AND_ADAPTER_GONE in page.status
    assert page.open_for is None
    assert page.fields == (None, None, texts.NO_ADAPTER)


async def test_a_folder_without_runs_is_told_in_a_sentence_and_changes_nothing(page, tmp_path, toasts):
    """I1: the choice stays as it was."""
    await page.choose("pirate")
    await page.point_at(str(tmp_path / "nowhere"))
    assert "nowhere" in page.shown[page.picker._another.said]
    assert toasts
    assert page.open_for == "pirate"


async def test_on_a_shared_server_nobody_points_at_folders_and_no_path_is_told(config, tmp_path, toasts):
    """S2: labels stand where paths would."""
    pages = Pages(replace(config, data_dir=tmp_path, free_paths=False))
    assert not any(getattr(block, "elem_id", "") == "run-folder" for block in pages.demo.blocks.values())
    page = Page(pages)
    await page.open()
    for name in ("pirate", "sql-incomplete", "json-failed"):
        await page.choose(name)
        assert str(ROOT) not in str(
            {widget: page.shown[widget] for widget in page.shown if widget is not page.picker.verdict}
        )
    await page.beside(str(ADAPTERS / "pirate"))
    assert page.open_for is None


async def test_losses_that_cannot_be_read_are_no_reason_not_to_ask_an_adapter(page, monkeypatch):
    """I1, I2: the drawing is an extra."""

    def broken(run: Any) -> Any:
        raise OSError("gone")

    monkeypatch.setattr(page.services.runs, "curve", broken)
    await page.choose("pirate")
    assert page.open_for == "pirate"
    assert texts.NO_LOSSES in page.shown[page.picker._fields.curve]
