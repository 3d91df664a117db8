"""Whatever the engine raises, as something to show to a person."""

from __future__ import annotations

import logging

import torch

from playground.errors import EngineFailure, OutOfMemory, PlaygroundError

_log = logging.getLogger(__name__)


def ran_out(error: Exception) -> bool:
    """Whether memory ran out; torch has no exception of its own for the machine's, nor for that of Apple's GPU."""
    said = str(error)
    own = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return own or "can't allocate memory" in said or "MPS backend out of memory" in said


def explain(error: Exception) -> PlaygroundError:
    """``error`` as something to show: playground errors as they are, the rest named, logged and with a remedy."""
    if isinstance(error, PlaygroundError):
        return error
    _log.error("the engine failed on a request", exc_info=error)
    if ran_out(error):
        return OutOfMemory(
            "The device ran out of memory during this request.",
            "Shorten the prompt, ask for fewer tokens, or unload another model.",
        )
    first = next((line for line in str(error).splitlines() if line.strip()), "no details")
    return EngineFailure(
        f"The engine failed: {type(error).__name__}: {first[:200]}.",
        "Other answers are not affected. Try again; if it happens again, report it with the lines in the terminal.",
    )
