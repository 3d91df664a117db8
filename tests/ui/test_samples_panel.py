"""Sample prompts without a server: which dataset, which rows, which columns, and what the chosen one brings with it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from playground.errors import InvalidRequest
from playground.services.assembly import Services
from playground.services.datasets import Dataset
from playground.services.readiness import Verdict
from playground.services.samples import Columns, Drawn
from playground.training_run import TrainingRun
from playground.types import ModelSpec
from playground.ui import texts
from playground.ui.safe_text import escape
from playground.ui.sample_draws import Shown, Turn, mapped
from playground.ui.samples_panel import SamplesPanel
from playground.ui.views.samples import Chosen
from tests.ui.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio  # all of them: outside of a running loop Gradio makes one and never closes it

PIRATE = [
    {"question": f"Question {n}?", "answer": f"Arr {n}.", "system": "Be a pirate." if n % 2 else ""} for n in range(20)
]
PLAIN = [{"instruction": f"Do {n}.", "output": f"Done {n}."} for n in range(9)]
STRANGE = [{"p": n, "q": n * 2} for n in range(4)]


class Built:
    """The panel over real datasets in a folder."""

    def __init__(self, folder: Path, config: Any, **changes: Any) -> None:
        for name, rows in (("pirate.jsonl", PIRATE), ("plain.jsonl", PLAIN), ("strange.jsonl", STRANGE)):
            (folder / name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        self.folder = folder
        self.services = Services.over(FakeEngine(), replace(config, datasets=(str(folder),), **changes))
        with gr.Blocks(analytics_enabled=False) as demo:
            runs = SimpleNamespace(verdict=gr.State(None), settled=gr.Textbox())
            self.system = gr.Textbox()
            side = SimpleNamespace(settings=SimpleNamespace(widgets={"system_prompt": self.system}))
            self.panel = SamplesPanel(self.services, runs, side)
            self.panel.render()
            self.prompt = gr.Textbox()
            self.panel.render_expected()
            self.panel.listen(demo, self.prompt)


class Page:
    """What a page holds between its events."""

    def __init__(self, built: Built) -> None:
        self.folder, self.services, self.panel = built.folder, built.services, built.panel
        self.prompt, self.system = built.prompt, built.system
        self.draws, self.chosen = self.panel.draws, self.panel.chosen
        self.turn, self.verdict = Turn(), verdict()
        self.fields: dict[Any, Any] = {
            self.prompt: "",
            self.system: "",
            self.chosen.sample: "",
            self.draws.shown: Shown(),
        }

    @property
    def shown(self) -> Shown:
        shown: Shown = self.fields[self.draws.shown]
        return shown

    @property
    def line(self) -> str:
        return str(self.fields[self.draws.line])

    def labels(self, field: Any) -> list[str]:
        """What a dropdown offers."""
        return [label for label, _ in self.fields[field]["choices"]]

    def takes(self, updates: dict[Any, Any]) -> None:
        """The page shows ``updates``; what is not sent stays, and a dropdown keeps the list that it has."""
        for field, value in updates.items():
            if value == gr.skip():
                continue
            both = isinstance(value, dict) and isinstance(self.fields.get(field), dict)
            self.fields[field] = {**self.fields[field], **value} if both else value

    async def _played(self, updates: AsyncIterator[dict[Any, Any]]) -> list[dict[Any, Any]]:
        played = []
        async for update in updates:
            self.takes(update)
            played.append(update)
        return played

    async def follow(self, verdict: Verdict | None = None) -> list[dict[Any, Any]]:
        self.verdict = verdict or self.verdict
        return await self._played(self.panel._follow(self.verdict, self.turn, self.shown))

    async def take(self, dataset: str) -> list[dict[Any, Any]]:
        held = (self.fields[self.chosen.sample], self.fields[self.system])
        return await self._played(self.panel._take(self.verdict, self.turn, self.shown, dataset, *held))

    async def again(self) -> list[dict[Any, Any]]:
        name = self.fields.get(self.panel.dataset, {}).get("value")
        return await self._played(self.draws._again(self.verdict, self.turn, self.shown, name))

    async def map(self, **names: str) -> None:
        """Change columns, and what follows when the same rows are read so."""
        now = self.shown.columns or (self.shown.drawn.columns if self.shown.drawn else Columns())
        values = [names.get(name, getattr(now, name)) for name in self.draws.columns]
        await self._played(self.draws._map(self.verdict, self.turn, self.shown, *values))
        self.renew()

    async def unmap(self) -> None:
        await self._played(self.draws._unmap(self.verdict, self.turn, self.shown))
        self.renew()

    def renew(self) -> None:
        held = (self.fields[self.chosen.sample], self.fields[self.system])
        self.takes(self.panel._renew(self.fields[self.prompt], self.shown, *held))

    def choose(self, number: Any) -> Chosen:
        held = (self.fields[self.chosen.sample], self.fields[self.system])
        self.takes(self.panel._choose(number, self.shown, *held))
        return Chosen.parse(self.fields[self.chosen.sample])

    def number_of(self, *, system: bool) -> int:
        """One of the samples in view, with or without a system prompt."""
        assert self.shown.drawn
        return next(n for n, sample in enumerate(self.shown.drawn.samples) if bool(sample.system) == system)


def verdict(name: str = "", *datasets: str, problems: tuple[tuple[str, str], ...] = ()) -> Verdict:
    run = TrainingRun(f"/runs/{name}", name, "completed", datasets=datasets) if name else None
    return Verdict("starter", name or "some", run=run, spec=ModelSpec("starter"), problems=problems)


@pytest.fixture(scope="module")
async def built(config, tmp_path_factory) -> Built:
    return Built(tmp_path_factory.mktemp("datasets"), config)


@pytest.fixture
async def page(built) -> Page:
    return Page(built)


@pytest.fixture
def draw(built, monkeypatch) -> Callable[[Any], None]:
    """Draw by this function instead."""
    return partial(monkeypatch.setattr, built.services.samples, "draw")


@pytest.fixture
def offered(built, monkeypatch) -> Callable[[Any], None]:
    """Ask this function what is on offer instead."""
    return partial(monkeypatch.setattr, built.services.datasets, "offered")


# --- which dataset ---


async def test_a_validated_run_brings_its_own_dataset_and_five_samples(page):
    """I4: the run's own training dataset is first, marked, chosen, and five of its prompts are drawn."""
    await page.follow(verdict("pirate", str(page.folder / "pirate.jsonl")))
    assert page.labels(page.panel.dataset)[0] == f"pirate.jsonl · {texts.SAMPLES_OWN}"
    assert page.fields[page.panel.dataset]["value"] == "pirate.jsonl"
    assert len(page.labels(page.draws.samples)) == 5
    assert "5 of 20 rows" in page.line
    assert not page.shown.by_hand


async def test_nothing_is_read_for_a_run_that_is_not_sound(page, draw, offered):
    """I4: a run that cannot be asked draws nothing, nor does a verdict that is still to come."""
    draw(pytest.fail)
    offered(pytest.fail)
    await page.follow(verdict("pirate", problems=(("It is broken.", "Mend it."),)))
    assert [list(update) for update in await page._played(page.panel._follow(None, page.turn, Shown()))] == [
        [page.draws.line]
    ]
    assert page.shown == Shown()


async def test_a_dataset_that_somebody_has_chosen_stays_when_another_run_is_validated(page):
    """I4: any dataset can be tried on any run; only the mark in the list moves."""
    await page.take("plain.jsonl")
    samples = page.labels(page.draws.samples)
    await page.follow(verdict("pirate", str(page.folder / "pirate.jsonl")))
    assert page.fields[page.panel.dataset]["value"] == "plain.jsonl"
    assert page.labels(page.draws.samples) == samples
    assert page.labels(page.panel.dataset)[0] == f"pirate.jsonl · {texts.SAMPLES_OWN}"


async def test_another_checkpoint_of_the_run_leaves_its_samples_and_the_next_run_brings_its_own(page):
    """I4: one sample can be asked of every checkpoint, and of another run: it stays in the prompt."""
    await page.follow(verdict("pirate", str(page.folder / "pirate.jsonl")))
    samples, chosen = page.labels(page.draws.samples), page.choose(0)
    await page.follow(replace(page.verdict, label="pirate/checkpoint-50"))
    assert page.labels(page.draws.samples) == samples
    await page.follow(verdict("plain", str(page.folder / "plain.jsonl")))
    assert page.fields[page.panel.dataset]["value"] == "plain.jsonl"
    assert page.labels(page.draws.samples)[0].startswith("Do ")
    assert Chosen.parse(page.fields[page.chosen.sample]) == chosen


async def test_a_run_that_was_trained_on_something_of_the_hub_fetches_nothing_by_itself(page, draw, offered):
    """S4: the dataset is chosen, and fetched only when somebody asks for samples."""
    offered(lambda run: [Dataset("org/name", own=True)])
    drawn: list[str] = []
    draw(lambda name, **_: drawn.append(name) or Drawn(name, (), Columns("a"), ("a",)))
    await page.follow(verdict("pirate", "org/name"))
    assert page.shown.dataset == "org/name"
    assert drawn == []
    assert texts.SAMPLES_TO_FETCH.format(name="org/name") in page.line
    await page.again()
    assert drawn == ["org/name"]


@pytest.mark.parametrize(
    ("datasets", "said"),
    [((), texts.SAMPLES_UNKNOWN), (("elsewhere.jsonl",), texts.SAMPLES_NOT_HERE.format(names="“elsewhere.jsonl”"))],
)
async def test_a_run_without_a_dataset_of_its_own_says_what_to_do(page, datasets, said):
    """I4: no blank state where it is not known what the run was trained on."""
    await page.follow(verdict("pirate", *datasets))
    assert said in page.line
    assert len(page.labels(page.panel.dataset)) == 3
    assert page.fields[page.panel.dataset]["value"] is None


async def test_a_path_can_be_typed_and_stays_in_the_list(page, tmp_path):
    """I4: any file of this machine, where paths may be typed."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.csv").write_text("prompt,completion\nHi,Hello.\n", encoding="utf-8")
    typed = str(other / "mine.csv")
    await page.take(f"  {typed} ")
    assert page.labels(page.draws.samples) == ["Hi · row 1"]
    assert "Its only row." in page.line
    page.takes(await page.panel._relist(page.verdict, page.turn, page.shown))
    assert typed in [value for _, value in page.fields[page.panel.dataset]["choices"]]
    assert page.fields[page.panel.dataset]["value"] == typed


async def test_a_field_that_is_only_left_again_changes_nothing(page, draw):
    """I4: Gradio reports that as an input; the samples stay, and so does whose choice the dataset was."""
    await page.follow(verdict("pirate", str(page.folder / "pirate.jsonl")))
    shown, chosen = page.shown, page.choose(1)
    draw(pytest.fail)
    page.fields[page.prompt] = "Changed by hand"
    await page.take("pirate.jsonl")
    await page.map()
    page.takes(page.panel._choose(1, shown, chosen.text, ""))
    assert page.shown == shown
    assert page.fields[page.prompt] == "Changed by hand"
    assert Chosen.parse(page.fields[page.chosen.sample]) == chosen


async def test_a_shared_server_takes_only_what_is_in_the_list(config, tmp_path, toasts):
    """S1: a typed path is refused, whatever the page sends; the field does not invite to it."""
    page = Page(Built(tmp_path, config, free_paths=False))
    assert not page.panel.dataset.allow_custom_value
    await page.take("/etc/passwd")
    assert "is not offered here" in page.line
    assert len(toasts) == 1
    assert page.shown.drawn is None


async def test_what_cannot_be_read_says_why_in_its_place_and_leaves_no_old_samples(page, toasts):
    """I4: a sentence in red with its remedy; nothing of the dataset before is on offer."""
    await page.take("pirate.jsonl")
    (page.folder / "broken.parquet").write_bytes(b"none of it")
    await page.take("broken.parquet")
    (page.folder / "broken.parquet").unlink()
    assert 'data-state="error"' in page.line
    assert "broken.parquet" in page.line
    assert len(toasts) == 1
    assert page.labels(page.draws.samples) == []
    await page.take("")
    assert texts.SAMPLES_FIRST in page.line


async def test_a_failure_of_ours_is_told_too(page, draw, toasts):
    """I4: a page's field never stays silent."""
    draw(lambda *_, **__: 1 / 0)
    await page.take("pirate.jsonl")
    assert escape(texts.UNEXPECTED) in page.line
    assert toasts == [texts.UNEXPECTED]


async def test_the_last_choice_wins(page, draw):
    """I4: what an earlier, slower draw finds comes to nothing."""
    quick, reading, free = page.services.samples.draw, threading.Event(), threading.Event()

    def slowly(name: str, **options: Any) -> Drawn:
        if name == "pirate.jsonl":
            reading.set()
            assert free.wait(20)
        return quick(name, **options)

    draw(slowly)
    slow = asyncio.create_task(page.take("pirate.jsonl"))
    assert await asyncio.to_thread(reading.wait, 20)
    await page.take("plain.jsonl")
    free.set()
    late = await slow
    assert late[-1] == {page.draws.line: gr.skip()}  # Gradio sends the last one again when it has ended
    assert all(page.draws.shown not in update for update in late[1:])
    assert page.shown.dataset == "plain.jsonl"
    assert page.labels(page.draws.samples)[0].startswith("Do ")


async def test_new_samples_are_others_of_the_same_dataset(page):
    """I4: refresh draws others, with the columns as they were set."""
    await page.take("pirate.jsonl")
    await page.map(expected="question")
    before = page.shown
    await page.again()
    assert page.shown.seed != before.seed
    assert page.shown.columns == before.columns
    assert page.shown.drawn.samples != before.drawn.samples


async def test_after_a_restart_of_the_server_new_samples_come_from_what_the_page_shows(page):
    """I4: what the server held of the page is gone, the name in the field is not."""
    page.fields[page.panel.dataset] = {"value": "plain.jsonl"}
    await page.again()
    assert page.shown.dataset == "plain.jsonl"
    assert len(page.labels(page.draws.samples)) == 5


# --- which sample ---


async def test_a_sample_fills_the_prompt_and_shows_its_answer(page):
    """I4: choosing one fills the prompt and shows the expected answer."""
    await page.take("plain.jsonl")
    sample = page.shown.drawn.samples[2]
    chosen = page.choose(2)
    assert page.fields[page.prompt] == sample.prompt == chosen.prompt
    assert chosen.expected == sample.expected
    assert sample.expected in page.fields[page.chosen.answer]


async def test_what_is_no_sample_changes_nothing(page):
    """I4: the server forgot the samples, or a page made a number up: the line says so."""
    await page.take("plain.jsonl")
    for number in (5, -1, "0", True, 1.0, [0]):
        page.takes({page.draws.line: ""})
        assert page.choose(number) == Chosen()
        assert page.fields[page.prompt] == ""
        assert texts.SAMPLES_FORGOTTEN in page.line


async def test_a_samples_system_prompt_goes_into_the_settings_and_is_given_back(page):
    """I4: said on the page; the next sample without one brings back what stood there."""
    page.fields[page.system] = "Mine."
    await page.take("pirate.jsonl")
    with_one, without = page.number_of(system=True), page.number_of(system=False)
    page.choose(with_one)
    assert page.fields[page.system] == "Be a pirate."
    assert "Be a pirate." in page.fields[page.chosen.note]
    page.choose(without)
    assert page.fields[page.system] == "Mine."
    assert page.fields[page.chosen.note] == ""


async def test_another_dataset_gives_the_system_prompt_back_but_never_takes_a_persons_own(page):
    """I4: what was written over the sample's stays."""
    page.fields[page.system] = "Mine."
    await page.take("pirate.jsonl")
    page.choose(page.number_of(system=True))
    await page.take("plain.jsonl")
    assert page.fields[page.system] == "Mine."
    assert page.fields[page.chosen.sample] == ""
    await page.take("pirate.jsonl")
    page.choose(page.number_of(system=True))
    page.fields[page.system] = "Written since."
    await page.take("plain.jsonl")
    assert page.fields[page.system] == "Written since."


# --- which columns ---


async def test_another_mapping_reads_the_same_rows_and_renews_the_chosen_sample(page):
    """I4: the mapping is changeable; the prompt follows where it is still the sample's."""
    await page.take("pirate.jsonl")
    rows, chosen = [sample.row for sample in page.shown.drawn.samples], page.choose(0)
    await page.map(prompt="answer", expected="question")
    assert [sample.row for sample in page.shown.drawn.samples] == rows
    assert page.fields[page.prompt] == chosen.expected
    assert page.fields[page.draws.samples] == 0
    assert Chosen.parse(page.fields[page.chosen.sample]).expected == chosen.prompt
    assert page.fields[page.draws.fold]["label"] == "Columns · answer → question · as you chose"
    page.fields[page.prompt] = "Written by hand"
    await page.unmap()
    assert page.fields[page.prompt] == "Written by hand"
    assert page.shown.columns is None
    assert Chosen.parse(page.fields[page.chosen.sample]) == chosen
    assert page.fields[page.draws.columns["prompt"]]["value"] == "question"


async def test_a_wrong_mapping_says_why_and_the_guess_brings_the_samples_back(page):
    """I4: a column that holds no prompt, and none at all."""
    await page.take("pirate.jsonl")
    await page.map(prompt="")
    assert 'data-state="error"' in page.line
    assert page.labels(page.draws.samples) == []
    await page.map(prompt="question", messages="answer")
    assert 'data-state="error"' in page.line
    await page.unmap()
    assert len(page.labels(page.draws.samples)) == 5


async def test_where_no_prompt_is_recognised_the_columns_are_offered(page, toasts):
    """I4: the fold opens with the columns that there are."""
    await page.take("strange.jsonl")
    assert page.shown.drawn is None
    assert len(toasts) == 1
    assert page.fields[page.draws.fold]["open"] is True
    assert page.labels(page.draws.columns["prompt"]) == [texts.SAMPLES_NO_COLUMN, "p", "q"]
    await page.map(prompt="p", expected="q")
    assert page.shown.drawn
    assert page.shown.drawn.columns == Columns("p", "q")


async def test_the_columns_of_another_dataset_do_not_keep_the_mapping(page):
    """I4: each dataset is guessed anew."""
    await page.take("pirate.jsonl")
    await page.map(expected="question")
    await page.take("plain.jsonl")
    assert page.shown.columns is None
    assert page.shown.drawn.columns.prompt == "instruction"
    assert page.labels(page.draws.columns["prompt"]) == [texts.SAMPLES_NO_COLUMN, "instruction", "output"]


async def test_conversations_and_a_prompt_column_exclude_each_other():
    """I4: whichever was set last counts; the system prompt goes with both."""
    none = dict.fromkeys(("prompt", "expected", "input", "system", "messages"), "")
    guessed = Shown(drawn=Drawn("x", (), Columns(messages="m", system="s"), ("m", "q", "s")))
    named = {**none, "messages": "m", "system": "s"}
    assert mapped(guessed, {**named, "prompt": "q"}) == Columns(prompt="q", system="s")
    plain = Shown(columns=Columns("q", "a", system="s"))
    assert mapped(plain, {**none, "prompt": "q", "expected": "a", "system": "s", "messages": "m"}) == Columns(
        messages="m", system="s"
    )
    assert mapped(plain, {**none, "prompt": None, "system": "s"}) == Columns(system="s")


async def test_listing_that_fails_is_told_and_tried_again_with_the_next_verdict(page, offered, toasts):
    """I4: a folder that cannot be read at this moment."""

    def gone(run: TrainingRun | None = None) -> Sequence[Dataset]:
        raise InvalidRequest("The folder is gone.", "Look again.")

    there = page.services.datasets.offered
    offered(gone)
    await page.follow(verdict("pirate", str(page.folder / "pirate.jsonl")))
    assert "The folder is gone." in page.line
    page.takes(await page.panel._relist(page.verdict, page.turn, page.shown))
    assert toasts == ["The folder is gone. Look again."]
    offered(there)
    await page.follow()
    assert page.shown.dataset == "pirate.jsonl"


async def test_every_field_is_locked_with_the_step(page):
    """I2: until a run is validated nothing of it can be used."""
    fields = page.panel.widgets
    assert {page.panel.dataset, page.draws.samples, page.draws.more, page.panel.relist} <= set(fields)
    assert len(fields) == 4 + len(page.draws.columns) + 1
