"""Markdown of stored messages as HTML that cannot script, restyle or fetch. Pure functions, and a cache of what they made.

The page's own Markdown shows an answer while it is being written; what is drawn here looks the same when it has ended.
Every tag is written by this file: HTML in a text is text, pictures are words, links lead to web pages and addresses only.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_core import StateCore
from markdown_it.token import Token
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from playground.ui.safe_text import escape

LONGEST_MARKDOWN = 200_000  # characters; longer texts are shown as they are written
LONGEST_HIGHLIGHT = 30_000  # characters of one piece of code: colours cost more than the words
CACHED_CHARACTERS = 8_000_000

# What models write; others stay without colours, so that no odd grammar is ever let loose on a hostile text.
_KNOWN = """
bash c c++ cpp css csharp diff dockerfile go graphql haskell html ini java javascript js json jsx julia kotlin latex lua
makefile markdown md nginx objectivec perl php powershell properties protobuf py python python3 r rb rs ruby rust scala
scss sh shell sql swift toml ts tsx typescript vb xml yaml yml zsh
"""
LANGUAGES = frozenset(_KNOWN.split())
_LINK = re.compile(r"(?:https?://[^/\s]|mailto:[^\s])", re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z0-9+#-]{1,20}")
# Addresses that stand in a text by themselves: those that the page's own Markdown makes links of.
_BARE = re.compile(
    r"(?<![A-Za-z0-9])(?P<web>(?:https?://|www\.)[A-Za-z0-9-][^\s<]{0,2000})"
    r"|(?<![A-Za-z0-9._+-])(?P<mail>[A-Za-z0-9._+-]{1,64}@[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*[A-Za-z0-9])+)(?![-_])"
)
_AFTER_ADDRESS = "?!.,:;*_'\"~"  # what stands at the end of a sentence, not of an address


def markdown_html(text: str) -> str:
    """``text`` as HTML for a `gr.HTML`. Cached."""
    return _KEPT.get(text, _rendered)


def plain_html(text: str) -> str:
    """``text`` as it was written, its line breaks kept."""
    return f'<p class="as-written">{escape(text)}</p>' if text.strip() else ""


class KeptHtml:
    """What was rendered of each text, the most recently used ones, as far as ``characters`` of text and HTML go.

    Safe from any thread.
    """

    def __init__(self, characters: int) -> None:
        self._limit = characters
        self._size = 0
        self._kept: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, text: str, make: Callable[[str], str]) -> str:
        """What was kept for ``text``, else what ``make`` makes of it."""
        with self._lock:
            if text in self._kept:
                self._kept.move_to_end(text)
                return self._kept[text]
        made = make(text)
        with self._lock:
            self._put(text, made)
        return made

    def _put(self, text: str, made: str) -> None:
        if text in self._kept or len(text) + len(made) > self._limit:
            return
        self._kept[text] = made
        self._size += len(text) + len(made)
        while self._size > self._limit:
            old, gone = self._kept.popitem(last=False)
            self._size -= len(old) + len(gone)


class _Renderer(RendererHTML):
    """Writes every tag itself; what comes from the text goes through `escape`."""

    def text(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return escape(tokens[idx].content)

    def code_inline(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return f"<code>{escape(tokens[idx].content)}</code>"

    def code_block(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return code_html(tokens[idx].content, "")

    def fence(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return code_html(tokens[idx].content, tokens[idx].info)

    def image(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """A picture is its description and where it lies: nothing is fetched."""
        words = self.renderInlineAsText(tokens[idx].children, options, env)
        return escape(" ".join(part for part in (words, f"({tokens[idx].attrGet('src')})") if part))

    def link_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        href = str(tokens[idx].attrGet("href") or "")
        leads = f'href="{escape(href)}" ' if _LINK.match(href) else ""  # an empty one is allowed, and leads nowhere
        return f'<a {leads}target="_blank" rel="noopener noreferrer nofollow">'

    def html_inline(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return escape(tokens[idx].content)

    html_block = html_inline

    def table_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return '<div class="table-scroll"><table>'

    def table_close(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return "</table></div>"


def code_html(code: str, info: str) -> str:
    """A block of code with its language and a Copy button; coloured where the language is known."""
    found = _WORD.match(info.strip())
    language = found[0].lower() if found else ""
    named = f'<span class="code-language">{escape(language)}</span>' if language else ""
    return (
        f'<div class="code_wrap"><div class="code-head">{named}'
        '<button type="button" class="code-copy" data-copy-code>Copy</button></div>'
        f'<pre tabindex="0"><code>{_coloured(code, language)}</code></pre></div>\n'
    )


def _coloured(code: str, language: str) -> str:
    """``code`` as HTML, with Pygments' short class names behind ``t-``."""
    if language not in LANGUAGES or len(code) > LONGEST_HIGHLIGHT:
        return escape(code)
    try:
        lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return escape(code)
    made = highlight(code, lexer, HtmlFormatter(nowrap=True, classprefix="t-"))
    return _neutral(made if code.endswith("\n") else made.removesuffix("\n"))


def _neutral(made: str) -> str:
    """HTML that others made, without template marks: in all that they write of their own there is none."""
    return made.replace("$", "&#36;").replace("{", "&#123;").replace("`", "&#96;")


def _rendered(text: str) -> str:
    if len(text) > LONGEST_MARKDOWN:
        return plain_html(text)
    # Once more over the whole: tags are written above and by markdown-it, which knows no template marks.
    return _neutral(_MARKDOWN.render(text))


def _with_bare_links(state: StateCore) -> None:
    """Make links of the addresses that stand in texts by themselves, outside of links."""
    for block in state.tokens:
        if block.children and _BARE.search(block.content):
            block.children = list(_linked(block.children))


def _linked(tokens: Sequence[Token]) -> Iterator[Token]:
    depth = 0
    for token in tokens:
        depth += token.nesting if token.type in ("link_open", "link_close") else 0
        if token.type == "text" and not depth:
            yield from _in_links(token.content)
        else:
            yield token


def _in_links(text: str) -> Iterator[Token]:
    end = 0
    for found in _BARE.finditer(text):
        words = found["mail"] or _address(found["web"])
        href = words if words.startswith("http") else f"{'mailto:' if found['mail'] else 'http://'}{words}"
        yield Token("text", "", 0, content=text[end : found.start()])
        yield Token("link_open", "a", 1, attrs={"href": href})
        yield Token("text", "", 0, content=words)
        yield Token("link_close", "a", -1)
        end = found.start() + len(words)
    yield Token("text", "", 0, content=text[end:])


def _address(found: str) -> str:
    """``found`` without what belongs to the sentence around it; brackets stay where they are closed within it."""
    open_ones = found.count(")") - found.count("(")
    while True:
        found = found.rstrip(_AFTER_ADDRESS)
        if not found.endswith(")") or open_ones <= 0:
            return found
        found, open_ones = found[:-1], open_ones - 1


def _reader() -> MarkdownIt:
    options: Mapping[str, Any] = {"html": False, "breaks": True, "linkify": False, "typographer": False}
    reader = MarkdownIt("commonmark", {**options, "maxNesting": 20}, renderer_cls=_Renderer)
    reader.validateLink = lambda url: bool(_LINK.match(url))  # type: ignore[method-assign]
    reader.core.ruler.push("bare_links", _with_bare_links)
    return reader.enable(["table", "strikethrough"])


_KEPT = KeptHtml(CACHED_CHARACTERS)
_MARKDOWN = _reader()
