"""What is said of a prompt while it is written: its size, and how the model will read it. Pure functions."""

from __future__ import annotations

from playground.types import RenderedPrompt
from playground.ui.safe_text import escape
from playground.ui.views.figures import percent, plural

PREVIEW_CHARACTERS = 8000
PREVIEW_TOKENS = 1000
LONGEST_TOKEN = 256  # characters; no usual vocabulary has a longer one


def prompt_counter(
    characters: int, tokens: int | None = None, used: int | None = None, window: int | None = None
) -> str:
    """Characters · tokens · share of the context, with a small bar. Without a loaded model, characters only."""
    said = [plural(characters, "character")]
    if tokens is None:
        said.append('<span class="muted">tokens are counted once this model is loaded</span>')
        return f'<p class="counter">{" · ".join(said)}</p>'
    said.append(plural(tokens, "token"))
    if not window:
        return f'<p class="counter">{" · ".join(said)}</p>'
    share = (used if used is not None else tokens) / window
    over = share > 1
    fits = percent(share) if share >= 0.01 or share == 0 else "under 1 %"
    said.append(f"{fits} of the context")
    title = f"{used if used is not None else tokens:,} of {window:,} tokens, template included"
    bar = f'<span class="bar known{" over" if over else ""}" style="--share:{min(share, 1.0):.3f}"></span>'
    warning = ' <b class="error-line">too long for this model</b>' if over else ""
    return f'<p class="counter" title="{escape(title)}">{" · ".join(said)}{warning}{bar}</p>'


def is_hopeless(characters: int, window: int) -> bool:
    """True when so much text cannot fit ``window`` tokens, whatever it says: counting it would take long for nothing."""
    return characters > window * LONGEST_TOKEN


def hopeless_counter(characters: int, window: int) -> str:
    """The counter of a prompt that is far too long to be counted."""
    return (
        f'<p class="counter">{plural(characters, "character")} · <b class="error-line">too long for this model</b>, '
        f'which reads {window:,} tokens<span class="bar known over" style="--share:1"></span></p>'
    )


def rendered_preview(rendered: RenderedPrompt | None, reason: str = "") -> str:
    """The prompt as the model reads it, and its token ids; ``reason`` says why there is none."""
    if rendered is None:
        return f'<p class="muted">{escape(reason)}</p>'
    text, ids = rendered.text, rendered.token_ids
    cut = f"\n… {len(text) - PREVIEW_CHARACTERS:,} more characters" if len(text) > PREVIEW_CHARACTERS else ""
    more = f" … {len(ids) - PREVIEW_TOKENS:,} more" if len(ids) > PREVIEW_TOKENS else ""
    listed = " ".join(str(i) for i in ids[:PREVIEW_TOKENS])
    notice = f'<p class="notice">{escape(rendered.notice)}</p>' if rendered.notice else ""
    return (
        f'{notice}<pre class="rendered" tabindex="0">{escape(text[:PREVIEW_CHARACTERS])}{cut}</pre>'
        f'<p class="muted">{plural(len(ids), "token id")}</p><pre class="ids" tabindex="0">{listed}{more}</pre>'
    )
