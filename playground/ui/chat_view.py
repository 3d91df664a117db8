"""Full Chat View: the Full Chat tab over the whole page. Any tab may place a button that opens it."""

from __future__ import annotations

import gradio as gr

from playground.ui import texts
from playground.ui.wiring import show_html

_CLOSE = '<button type="button" class="plain outlined" data-chat-view="close">Close</button>'


def open_button(elem_id: str = "") -> gr.HTML:
    """Make a button that opens it; the script of the pages does the rest, and returns to where one came from."""
    button = f'<button type="button" class="plain outlined" data-chat-view="open">{texts.CHAT_VIEW}</button>'
    return show_html(button, elem_id=elem_id or None, elem_classes="open-chat-view")


def header() -> gr.HTML:
    """Make its head, which is seen only while it is open: the title, and the way back."""
    title = f'<h2 id="chat-view-title">{texts.CHAT_VIEW}</h2>'
    return show_html(f'<div class="chat-view-head">{title}{_CLOSE}</div>', elem_id="chat-view-head")


def close_button() -> gr.HTML:
    """Make one more way back, for the end of the page."""
    return show_html(_CLOSE, elem_classes="close-chat-view")
