"""What a program calls a model: bases, adapters on them, and their strength."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from playground.config import ROOT, ModelEntry, load_config
from playground.errors import InvalidRequest, ModelNotFound
from playground.services.assembly import Services
from playground.services.models import Models
from playground.services.names import Named, Names
from playground.types import ModelSpec
from tests.api.loading_engine import LoadingEngine

PIRATE = ROOT / "assets" / "adapters" / "pirate"


def names(engine: LoadingEngine | None = None, **changes: Any) -> Names:
    return Names(Models(engine or LoadingEngine(), replace(load_config(), **changes)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("starter", Named("starter")),
        ("starter:pirate", Named("starter", "pirate")),
        ("starter:pirate@0.5", Named("starter", "pirate", 0.5)),
        ("starter:pirate@-1", Named("starter", "pirate", -1.0)),
        ("starter:pirate@1e-1", Named("starter", "pirate", 0.1)),
    ],
)
def test_a_name_stands_for_base_adapter_and_strength(name: str, named: Named) -> None:
    """A4."""
    assert names().resolve(name) == named


@pytest.mark.parametrize("name", ["starter:pirate@", "starter:pirate@x", "starter:pirate@nan", "starter:pirate@inf",
                                  "starter:parrot", "starter:parrot@0.5", "STARTER", "starter@", "@1", ""])  # fmt: skip
def test_an_unknown_name_is_refused_with_those_that_there_are(name: str) -> None:
    """A4: never answered by something near it."""
    with pytest.raises(ModelNotFound):
        names().resolve(name)


def test_a_strength_needs_an_adapter_and_has_bounds() -> None:
    """A4: the base has no strength."""
    with pytest.raises(InvalidRequest, match="no adapter"):
        names().resolve("starter@0.5")
    with pytest.raises(InvalidRequest, match=r"'starter:pirate@101' names the strength 101\. .* between −100 and 100"):
        names().spec("starter:pirate@101")  # by its name, not by the folder where it lies on the server
    assert names().spec("starter:pirate@-100").adapters[0][1] == -100


def test_names_with_every_kind_of_character(tmp_path: Path) -> None:
    """A4: a folder's own name is the adapter's: spaces, dots, @, : and letters of other scripts; the longest match wins."""
    for adapter in ("v1.5 final", "run@0.5", "pirate@2", "船", "a:b"):
        shutil.copytree(PIRATE, tmp_path / adapter)
    config = load_config()
    odd = names(
        adapters=(str(tmp_path),),
        models={**config.models, "Some Org/mödel v1.5@main": ModelEntry("Some Org/mödel v1.5@main", "a/b")},
    )
    for adapter in ("v1.5 final", "run@0.5", "pirate@2", "船", "a:b"):
        assert odd.resolve(f"starter:{adapter}") == Named("starter", adapter)
        assert odd.resolve(f"starter:{adapter}@0.25") == Named("starter", adapter, 0.25)
        assert odd.resolve(f"Some Org/mödel v1.5@main:{adapter}").adapter == adapter
    assert odd.resolve("Some Org/mödel v1.5@main") == Named("Some Org/mödel v1.5@main")


def test_what_is_in_memory_has_a_name_with_its_adapters(tmp_path: Path) -> None:
    """A4: also a base that was typed on the page."""
    shutil.copytree(PIRATE, tmp_path / "adapters" / "mine")
    engine = LoadingEngine()
    found = names(engine, data_dir=tmp_path)
    with pytest.raises(ModelNotFound):
        found.resolve("org/typed:mine")
    engine.load(ModelSpec("org/typed"))
    assert found.resolve("org/typed:mine") == Named("org/typed", "mine")
    assert found.spec("org/typed:mine").adapters == ((str(tmp_path / "adapters" / "mine"), 1.0),)


def test_what_is_on_offer_is_looked_up_once_for_many_requests(tmp_path: Path) -> None:
    """A4: not for what is new, nor for what nobody has configured: an unknown name is looked for each time."""
    shutil.copytree(PIRATE, tmp_path / "first")
    known = names(adapters=(str(tmp_path),))
    looked: list[str] = []
    resolve = known.resolve
    known.resolve = lambda name: (looked.append(name), resolve(name))[1]  # type: ignore[method-assign]
    for _ in range(3):
        assert known.spec("starter:first@0.5").adapters == ((str(tmp_path / "first"), 0.5),)
        with pytest.raises(ModelNotFound):
            known.spec("starter:second")
    assert looked == ["starter:first@0.5", *["starter:second"] * 3]
    shutil.copytree(PIRATE, tmp_path / "second")
    assert known.spec("starter:second").adapters == ((str(tmp_path / "second"), 1.0),)


def test_a_runs_checkpoint_is_a_name_of_its_base_also_at_a_strength() -> None:
    """A4, I1: /v1 takes what the page shows; a run without an adapter, and what is no run, is no name."""
    services = Services.over(LoadingEngine(), load_config())  # type: ignore[arg-type]
    found, label = services.names, "pirate-overfit/checkpoint-50"
    assert found.resolve(f"starter:{label}") == Named("starter", label)
    assert found.resolve(f"starter:{label}@0.5") == Named("starter", label, 0.5)
    assert found.spec(f"starter:{label}@0.5").adapters == ((str(PIRATE.parent / label), 0.5),)
    assert f"starter:{label}" not in found.all()
    for unknown in ("starter:sql-incomplete", "starter:pirate-overfit/checkpoint-51", f"nothing:{label}"):
        with pytest.raises(ModelNotFound):
            found.resolve(unknown)
