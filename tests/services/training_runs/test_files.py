"""Files in run folders that are broken, hostile, endless or odd: what is readable of them is read, and nothing raises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from playground.config import ROOT, load_config
from playground.services.runs import Runs
from playground.store import Store
from tests.services import trainers
from tests.services.trainers import aged, listed, only_run


@pytest.mark.parametrize(
    ("text", "step"),
    [
        (trainers.state(20, 100)[:900], 20),
        (trainers.state(20, 100).replace('"best_metric"', "best_metric", 1), 20),
        ("", None), ("null", None), ("[1, 2]", None), ("\x00" * 500, None), ('{"log_history": 5, "global_step": "x"}', None),
        ("[" * 100_000, None), ('{"log_history": [[[], 3, {"step": true, "loss": "x"}]], "global_step": 1e400}', None),
        ("version https://git-lfs.github.com/spec/v1\n", None),
    ],
)  # fmt: skip
def test_a_broken_state_tells_what_is_readable_of_it(tmp_path: Path, text: str, step: int | None) -> None:
    """I1: an interrupted write, or no JSON at all, is never an exception."""
    trainers.adapter(tmp_path / "out")
    (tmp_path / "out" / "trainer_state.json").write_text(text)
    runs = listed(tmp_path)
    [run] = runs.all().runs
    assert (run.state, run.step) == ("completed", step)
    assert runs.curve(run).train in ((), ((10, 1.0),), ((10, 1.0), (20, 0.5)))
    assert bool(runs.all().notices) == ("global_step" not in text or step == 20)


def test_the_last_whole_state_counts_where_a_later_one_breaks_off(tmp_path: Path) -> None:
    """I1: the log of the checkpoint before has nearly everything."""
    trainers.trainer_run(tmp_path / "out", (10, 20), 100)
    (tmp_path / "out" / "checkpoint-20" / "trainer_state.json").write_text("{")
    runs = listed(tmp_path)
    run = only_run(aged(tmp_path))
    assert (run.loss, run.max_steps, run.step) == (1.0, 100, 20)
    assert run.checkpoints[0].step == 20
    assert "breaks off" in " ".join(runs.all().notices)


def test_odd_numbers_in_a_log_are_left_out(tmp_path: Path) -> None:
    """I1: text, lists, numbers without end, steps below zero."""
    trainers.adapter(tmp_path / "out")
    log = '[{"step": -1, "loss": 1}, {"step": 1, "loss": "2"}, {"step": 2, "loss": [3]}, {"step": 3, "loss": 4}, 7, null, '
    log += f'{{"step": 4, "loss": {"9" * 400}}}, {{"step": 5, "loss": true}}, {{"step": 6, "eval_dev_loss": 2.5}}]'
    (tmp_path / "out" / "trainer_state.json").write_text(f'{{"log_history": {log}, "max_steps": -1, "global_step": 6}}')
    run = only_run(tmp_path)
    assert (run.max_steps, run.step, run.eval_loss) == (None, 6, 2.5)
    curve = listed(tmp_path).curve(run)
    assert (curve.train, curve.evaluation, curve.diverged_at) == (((3, 4.0),), ((6, 2.5),), 4)


def test_a_long_log_is_read_whole(tmp_path: Path) -> None:
    """I1: 20,000 entries, as of a log at every step."""
    log = [{"step": at, "loss": 1 / at, "grad_norm": 0.1} for at in range(1, 20_001)]
    trainers.adapter(tmp_path / "out")
    (tmp_path / "out" / "trainer_state.json").write_text(json.dumps({"log_history": log, "global_step": 20_000}))
    run = only_run(tmp_path)
    assert run.step == 20_000
    assert run.loss == 1 / 20_000
    assert len(listed(tmp_path).curve(run).train) == 20_000


@pytest.mark.parametrize(
    ("name", "text", "datasets"),
    [
        ("README.md", "---\ndatasets: org/a\n---\n", ("org/a",)),
        ("README.md", "---\ndatasets:\n- org/a\n- org/b\nmodel-index: [{{{ broken\n---\n", ("org/a", "org/b")),
        ("README.md", "---\r\ndatasets:\r\n- 'org/a'\r\n---\r\n", ("org/a",)),
        ("README.md", "---\ndatasets: [null, 5, '', {}, {path: x/y}]\n---\n", ("x/y",)),
        ("README.md", "a fine-tuned version of [b](https://c/b) on the d and the e datasets.", ("d", "e")),
        ("README.md", "a fine-tuned version of [b](https://c/b) on an unknown dataset.", ()),
        ("README.md", "---\ndatasets: " + "[" * 9000 + "\n---\n", ()),
        ("README.md", "---\ndatasets: [&a {x: 1}, &b {<<: [*a, *a]}]\n---\n", ()),
        ("config.yml", "base_model: b\ndatasets:\n  - path: data/train.jsonl\n    type: alpaca\n  - path: org/c\nseed: 1\n",
         ("data/train.jsonl", "org/c")),
        ("training_args.yaml", "dataset: a, b\n", ("a", "b")),
        ("sft.yaml", "dataset_name: org/a\n", ("org/a",)),
        ("llamaboard_config.yaml", "train.dataset:\n- a\n- b\n", ("a", "b")),
    ],
)  # fmt: skip
def test_what_it_was_trained_on_is_read_from_cards_and_settings(
    tmp_path: Path, name: str, text: str, datasets: tuple[str, ...]
) -> None:
    """I4: the run's own dataset, when named; what is broken, hostile or endless is passed over."""
    (trainers.adapter(tmp_path / "out") / "README.md").unlink()
    (tmp_path / "out" / name).write_text(text, newline="")
    assert only_run(tmp_path).datasets == datasets


def test_a_card_made_to_take_forever_takes_none(tmp_path: Path) -> None:
    """S2: every search in a card is bounded."""
    folder = trainers.adapter(tmp_path / "out")
    (folder / "README.md").write_text("fine-tuned version of on the " * 5000 + "```yaml\n" * 20_000)
    assert only_run(tmp_path).datasets == ()


def test_the_bundled_cards_name_datasets_that_are_there() -> None:
    """I4: the run's own dataset can be listed first."""
    for run in Runs(load_config(), Store.in_memory()).all().runs:
        if Path(run.path).is_relative_to(ROOT):
            assert all((ROOT / "assets" / "datasets" / name).is_dir() for name in run.datasets)
            assert run.datasets
