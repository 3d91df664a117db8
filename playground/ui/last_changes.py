"""Events whose last change counts, as a page is told of them: none of their listeners sets off another one.

What changes while a listener of mode ``always_last`` is busy has it run once more afterwards. Gradio's page does that by
sending the whole event again, to everybody who listens to it: two such listeners of one event, begun a moment apart, find
each other busy for ever, and the page asks the server several times a second although nobody does anything. So each of them
gets a relay of its own, a listener that does nothing on the page, and runs after that: only it is run again then.
"""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]
_NOTHING: Config = {
    "inputs": [], "outputs": [], "js": "() => []", "backend_fn": False, "queue": False, "trigger_mode": "multiple",
    "cancels": [],
}  # fmt: skip


def apart(config: Config) -> Config:
    """A page's configuration ``config``, with those of its listeners that may wait behind relays; the given one stays.

    One that is told what has happened (``collects_event_data``) stays where it is: a relay does not pass that on.
    """
    listeners = config["dependencies"]
    free = max((one["id"] for one in listeners), default=0) + 1
    relays = {one["id"]: free + number for number, one in enumerate(filter(_may_wait, listeners))}
    told = [part for one in listeners for part in _behind(one, relays.get(one["id"]))]
    pages = {name: _with_relays(page, relays) for name, page in config["page"].items()}
    return {**config, "dependencies": told, "page": pages}


def _may_wait(listener: Config) -> bool:
    waits = listener["trigger_mode"] == "always_last" and listener["backend_fn"] and not listener["collects_event_data"]
    return bool(waits) and listener["trigger_after"] is None


def _behind(listener: Config, relay: int | None) -> list[Config]:
    if relay is None:
        return [listener]
    first = {**listener, **_NOTHING, "id": relay}
    return [first, {**listener, "targets": [(None, "then")], "trigger_after": relay}]


def _with_relays(page: Config, relays: dict[int, int]) -> Config:
    """Gradio sends a page the listeners that it lists for it."""
    listed = page["dependencies"]
    return {**page, "dependencies": [*listed, *(relays[one] for one in listed if one in relays)]}
