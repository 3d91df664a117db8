"""Who is signed in, at the end of the bar, and the way in or out. Pure functions."""

from __future__ import annotations

from playground.types import Caller
from playground.ui import texts
from playground.ui.safe_text import escape

_LONGEST = 18


def person(caller: Caller, may_sign_in: bool) -> str:
    """The name with "Sign out" for whoever has signed in, else "Sign in" where that is possible, else nothing.

    Signing out is a form that is posted, so that no link or image of another page can do it.
    """
    if caller.kind == "user":
        return f'<div class="person">{_name(caller)}{_sign_out()}</div>'
    if not may_sign_in:
        return ""
    help_ = escape(texts.SIGN_IN_HELP)
    return f'<div class="person"><a class="plain" href="/login" title="{help_}">{texts.SIGN_IN}</a></div>'


def _name(caller: Caller) -> str:
    name = caller.name or caller.id.partition(" ")[2]
    shown = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
    may = f" {texts.OPERATOR}" if caller.admin else ""
    return f'<span class="who" title="{escape(texts.SIGNED_IN.format(name=name) + may)}">{escape(shown)}</span>'


def _sign_out() -> str:
    return f'<form method="post" action="/logout"><button class="plain">{texts.SIGN_OUT}</button></form>'
