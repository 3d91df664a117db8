"""`POST /load_model`: the events that `transformers chat` reads before it asks anything."""

from __future__ import annotations

import json
import time

import pytest

from playground.errors import OutOfMemory
from playground.types import LoadedAdapter, ResidentInfo, Status
from tests.api.fake_engine import FakeEngine


def loaded(spec) -> ResidentInfo:
    """What is there once ``spec`` is."""
    adapters = tuple(LoadedAdapter("pirate", path, "0", 1, False, True) for path, _ in spec.adapters)
    known = {"path": spec.base, "quantization": "none", "dtype": "float32", "device": "cpu", "adapters": adapters}
    return ResidentInfo(spec.base, parameters=1, bytes=1, context_window=9, loaded_at=0, **known)


@pytest.fixture
def warm(client):
    """Ask for a model; the events that come back."""

    def send(model: str) -> list[dict]:
        response = client.post("/load_model", json={"model": model})
        assert response.headers["content-type"].startswith("text/event-stream"), response.text
        return [json.loads(line[6:]) for line in response.text.split("\n\n") if line]

    return send


def test_a_model_is_loaded_once_and_says_so(warm, fake: FakeEngine):
    """A4: `loading` with a bar where there is a figure, then `ready`; the second time it was there already."""

    def load(spec, report):
        report(Status("loading", "reading weights", 0.5))
        time.sleep(0.05)
        info = loaded(spec)
        fake.residents = lambda: (info,)
        return info

    fake.load = load
    *loading, last = warm("starter:pirate")
    assert {"stage": "weights", "progress": {"current": 50, "total": 100}}.items() <= loading[0].items()
    assert all(event["status"] == "loading" for event in loading)
    assert last == {"status": "ready", "model": "starter:pirate", "cached": False}
    assert warm("starter:pirate") == [{"status": "ready", "model": "starter:pirate", "cached": True}]
    assert warm("starter") == [{"status": "ready", "model": "starter", "cached": True}]
    assert warm("starter:json")[-1] == {"status": "ready", "model": "starter:json", "cached": False}


def test_a_failed_load_ends_with_its_sentence(warm, fake: FakeEngine):
    """G6: the status is sent already, so the reason is the last event; a bug's own words stay in the log."""
    for failure, said in (
        (OutOfMemory("No room.", "Unload one."), "No room. Unload one."),
        (RuntimeError("secret"), "log"),
    ):

        def load(spec, report, failure=failure):
            raise failure

        fake.load = load
        last = warm("starter")[-1]
        assert (last["status"], last["model"]) == ("error", "starter")
        assert said in last["message"]
        assert "secret" not in last["message"]


def test_an_unknown_model_is_404(client, fake: FakeEngine):
    """A4: nothing is looked for on a disk or a hub."""
    for model in ("parrot", "starter:parrot", "/etc"):
        assert client.post("/load_model", json={"model": model}).status_code == 404
    assert client.post("/load_model", json={}).status_code == 422
