"""What the pages show, without a page: escaping, the fold of events into an answer, figures, settings, chips."""

from __future__ import annotations

import html
import json
import re

import pytest

from playground.errors import AdapterInvalid, InvalidRequest
from playground.types import (
    GenerationEvent,
    GenerationRequest,
    GenerationSettings,
    GenerationStats,
    LoadedAdapter,
    MemoryReport,
    ModelSpec,
    Provenance,
    RenderedPrompt,
    ResidentInfo,
    Status,
    knobs,
)
from playground.ui import safe_text, texts, views

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


# --- an answer ---


def an_answer(**settings) -> views.Answer:
    request = GenerationRequest(ModelSpec("starter"), "Hi", settings=GenerationSettings(**settings))
    return views.Answer(request, "starter (base)")


def made(seed: int = 7) -> Provenance:
    return Provenance("starter", "/m", (), "none", "float32", "cpu", "chat", GenerationSettings(), seed, {})


def event(text: str = "", tokens: int = 0, **fields) -> GenerationEvent:
    stats = GenerationStats(5, tokens, 0.1 * tokens, 0.1 if tokens else None)
    return GenerationEvent(Status("generating"), text, stats=stats, **fields)


def test_deltas_join_to_the_exact_text():
    """G5, P5: Raw is what the model wrote, with nothing added or lost."""
    answer = an_answer()
    for text in ("One", " <two>", "\n\n  three  "):
        answer.fold(event(text, 1))
    assert answer.raw == "One <two>\n\n  three  "


def test_the_status_line_lives_while_it_runs_and_then_names_everything():
    """P3: tokens, tokens/s, first token, total, finish reason, seed and who answered."""
    answer = an_answer()
    answer.fold(GenerationEvent(Status("loading", "reading weights", 0.42)))
    assert "Loading: reading weights 42 %" in views.answer_status(answer)
    answer.fold(event("a", 11))
    line = views.answer_status(answer)
    assert 'data-state="streaming"' in line
    assert "11 tokens · 10.0 tokens/s · first token 0.10 s · total 1.10 s" in line
    answer.fold(event("b", 12, finish_reason="length", provenance=made()))
    line = views.answer_status(answer)
    assert not answer.running
    assert 'data-state="done"' in line
    for word in ("cut at the token limit", "seed 7", "starter (base)"):
        assert word in line


def test_the_line_carries_the_provenance_as_json():
    """P3: a click copies what made the answer; a seed of 63 bits stays exact."""
    answer = an_answer()
    answer.fold(event("text", 2, finish_reason="stop", provenance=made(2**62 + 1)))
    attribute = re.search(r'data-copy="([^"]*)"', views.answer_status(answer))[1]
    copied = json.loads(html.unescape(attribute))
    assert copied["provenance"]["seed"] == 2**62 + 1
    assert copied["finish_reason"] == "stop"
    assert copied["text"] == "text"


def test_a_stop_keeps_the_text_and_says_cancelled():
    """P2, G5: the text so far stays, and the reason is the true one."""
    answer = an_answer()
    answer.fold(event("half", 3))
    answer.cancel()
    assert (answer.raw, answer.running) == ("half", False)
    assert "cancelled" in views.answer_status(answer)


def test_a_stop_after_the_end_changes_nothing():
    """G5: an answer that ended by itself did not get cancelled."""
    answer = an_answer()
    answer.fold(event("all", 3, finish_reason="stop", provenance=made()))
    answer.cancel()
    assert answer.finish == {0: "stop"}


def test_several_answers_run_until_the_last_of_them_has_ended():
    """P4, G3: num_return_sequences; each has its own text and figures."""
    answer = an_answer(num_return_sequences=2)
    answer.fold(event("one", 3, finish_reason="stop", provenance=made()))
    answer.fold(event("", 1))  # a sign of life repeats the first one
    assert answer.running
    answer.fold(event("two", 4, index=1, finish_reason="length", provenance=made(8)))
    assert not answer.running
    assert answer.markdown == "**Answer 1**\n\none\n\n---\n\n**Answer 2**\n\ntwo"
    assert views.answer_status(answer).count("<button") == 2
    assert answer.stats[0].completion_tokens == 3


def test_notices_are_shown_once_and_escaped():
    """G7: turns dropped, window reached."""
    answer = an_answer()
    answer.fold(event(notice="<b>Window</b> reached."))
    answer.fold(event(notice="<b>Window</b> reached."))
    assert views.answer_status(answer).count("&lt;b&gt;Window") == 1


def test_an_error_is_one_sentence_and_never_a_traceback():
    """P1: ours as it is; anything else a general sentence; what lies behind folds out."""
    error = AdapterInvalid("The adapter is broken.", "Train it again.")
    error.__cause__ = ValueError("header too large")
    assert views.error_sentence(error) == "The adapter is broken. Train it again."
    assert views.error_details(error) == "ValueError: header too large"
    assert views.error_sentence(KeyError("secret")) == texts.UNEXPECTED
    assert views.error_details(KeyError("secret")) == ""
    line = views.status_line("error", "No <b>.", "why")
    assert 'role="alert"' in line
    assert "No &lt;b&gt;." in line
    assert "<summary>Details</summary>" in line


# --- the prompt ---


def test_the_counter_says_what_it_knows():
    """P2: characters always; tokens and share of the context once there is a tokenizer."""
    assert "1 character ·" in views.prompt_counter(1)
    counted = views.prompt_counter(16, 5, 26, 260)
    assert "16 characters · 5 tokens · 10 % of the context" in counted
    assert "26 of 260 tokens" in counted
    assert "too long" not in counted
    assert "too long for this model" in views.prompt_counter(16, 5, 261, 260)


def test_the_preview_is_escaped_and_cut():
    """P2, G7, S3: the rendered prompt and its ids."""
    shown = views.rendered_preview(RenderedPrompt("<|im_start|>${x}", (1, 2, 3), 100))
    assert "&lt;|im_start|&gt;&#36;&#123;x}" in shown
    assert ">1 2 3</pre>" in shown
    long = views.rendered_preview(RenderedPrompt("x" * 9000, tuple(range(1200)), 5000))
    assert "1,000 more characters" in long
    assert "… 200 more" in long


# --- settings ---


def test_panel_values_and_settings_are_each_others_inverse():
    """P4, G4: what the panel shows is what is sent."""
    settings = GenerationSettings(
        stop=("END", "a\nb", "\\n"), seed=2**62 + 1, temperature=1.3, system_prompt="Be kind."
    )
    assert views.settings_from(views.panel_values(settings)) == settings


def test_settings_that_the_strategy_does_not_use_keep_their_defaults():
    """P4: what is hidden has no effect, and raises no error."""
    values = {**views.panel_values(GenerationSettings()), "strategy": "greedy", "num_return_sequences": 3, "seed": "x"}
    assert views.settings_from(values) == GenerationSettings(strategy="greedy")


@pytest.mark.parametrize(("name", "value"), [("seed", "twelve"), ("max_new_tokens", None), ("temperature", 3.0)])
def test_a_value_that_cannot_be_is_refused(name, value):
    """G4: a clear error, never a silent clamp."""
    with pytest.raises(InvalidRequest):
        views.settings_from({**views.panel_values(GenerationSettings()), name: value})


def test_changed_settings_are_named_with_the_value_they_lead_back_to():
    """P4: marks and the way back; what the strategy does not use is not called changed."""
    baseline = GenerationSettings()
    values = {**views.panel_values(baseline), "temperature": 1.1, "num_beams": 9}
    assert views.changed_settings(values, baseline) == ["temperature"]
    assert 'data-knob="temperature" title="Back to 0.7"' in views.changed_list(values, baseline)
    assert views.settings_heading("Balanced", ["temperature"]) == "Settings · Balanced, changed"
    assert views.changed_list(views.panel_values(baseline), baseline) == ""


def test_every_setting_has_a_tooltip_of_its_own():
    """P4: a tooltip each."""
    assert all(len(views.knob_help(name)) > 20 for name in knobs())


# --- models ---


def adapter(moves: bool = True) -> LoadedAdapter:
    return LoadedAdapter("pirate", "/a/pirate", "0", 300_000, False, moves)


def test_a_chip_is_red_with_the_reason_when_the_adapter_has_no_effect_is_broken_or_failed():
    """P1: never silently the base."""
    assert "no effect" in views.adapter_problem(adapter(False), (), "")
    assert views.adapter_problem(None, ("Rank is missing.",), "") == "Rank is missing."
    assert views.adapter_problem(None, (), "It failed.") == "It failed."
    assert views.adapter_problem(adapter(), (), "") == ""
    shown = views.chips(views.Weights("starter", "pirate", True, True, adapter_problem="It <failed>."))
    assert 'data-state="bad"' in shown
    assert "It &lt;failed&gt;." in shown


def test_the_chips_say_who_answers_and_whether_it_is_in_memory():
    """P1: at any moment."""
    assert 'data-state="waiting"' in views.chips(views.Weights("starter"))
    ready = views.chips(views.Weights("starter", "pirate", True, True))
    assert ready.count('data-state="ready"') == 2
    assert views.Weights("starter", "pirate").label == "starter + pirate"
    assert views.Weights("starter").label == "starter (base)"


def test_the_loaded_list_shows_memory_adapters_and_what_unloading_frees():
    """P1: loaded models with memory; Unload says what it frees."""
    resident = ResidentInfo(
        "/m", "/m", "none", "float32", "cpu", 6_000_000, 24_000_000, 1024, 0.0, "", (adapter(False),)
    )
    shown = views.loaded_list((resident,), {"/m": "star<ter"})
    assert "Unload, frees 24 MB" in shown
    assert "star&lt;ter" in shown
    assert "pirate" in shown
    assert "no effect" in shown
    assert texts.NOTHING_LOADED in views.loaded_list((), {})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("idle",), "Idle"), (("idle", 2, 1), "Generating 2, 1 waiting"), (("loading", 0, 1), "Loading"),
     (("error",), "Error"), (("generating",), "Generating")],
)  # fmt: skip
def test_the_dot_says_what_the_engine_does(arguments, said):
    """P1: idle, loading, generating n, error."""
    assert f">{said}</span>" in views.dot(*arguments)


def test_the_meter_names_model_cache_and_free_memory():
    """P1: bytes on the device, ours among them."""
    shown = views.memory_meter(MemoryReport("cpu", 8_000_000_000, 6_000_000_000, 24_000_000, 0, 1_000_000, 0))
    assert "Models <b>25 MB</b> · free <b>6.0 GB</b> of 8.0 GB" in shown
    assert "cache 1.0 MB" in shown
    assert views.memory_meter(MemoryReport("cpu", 0, 0, 0, 0, 0, 0)) == ""


@pytest.mark.parametrize(
    ("status", "said"),
    [(Status("loading", "reading weights", 0.42), "Loading: reading weights 42 %"),
     (Status("queued", "waiting"), "Waiting for a turn"),
     (Status("queued", "3 before this one"), "Waiting for a turn: 3 before this one"),
     (Status("prefilling", "reading the prompt", 0.5), "Reading the prompt 50 %")],
)  # fmt: skip
def test_a_status_is_a_phrase(status, said):
    """P1: what is happening, never a bare spinner."""
    assert views.status_text(status) == said
    assert said in views.progress_line(status)
