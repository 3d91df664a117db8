"""Conversations as the app makes them, for storing."""

from __future__ import annotations

from typing import Any

from playground.conversation import Conversation, Reply, Turn, new_id
from playground.types import GenerationSettings, GenerationStats, ModelSpec, Provenance

SETTINGS = GenerationSettings(stop=("END",), seed=2**63 - 1, logit_bias={7: -1.5}, system_prompt="Be brief.")


def provenance(**changes: Any) -> Provenance:
    values: dict[str, Any] = {
        "base": "starter", "revision": "", "adapters": (("pirate", "ab" * 32, 0.5),), "quantization": "none",
        "dtype": "float32", "device": "cpu", "template": "chat", "settings": SETTINGS, "seed": 2**63 - 1,
        "versions": {"torch": "2.13.0"}, "base_hash": "cd", "template_hash": "ef", "exact": True,
    }  # fmt: skip
    return Provenance(**{**values, **changes})


def reply(base: str = "starter", *adapters: tuple[str, float], **changes: Any) -> Reply:
    values: dict[str, Any] = {
        "finish_reason": "stop", "stats": GenerationStats(9, 3, 1.5, 0.25), "notices": ("Two turns were left out.",),
        "provenance": provenance(), "token_ids": (1, 2, 3), "prompt_hash": "12", "thought_s": 0.5,
        "chat_template_kwargs": {"enable_thinking": False, "deep": [{"x": None}]},
    }  # fmt: skip
    return Reply(ModelSpec(base, adapters), **{**values, **changes})


def talk(
    *contents: str, owner: str = "local", at: float = 100.0, made: Reply | None = None, **values: Any
) -> Conversation:
    """A conversation on one path: the user speaks first, and ``made`` (the starter with a pirate) answers."""
    made = made or reply("starter", ("pirate", 0.5))
    begun = Conversation(values.pop("id", new_id()), owner, at, at, **values)
    for number, content in enumerate(contents):
        role, by = ("assistant", made) if number % 2 else ("user", None)
        begun = begun.with_turns([Turn(new_id(), begun.leaf, role, content, at + number, by)], at)  # type: ignore[arg-type]
    return begun
