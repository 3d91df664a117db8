"""Training runs are named apart, looked up by their names, and read again only where something has changed."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from playground.config import AppConfig
from playground.errors import InvalidRequest, NotFound, NotPermitted
from playground.services.runs import Runs
from playground.services.training_runs import search as run_search
from playground.store import Store
from playground.types import Caller
from tests.services import trainers
from tests.services.trainers import LONG_AGO, aged, by_name, listed, names, only_run

ME = Caller("guest 1", "guest")


def test_runs_of_one_name_are_told_apart_by_the_folders_above(tmp_path: Path) -> None:
    """I1: as adapters of one name are, and each label finds its own folder."""
    for place in ("a/run", "b/run", "c/other"):
        trainers.trainer_run(tmp_path / place)
    runs = listed(tmp_path)
    assert set(by_name(runs)) == {"run (a)", "run (b)", "other"}
    for run in runs.all().runs:
        for one in run.checkpoints:
            assert runs.find(run.label(one)) == (run, one)
            assert runs.label(one.path) == run.label(one)
    assert runs.find("run") is None
    assert runs.find("run (a)/checkpoint-99") is None
    assert runs.find("") is None


def test_a_run_that_is_not_completed_has_no_label_of_its_own(tmp_path: Path) -> None:
    """I1: it is listed, and cannot be chosen but for its checkpoints."""
    trainers.trainer_run(tmp_path / "out", (10,), 100)
    runs = listed(tmp_path)
    assert runs.find("out") is None
    assert runs.find("out/checkpoint-10") is not None
    assert runs.get("out").state == "incomplete"


def test_an_adapter_in_the_hub_s_cache_is_called_as_on_the_hub(tmp_path: Path) -> None:
    """I1: its folder's own name is a number."""
    trainers.adapter(tmp_path / "models--org--my-lora" / "snapshots" / "0123abcd")
    assert names(only_run(tmp_path)) == ["my-lora"]
    trainers.adapter(tmp_path / "models--org--my-lora" / "snapshots" / "4567cdef")
    assert set(by_name(listed(tmp_path))) == {"my-lora (0123abcd)", "my-lora (4567cdef)"}


def test_names_that_look_alike_once_they_can_be_shown_are_numbered(tmp_path: Path) -> None:
    """S2: what turns the direction of writing is replaced, and two such names are still two."""
    for turned in ("\u202e", "\u202d"):
        trainers.adapter(tmp_path / f"a{turned}b")
    assert sorted(by_name(listed(tmp_path))) == ["a\ufffdb", "a\ufffdb 2"]


@pytest.mark.parametrize(
    "name", ["a b", "ünï 日本", "<b>x</b> ${1}", "two\nlines", "right\u202eleft", "a:b", "%2e%2e", "x (y)"]
)
def test_no_folder_s_name_breaks_anything(tmp_path: Path, name: str) -> None:
    """S2: line breaks and turned writing are replaced in what is shown, and the label still finds the folder."""
    trainers.trainer_run(tmp_path / name)
    runs = listed(tmp_path)
    [run] = runs.all().runs
    assert run.name.isprintable()
    assert run.path == str(tmp_path / name)
    assert runs.find(f"{run.name}/checkpoint-10") == (run, run.checkpoints[-1])
    assert runs.get(run.name) == run


def test_a_name_that_is_no_text_is_left_out(tmp_path: Path) -> None:
    """S2: half characters can be sent nowhere."""
    trainers.trainer_run(tmp_path / "sound")
    shutil.copytree(os.fsencode(tmp_path / "sound"), os.path.join(os.fsencode(tmp_path), b"bad\xff"))
    listing = listed(tmp_path).all()
    assert [run.name for run in listing.runs] == ["sound"]
    assert "no text" in listing.notices[0]


def test_the_newest_run_comes_first_and_the_latest_completed_one_is_known(tmp_path: Path) -> None:
    """I1: by the time of their files."""
    aged(trainers.trainer_run(tmp_path / "older"), 10)
    aged(trainers.trainer_run(tmp_path / "old"), 5)
    aged(trainers.trainer_run(tmp_path / "newest", (10,), 100), 20)
    listing = listed(tmp_path).all()
    assert [run.name for run in listing.runs] == ["newest", "older", "old"]
    assert listing.latest_completed
    assert listing.latest_completed.name == "older"
    assert abs(listing.runs[0].at - (LONG_AGO + 20)) < 1
    assert listed(tmp_path / "newest").all().latest_completed is None


def test_what_was_read_is_not_read_again_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """I1: and every change is seen: a state written in place, a new checkpoint, a run that is gone."""
    run = aged(trainers.trainer_run(tmp_path / "out", (10, 20), 100))
    other = aged(trainers.trainer_run(tmp_path / "other"))
    runs = listed(aged(tmp_path))
    runs.all()
    read: list[str] = []
    real = run_search.read_run
    monkeypatch.setattr(run_search, "read_run", lambda reading, path: (read.append(path), real(reading, path))[1])
    runs.all()
    assert read == []
    (run / "checkpoint-20" / "trainer_state.json").write_text(trainers.state(20, 20))
    assert runs.get("out").state == "completed" or by_name(runs)["out"].state == "completed"
    assert set(read) == {str(run)}
    trainers.checkpoint(run, 30, 30)
    assert by_name(runs)["out"].step == 30
    shutil.rmtree(other)
    assert set(by_name(runs)) == {"out"}


def test_many_may_look_at_once(tmp_path: Path) -> None:
    """I1: safe from any thread, while the folders change."""
    for number in range(5):
        trainers.trainer_run(tmp_path / str(number), (10,), 10)
    runs = listed(tmp_path)

    def look(number: int) -> int:
        trainers.checkpoint(tmp_path / str(number % 5), 20 + number, 20 + number)
        return len(runs.all().runs) + (runs.find(f"{number % 5}") is not None)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(look, range(24))) == {6}


def test_a_folder_that_was_pointed_at_is_kept_until_it_is_forgotten(tmp_path: Path) -> None:
    """I1: after a restart too; what holds no run is refused."""
    trainers.trainer_run(tmp_path / "mine" / "b" / "run")
    (tmp_path / "empty").mkdir()
    config = AppConfig(data_dir=tmp_path / "data")
    store = Store.open(config.data_dir)
    runs = Runs(config, store)
    for folder, said in (
        ("", "no folder"),
        (str(tmp_path / "nowhere"), "no folder"),
        (str(tmp_path / "empty"), "no training run"),
    ):
        with pytest.raises(InvalidRequest, match=said):
            runs.point_at(ME, folder)
    assert [run.name for run in runs.point_at(ME, f" {tmp_path / 'mine'} ")] == ["run"]
    store.close()
    store = Store.open(config.data_dir)
    again = Runs(config, store)
    assert [run.name for run in again.all().runs] == ["run"]
    assert again.pointed_at() == (tmp_path / "mine",)
    again.forget(ME, str(tmp_path / "mine"))
    assert again.all().runs == ()
    assert again.pointed_at() == ()
    with pytest.raises(NotFound):
        again.forget(ME, str(tmp_path / "mine"))
    store.close()
    store = Store.open(config.data_dir)
    assert Runs(config, store).pointed_at() == ()
    store.close()


def test_a_checkpoint_can_be_pointed_at(tmp_path: Path) -> None:
    """I1: alone it is a run by itself; where its run is listed it stays that one's."""
    run = trainers.trainer_run(tmp_path / "out")
    runs = Runs(AppConfig(data_dir=tmp_path / "data"), Store.in_memory())
    [alone] = runs.point_at(ME, str(run / "checkpoint-10"))
    assert (alone.name, alone.state, alone.step, names(alone)) == ("checkpoint-10", "completed", 10, ["checkpoint-10"])
    assert [one.name for one in runs.point_at(ME, str(run))] == ["out"]
    assert [one.name for one in runs.all().runs] == ["out"]
    assert [one.name for one in runs.point_at(ME, str(run / "checkpoint-10"))] == ["out"]


def test_nobody_adds_folders_to_a_shared_server(tmp_path: Path) -> None:
    """S2: nor are those looked into that were added while it was not one."""
    trainers.trainer_run(tmp_path / "run")
    store = Store.in_memory()
    Runs(AppConfig(data_dir=tmp_path / "data"), store).point_at(ME, str(tmp_path))
    shared = Runs(AppConfig(data_dir=tmp_path / "data", free_paths=False), store)
    assert shared.all().runs == ()
    assert shared.pointed_at() == ()
    with pytest.raises(NotPermitted):
        shared.point_at(ME, str(tmp_path))
    with pytest.raises(NotPermitted):
        shared.forget(ME, str(tmp_path))


def test_an_unknown_run_is_said_to_be_unknown(tmp_path: Path) -> None:
    """I1: with what to do."""
    with pytest.raises(NotFound, match=r"no training run 'nothing'.*Refresh"):
        listed(tmp_path).get("nothing")
