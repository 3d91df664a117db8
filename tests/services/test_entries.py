"""What is loaded by name: default adapters, what they hold for, and whom they never change."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from playground.config import ROOT, AppConfig, ModelEntry, load_config
from playground.errors import AdapterInvalid, InvalidRequest, ModelBusy, ModelNotFound, ModelNotLoaded
from playground.services.entries import UNSET, Entries, Entry
from playground.services.models import Models
from playground.services.names import Names
from playground.types import ModelSpec
from tests.api.loading_engine import LoadingEngine

STARTER = str(ROOT / "assets" / "models" / "starter")
ADAPTERS = ROOT / "assets" / "adapters"
WAIT_S = 20


@pytest.fixture
def engine() -> LoadingEngine:
    return LoadingEngine()


def over(engine: LoadingEngine, **changes: Any) -> Entries:
    """Entries over the bundled offer, changed."""
    config: AppConfig = replace(load_config(), **changes)
    models = Models(engine, config)  # type: ignore[arg-type]
    return Entries(models, Names(models))


@pytest.fixture
def entries(engine: LoadingEngine) -> Entries:
    return over(engine)


def load(entries: Entries, model_id: str, **fields: Any) -> Entry:
    return asyncio.run(entries.load(model_id, **fields))


def adapter_of(spec: ModelSpec) -> str | None:
    """The name of the spec's adapter's folder."""
    return Path(spec.adapters[0][0]).name if spec.adapters else None


def test_a_request_that_names_no_adapter_gets_the_default(entries: Entries) -> None:
    """A1: load and swap-adapter set it; a name beats it, and None is the base."""
    load(entries, "starter", adapter_path="pirate", use_case="qa")
    assert adapter_of(entries.spec("starter")) == "pirate"
    assert adapter_of(entries.spec("starter", "sql")) == "sql"
    assert entries.spec("starter", None).adapters == ()
    asyncio.run(entries.swap("starter", "json"))
    assert adapter_of(entries.spec("starter")) == "json"
    asyncio.run(entries.swap("starter", None))
    assert entries.spec("starter").adapters == ()
    assert [entry.use_case for entry in entries.loaded()] == ["qa"]


def test_loading_again_without_an_adapter_is_the_base_again(entries: Entries, engine: LoadingEngine) -> None:
    """A1: load sets the default, also to none; the base is not read a second time."""
    load(entries, "starter", adapter_path="pirate")
    first = load(entries, "starter", adapter_path="pirate")
    assert load(entries, "starter").loaded_at == first.loaded_at
    assert entries.spec("starter").adapters == ()
    assert len(engine.in_memory) == 1


def test_a_name_with_an_adapter_always_answers_with_that_one(entries: Entries) -> None:
    """A1: whatever the base's default is; its strength holds as well, and the base's name is not changed by it."""
    load(entries, "starter", adapter_path="json")
    load(entries, "starter:pirate@0.5", use_case="chatbot")
    assert entries.spec("starter:pirate@0.5").adapters == ((str(ADAPTERS / "pirate"), 0.5),)
    assert entries.spec("starter:pirate@0.5", "pirate").adapters == ((str(ADAPTERS / "pirate"), 0.5),)
    assert adapter_of(entries.spec("starter:sql")) == "sql"
    assert adapter_of(entries.spec("starter")) == "json"
    assert [(entry.model_id, entry.use_case) for entry in entries.loaded()] == [
        ("starter", None),
        ("starter:pirate@0.5", "chatbot"),
    ]


@pytest.mark.parametrize("adapter", ["sql", None])
def test_a_name_with_an_adapter_takes_no_other_default(entries: Entries, adapter: str | None) -> None:
    """A1: the name would lie."""
    load(entries, "starter:pirate")
    with pytest.raises(InvalidRequest, match="starter:pirate"):
        asyncio.run(entries.swap("starter:pirate", adapter))
    with pytest.raises(InvalidRequest, match="starter:pirate"):
        load(entries, "starter:pirate", adapter_path=adapter)
    assert adapter_of(entries.spec("starter:pirate")) == "pirate"
    with pytest.raises(InvalidRequest):
        entries.spec("starter:pirate", "sql")


@pytest.mark.parametrize(
    ("model_id", "adapter"),
    [("nothing", UNSET), ("starter:parrot", UNSET), ("starter", "parrot"), ("starter", "/no/such/folder"),
     (" starter", UNSET), ("starter:pirate ", UNSET), ("", UNSET), ("./nowhere", UNSET)],
)  # fmt: skip
def test_what_does_not_exist_is_not_found_and_never_the_base(
    entries: Entries, engine: LoadingEngine, model_id: str, adapter: Any
) -> None:
    """A1: for every way to name it, and nothing is loaded for it."""
    load(entries, "starter")
    for ask in (
        lambda: entries.spec(model_id, adapter),
        lambda: entries.spec(model_id, adapter, must_be_loaded=False),
        lambda: load(entries, model_id, adapter_path=adapter),
        lambda: asyncio.run(entries.swap(model_id, "pirate" if adapter is UNSET else adapter)),
    ):
        with pytest.raises(ModelNotFound):
            ask()
    assert len(engine.loads) == 1


def test_a_blank_adapter_is_not_the_base(entries: Entries) -> None:
    """A1: a variable that was left empty is a mistake, not a wish for the base."""
    load(entries, "starter", adapter_path="pirate")
    for blank in ("", "  "):
        with pytest.raises(InvalidRequest, match="empty"):
            entries.spec("starter", blank)


def test_what_cannot_be_attached_changes_nothing(entries: Entries, engine: LoadingEngine) -> None:
    """A1: a failed swap or load leaves the default as it was."""
    load(entries, "starter", adapter_path="pirate")
    engine.broken = {"sql"}
    with pytest.raises(AdapterInvalid):
        asyncio.run(entries.swap("starter", "sql"))
    with pytest.raises(AdapterInvalid):
        load(entries, "starter", adapter_path="sql")
    assert adapter_of(entries.spec("starter")) == "pirate"


def test_the_default_changes_only_once_it_is_attached(entries: Entries, engine: LoadingEngine) -> None:
    """A1: until then the old one answers; what was asked for last decides, however long the other took."""
    engine.gates = {"sql": threading.Event()}

    async def run() -> None:
        await entries.load("starter", adapter_path="pirate")
        slow = asyncio.create_task(entries.swap("starter", "sql"))
        assert await asyncio.to_thread(engine.held.wait, WAIT_S)
        assert adapter_of(entries.spec("starter")) == "pirate"
        await entries.swap("starter", "json")
        engine.gates["sql"].set()
        await slow
        assert adapter_of(entries.spec("starter")) == "json"

    asyncio.run(run())


def test_what_others_have_loaded_counts_as_loaded(entries: Entries, engine: LoadingEngine) -> None:
    """A1: by the pages or /v1: without a use case, and as it is in memory, so that nothing is loaded twice."""
    engine.load(ModelSpec(STARTER, ((str(ADAPTERS / "sql"), 1.0),), quantization="int8"))
    (entry,) = entries.loaded()
    assert (entry.model_id, entry.use_case, entry.spec.adapters) == ("starter", None, ())
    assert entry.loaded_at == engine.in_memory[0].loaded_at
    assert entries.spec("starter").quantization in ("auto", "int8")
    strict = over(engine, quantization="none")
    assert strict.spec("starter:sql").quantization == "int8"


def test_a_default_outlives_eviction(entries: Entries, engine: LoadingEngine) -> None:
    """A1: the operator has chosen it; that the room was needed for a while does not turn answers into the base's."""
    load(entries, "starter", adapter_path="pirate", quantization="nf4")
    engine.in_memory.clear()
    with pytest.raises(ModelNotLoaded):
        entries.spec("starter")
    assert adapter_of(entries.spec("starter", must_be_loaded=False)) == "pirate"
    engine.load(ModelSpec(STARTER, quantization="int8"))
    assert (adapter_of(entries.spec("starter")), entries.spec("starter").quantization) == ("pirate", "int8")


def test_how_it_was_loaded_holds_for_its_answers(entries: Entries) -> None:
    """A1, A5: quantization, dtype and device of the load; without them the configuration's."""
    load(entries, "starter", quantization="nf4", dtype="float32", device="cpu")
    spec = entries.spec("starter", "sql")
    assert (spec.quantization, spec.dtype, spec.device) == ("nf4", "float32", "cpu")


def test_unloading(entries: Entries, engine: LoadingEngine) -> None:
    """A1: 404 for what does not exist, 409 for what is not loaded or is answering; the default goes with it."""
    with pytest.raises(ModelNotLoaded):
        asyncio.run(entries.unload("starter"))
    with pytest.raises(ModelNotFound):
        asyncio.run(entries.unload("parrot"))
    load(entries, "starter", adapter_path="pirate")
    with pytest.raises(ModelNotLoaded):
        asyncio.run(entries.unload("starter:sql"))
    engine.running = 1
    with pytest.raises(ModelBusy, match=r"^starter is answering"):
        asyncio.run(entries.unload("starter"))
    engine.running = 0
    assert adapter_of(entries.spec("starter")) == "pirate"
    assert asyncio.run(entries.unload("starter:pirate")) == 10_000_000
    assert entries.loaded() == ()
    load(entries, "starter:sql")
    assert entries.spec("starter").adapters == ()


def test_a_folder_and_a_hub_id_can_be_loaded_where_paths_are_free(engine: LoadingEngine, tmp_path: Path) -> None:
    """A1: by the id that was typed, and its offered name means the same; elsewhere they do not exist."""
    folder = tmp_path / "Ünï models" / "100%.v1@home"
    shutil.copytree(STARTER, folder)
    entries = over(engine)
    shown = {str(folder): str(folder), "some-org/model.v1": "some-org/model.v1", STARTER: "starter"}
    for model_id, name in shown.items():
        assert load(entries, model_id, adapter_path=str(ADAPTERS / "pirate")).model_id == name
        assert adapter_of(entries.spec(model_id)) == "pirate"
    assert [entry.model_id for entry in entries.loaded()] == list(shown.values())
    assert adapter_of(entries.spec("starter")) == "pirate"
    assert asyncio.run(entries.unload(str(folder))) == 10_000_000
    closed = over(LoadingEngine(), free_paths=False)
    for model_id in (str(folder), "some-org/model.v1"):
        with pytest.raises(ModelNotFound):
            closed.spec(model_id, must_be_loaded=False)
    with pytest.raises(ModelNotFound):
        closed.spec("starter", str(ADAPTERS / "nowhere" / "pirate"), must_be_loaded=False)


def test_nobody_learns_where_things_are(engine: LoadingEngine) -> None:
    """S1: what is wrong is told by names, not by paths of the machine."""
    entries = over(engine, free_paths=False)
    load(entries, "starter")
    asks: list[Callable[[], object]] = [
        lambda: entries.spec("starter", "parrot"),
        lambda: entries.spec("parrot"),
        lambda: entries.spec("starter:parrot"),
    ]
    for ask in asks:
        with pytest.raises(ModelNotFound) as caught:
            ask()
        assert str(ROOT) not in str(caught.value)


def test_an_adapter_of_a_typed_base_can_be_named_behind_it(engine: LoadingEngine, tmp_path: Path) -> None:
    """A1, A4: once it is loaded, as for those on offer."""
    mine = tmp_path / "adapters" / "mine"
    shutil.copytree(ADAPTERS / "pirate", mine)
    entries = over(engine, data_dir=tmp_path)
    load(entries, "some-org/model")
    assert adapter_of(entries.spec("some-org/model:mine")) == "mine"
    with pytest.raises(ModelNotFound):
        entries.spec("some-org/model:parrot")


def test_two_bases_never_share_a_default(engine: LoadingEngine) -> None:
    """A1."""
    config = load_config()
    entries = over(engine, models={**config.models, "b/c": ModelEntry("b/c", "b/c", adapters=(str(ADAPTERS),))})
    load(entries, "starter", adapter_path="pirate")
    load(entries, "b/c", adapter_path="sql")
    assert [(entry.model_id, adapter_of(entry.spec)) for entry in entries.loaded()] == [
        ("starter", "pirate"),
        ("b/c", "sql"),
    ]
    assert entries.base("b/c").adapters == ()
    with pytest.raises(InvalidRequest, match="names an adapter"):
        entries.base("b/c:sql")
