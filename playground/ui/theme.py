"""How the pages look: system fonts, one accent colour, light and dark; nothing is fetched from anywhere."""

from __future__ import annotations

from typing import Any

import gradio as gr

from playground.config import ROOT

_SANS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")


def build_theme() -> gr.Theme:
    """The theme: teal as the one accent, warm greys around it, contrast AA in both modes."""
    return gr.themes.Base(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="stone",
        font=_SANS,
        font_mono=_MONO,
        radius_size="md",
        text_size="md",
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="#141312",
        background_fill_primary="white",
        background_fill_primary_dark="#1d1b1a",
        background_fill_secondary="*neutral_100",
        background_fill_secondary_dark="#262422",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_title_text_weight="500",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_200",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        body_text_color="*neutral_900",
        body_text_color_dark="*neutral_100",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        border_color_primary="*neutral_300",
        border_color_primary_dark="#45403c",
        input_background_fill="white",
        input_background_fill_dark="#161514",
        input_border_width="1px",
        input_border_color="*neutral_300",
        input_border_color_dark="#57514c",
        input_border_color_focus="*primary_600",
        input_border_color_focus_dark="*primary_400",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
        button_secondary_background_fill="white",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="#262422",
        button_secondary_background_fill_hover_dark="#35312e",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="#57514c",
        button_secondary_text_color="*neutral_900",
        button_secondary_text_color_dark="*neutral_100",
        button_border_width="1px",
        checkbox_background_color_selected="*primary_700",
        checkbox_background_color_selected_dark="*primary_600",
        checkbox_border_color_selected="*primary_700",
        checkbox_border_color_selected_dark="*primary_600",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
        link_text_color_hover="*primary_800",
        link_text_color_hover_dark="*primary_200",
        link_text_color_visited="*primary_700",
        link_text_color_visited_dark="*primary_300",
        slider_color="*primary_600",
        slider_color_dark="*primary_500",
    )


# In the order in which they are read: what the pages share first.
_PARTS = ("playground", "sidebar", "chat", "runs", "samples", "pairs", "inference", "batch")


def _assets(kind: str) -> str:
    """The pages' own files of one kind, one after another."""
    files = (ROOT / "assets" / kind / f"{name}.{kind}" for name in _PARTS)
    return "\n".join(path.read_text(encoding="utf-8") for path in files if path.is_file())


def launch_options(upload_bytes: int = 0) -> dict[str, Any]:
    """The parameters of `Blocks.launch` that belong to the pages: look, scripts, and what Gradio should leave out.

    ``upload_bytes`` is the size of the largest file that may be dropped on a page; 0 where none is taken.
    """
    css = _assets("css")
    script = _assets("js")
    return {
        "theme": build_theme(),
        "css": css,
        "head": f"<script>{script}</script>",
        "footer_links": [],  # Gradio's own links lead out of the product
        "run_history": False,  # it would keep prompts in the browser's storage
        "state_session_capacity": 500,  # the oldest pages are forgotten; Gradio keeps ten thousand of them
        "max_file_size": max(upload_bytes, 1),
        "show_error": False,  # every handler shows its own sentence
        "ssr_mode": False,
    }
