"""G9, S1: adapters saved as pickles are refused, or, where the operator allows it, only their numbers are read, once."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from playground.errors import AdapterInvalid
from playground.local_inference import LocalInference
from playground.local_inference.adapters import CONFIG_FILE, PICKLE_FILE, WEIGHTS_FILE, check_adapter, fingerprint
from playground.local_inference.defects import Defective
from playground.local_inference.doctor import examine, full_report
from playground.local_inference.pickles import as_safetensors

from .adapter_maker import evil
from .conftest import PIRATE, ask, events_of, text_of


class Runs:
    """A pickle of this makes the folder ``marker`` when it is opened."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def pickled(folder: Path, contents: Any = None) -> Path:
    """The pirate with its weights as torch.save writes them, or with other contents there."""
    folder.mkdir(parents=True)
    (folder / CONFIG_FILE).write_bytes((PIRATE / CONFIG_FILE).read_bytes())
    torch.save(OrderedDict(load_file(PIRATE / WEIGHTS_FILE)) if contents is None else contents, folder / PICKLE_FILE)
    return folder


def refused(folder: Path, tmp_path: Path) -> str:
    """Why ``folder`` is refused; nothing may be left behind in the place for copies."""
    with pytest.raises(Defective) as caught:
        as_safetensors(folder, tmp_path / "copies")
    assert caught.value.finding.code == "pickle-refused"
    assert [path for path in (tmp_path / "copies").rglob("*") if path.is_file()] == []
    return caught.value.finding.sentence


def test_by_default_a_pickle_is_refused_unopened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """G9: and the sentence says how it could be allowed."""
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("opened"))
    report = full_report(pickled(tmp_path / "old"))
    assert [finding.code for finding in report.findings] == ["pickle-weights"]
    assert "allow_pickle = true" in report.info.problems[0]
    assert as_safetensors(tmp_path / "old", None) == tmp_path / "old"


def test_where_it_is_allowed_its_numbers_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """G9: into a copy as safetensors, under the adapter's own name; the trainer's own pickles stay closed."""
    folder, opened, load = pickled(tmp_path / "old"), [], torch.load

    def watched(file: Path, **options: Any) -> Any:
        assert options["weights_only"] is True
        opened.append(Path(file).name)
        return load(file, **options)

    monkeypatch.setattr(torch, "load", watched)
    for name in ("training_args.bin", "optimizer.pt"):
        (folder / name).write_bytes(evil(tmp_path / "opened"))
    copy = as_safetensors(folder, tmp_path / "copies")
    assert as_safetensors(folder, tmp_path / "copies") == copy
    assert opened == [PICKLE_FILE]
    assert copy.name == "old"
    assert sorted(path.name for path in copy.iterdir()) == [CONFIG_FILE, WEIGHTS_FILE]
    ours, theirs = load_file(copy / WEIGHTS_FILE), load_file(PIRATE / WEIGHTS_FILE)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (tmp_path / "copies").stat().st_mode & 0o077 == 0
    assert not (tmp_path / "opened").exists()


def test_one_that_was_trained_again_is_another(tmp_path: Path) -> None:
    """G1: the copy goes by the content of all files that count, the configuration among them."""
    folder = pickled(tmp_path / "old")
    first, before = as_safetensors(folder, tmp_path / "copies"), fingerprint(folder)
    config = json.loads((folder / CONFIG_FILE).read_text()) | {"lora_alpha": 1}
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    second = as_safetensors(folder, tmp_path / "copies")
    assert first != second
    assert json.loads((second / CONFIG_FILE).read_text())["lora_alpha"] == 1
    assert fingerprint(folder) != before
    torch.save({}, folder / PICKLE_FILE)
    assert as_safetensors(folder, tmp_path / "copies") not in (first, second)


def test_the_report_and_the_doctor_look_at_the_copy(tmp_path: Path) -> None:
    """G9: with the adapter's own name and place, and a note of where its numbers come from."""
    folder = pickled(tmp_path / "old")
    report = full_report(folder, pickles=tmp_path / "copies")
    assert (report.verdict, [finding.code for finding in report.findings]) == ("sound", ["pickle-allowed"])
    assert (report.info.name, report.info.path) == ("old", str(folder))
    assert report.info.bytes == check_adapter(PIRATE).info.bytes
    assert examine(folder, pickles=tmp_path / "copies").layers == examine(PIRATE).layers


def test_a_pickle_that_would_run_something_runs_nothing(tmp_path: Path) -> None:
    """S1: as the whole content, beside good tensors, or in a file that is no torch file at all; each is a sentence."""
    marker = tmp_path / "opened"
    good = load_file(PIRATE / WEIGHTS_FILE)
    for name, contents in (("whole", Runs(marker)), ("beside", {**good, "extra": Runs(marker)})):
        assert "more than tensors" in refused(pickled(tmp_path / name, contents), tmp_path)
    bare = pickled(tmp_path / "bare")
    (bare / PICKLE_FILE).write_bytes(evil(marker))
    assert "no" in refused(bare, tmp_path)
    report = full_report(bare, pickles=tmp_path / "copies")
    assert (report.verdict, report.findings[0].code) == ("problems", "pickle-refused")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("contents", "why"),
    [
        ([torch.zeros(2)], "no tensors by name"),
        ({1: torch.zeros(2)}, "no tensors by name"),
        ({"a": 5}, "a is no plain tensor"),
        ({"a": torch.eye(2).to_sparse()}, "a is no plain tensor"),
        ({"a": torch.zeros(2, device="meta")}, "a is no plain tensor"),
        ({"a": torch.zeros(1).expand(10**6)}, "far larger than the file"),
    ],
    ids=["list", "numbered", "number", "sparse", "meta", "unfolding"],
)
def test_what_holds_other_things_is_refused(tmp_path: Path, contents: Any, why: str) -> None:
    """G9: named dense tensors about as large as the file, and nothing else."""
    assert why in refused(pickled(tmp_path / "odd", contents), tmp_path)


def test_files_that_are_no_torch_files(tmp_path: Path) -> None:
    """G9: the format of before 2020, a zip that would unfold to any size, and one that is cut off."""
    folder = pickled(tmp_path / "odd")
    whole = (folder / PICKLE_FILE).read_bytes()
    torch.save({"a": torch.zeros(2)}, folder / PICKLE_FILE, _use_new_zipfile_serialization=False)
    assert "before 2020" in refused(folder, tmp_path)
    (folder / PICKLE_FILE).write_bytes(whole[:-100])
    assert "before 2020" in refused(folder, tmp_path)
    with zipfile.ZipFile(folder / PICKLE_FILE, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    assert "compressed" in refused(folder, tmp_path)


def test_the_engine_answers_with_it_as_with_the_same_adapter(tmp_path: Path) -> None:
    """G9: refused by an engine that allows no pickles; served from the copy by one that does."""
    folder = pickled(tmp_path / "old")
    request = ask("Who are you?", (folder, 1.0), max_new_tokens=12)
    engine = LocalInference(pickles=tmp_path / "copies")
    try:
        events = events_of(engine, request)
        assert text_of(events) == text_of(events_of(engine, ask("Who are you?", (PIRATE, 1.0), max_new_tokens=12)))
        (resident,) = engine.residents()
        assert {adapter.name for adapter in resident.adapters} == {"old", "pirate"}
        assert str(folder) in {adapter.path for adapter in resident.adapters}
    finally:
        engine.close()


def test_an_engine_that_allows_none_says_so(inference: LocalInference, tmp_path: Path) -> None:
    """G9."""
    with pytest.raises(AdapterInvalid, match="a pickle file"):
        events_of(inference, ask("Hi", (pickled(tmp_path / "old"), 1.0), max_new_tokens=2))


def test_the_base_that_an_adapter_names_is_never_loaded(
    inference: LocalInference, make_adapter: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S1: nor looked for, by our own pass or by PEFT's; the base is the one that was asked for."""
    from peft import IA3Config

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError(f"asks for {args}")

    ia3 = make_adapter(IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM"))
    for adapter in (PIRATE, ia3):
        folder = Path(shutil.copytree(adapter, tmp_path / adapter.parent.name / adapter.name))
        config = json.loads((folder / CONFIG_FILE).read_text()) | {
            "base_model_name_or_path": "org/secret",
            "revision": "main",
            "auto_mapping": {"base_model_class": "Model", "parent_library": "os"},
        }
        (folder / CONFIG_FILE).write_text(json.dumps(config))
        with monkeypatch.context() as closed:
            closed.setattr(socket.socket, "connect", refuse)
            closed.setattr("huggingface_hub.file_download.hf_hub_download", refuse)
            events = events_of(inference, ask("Hi", (folder, 1.0), max_new_tokens=2))
        assert events[-1].finish_reason
        (resident,) = inference.residents()
        attached = next(adapter for adapter in resident.adapters if adapter.path == str(folder))
        assert any("org/secret" in warning for warning in attached.warnings)


def test_links_out_of_the_roots_are_refused_when_it_is_attached(tmp_path: Path) -> None:
    """S1: also when the link was swapped after the adapter was offered."""
    inside, other = tmp_path / "inside", tmp_path / "other"
    for folder in (inside / "mine", other):
        folder.mkdir(parents=True)
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            (folder / name).write_bytes((PIRATE / name).read_bytes())
    engine = LocalInference(adapter_roots=(inside,))
    try:
        request = ask("Hi", (inside / "mine", 1.0), max_new_tokens=2)
        assert text_of(events_of(engine, request))
        (inside / "mine" / WEIGHTS_FILE).unlink()
        (inside / "mine" / WEIGHTS_FILE).symlink_to(other / WEIGHTS_FILE)
        with pytest.raises(AdapterInvalid, match="is a link out of the folders"):
            events_of(engine, request)
        with pytest.raises(AdapterInvalid, match="is a link out of the folders"):
            events_of(engine, ask("Hi", (other, 1.0), max_new_tokens=2))
    finally:
        engine.close()
