"""The operator's own say on what may be asked: a function, named in the configuration, that may refuse a text."""

from __future__ import annotations

import importlib
import inspect
import logging
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from playground.errors import ConfigError, ContentRefused
from playground.types import GenerationRequest

Check = Callable[[list[str]], str | None]
_SHAPE = "Write it as package.module:function; the function takes a list of texts and returns None or a reason."
_LONGEST_REASON = 300
_LOG = logging.getLogger(__name__)


class ContentFilter:
    """Asks ``check`` about the texts that a person has written into a request: all of them, before any work is done.

    ``check`` is given the texts in the order in which the model reads them and returns None or "" to let them pass, or a
    reason in a sentence that the person is shown. It may take its time: whoever calls from an event loop calls `refuse` in
    a thread. Several threads may call at once. What goes wrong in it refuses the request: a filter that is broken lets
    nothing pass.
    """

    def __init__(self, check: Check) -> None:
        self._check = check

    @classmethod
    def named(cls, name: str) -> ContentFilter | None:
        """The filter that ``name`` ("package.module:function") imports, None for "". Raises `ConfigError`."""
        return cls(_imported(name)) if name else None

    def refuse(self, request: GenerationRequest) -> None:
        """Raise `ContentRefused` unless every text of ``request`` passes."""
        if request.prompt_ids:
            raise ContentRefused(
                "This server checks what is sent, and token ids cannot be checked.", "Send the prompt as text."
            )
        if reason := self._reason(list(texts_of(request))):
            raise ContentRefused(f"The text was refused: {reason}", "Change it and send it again.")

    def _reason(self, texts: list[str]) -> str:
        try:
            said: Any = self._check(texts)
        except Exception as error:  # whatever an operator's function raises
            # Where and what kind, but not its message: that may well hold the text.
            where = "".join(traceback.format_tb(error.__traceback__))
            _LOG.error("The content filter failed, and the request was refused: %s\n%s", type(error).__name__, where)
            return "it could not be checked."
        if said is not None and not isinstance(said, str):
            _LOG.error("The content filter returned %s, not None or a text; the request was refused", type(said))
            return "it could not be checked."
        reason = (said or "").strip()[:_LONGEST_REASON]
        return f"{reason}." if reason and reason[-1] not in ".!?…" else reason


def texts_of(request: GenerationRequest) -> Iterator[str]:
    """Every text that a person has written into ``request``, those for the template too; never an empty one."""
    texts = (
        request.settings.system_prompt,
        *(message.content for message in request.messages),
        request.prompt or "",
        request.prefill,
        *_texts_in(request.chat_template_kwargs),
    )
    return (text for text in texts if text.strip())


def _texts_in(value: Any) -> Iterator[str]:
    """The texts in what came as JSON, names included, however deep they lie."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            yield one
        elif hasattr(one, "items"):
            left += [part for pair in one.items() for part in pair]
        elif isinstance(one, (list, tuple)):
            left += one


def _imported(name: str) -> Check:
    module, _, function = name.partition(":")
    if not module or not function:
        raise ConfigError(f"content_filter is {name!r}.", _SHAPE)
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # importing runs the operator's code, which may raise anything
        said = f"{type(error).__name__}: {error}"
        raise ConfigError(f"content_filter {name!r} cannot be imported: {said}.", _SHAPE) from error
    if not callable(found):
        raise ConfigError(f"content_filter {name!r} is no function.", _SHAPE)
    if inspect.iscoroutinefunction(found):
        raise ConfigError(f"content_filter {name!r} is an async function.", "Write a plain one; it may take its time.")
    check: Check = found
    return check
