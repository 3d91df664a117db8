"""Training runs are found wherever they lie, within bounds, and nothing else is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from playground.config import AppConfig, load_config
from playground.services.runs import Runs
from playground.services.training_runs import search as run_search
from playground.store import Store
from playground.types import Caller
from tests.services import trainers
from tests.services.trainers import by_name, listed, names, only_run

ME = Caller("guest 1", "guest")


def test_runs_are_found_however_deep_but_not_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """I1: nested folders, hidden ones left out, and a notice where something was."""
    deep = trainers.trainer_run(tmp_path / "outputs" / "exp" / "a" / "run")
    trainers.trainer_run(tmp_path / ".hidden" / "run")
    trainers.trainer_run(tmp_path / "node_modules" / "run")
    (tmp_path / "empty").mkdir()
    runs = listed(tmp_path)
    assert [run.path for run in runs.all().runs] == [str(deep)]
    assert runs.all().notices == ()
    monkeypatch.setattr(run_search, "MOST_DEPTH", 3)
    assert runs.all().runs == ()
    assert "3 levels" in runs.all().notices[0]
    monkeypatch.setattr(run_search, "MOST_DEPTH", 6)
    for number in range(9):
        trainers.adapter(tmp_path / "many" / str(number))
    monkeypatch.setattr(run_search, "MOST_RUNS", 5)
    assert len(runs.all().runs) == 5
    assert "left out" in runs.all().notices[0]


def test_a_run_s_own_folders_are_no_runs(tmp_path: Path) -> None:
    """I1: its checkpoints are its own; only a folder with a log or checkpoints of its own is another run."""
    run = trainers.trl_run(tmp_path / "out")
    trainers.adapter(run / "best_model")
    trainers.trainer_run(run / "second")
    (run / "merged").mkdir()
    os.symlink(run / "checkpoint-20", run / "checkpoint-best")
    found = by_name(listed(tmp_path))
    assert set(found) == {"out", "second"}
    assert names(found["out"]) == ["out", "out/checkpoint-30", "out/checkpoint-20", "out/best_model"]


def test_faint_signs_count_only_where_nothing_is_below(tmp_path: Path) -> None:
    """I1: a log in the folder of all runs makes no run of that."""
    trainers.trainer_run(tmp_path / "outputs" / "a")
    (tmp_path / "outputs" / "train.log").write_text("")
    assert only_run(tmp_path).name == "a"


def test_links_in_circles_and_to_the_same_folder_are_followed_once(tmp_path: Path) -> None:
    """I1: and nothing is listed twice."""
    run = trainers.trainer_run(tmp_path / "a" / "run")
    os.symlink(tmp_path, tmp_path / "a" / "up")
    os.symlink(run, tmp_path / "again")
    os.symlink(tmp_path / "nowhere", tmp_path / "broken")
    config = AppConfig(runs=(str(tmp_path), str(run), str(tmp_path / "again")), data_dir=tmp_path / ".data")
    listing = Runs(config, Store.in_memory()).all()
    assert [one.path for one in listing.runs] == [str(run)]
    assert listing.notices == ()


def test_no_link_is_followed_out_of_what_is_offered_to_others(tmp_path: Path) -> None:
    """S2: neither of a folder nor of a file, and the notice names no path of this machine."""
    trainers.trainer_run(tmp_path / "private" / "secret")
    top = tmp_path / "public"
    run = trainers.adapter(top / "run")
    os.symlink(tmp_path / "private", top / "link")
    (run / "README.md").unlink()
    (tmp_path / "private" / "card.md").write_text("---\ndatasets: secret\n---\n")
    os.symlink(tmp_path / "private" / "card.md", run / "README.md")
    os.symlink(tmp_path / "private" / "secret" / "checkpoint-10", run / "checkpoint-10")
    listing = listed(top, free_paths=False, adapters=(str(top),)).all()
    assert [(one.name, one.datasets, names(one)) for one in listing.runs] == [("run", (), ["run"])]
    assert len(listing.notices) == 3
    assert str(tmp_path) not in " ".join(listing.notices)
    assert any("'public/run/checkpoint-10'" in notice for notice in listing.notices)
    assert {one.name for one in listed(top).all().runs} == {"run", "secret"}


def test_a_folder_that_cannot_be_read_is_a_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """I1: never an exception, and the others are listed."""
    trainers.trainer_run(tmp_path / "a" / "run")
    (tmp_path / "locked").mkdir()
    scan = os.scandir

    def refusing(path: Any) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    missing = tmp_path / "missing"
    config = AppConfig(runs=(str(tmp_path), str(missing)), data_dir=tmp_path / ".data")
    listing = Runs(config, Store.in_memory()).all()
    assert [run.name for run in listing.runs] == ["run"]
    assert any("locked" in notice and "Permission denied" in notice for notice in listing.notices)
    assert any(str(missing) in notice for notice in listing.notices)


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    """S2: a pipe would never end."""
    os.mkfifo(trainers.adapter(tmp_path / "out") / "trainer_state.json")
    assert only_run(tmp_path).state == "completed"


def test_where_runs_are_looked_for(tmp_path: Path) -> None:
    """I1: under [folders] runs, the models' adapters, --adapter, uploads, and what somebody pointed at."""
    for place in (tmp_path / "b", tmp_path / "data" / "adapters" / "uploaded", tmp_path / "pointed"):
        trainers.adapter(place)
    config = load_config(None, {"adapter": [str(tmp_path / "b")], "data_dir": tmp_path / "data"})
    runs = Runs(config, Store.in_memory())
    assert {"pirate", "b", "uploaded"} < set(by_name(runs))
    assert "pointed" not in by_name(runs)
    [run] = runs.point_at(ME, str(tmp_path / "pointed"))
    assert run.name == "pointed"
    assert "pointed" in by_name(runs)


def test_linked_checkpoints_keep_their_names_and_hide_no_other_run(tmp_path: Path) -> None:
    """I1: checkpoints moved to another disk are the run's own; a link to another run, or to the run itself, is not."""
    other = trainers.trl_run(tmp_path / "other")
    moved = trainers.adapter(tmp_path / ".disk" / "kept")
    run = trainers.trainer_run(tmp_path / "run", (10, 20), 100)
    links = {"checkpoint-5": moved, "checkpoint-6": other, "checkpoint-7": run, "checkpoint-8": tmp_path}
    links |= {"begun-from": other, "best": run / "checkpoint-10", "checkpoint-last": run / "checkpoint-20"}
    for name, target in links.items():
        os.symlink(target, run / name)
    runs = listed(tmp_path)
    found = by_name(runs)
    assert set(found) == {"other", "run"}
    assert names(found["run"]) == [f"run/checkpoint-{step}" for step in (20, 10, 6, 5)]
    assert found["run"].checkpoints[-1].path == str(moved)
    assert runs.find("other") == (found["other"], found["other"].final)


def test_names_that_are_taken_do_not_collide(tmp_path: Path) -> None:
    """I1: a failed run's own adapter is called final, unless a folder in it is."""
    run = trainers.trl_run(tmp_path / "run")
    (run / "trainer_state.json").write_text(trainers.state(30, 30, [{"step": 30, "loss": float("nan")}]))
    for name in ("final", "final-0", "last"):
        trainers.adapter(run / name)
    labels = names(by_name(listed(tmp_path))["run"])
    assert len(set(labels)) == len(labels) == 6
    assert "run/final-1" in labels
