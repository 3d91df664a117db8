"""Which datasets are on offer, under which names, and what may be read by whom."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from playground.config import AppConfig
from playground.errors import InvalidRequest, NotFound, NotPermitted
from playground.services.datasets import Dataset, Datasets
from playground.training_run import TrainingRun


def datasets(*entries: str | Path, shared: bool = False) -> Datasets:
    config = AppConfig(datasets=tuple(map(str, entries)), free_paths=not shared)
    return Datasets(config)


def file(path: Path, *questions: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"question": one, "answer": "A"}) + "\n" for one in questions or ("Q?",)))
    return path


def run(path: Path | str = "/runs/pirate", *named: str) -> TrainingRun:
    return TrainingRun(str(path), "pirate", "completed", datasets=named)


def names(offered: Sequence[Dataset]) -> list[str]:
    return [one.name for one in offered]


def own(offered: Sequence[Dataset]) -> list[str]:
    return [one.name for one in offered if one.own]


def test_files_are_named_by_their_place_in_the_folder(tmp_path: Path) -> None:
    """I4: any saved dataset under the configured folders, by a name that says which; hub ids where they are configured."""
    for name in ("pirate/test.jsonl", "pirate/train.csv", "Alpha.json"):
        file(tmp_path / "sets" / name)
    single = file(tmp_path / "elsewhere" / "one.jsonl")
    offered = datasets(tmp_path / "sets", single, "org/name", tmp_path / "gone.jsonl").offered()
    assert names(offered) == ["Alpha.json", "one.jsonl", "org/name", "pirate/test.jsonl", "pirate/train.csv"]
    assert [one.is_on_hub for one in offered] == [False, False, True, False, False]
    assert offered[3].size == os.path.getsize(tmp_path / "sets/pirate/test.jsonl")


def test_files_of_one_name_are_told_apart_whoever_asks(tmp_path: Path) -> None:
    """I4: a name always means the same file, with a run chosen and without."""
    for folder in ("a/sets", "b/sets", "c/data"):
        file(tmp_path / folder / "test.jsonl", folder)
    offer = datasets(*(tmp_path / folder for folder in ("a/sets", "b/sets", "c/data")), tmp_path / "a")
    assert names(offer.offered()) == ["data/test.jsonl", "sets/test.jsonl", "test.jsonl"]
    mine = run("/runs/x", str(tmp_path / "b"))
    assert own(offer.offered(mine)) == ["sets/test.jsonl"]
    for name in names(offer.offered()):
        assert offer.find(name, mine).path == offer.find(name).path


@pytest.mark.parametrize(
    "named", ["assets/sets/pirate", "sets/pirate", "pirate", "./pirate/", "{}/pirate", "../assets/sets/pirate"]
)
def test_what_the_run_was_trained_on_comes_first_and_of_that_what_was_held_out(named: str, tmp_path: Path) -> None:
    """I4: the run's own training dataset, when named, is listed first, by whichever path the run names it."""
    folder = tmp_path / "assets" / "sets"
    for name in ("pirate/train.jsonl", "pirate/test.jsonl", "pirate-overfit/test.jsonl", "a.jsonl"):
        file(folder / name)
    offered = datasets(folder).offered(run(tmp_path / "runs" / "pirate", named.format(folder)))
    assert names(offered)[:2] == own(offered) == ["pirate/test.jsonl", "pirate/train.jsonl"]
    assert names(offered)[2:] == ["a.jsonl", "pirate-overfit/test.jsonl"]


def test_a_run_s_data_near_the_run_is_found_where_nothing_is_configured(tmp_path: Path) -> None:
    """I4: trainers write down paths as they were typed, from some folder above the run's."""
    data = file(tmp_path / "work" / "data" / "train.jsonl")
    place = tmp_path / "work" / "outputs" / "run-1"
    place.mkdir(parents=True)
    for named in ("data/train.jsonl", "data", str(data), "../../data/train.jsonl"):
        offered = datasets().offered(run(place, named))
        assert [(one.path, one.own) for one in offered] == [(str(data), True)], named
        assert datasets().find(offered[0].name) == Dataset(offered[0].name, str(data), data.stat().st_size)


def test_a_run_that_is_called_like_its_data_is_not_its_data(tmp_path: Path) -> None:
    """I4: what a trainer has left in the run's own folder, or in another run's, is no dataset."""
    place = tmp_path / "outputs" / "alpaca"
    for folder in (place, tmp_path / "outputs" / "other"):
        file(folder / "predictions.jsonl")
    (tmp_path / "outputs" / "other" / "adapter_config.json").write_text("{}")
    assert datasets().offered(run(place, "alpaca", "outputs", "other", "../other", ".", str(place))) == []
    file(tmp_path / "data" / "alpaca" / "train.jsonl")
    assert len(own(datasets(tmp_path / "data").offered(run(place, "alpaca")))) == 1


def test_a_hub_id_that_the_run_names_is_offered_and_nobody_is_asked(tmp_path: Path) -> None:
    """I4, S4: a name on the hub is only a name until somebody draws from it."""
    offered = datasets().offered(
        run(tmp_path, "org/name", "https://example.org/x.json", "json", "\0", " ", "data/none.jsonl")
    )
    assert [(one.name, one.is_on_hub, one.own) for one in offered] == [("org/name", True, True)]


def test_on_a_shared_server_a_run_opens_nothing_that_is_not_configured(tmp_path: Path) -> None:
    """S1: what a folder says of itself is a stranger's text; it may only put a configured dataset first."""
    secret = file(tmp_path / "private" / "secret.jsonl")
    file(tmp_path / "sets" / "pirate" / "test.jsonl")
    offer = datasets(tmp_path / "sets", shared=True)
    mine = run(tmp_path / "private", str(secret), "secret.jsonl", "../private/secret.jsonl", "org/name", "pirate")
    assert names(offer.offered(mine)) == own(offer.offered(mine)) == ["pirate/test.jsonl"]


def test_on_a_shared_server_only_what_is_listed_can_be_named(tmp_path: Path) -> None:
    """S1, S2: no path and no hub id from a page; what is configured has its name and no other."""
    inside = file(tmp_path / "sets" / "test.jsonl")
    offer = datasets(tmp_path / "sets", "org/allowed", shared=True)
    assert offer.find("test.jsonl").path == str(inside)
    assert offer.find("org/allowed").is_on_hub
    for name in (str(inside), "/etc/passwd", "org/other", "org/allowed:config", "../sets/test.jsonl", "~", ""):
        with pytest.raises(NotPermitted, match="Choose one of those"):
            offer.find(name)


def test_no_link_leads_out_of_the_configured_folders_on_a_shared_server(tmp_path: Path) -> None:
    """S1: neither a link that lies there nor one that takes a file's place after it was listed; links within do no harm."""
    secret = file(tmp_path / "private" / "secret.jsonl")
    inside = file(tmp_path / "sets" / "test.jsonl")
    (tmp_path / "sets" / "link.jsonl").symlink_to(secret)
    (tmp_path / "sets" / "again.jsonl").symlink_to(inside)
    offer = datasets(tmp_path / "sets", shared=True)
    assert names(offer.offered()) == ["again.jsonl", "test.jsonl"]
    listed = offer.offered()[0]
    (tmp_path / "sets" / "again.jsonl").unlink()
    (tmp_path / "sets" / "again.jsonl").symlink_to(secret)
    for read in (lambda: offer.draw(listed, 1, 1), lambda: offer.head(listed, 1)):
        with pytest.raises(InvalidRequest, match="no longer there"):
            read()
    assert "link.jsonl" in names(datasets(tmp_path / "sets").offered())


def test_a_dataset_of_the_hub_s_cache_is_read_through_its_links(tmp_path: Path) -> None:
    """S1: files of a downloaded snapshot are links into the folder beside it, which belongs to it."""
    cached = tmp_path / "datasets--org--name"
    blob = file(cached / "blobs" / "abc")
    snapshot = cached / "snapshots" / "123"
    snapshot.mkdir(parents=True)
    (snapshot / "test.jsonl").symlink_to(blob)
    offer = datasets(snapshot, shared=True)
    assert len(offer.head(offer.find("test.jsonl"), 5).rows) == 1


def test_a_file_a_folder_and_a_hub_id_can_be_typed_on_this_machine(tmp_path: Path) -> None:
    """I4: any saved dataset; of a folder what was held out."""
    train, test = file(tmp_path / "x" / "train.jsonl"), file(tmp_path / "x" / "test.jsonl")
    offer = datasets()
    assert offer.find(f" {train} ").path == str(train)
    assert offer.find(str(tmp_path / "x")).path == str(test)
    assert offer.find("org/name:main/test") == Dataset("org/name:main/test")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "nothing",
        "org/none.jsonl",
        "./org/name",
        "~nobody-of-that-name/x",
        "a\0b",
        "x" * 5000,
        "//server/x.json",
        "a/b/c",
        "org/../x",
    ],
)
def test_what_is_no_dataset_is_a_sentence_and_never_a_question_to_the_hub(name: str) -> None:
    """I4, S4: a mistyped path stays on this machine."""
    with pytest.raises(NotFound, match="There is no dataset"):
        datasets().find(name)


def test_a_file_of_another_kind_is_told_from_one_that_is_missing(tmp_path: Path) -> None:
    """I4: the remedy names the kinds that can be read."""
    (tmp_path / "notes.docx").write_text("x")
    with pytest.raises(NotFound, match=r"no dataset that can be read.*\.parquet"):
        datasets().find(str(tmp_path / "notes.docx"))


def test_a_file_that_is_gone_is_a_sentence(tmp_path: Path) -> None:
    """I4: the list may be older than the disk."""
    path = file(tmp_path / "a.jsonl")
    offer = datasets(tmp_path)
    listed = offer.find("a.jsonl")
    path.unlink()
    with pytest.raises(InvalidRequest, match=r"a\.jsonl is no longer there\. Refresh"):
        offer.draw(listed, 1, 1)
