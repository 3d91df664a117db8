"""Names become specs in one place, and loading tells how far it is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from playground.config import ROOT, load_config
from playground.errors import AdapterInvalid, ModelBusy, ModelNotFound, ModelNotLoaded
from playground.local_inference import LocalInference
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


@pytest.mark.parametrize("base", ["", "nothing", "/no/such/folder", "./nowhere", "a/b/c", "x" * 3000, "~nosuchuser/x"])
def test_an_unknown_base_is_refused_with_what_there_is(models: Models, base: str) -> None:
    """P1: before anything is loaded."""
    with pytest.raises(ModelNotFound):
        models.spec(base)


def test_an_unknown_adapter_is_never_the_base(models: Models) -> None:
    """FACTS: a mistyped adapter id fell back to the base elsewhere."""
    with pytest.raises(AdapterInvalid, match=r"no adapter 'pirat'.*pirate"):
        models.spec("starter", "pirat")


def test_two_adapters_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """A4: by their folder."""
    import shutil

    for run in ("run-1", "run-2"):
        shutil.copytree(PIRATE, tmp_path / run / "mine")
    config = replace(load_config(), adapters=(str(tmp_path / "run-1"), str(tmp_path / "run-2")))
    names = [info.name for info in Models(LocalInference(), config).adapters("starter")]
    assert {"mine (run-1)", "mine (run-2)", "pirate"} <= set(names)
    assert len(names) == len(set(names))


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
