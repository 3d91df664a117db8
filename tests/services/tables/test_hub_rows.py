"""Rows of the hub's datasets: with a hub of our own that `datasets` and huggingface_hub really ask, in another process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from playground.config import ROOT, is_dataset_id
from playground.errors import InvalidRequest, NotFound
from playground.services.tables import hub_rows
from playground.services.tables.hub_rows import HubRows
from tests.services.hub import Hub, hub_of

README = b"""---
configs:
- config_name: socratic
  data_files: socratic/train.csv
- config_name: main
  data_files: main/train.csv
---
"""
ROWS = [{"question": f"Question {at}?", "answer": f"Answer {at}"} for at in range(30)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
REPOSITORIES = {
    "org/plain": {"train.jsonl": LINES, "test.jsonl": LINES.replace(b"Question", b"Test")},
    "org/two": {
        "README.md": README,
        "socratic/train.csv": b"question,answer\nS,s\n",
        "main/train.csv": b"question,answer\nM,m\n",
    },
    "org/pictures": {"weights.bin": b"x"},
}
PROGRAM = """
import json, sys
hosts = set()
sys.addaudithook(lambda event, values: event == "socket.getaddrinfo" and hosts.add(str(values[0])))
from playground.config import AppConfig, is_dataset_id, prepare_process
prepare_process()
from playground.errors import PlaygroundError
from playground.services.datasets import Datasets
from playground.services.samples import Samples
samples = Samples(Datasets(AppConfig()))
for name in sys.argv[1:]:
    try:
        drawn = samples.draw(name, seed=1)
        found = {"prompts": [one.prompt for one in drawn.samples], "total": drawn.total, "notices": drawn.notices}
    except PlaygroundError as error:
        found = {"error": str(error), "kind": type(error).__name__}
    print(json.dumps(found), flush=True)
print(json.dumps({"hosts": sorted(hosts)}))
"""
Draw = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_of(REPOSITORIES, gated=frozenset({"org/gated"})) as running:
        yield running


@pytest.fixture
def draw(hub: Hub, tmp_path: Path) -> Draw:
    """``draw(*names)`` draws from each in one new process that knows only this hub, and returns what came of it.

    It fails when any other host is so much as looked up.
    """

    def drawn(*names: str, **environment: str) -> list[dict[str, Any]]:
        mine = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        mine |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(ROOT), **environment}
        command = [sys.executable, "-W", "error::ResourceWarning", "-c", PROGRAM, *names]
        done = subprocess.run(command, env=mine, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        *found, looked_up = [json.loads(line) for line in done.stdout.splitlines()]
        assert set(looked_up["hosts"]) <= {"127.0.0.1"}
        return found

    return drawn


@pytest.mark.long
def test_the_rows_of_a_hub_dataset_are_drawn_from_what_was_held_out(draw: Draw, hub: Hub) -> None:
    """I4, S4: a hub id is a dataset like a file; only the hub is asked, twice asked is once fetched, and the page says which
    split it is."""
    first, again, train = draw("org/plain", "org/plain", "org/plain:default/train")
    assert len(first["prompts"]) == 5
    assert all(prompt.startswith("Test ") for prompt in first["prompts"])
    assert first == again
    assert first["total"] == 30
    assert first["notices"] == [
        "Its splits are train, test; these rows are of test.",
        "Others are named as org/plain:default/test.",
    ]
    assert all(prompt.startswith("Question ") for prompt in train["prompts"])
    fetched = [asked for asked in hub.asked if asked.startswith("GET") and asked.endswith("/test.jsonl")]
    assert 1 <= len(fetched) <= 2  # once to learn its columns, once for the rows
    assert {asked.split()[1] for asked in hub.asked} == {hub.url.removeprefix("http://")}


@pytest.mark.long
def test_configurations_are_chosen_or_named(draw: Draw) -> None:
    """I4: a dataset with several configurations needs no second look-up by hand."""
    chosen, named, missing = draw("org/two", "org/two:socratic", "org/two:other")
    assert (chosen["prompts"], named["prompts"]) == (["M"], ["S"])
    assert chosen["notices"][0] == "Its configurations are socratic, main; these rows are of main."
    assert "'other' not found" in missing["error"]
    assert "socratic" in missing["error"]


@pytest.mark.long
def test_gated_unknown_and_unreadable_datasets_are_sentences_with_a_remedy(draw: Draw) -> None:
    """I4, R3: which it is, and what to do."""
    gated, unknown, split, nothing = draw("org/gated", "org/none", "org/plain:default/dev", "org/pictures")
    assert "is gated. Accept its terms at huggingface.co/datasets/org/gated" in gated["error"]
    assert "The hub has no dataset 'org/none', or it is private." in unknown["error"]
    assert split["error"] == "'org/plain:default/dev' has no split 'dev'. It has train, test."
    assert "'org/pictures' cannot be read" in nothing["error"]


@pytest.mark.long
@pytest.mark.parametrize("environment", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_without_a_network_there_is_a_sentence(environment: dict[str, str], draw: Draw, hub: Hub) -> None:
    """I4: offline by choice, or because nothing answers."""
    (found,) = draw("org/plain", **environment)
    assert found["error"] == (
        "'org/plain' could not be fetched: the hub cannot be reached. Check the network, or type the path of a file."
    )
    assert hub.asked == []


def test_a_hub_that_says_nothing_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """I4: nothing hangs; whoever waits is told after a while."""
    held = threading.Event()
    monkeypatch.setattr(hub_rows, "_fetch", lambda *_: held.wait(30))
    try:
        with pytest.raises(InvalidRequest, match=r"has not sent any rows of 'org/name' in 0\.05 seconds"):
            HubRows(patience_s=0.05).draw("org/name", 5, 1)
    finally:
        held.set()


class Split(list[dict[str, Any]]):
    """Rows as `datasets` streams them."""

    features = None


def test_without_being_told_the_held_out_split_of_the_main_configuration_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """I4: and the notices say so. `datasets` is stood in for here; the long tests ask it itself."""
    rows = {"socratic": [{"q": "S"}], "main": [{"q": "M"}]}

    def load_dataset(name: str, configuration: str | None, *, streaming: bool) -> dict[str, Split]:
        if configuration is None:
            raise ValueError("Config name is missing.")
        assert (name, streaming) == ("org/name", True)
        return {"train": Split(), "validation": Split(rows[configuration])}

    stand_in = SimpleNamespace(
        load_dataset=load_dataset,
        get_dataset_config_names=lambda _: list(rows),
        config=SimpleNamespace(USE_PARQUET_EXPORT=True),
    )
    monkeypatch.setitem(sys.modules, "datasets", stand_in)
    monkeypatch.setitem(
        sys.modules, "datasets.exceptions", SimpleNamespace(DatasetsError=RuntimeError, DatasetNotFoundError=KeyError)
    )
    drawn = HubRows().draw("org/name", 5, 1)
    assert [row for _, row in drawn.rows] == [{"q": "M"}]
    assert drawn.notices == (
        "Its configurations are socratic, main; these rows are of main.",
        "Its splits are train, validation; these rows are of validation.",
        "Others are named as org/name:main/validation.",
    )
    assert [row for _, row in HubRows().head("org/name:socratic/validation", 5).rows] == [{"q": "S"}]
    with pytest.raises(NotFound, match=r"has no split .dev.\. It has"):
        HubRows().draw("org/name:main/dev", 5, 1)
    assert stand_in.config.USE_PARQUET_EXPORT is False  # no second host is asked


def fetched(asked: int, count: int) -> hub_rows._Fetched:
    return hub_rows._Fetched(tuple({"n": at} for at in range(count)), asked, False, ("Said.",))


def test_a_large_dataset_is_drawn_from_its_beginning_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """I4: a thousand rows are fetched, once; another draw takes others of them."""
    asked = []
    monkeypatch.setattr(hub_rows, "_fetch", lambda name, most: asked.append(most) or fetched(most, most))
    rows = HubRows()
    one, two = rows.draw("org/name", 5, 1), rows.draw("org/name", 5, 2)
    assert asked == [1000]
    assert one.notices == ("Said.", "The prompts come from the first 1,000 rows.")
    assert one.total is None
    assert one.rows != two.rows
    assert rows.draw("org/name", 5, 1) == one
    assert [at for at, _ in rows.head("org/name", 3).rows] == [0, 1, 2]
    assert asked == [1000]
    rows.head("org/name", 2000)
    assert asked == [1000, 2000]


def test_long_texts_of_which_fewer_were_fetched_are_not_fetched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """I4: the memory is bounded, and another draw still asks nobody."""
    asked = []
    monkeypatch.setattr(hub_rows, "_fetch", lambda name, most: asked.append(most) or fetched(most, 7))
    rows = HubRows()
    assert len(rows.draw("org/name", 9, 1).rows) == 7
    assert rows.draw("org/name", 9, 2).notices[-1] == "The prompts come from the first 7 rows."
    assert asked == [1000]


def test_rows_that_were_fetched_before_something_broke_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """I4: one bad row on the hub does not take the good ones with it."""
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "datasets.exceptions", SimpleNamespace(DatasetsError=RuntimeError))

    def broken() -> Iterator[dict[str, Any]]:
        yield {"q": "a", "image": {"bytes": b"x" * 100, "path": "a.png"}}
        raise ValueError("Row 2 is bad.\nat some place")

    rows, whole, trouble = hub_rows._some(broken(), 10)
    assert rows == ({"q": "a", "image": None},)
    assert not whole
    assert trouble == ("Only the first 1 could be read: Row 2 is bad.",)


@pytest.mark.parametrize("name", ["org/name", "o1/n.a-m_e", "org/name:config", "org/name:config/split"])
def test_these_are_hub_ids(name: str) -> None:
    """I4: with a configuration and a split behind a colon."""
    assert is_dataset_id(name)


@pytest.mark.parametrize(
    "name",
    ["", "name", "org/name/split", "../name", "org/..", "/org/name", "org/name:", "o rg/name", "a/b/c:d", "a:b/c"],
)
def test_these_are_none(name: str) -> None:
    """I4, S4: nobody is asked for these."""
    assert not is_dataset_id(name)
