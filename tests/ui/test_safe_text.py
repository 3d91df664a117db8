"""What a model, a file or a person wrote is shown, never obeyed."""

from __future__ import annotations

import html
import re

import pytest

from playground.ui import safe_text

HOSTILE = (
    "<script>alert(1)</script>",
    '<img src="http://evil.example/a.png" onerror=alert(1)>',
    "<style>body{display:none}</style>",
    "text `code` <b onclick=x>bold</b>",
    "\\`<img src=x>\\`",
    "``<img>` <img src=x>",
    "- item\n\n        <img src=x>",
    "> ```\n<img src=x>\n> ```",
    "```\n```<img src=x>",
    "~~~\n</code></pre><script>x</script>\n~~~\n<script>y</script>",
    "[a]: <javascript:x>\n![a]",
    "&lt;script&gt; &amp;",
    "\\<script>",
)


def outside_code(markdown: str) -> str:
    """``markdown`` without our own fences and code elements."""
    without_fences = re.sub(r"^(`{3,})[^\n`]*\n.*?\n\1$", "", markdown, flags=re.S | re.M)
    return re.sub(r"<code>[^<]*</code>", "", without_fences)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_tag_and_no_image_survives_outside_of_code(text):
    """S3: whatever a model writes, no HTML and no image reaches the page's Markdown."""
    shown = outside_code(safe_text.safe_markdown(text))
    assert "<" not in shown
    assert "![" not in shown


def test_markdown_and_code_keep_their_meaning():
    """P5: formatting stays; fenced and indented code becomes a fence with its language; code spans stay code."""
    shown = safe_text.safe_markdown("**bold** and `a < b`\n\n```python\nif a < b:\n```\n\n    x < y\n\ndone")
    assert "**bold** and <code>a &lt; b</code>" in shown
    assert "```python\nif a < b:\n```" in shown
    assert "```text\nx < y\n" in shown


def test_code_that_holds_backticks_gets_a_longer_fence():
    """S3: code cannot end its own fence."""
    assert safe_text.safe_markdown("~~~\n```\n<b>\n~~~") == "````text\n```\n<b>\n````"


def test_an_open_fence_is_closed_while_the_answer_streams():
    """P3, P5: half an answer is shown as code from its first line on."""
    assert safe_text.safe_markdown("```python\ndef f(") == "```python\ndef f(\n```"


def test_diagrams_stay_text():
    """S3: the page would draw mermaid blocks, with whatever they link to."""
    assert safe_text.safe_markdown("```mermaid\ngraph\n```") == "```text\ngraph\n```"


@pytest.mark.parametrize(
    ("answer", "language"), [("def add(a, b):\n    return a + b", "python"), ("SELECT name FROM users;", "sql")]
)
def test_a_code_answer_without_a_fence_is_shown_as_code(answer, language):
    """P5: an answer of the Code Generation use case lands highlighted."""
    assert safe_text.code_markdown(answer) == f"```{language}\n{answer}\n```"


def test_a_code_answer_with_a_fence_keeps_its_prose():
    """P5: only what is code is shown as code."""
    assert safe_text.code_markdown("Here:\n```python\nx\n```").startswith("Here:")


def test_html_values_cannot_carry_tags_attributes_or_template_marks():
    """S3: the page evaluates ``${…}`` in HTML values, so these marks are escaped as well."""
    escaped = safe_text.escape("<b a=\"x\" b='y'>${alert(1)}`")
    assert not set(escaped) & set("<>\"'$`{")
    assert html.unescape(escaped) == "<b a=\"x\" b='y'>${alert(1)}`"
