"""Whether a run's adapter may be asked is known before anything is loaded, and why not is said."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from playground.config import ROOT, ModelEntry, load_config
from playground.local_inference import LocalInference
from playground.local_inference.adapters import read_safetensors_header
from playground.services.assembly import Services
from playground.services.base_names import offered_name
from playground.services.readiness import Verdict
from playground.training_run import TrainingRun
from playground.types import LoadedAdapter, ResidentInfo

BUNDLED = ROOT / "assets" / "adapters"
OVERFIT = BUNDLED / "pirate-overfit"
STEP_50 = "pirate-overfit/checkpoint-50"

Made = Callable[..., Services]


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalInference]:
    """One that loads nothing: all that is asked here is on the disk."""
    engine = LocalInference()
    yield engine
    engine.close()


@pytest.fixture
def made(engine: LocalInference, tmp_path: Path) -> Made:
    """The services over the bundled offer, with ``given`` as the command line would."""
    return lambda **given: Services.over(engine, load_config(overrides={"data_dir": str(tmp_path / "data")} | given))


def _run(folder: Path, name: str = "mine", *checkpoints: str) -> Path:
    """A run with the bundled adapter's files, whole, or with ``checkpoints`` only."""
    (folder / name).mkdir(parents=True)
    for place in checkpoints or ("",):
        shutil.copytree(OVERFIT / "checkpoint-50", folder / name / place, dirs_exist_ok=True)
    return folder / name


def _written(adapter: Path, **config: Any) -> None:
    """Change the adapter's configuration."""
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))


def _fill(adapter: Path, value: float, shape: tuple[int, ...] | None = None) -> None:
    """Write the adapter's tensors anew, all of one value, in their shapes or in ``shape``."""
    weights = adapter / "adapter_model.safetensors"
    tensors = read_safetensors_header(weights)
    save_file({name: np.full(shape or one.shape, value, np.float32) for name, one in tensors.items()}, weights)


def _said(verdict: Verdict) -> str:
    return " ".join(" ".join(pair) for pair in verdict.problems)


def test_a_sound_checkpoint_validates_with_its_run_and_its_folder(made: Made) -> None:
    """I1: what the page needs to say which adapter it is."""
    verdict = made().readiness.check("starter", STEP_50)
    assert verdict.is_sound
    assert not verdict.warnings
    assert (verdict.base, verdict.label, verdict.place) == ("starter", STEP_50, str(OVERFIT / "checkpoint-50"))
    assert verdict.run is not None
    assert verdict.run.name == "pirate-overfit"
    assert verdict.checkpoint is not None
    assert verdict.checkpoint.step == 50
    assert verdict.spec is not None
    assert verdict.spec.adapters == ((str(OVERFIT / "checkpoint-50"), 1.0),)


def test_a_folder_that_was_typed_is_known_as_its_run(made: Made) -> None:
    """I1: the picker of the side panel takes paths too."""
    verdict = made().readiness.check("starter", str(OVERFIT / "checkpoint-50"))
    assert verdict.is_sound
    assert verdict.label == STEP_50
    assert verdict.run is not None
    assert verdict.run.name == "pirate-overfit"


def test_a_run_that_was_interrupted_says_so_and_its_checkpoint_validates(made: Made) -> None:
    """I1: how far it came, and what to do."""
    readiness = made().readiness
    stopped = readiness.check("starter", "sql-incomplete")
    assert not stopped.is_sound
    assert stopped.run is not None
    assert stopped.problems == ((stopped.run.why, "Choose one of its checkpoints."),)
    assert readiness.check("starter", "sql-incomplete/checkpoint-150").is_sound
    failed = readiness.check("starter", "json-failed")
    assert [remedy for _, remedy in failed.problems] == ["Choose another run."]


@pytest.mark.parametrize(
    ("base", "adapter", "says"),
    [
        ("starter", "no-such", "no adapter 'no-such'.*Offered: json"),
        ("starter", "pirate/checkpoint-9", "run 'pirate' has no checkpoint 'checkpoint-9'"),
        ("starter", "", "No adapter was named"),
        ("", "pirate", "No model was named"),
        ("/no/such/model", "pirate", "no model folder '/no/such/model'"),
        ("no-such", "pirate", "no model 'no-such'"),
        (str(BUNDLED / "sql"), "pirate", "is an adapter, not a base"),
    ],
)
def test_what_is_not_there_is_a_sentence(made: Made, base: str, adapter: str, says: str) -> None:
    """I1: in the verdict, never an exception."""
    verdict = made().readiness.check(base, adapter)
    assert not verdict.is_sound
    assert re.search(says, _said(verdict)), _said(verdict)
    assert all(remedy for _, remedy in verdict.problems)


def test_a_run_that_is_taken_away_or_trained_again_is_noticed_at_once(made: Made, tmp_path: Path) -> None:
    """I1: the check before each Generate looks at the disk as it is."""
    run = _run(tmp_path / "runs")
    readiness = made(runs=[str(tmp_path / "runs")]).readiness
    assert readiness.check("starter", "mine").is_sound
    _fill(run, np.nan)
    assert "NaN" in _said(readiness.check("starter", "mine"))
    (run / "adapter_model.safetensors").unlink()
    assert not readiness.check("starter", "mine").is_sound
    shutil.rmtree(run)
    assert re.search("no longer there|no adapter 'mine'", _said(readiness.check("starter", "mine")))


def test_an_adapter_that_cannot_fit_its_base_is_a_problem_and_another_name_a_warning(
    made: Made, tmp_path: Path
) -> None:
    """I1: told before anything is loaded."""
    _written(_run(tmp_path / "runs", "elsewhere"), base_model_name_or_path="org/other")
    _fill(_run(tmp_path / "runs", "wide"), 1.0, (8, 5))
    readiness = made(runs=[str(tmp_path / "runs")]).readiness
    other = readiness.check("starter", "elsewhere")
    assert other.is_sound
    assert "trained on 'org/other'" in other.warnings[0][0]
    assert not readiness.check("starter", "wide").is_sound


def test_a_base_that_must_be_downloaded_is_a_warning_unless_the_hub_is_off(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S4: nothing is fetched by a check."""
    from huggingface_hub import constants

    readiness = made().readiness
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    verdict = readiness.check("some-org/not-here", "pirate")
    assert verdict.is_sound
    downloaded, other = (sentence for sentence, _ in verdict.warnings)
    assert "is downloaded when it is first used" in downloaded
    assert "trained on 'starter'" in other
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in _said(readiness.check("some-org/not-here", "pirate"))


def test_a_label_that_stands_for_two_places_is_refused(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """I1: the run that was chosen is asked, or nothing."""
    services = made()
    run = replace(services.runs.get("pirate-overfit"), name="pirate")
    monkeypatch.setattr(services.runs, "find", lambda label: (run, run.checkpoints[0]))
    assert "'pirate' stands for two adapters" in _said(services.readiness.check("starter", "pirate"))


def test_on_a_shared_server_no_path_is_told(made: Made, tmp_path: Path) -> None:
    """S2: the label is where it lies, and sentences name folders by their last part."""
    run = _run(tmp_path / "all my runs", "elsewhere")
    _written(run, base_model_name_or_path="/home/anna/models/other")
    services = made(runs=[str(tmp_path / "all my runs")], host="0.0.0.0")
    verdict = services.readiness.check("starter", "elsewhere")
    assert verdict.is_sound
    assert verdict.place == "elsewhere"
    assert "'other'" in verdict.warnings[0][0]
    typed = services.readiness.check("starter", str(run))
    assert not typed.is_sound
    gone = services.readiness.check("/home/anna/models/other", "elsewhere")
    assert "which is not offered here" in _said(gone)
    for told in (verdict, typed, gone):
        said = " ".join(" ".join(pair) for pair in (*told.problems, *told.warnings))
        assert str(tmp_path) not in said
        assert "/home" not in said


def test_on_a_shared_server_no_link_of_a_run_leads_out(made: Made, tmp_path: Path) -> None:
    """S2: a checkpoint is read only where its files are the run's own."""
    run = _run(tmp_path / "runs", "mine", "checkpoint-1")
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    (run / "checkpoint-1" / "tokenizer.json").symlink_to(secret)
    given = {"runs": [str(tmp_path / "runs")]}
    assert made(**given).readiness.check("starter", "mine/checkpoint-1").is_sound
    refused = made(**given, host="0.0.0.0").readiness.check("starter", "mine/checkpoint-1")
    assert refused.spec is None
    assert "tokenizer.json" in _said(refused)


@pytest.mark.parametrize(
    ("base", "name"),
    [
        ("starter", "starter"),
        (str(ROOT / "assets" / "models" / "starter"), "starter"),
        (str(ROOT / "assets" / "models" / ".." / "models" / "starter") + "/", "starter"),
        ("/content/drive/models/starter/", "starter"),
        (r"C:\Users\anna\models\Starter", "starter"),
        ("Qwen/Qwen2-0.5B-Instruct", "qwen"),
        ("qwen/qwen2-0.5b-instruct", "qwen"),
        ("/root/.cache/huggingface/hub/models--Qwen--Qwen2-0.5B-Instruct/snapshots/abc123", "qwen"),
        ("/data/Qwen2-0.5B-Instruct", "qwen"),
        ("gpt2", "gpt2"),
        ("somebody/Qwen2-0.5B-Instruct", None),
        ("/data/llama", None),
        ("", None),
    ],
)
def test_the_base_is_found_among_the_offered_models(base: str, name: str | None) -> None:
    """I1: trainers write names, hub ids, and paths of the machine that they ran on."""
    assert offered_name(base, load_config().models.values()) == name


def test_two_models_that_look_alike_are_not_guessed_between() -> None:
    """I1: the text that the trainer wrote stays then."""
    offered = [ModelEntry("one", "/a/llama"), ModelEntry("two", "/b/llama")]
    assert offered_name("/c/llama", offered) is None
    assert offered_name("/b/llama", offered) == "two"


def test_a_base_that_is_not_offered_stays_as_it_was_written(made: Made) -> None:
    """I1: a hub id can be asked all the same."""
    run = TrainingRun("/runs/x", "x", "completed", base=" org/model ")
    assert made().readiness.base_of(run) == "org/model"


def test_an_answer_begins_at_once_only_with_base_and_adapter_in_memory(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I2: which of the two status lines is shown."""
    services = made()
    verdict = services.readiness.check("starter", STEP_50)
    assert verdict.spec is not None
    path = verdict.spec.adapters[0][0]
    resident = ResidentInfo(verdict.spec.base, verdict.spec.base, "none", "float32", "cpu", 1, 1, 512, 0.0)
    there = LoadedAdapter("checkpoint-50", os.path.join(path, "."), "", 0, False, True)
    for memory, known in (((), False), ((resident,), False), ((replace(resident, adapters=(there,)),), True)):
        monkeypatch.setattr(services.models, "loaded", lambda memory=memory: memory)
        assert services.readiness.is_loaded(verdict) is known
    quantized = replace(verdict, spec=replace(verdict.spec, quantization="int8"))
    assert not services.readiness.is_loaded(quantized)
    assert not services.readiness.is_loaded(Verdict("starter", "no-such"))
