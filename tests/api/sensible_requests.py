"""Hooks for schemathesis: half of the names in a request become names that there are, and valid lengths become short.

So that thousands of requests reach the engine and are answered in minutes. What is wrong with a request stays wrong. Its
command line loads this file through SCHEMATHESIS_HOOKS.
"""

from __future__ import annotations

import zlib
from typing import Any

import schemathesis

FEW = 6
MOST = 4096
LENGTHS = ("max_tokens", "max_completion_tokens", "max_length")
LENGTH_AT = {
    "/generate": "max_length",
    "/v1/chat/completions": "max_tokens",
    "/v1/completions": "max_tokens",
    "/api/inference/generate": "max_tokens",
    "/api/inference/compare": "max_tokens",
    "/api/inference/jobs": "max_tokens",
}
MODELS = ("starter", "starter:pirate", "starter:sql@0.5", "starter:json@-1")
ADAPTERS = ("pirate", "sql", "json")
NAMES = {
    "model": MODELS,
    "model_id": MODELS,
    "base_model_id": MODELS,
    "fine_tuned_model_id": MODELS,
    "adapter_path": ADAPTERS,
    "conversation_id": ("trial", "a team/one", "naïve?"),
}


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Change the body, the requests and sources within it, and the model in the path."""
    if isinstance(case.body, dict):
        rename(case.body)
        if case.method == "POST" and case.operation.path in LENGTH_AT:
            shorten(case.body, LENGTH_AT[case.operation.path])
    if case.path_parameters:
        rename(case.path_parameters)


def rename(part: Any) -> None:
    """Give known names for some of the others; which ones is decided by what they are."""
    if isinstance(part, list):
        for item in part:
            rename(item)
    if isinstance(part, dict):
        for name, value in part.items():
            chance = zlib.crc32(value.encode("utf-8", "replace")) if isinstance(value, str) and value.strip() else 1
            if name in NAMES and chance % 2 == 0:
                part[name] = NAMES[name][chance // 2 % len(NAMES[name])]
            else:
                rename(value)


def shorten(body: dict[str, Any], field: str) -> None:
    """Ask for few tokens where more are validly asked for, or no number is named."""
    for name in LENGTHS:
        if type(body.get(name)) is int and FEW < body[name] <= MOST:
            body[name] = FEW
    inner = body.get("requests")
    if isinstance(inner, list):
        for part in inner:
            if isinstance(part, dict):
                shorten(part, field)
    elif body and not any(body.get(name) is not None for name in LENGTHS):
        body[field] = FEW
