"""P4: settings saved by name, each person's own, beside the built-in ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from playground.config import load_config
from playground.errors import InvalidRequest, NotFound, NotPermitted
from playground.services import presets as presets_module
from playground.services.history import History
from playground.services.presets import MODELS_OWN, OwnPresets
from playground.store import Store
from playground.types import Caller, GenerationSettings
from playground.ui import texts

ME = Caller("guest 1", "guest")
ANNA, BERT = Caller("user anna", "user"), Caller("user bert", "user")
WARM = GenerationSettings(temperature=1.3, stop=("\n\n", "ü"), seed=7, logit_bias=((5, -1.0),))


def presets(store: Store | None = None, **changes: Any) -> OwnPresets:
    store, config = store or Store.in_memory(), replace(load_config(), **changes)
    return OwnPresets(store.presets, config, History(store, config).owner)


def test_a_preset_is_saved_loaded_and_deleted_by_name() -> None:
    """P4: beside Deterministic, Balanced and Creative; saving again replaces it."""
    own = presets()
    assert own.save(ME, "  Warm\n one ", GenerationSettings()) == "Warm one"
    assert own.save(ME, "Warm one", WARM) == "Warm one"
    assert own.own(ME) == {"Warm one": WARM}
    assert list(own.all(ME)) == ["Deterministic", "Balanced", "Creative", "Warm one"]
    assert own.delete(ME, "Warm one") == WARM
    assert own.own(ME) == {}
    for name in ("Warm one", "Balanced"):
        with pytest.raises(NotFound):
            own.delete(ME, name)


def test_presets_last(tmp_path: Path) -> None:
    """P4: with every setting, and which of them comes first."""
    store = Store.open(tmp_path / "history")
    presets(store).save(ME, "Warm", WARM)
    presets(store).set_first(ME, "Warm")
    store.close()
    store = Store.open(tmp_path / "history")
    try:
        assert presets(store).all(ME)["Warm"] == WARM
        assert presets(store).first(ME) == "Warm"
    finally:
        store.close()


@pytest.mark.parametrize("name", ["Balanced", "balanced", " DETERMINISTIC ", MODELS_OWN, "model's  OWN"])
def test_built_in_presets_cannot_be_replaced(name: str) -> None:
    """P4: however their names are written."""
    own = presets()
    before = dict(own.all(ME))
    with pytest.raises(InvalidRequest, match="built-in"):
        own.save(ME, name, WARM)
    assert own.all(ME) == before


def test_the_name_of_the_models_own_settings_is_the_one_on_the_pages() -> None:
    """P4: else somebody could save a preset that looks like it."""
    assert MODELS_OWN == texts.MODELS_OWN


@pytest.mark.parametrize("name", ["", " \n", "x" * 61, "a\0b", "\x1b[2J", "\ud800"])
def test_a_name_that_cannot_be_shown_is_refused(name: str) -> None:
    """P4: empty, too long, control characters, half of a character."""
    own = presets()
    with pytest.raises(InvalidRequest):
        own.save(ME, name, WARM)
    assert own.own(ME) == {}


@pytest.mark.parametrize("name", ["x" * 60, "ü/…", "日本語", "👩‍👩‍👧", "__proto__", "<b>"])
def test_a_name_may_be_in_any_language(name: str) -> None:
    """P4."""
    own = presets()
    assert own.save(ME, name, WARM) == name
    assert own.all(ME)[name] == WARM


def test_pages_begin_with_the_chosen_preset_while_it_is_there() -> None:
    """P4: saved, built in, or the model's own; the app's own choice where there is none."""
    own = presets()
    assert own.first(ME) == ""
    own.save(ME, "Warm", WARM)
    for name in ("Warm", "Creative", MODELS_OWN, "", "Warm"):
        own.set_first(ME, name)
        assert own.first(ME) == name
    with pytest.raises(NotFound, match="no preset 'Cold'"):
        own.set_first(ME, "Cold")
    own.delete(ME, "Warm")
    assert own.first(ME) == ""


def test_each_person_has_their_own_where_they_are_told_apart() -> None:
    """S2."""
    own = presets(auth={"anna": "x", "bert": "y"})
    own.save(ANNA, "Warm", WARM)
    own.set_first(ANNA, "Warm")
    assert own.own(BERT) == {}
    assert own.first(BERT) == ""
    with pytest.raises(NotFound):
        own.delete(BERT, "Warm")
    with pytest.raises(NotFound):
        own.set_first(BERT, "Warm")
    with pytest.raises(NotPermitted):
        own.save(Caller("address 10.0.0.1", "address", address="10.0.0.1"), "Warm", WARM)
    assert own.own(ANNA) == {"Warm": WARM}


def test_there_is_an_end_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """S2: one person cannot fill the file; what is there can still be saved over."""
    monkeypatch.setattr(presets_module, "MOST_PRESETS", 2)
    own = presets()
    own.save(ME, "a", WARM)
    own.save(ME, "b", WARM)
    with pytest.raises(InvalidRequest, match="2 presets already"):
        own.save(ME, "c", WARM)
    assert own.save(ME, "b", GenerationSettings()) == "b"
    own.delete(ME, "a")
    assert own.save(ME, "c", WARM) == "c"


def test_a_preset_of_a_later_built_ins_name_stays_deletable() -> None:
    """P4: the built-in one is shown, and nothing that was saved is in the way."""
    store = Store.in_memory()
    store.presets.save("local", "Balanced", WARM)
    own = presets(store)
    assert own.all(ME)["Balanced"] == load_config().presets["Balanced"]
    assert own.delete(ME, "Balanced") == WARM


def test_many_guests_cannot_fill_a_shared_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """S2: a new cookie is a new owner; those who have a name are not crowded out, and what is there can be saved over."""
    monkeypatch.setattr(presets_module, "MOST_TOGETHER", 3)
    own = presets(host="0.0.0.0", free_paths=False)
    guests = [Caller(f"guest {number}", "guest") for number in range(4)]
    for guest in guests[:2]:
        own.save(guest, "mine", GenerationSettings())
    own.set_first(guests[2], MODELS_OWN)
    with pytest.raises(InvalidRequest, match="no more room for presets"):
        own.save(guests[3], "mine", GenerationSettings())
    with pytest.raises(InvalidRequest, match="no more room for presets"):
        own.set_first(guests[3], MODELS_OWN)
    own.save(guests[0], "mine", GenerationSettings(top_k=3))
    own.save(ANNA, "mine", GenerationSettings())
    with pytest.raises(InvalidRequest, match="10,000 bytes"):
        own.save(ANNA, "long", GenerationSettings(system_prompt="x" * 10_000))
    presets().save(ANNA, "long", GenerationSettings(system_prompt="x" * 10_000))
