"""Names become specs in one place, and loading tells how far it is."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from playground.config import ROOT, load_config
from playground.errors import AdapterInvalid, AdapterUnknown, ModelBusy, ModelNotFound, ModelNotLoaded
from playground.local_inference import LocalInference
from playground.local_inference.adapters import inspect_adapter
from playground.services.assembly import Services
from playground.services.models import Models
from playground.types import Status

PIRATE = ROOT / "assets" / "adapters" / "pirate"


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    """The bundled offer over a real engine."""
    engine = LocalInference()
    yield Models(engine, load_config())
    engine.close()


def test_names_paths_and_adapters_become_one_spec(models: Models) -> None:
    """P1: pick or type."""
    by_name = models.spec("starter", "pirate")
    assert by_name == models.spec(str(ROOT / "assets" / "models" / "starter"), str(PIRATE))
    assert by_name.adapters == ((str(PIRATE), 1.0),)
    assert models.name(by_name) == "starter"
    assert models.spec("starter", "").adapters == models.spec("starter").adapters == ()
    assert models.spec("org/name").base == "org/name"


@pytest.mark.parametrize("base", ["", "nothing", "/no/such/folder", "./nowhere", "a/b/c", "x" * 3000, "~nosuchuser/x",
                                  "starter:a/b", "a/\ud800"])  # fmt: skip
def test_an_unknown_base_is_refused_with_what_there_is(models: Models, base: str) -> None:
    """P1: before anything is loaded."""
    with pytest.raises(ModelNotFound):
        models.spec(base)


def test_an_unknown_adapter_is_never_the_base(models: Models) -> None:
    """FACTS: a mistyped adapter id fell back to the base elsewhere."""
    with pytest.raises(AdapterUnknown, match=r"no adapter 'pirat'.*pirate"):
        models.spec("starter", "pirat")
    with pytest.raises(AdapterInvalid):  # which is what pages ask for
        models.spec("starter", "pirat")


def test_two_adapters_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """A4: by their folder."""
    for run in ("run-1", "run-2"):
        shutil.copytree(PIRATE, tmp_path / run / "mine")
    config = replace(load_config(), adapters=(str(tmp_path / "run-1"), str(tmp_path / "run-2")))
    names = [info.name for info in Models(LocalInference(), config).adapters("starter")]
    assert {"mine (run-1)", "mine (run-2)", "pirate"} <= set(names)
    assert len(names) == len(set(names))


def test_adapters_of_one_name_in_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """A4: by as many folders as it takes, also from one whose own name looks like that; each name leads to its folder."""
    folders = [tmp_path / "a" / "run" / "mine", tmp_path / "b" / "run" / "mine", tmp_path / "mine (run)"]
    folders += [tmp_path / "c" / "mine"]
    for folder in folders:
        shutil.copytree(PIRATE, folder)
    models = Models(LocalInference(), replace(load_config(), adapters=tuple(str(folder) for folder in folders)))
    mine = {info.name: info.path for info in models.adapters("starter") if info.path.startswith(str(tmp_path))}
    assert list(mine) == ["mine (a/run)", "mine (b/run)", f"mine (run) ({tmp_path.name})", "mine (c)"]
    for name, folder in zip(mine, folders, strict=True):
        assert models.spec("starter", name).adapters == ((str(folder), 1.0),)


def test_loading_reports_progress_and_ends_with_done(models: Models) -> None:
    """P1: what is happening, never a bare spinner."""

    async def run() -> list[Status]:
        return [status async for status in models.load(models.spec("starter", "sql"))]

    statuses = asyncio.run(run())
    assert statuses[-1].phase == "done"
    assert any("weights" in status.detail for status in statuses)
    assert any("attaching adapter sql" in status.detail for status in statuses)
    (info,) = models.loaded()
    assert [adapter.name for adapter in info.adapters] == ["sql"]
    assert models.memory().weights == info.bytes > 0


def test_what_is_there_after_a_load_is_told(models: Models) -> None:
    """A1: with the adapter attached; asked again it is the same one."""
    spec = models.spec("starter", "pirate")
    found = asyncio.run(models.loaded_as(spec))
    assert "pirate" in [adapter.name for adapter in found.adapters]
    assert asyncio.run(models.loaded_as(spec)).loaded_at == found.loaded_at
    assert models.adapter_name("starter", str(PIRATE)) == "pirate"
    assert models.adapter_name("starter", "/elsewhere/mine") == "mine"


def test_a_failed_load_raises_where_it_was_awaited(models: Models) -> None:
    """G6: and leaves nothing behind."""

    async def run() -> None:
        async for _ in models.load(replace(models.spec("starter"), base="/no/such/model")):
            pass

    with pytest.raises(ModelNotFound):
        asyncio.run(run())


def test_unloading_by_name(models: Models) -> None:
    """P1."""

    async def run() -> int:
        async for _ in models.load(models.spec("starter")):
            pass
        return await models.unload("starter")

    assert asyncio.run(run()) >= 0
    assert models.loaded() == ()
    with pytest.raises(ModelNotLoaded):
        asyncio.run(models.unload("starter"))


def test_a_model_that_is_answering_is_named_as_it_is_offered(models: Models) -> None:
    """P1: "unload" names the model as the page does, not by its folder."""

    async def run() -> None:
        async for _ in models.load(models.spec("starter")):
            pass
        (resident,) = models._engine._machinery.residents.all()  # type: ignore[union-attr]
        resident.pin(+1)
        try:
            with pytest.raises(ModelBusy, match=r"^starter is answering"):
                await models.unload("starter")
        finally:
            resident.pin(-1)

    asyncio.run(run())


def copied(folder: Path, **changes: object) -> Path:
    """The pirate, with changes to its configuration."""
    shutil.copytree(PIRATE, folder)
    config = json.loads((folder / "adapter_config.json").read_text()) | changes
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def offering(tmp_path: Path, **changes: Any) -> Models:
    """The bundled offer with another folder for what the app writes."""
    config = replace(load_config(), data_dir=tmp_path / "data", **changes)
    return Models(LocalInference(), config)


def test_adapters_that_were_added_meanwhile_are_listed_for_every_base(tmp_path: Path) -> None:
    """P8: without a restart; a changed one is read again, and one that is gone is gone."""
    models = offering(tmp_path)
    before = [info.name for info in models.adapters("starter")]
    mine = copied(tmp_path / "data" / "adapters" / "mine")
    assert {info.name for info in models.adapters("starter")} == {*before, "mine"}
    assert [info.name for info in models.adapters("gpt2")] == ["mine"]
    assert models.spec("starter", "mine").adapters == ((str(mine), 1.0),)
    config = json.loads((mine / "adapter_config.json").read_text())
    (mine / "adapter_config.json").write_text(json.dumps(config | {"r": 10**6}))
    assert [info.problems != () for info in models.adapters("gpt2")] == [True]
    (mine / "adapter_config.json").write_text(json.dumps(config))
    assert [info.problems for info in models.adapters("gpt2")] == [()]
    shutil.rmtree(mine)
    assert [info.name for info in models.adapters("starter")] == before


def test_a_sound_adapter_is_listed_without_being_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P8: the page asks often; a broken one is looked at each time, for it may have been mended."""
    copied(tmp_path / "data" / "adapters" / "bad", r=10**6)
    models = offering(tmp_path)
    reads: list[str] = []

    def counted(folder: Path, *args: Any, **options: Any) -> Any:
        reads.append(folder.name)
        return inspect_adapter(folder, *args, **options)

    monkeypatch.setattr("playground.services.models.inspect_adapter", counted)
    models.adapters("starter")
    assert {"pirate", "bad"} <= set(reads)
    reads.clear()
    models.adapters("starter")
    assert reads == ["bad"]


def test_the_report_of_an_adapter(tmp_path: Path) -> None:
    """G9: by name or folder, against the base; problems are in it, and only what is not there is raised."""
    models = offering(tmp_path)
    assert models.report("starter", "pirate").verdict == "sound"
    bad = copied(tmp_path / "bad", r=10**6)
    assert {finding.code for finding in models.report("starter", str(bad)).findings} >= {"bad-field"}
    other = copied(tmp_path / "other", base_model_name_or_path="org/other")
    assert [finding.code for finding in models.report("starter", str(other)).findings] == ["other-base"]
    for base, adapter, error in (("starter", "pirat", AdapterInvalid), ("starter", "", AdapterInvalid),
                                 ("nothing", "pirate", ModelNotFound)):  # fmt: skip
        with pytest.raises(error):
            models.report(base, adapter)


def test_the_report_of_an_adapter_for_a_base_that_is_not_here(tmp_path: Path) -> None:
    """G9: what can be said without it is said; nothing is downloaded."""
    report = offering(tmp_path).report("org/nobody-has-this", str(PIRATE))
    assert (report.verdict, report.findings) == ("sound", ())


def test_the_doctor_by_name(tmp_path: Path) -> None:
    """G9: every layer against the base's weights; a broken adapter is refused with its problems."""
    models = offering(tmp_path)
    diagnosis = models.diagnose("starter", "pirate")
    assert len(diagnosis.layers) > 1
    assert all(layer.relative for layer in diagnosis.layers)
    with pytest.raises(AdapterInvalid, match="cannot be examined"):
        models.diagnose("starter", str(copied(tmp_path / "bad", r=10**6)))


def test_others_get_nothing_through_a_link_out_of_what_is_offered(tmp_path: Path) -> None:
    """S1: neither a spec nor a report, whichever file it is and whenever it was put there; links inside are served."""
    secret, offered = copied(tmp_path / "secret"), tmp_path / "offered"
    for name in ("weights", "config", "tokenizer", "inside"):
        copied(offered / name)
    (offered / "whole").symlink_to(secret)
    models = offering(tmp_path, free_paths=False, adapters=(str(offered),))
    assert models.spec("starter", "weights").adapters
    for name, file in (("weights", "adapter_model.safetensors"), ("config", "adapter_config.json"),
                       ("tokenizer", "special_tokens_map.json")):  # fmt: skip
        (offered / name / file).unlink(missing_ok=True)
        (offered / name / file).symlink_to(secret / "adapter_config.json")
    (offered / "inside" / "adapter_model.safetensors").unlink()
    (offered / "inside" / "adapter_model.safetensors").symlink_to(offered / "weights" / "README.md")
    (offered / "weights" / "README.md").write_bytes((PIRATE / "adapter_model.safetensors").read_bytes())
    for name in ("weights", "config", "tokenizer", "whole"):
        for ask in (models.spec, models.report, models.diagnose):
            with pytest.raises(AdapterInvalid, match=r"is a link out of the folders"):
                ask("starter", name)
    assert models.report("starter", "inside").verdict == "sound"
    with pytest.raises(AdapterInvalid, match="not offered"):
        models.report("starter", str(secret))
    listed = {info.name: info for info in models.adapters("starter")}
    assert all("link out" in listed[name].problems[0] for name in ("weights", "config", "tokenizer", "whole"))
    assert "LORA" not in {listed["whole"].peft_type, listed["config"].peft_type}


def test_pickles_are_the_operators_choice(tmp_path: Path) -> None:
    """G9: listed with what is the matter, or without."""
    import torch
    from safetensors.torch import load_file

    mine = copied(tmp_path / "data" / "adapters" / "mine")
    torch.save(load_file(mine / "adapter_model.safetensors"), mine / "adapter_model.bin")
    (mine / "adapter_model.safetensors").unlink()
    closed, opened = offering(tmp_path), offering(tmp_path, allow_pickle=True)
    assert "a pickle file" in closed.adapters("gpt2")[0].problems[0]
    assert opened.adapters("gpt2")[0].problems == ()
    assert closed.report("starter", "mine").verdict == "problems"
    assert not (tmp_path / "data" / "converted").exists()
    assert opened.report("starter", "mine").verdict == "sound"
    assert opened.diagnose("starter", "mine").layers == opened.diagnose("starter", "pirate").layers
    assert (tmp_path / "data" / "converted").exists()


def test_others_cannot_try_out_where_things_lie() -> None:
    """S1, S2: where no free paths are allowed, a path that is right is refused like one that is wrong; hub ids are names."""
    engine = LocalInference()
    shared = Models(engine, replace(load_config(), free_paths=False))
    base, elsewhere = ROOT / "assets" / "models" / "starter", ROOT / "assets" / "models" / "no such"
    for path in map(str, (base, elsewhere)):
        with pytest.raises(ModelNotFound, match="is not offered here"):
            shared.spec(path)
        assert shared.adapters(path) == shared.adapters("a stranger")
        assert shared.recommended(path) is None
    for path in map(str, (PIRATE, PIRATE.with_name("no such"))):
        with pytest.raises(AdapterUnknown, match="is not offered for"):
            shared.spec("starter", path)
    assert shared.spec("Qwen/Qwen2-0.5B-Instruct") == shared.spec("qwen")
    assert shared.adapter_name(shared.spec("starter").base, str(PIRATE)) == "pirate"
    with pytest.raises(ModelNotLoaded):  # which is what the pages' own button sends
        asyncio.run(shared.unload(str(base)))
    engine.close()


def _with_runs(engine: LocalInference, data: Path, **given: Any) -> Services:
    return Services.over(engine, load_config(overrides={"data_dir": str(data)} | given))


def _run(folder: Path) -> Path:
    shutil.copytree(PIRATE.parent / "pirate-overfit" / "checkpoint-50", folder)
    return folder


def test_the_label_of_a_runs_checkpoint_is_a_name_and_its_folder_has_it(models: Models, tmp_path: Path) -> None:
    """I1: what the page shows can be typed, stored and asked again."""
    found = _with_runs(models._engine, tmp_path).models
    folder = str(PIRATE.parent / "pirate-overfit" / "checkpoint-50")
    assert found.spec("starter", "pirate-overfit/checkpoint-50", 0.5).adapters == ((folder, 0.5),)
    assert (
        found.adapter_name("starter", folder) == found.known_name("starter", folder) == "pirate-overfit/checkpoint-50"
    )
    assert found.known_name("starter", str(PIRATE)) == "pirate"
    assert found.known_name("starter", str(tmp_path)) is None
    assert found.adapter_name("starter", str(tmp_path)) == tmp_path.name
    assert found.report("starter", "pirate-overfit/checkpoint-50").verdict == "sound"
    with pytest.raises(AdapterUnknown, match=r"'pirate/checkpoint-9'.*Offered: json"):
        found.spec("starter", "pirate/checkpoint-9")


def test_no_name_of_two_places_is_taken_for_the_wrong_one(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I1: an offered name stays what it was, labels are told apart, and what is no longer clear is refused."""
    offered, trained = _run(tmp_path / "elsewhere" / "mine"), _run(tmp_path / "runs" / "mine")
    given = {"runs": [str(tmp_path / "runs")], "adapter": [str(tmp_path / "elsewhere")]}
    services = _with_runs(models._engine, tmp_path / "data", **given)
    found = services.models
    assert found.spec("starter", "mine").adapters[0][0] == str(offered)
    labels = [run.name for run in services.runs.all().runs if run.path in (str(offered), str(trained))]
    assert len(set(labels)) == 2
    for path in (offered, trained):
        name = found.known_name("starter", str(path))
        assert name is not None
        assert found.spec("starter", name).adapters[0][0] == str(path)
    here = _run(tmp_path / "here" / "pirate" / "checkpoint-500")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(AdapterInvalid, match="stands for two adapters"):
        found.spec("starter", "pirate/checkpoint-500")
    assert found.spec("starter", "./pirate/checkpoint-500").adapters[0][0] == str(here)


def test_a_label_that_an_offered_adapter_bears_is_no_name_of_the_run(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I1: an answer of the run is not stored under the other's name."""
    services = _with_runs(models._engine, tmp_path)
    monkeypatch.setattr(services.runs, "label", lambda path: "pirate")
    assert services.models.known_name("starter", str(_run(tmp_path / "pirate"))) is None
