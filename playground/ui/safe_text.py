"""What comes from a model, a file or a person, made safe to show: no script, no style, nothing fetched. Pure functions."""

from __future__ import annotations

import html
import re


def escape(text: object) -> str:
    """``text`` for HTML, attributes included. Template marks are neutralised too: the page evaluates ``${…}``."""
    return html.escape(str(text), quote=True).replace("$", "&#36;").replace("{", "&#123;").replace("`", "&#96;")


_FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<mark>`{3,}|~{3,})[ \t]*(?P<info>[^`\n]*)$")
_CODE_SPAN = re.compile(r"(?<![`\\])(`+)(?!`)(.+?)(?<!`)\1(?!`)")
_LIST_ITEM = re.compile(r"^\s*(?:[-*+]|\d+[.)])\s")
_MARKDOWN_MARKS = re.compile(r"[\\*_\[\]()~!#|:@.`-]")
_LANGUAGE = re.compile(r"^[A-Za-z0-9+#-]{1,20}")


def safe_markdown(text: str) -> str:
    """``text`` as Markdown that cannot script, restyle or fetch: no HTML, no images; code and formatting stay.

    Code is written out again in fences of our own at the left margin, with more backticks than the code holds, so
    that every Markdown reader agrees with this function about where code begins. Outside of code no ``<`` survives.
    """
    parts = []
    for language, lines in _blocks(text):
        parts.append(_escape_prose("\n".join(lines)) if language is None else _fence("\n".join(lines), language))
    return "\n\n".join(part for part in parts if part.strip())


def code_markdown(text: str) -> str:
    """An answer of the Code Generation use case: shown as code even where the model wrote no fence."""
    if not text.strip() or any(_FENCE.match(line) for line in text.splitlines()):
        return safe_markdown(text)
    return _fence(text.strip("\n"), guess_language(text))


def guess_language(code: str) -> str:
    """The language to highlight unfenced ``code`` as: SQL where it reads like a query, else Python."""
    is_query = re.match(r"\s*(select|insert|update|delete|create|with|drop|alter)\b", code, re.IGNORECASE)
    return "sql" if is_query else "python"


def _blocks(text: str) -> list[tuple[str | None, list[str]]]:
    """``text`` as runs of lines: (language, lines) for fenced or indented code, (None, lines) for prose."""
    blocks: list[tuple[str | None, list[str]]] = [(None, [])]
    mark, indent = "", ""
    for line in text.split("\n"):
        fence = _FENCE.match(line)
        if mark:
            if fence and not fence["info"].strip() and fence["mark"].startswith(mark):
                mark = ""
                blocks.append((None, []))
            else:
                blocks[-1][1].append(line.removeprefix(indent))
        elif fence:
            mark, indent = fence["mark"], fence["indent"]
            blocks.append((_language(fence["info"]), []))
        else:
            _append_prose(blocks, line)
    return blocks


def _append_prose(blocks: list[tuple[str | None, list[str]]], line: str) -> None:
    """Add a line outside of fences; four leading spaces after a blank line, outside of a list, are code too."""
    language, lines = blocks[-1]
    indented = line.startswith(("    ", "\t"))
    if language == "" and (indented or not line.strip()):
        lines.append(line.removeprefix("    "))
        return
    if language is not None:
        blocks.append((None, [line]))
        return
    after_blank = not lines or not lines[-1].strip()
    said = next((earlier for earlier in reversed(lines) if earlier.strip()), "")
    in_list = bool(_LIST_ITEM.match(said)) or said.startswith((" ", "\t"))
    if indented and line.strip() and after_blank and not in_list:
        blocks.append(("", [line.removeprefix("    ")]))
    else:
        lines.append(line)


def _language(info: str) -> str:
    """A fence's language, harmless: diagrams would be drawn by the page, so they stay text."""
    found = _LANGUAGE.match(info.strip())
    language = found[0].lower() if found else "text"
    return "text" if language == "mermaid" else language


def _fence(code: str, language: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", code)), default=0)
    marks = "`" * max(3, longest + 1)
    return f"{marks}{language or 'text'}\n{code}\n{marks}"


def _escape_prose(text: str) -> str:
    """Prose without HTML or images; code spans are written as escaped ``<code>``, so nothing in them is Markdown."""
    parts, end = [], 0
    for span in _CODE_SPAN.finditer(text):
        parts.append(_escape_outside_code(text[end : span.start()]))
        parts.append(f"<code>{_entities(span[2].strip())}</code>")
        end = span.end()
    parts.append(_escape_outside_code(text[end:]))
    return "".join(parts)


def _escape_outside_code(text: str) -> str:
    text = re.sub(r"\\([<&`])", r"\1", text)  # Markdown's own escapes of what becomes an entity now
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("![", "!&#91;").replace("`", "&#96;")


def _entities(code: str) -> str:
    return _MARKDOWN_MARKS.sub(lambda mark: f"&#{ord(mark[0])};", html.escape(code))
