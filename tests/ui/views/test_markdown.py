"""Stored messages as HTML: formatting stays, and nothing that a model writes can script, restyle or fetch."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from playground.ui.views.markdown import LONGEST_MARKDOWN, KeptHtml, code_html, markdown_html, plain_html
from tests.ui.test_safe_text import HOSTILE

OURS = {  # every tag that may be written, with its attributes
    "a": {"href", "target", "rel"}, "button": {"type", "class", "data-copy-code"}, "code": set(), "div": {"class"},
    "pre": {"tabindex"}, "span": {"class"}, "p": {"class"}, "th": {"style"}, "td": {"style"}, "ol": {"start"},
    **{tag: set() for tag in "h1 h2 h3 h4 h5 h6 ul li em strong s br hr blockquote table thead tbody tr".split()},  # noqa: SIM905
}  # fmt: skip
PIECES = (
    "<script>", "</code></pre>", "<img src=x onerror=1>", "${x}", "{{x}}", "`", "``", "```", "~~~", "\n", "\n\n",
    "    ", "\t", "[a](", "javascript:x", "http://a.b/", "https://a/${x}", "data:x", ")", "![", "]", "<http://a>",
    "&lt;", "&#36;{", "&dollar;", "\\", "|", "\n|-|-|\n", "|a|b|", "> ", "- ", "1. ", "# ", "**", "~~", '"', "'", "$",
    "{", "}", "python\n", "html\n", "mermaid\n", "<style>", "<!--", "-->", "]]>", "<a href='", "mailto:a@b", "\u2028",
    "\0", "x", " ",
)  # fmt: skip


class Tags(HTMLParser):
    """The tags and attributes in a piece of HTML, as a browser reads it."""

    def __init__(self, shown: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(shown)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")

    handle_decl = handle_pi = unknown_decl = handle_comment


def check(shown: str) -> Tags:
    """Assert that nothing in ``shown`` is of anybody else's making."""
    assert not {"$", "{", "`"} & set(shown)
    tags = Tags(shown)
    for tag, attributes in tags.found:
        assert tag in OURS, tag
        assert attributes.keys() <= OURS[tag], (tag, attributes)
        if tag == "a":
            assert re.match(r"(https?://|mailto:)", attributes.get("href", "mailto:") or "", re.IGNORECASE)
            assert attributes["rel"] == "noopener noreferrer nofollow"
            assert attributes["target"] == "_blank"
        if "style" in attributes:
            assert re.fullmatch(r"text-align:(left|right|center)", attributes["style"] or "")
    return tags


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_model_writes_is_text_whatever_it_tries(text):
    """S3: the known tries, in the bubbles too."""
    check(markdown_html(text))
    check(plain_html(text))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_no_mixture_of_marks_makes_a_tag_or_a_template_of_its_own(text):
    """S3: only the tags and attributes that this program writes, and nothing that `gr.HTML` would evaluate."""
    check(markdown_html(text))


LANGUAGES = ("python", "html", "js", "sh", "yaml", "json", "nonsense", "", "<b>", "a${b}")
ANY = st.characters(exclude_categories=("Cs",), exclude_characters="\r\0\ufeff")  # what readers of text change


@settings(max_examples=60, deadline=None)
@given(
    st.text(ANY, max_size=60) | st.lists(st.sampled_from(PIECES), max_size=8).map("".join), st.sampled_from(LANGUAGES)
)
def test_code_stays_the_code_that_it_was(code, language):
    """S3, P5: coloured or not, a block holds exactly its text, and no tag of it."""
    code = code.replace("\0", "")
    shown = code_html(code, language)
    check(shown)
    assert Tags(shown[shown.index("<pre") :].removesuffix("\n")).text == code


def test_formatting_is_formatting():
    """P5: emphasis, lists, tables, quotes, strikethrough and line breaks."""
    shown = markdown_html("**b** *i* ~~s~~\nnext\n\n- a\n\n|x|y|\n|-|-:|\n|1|2|\n\n> q\n\n# h")
    for part in (
        "<strong>b</strong>",
        "<em>i</em>",
        "<s>s</s><br",
        "<li>a</li>",
        "<table>",
        "<blockquote>",
        "<h1>h</h1>",
    ):
        assert part in shown


def test_code_has_its_language_a_copy_button_and_colours():
    """P5: a fence lands highlighted; diagrams and unknown languages stay text."""
    shown = markdown_html("```python\ndef f(): pass\n```")
    assert 'class="code-language">python<' in shown
    assert "data-copy-code" in shown
    assert '<span class="t-k">def</span>' in shown
    assert "t-" not in markdown_html("```mermaid\ngraph TD\n```")


def test_pictures_are_words_and_links_lead_to_pages_only():
    """S3: nothing is fetched; a link that would script is the text that it was."""
    assert markdown_html("![a cat](http://evil.example/c.png)") == "<p>a cat (http://evil.example/c.png)</p>\n"
    assert "<a" not in markdown_html(
        "[x](javascript:alert) [y](/logout) [z](file:///etc) [w](data:text/html,x) [v](//h)"
    )
    assert 'href="https://a.b/?q=1&amp;r=2"' in markdown_html("[x](https://a.b/?q=1&r=2)")


def test_a_very_long_answer_is_shown_as_it_was_written():
    """I5, P5: the page does not hang on it, and what it holds is still text."""
    shown = markdown_html("*a* <b>" * (LONGEST_MARKDOWN // 7 + 1))
    assert shown.startswith('<p class="as-written">*a* &lt;b&gt;')


def test_what_was_rendered_is_kept_within_its_bound():
    """F1: a conversation that is drawn anew is not rendered anew; memory stays bounded whatever is opened."""
    made = []
    kept = KeptHtml(characters=100)

    def make(text: str) -> str:
        made.append(text)
        return text.upper()

    assert [kept.get("a" * 20, make), kept.get("a" * 20, make)] == ["A" * 20] * 2
    assert len(made) == 1
    for letter in "bcde":
        kept.get(letter * 20, make)
    kept.get("a" * 20, make)  # the oldest had to go
    assert made.count("a" * 20) == 2
    assert kept._size <= 100
    kept.get("x" * 90, make)
    assert "x" * 90 not in kept._kept


@pytest.mark.parametrize(
    ("text", "href", "words"),
    [
        ("See https://a.example/b_c_d?x=1&y=2.", "https://a.example/b_c_d?x=1&amp;y=2", "https://a.example/b_c_d?x=1&amp;y=2"),
        ("(https://a.example/X_(y))", "https://a.example/X_(y)", "https://a.example/X_(y)"),
        ("- **www.a.example**, so", "http://www.a.example", "www.a.example"),
        ("|a|\n|-|\n|me@a.example!|", "mailto:me@a.example", "me@a.example"),
    ],
)  # fmt: skip
def test_an_address_that_stands_by_itself_is_a_link_as_it_is_while_it_is_written(text, href, words):
    """F1: nothing changes its looks when the answer ends; what belongs to the sentence stays outside."""
    made = markdown_html(text)
    assert f'<a href="{href}" target="_blank" rel="noopener noreferrer nofollow">{words}</a>' in made
    assert made.count("<a ") == 1


@pytest.mark.parametrize(
    "text", ["`https://a.example`", "```\nhttps://a.example\n```", "http:// a@b javascript://a.example"]
)
def test_code_and_what_is_no_address_is_no_link(text):
    """F1, S3: code is shown as it is written."""
    assert "<a " not in markdown_html(text)


def test_an_address_that_is_a_links_text_leads_where_the_link_leads():
    """S3: one link, not two in each other."""
    assert markdown_html("[https://a.example](https://b.example)").count("<a ") == 1
