"""Who is behind a click on a page: the caller whom the gate has found out, and what that caller may do here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from playground.config import AppConfig, is_loopback
from playground.errors import NotPermitted
from playground.types import Caller
from playground.ui import texts

if TYPE_CHECKING:
    import gradio as gr


def caller_of(visitor: gr.Request) -> Caller:
    """The caller that the gate has put into the request's scope; without a gate each open page is a guest of its own.

    Gradio keeps the request that has put an event into its queue, so this holds for as long as the event runs.
    """
    scope = getattr(getattr(visitor, "request", None), "scope", {})
    found = scope.get("state", {}).get("caller")
    return found if isinstance(found, Caller) else Caller(f"guest {visitor.session_hash}", "guest")


def may_change_for_all(config: AppConfig, caller: Caller) -> bool:
    """True for whoever may do what all others notice, such as unloading a model.

    On a machine of one's own that is everybody, until an admin key says that it is not, but nobody whom a proxy has let in.
    """
    elsewhere = caller.address and not is_loopback(caller.address)
    return caller.admin or not (config.is_shared or config.admin_key or elsewhere)


def refuse_change_for_all(config: AppConfig, caller: Caller) -> None:
    """Raise `NotPermitted` unless `may_change_for_all`: a page's buttons may be hidden, but its routes can be called."""
    if not may_change_for_all(config, caller):
        raise NotPermitted(texts.OPERATORS_ONLY, texts.OPERATORS_KEY)
