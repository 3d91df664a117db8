"""A6: the operator's content filter: found at start, asked about every text, and closed when it is broken."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from playground.config import AppConfig
from playground.errors import ConfigError, ContentRefused
from playground.services.content_filter import ContentFilter
from playground.services.generation import Generation
from playground.types import GenerationRequest, GenerationSettings, Message, ModelSpec
from tests.services.scripted_engine import ScriptedEngine, ask

SEEN: list[list[str]] = []


def nothing(texts: list[str]) -> str | None:
    SEEN.append(texts)
    return None


async def later(texts: list[str]) -> str | None:
    return None


NOT_A_FUNCTION = 3


def test_it_is_asked_about_everything_that_a_person_wrote() -> None:
    """A6: the system prompt, every turn, the beginning of the answer, and what goes into the template; nothing empty."""
    SEEN.clear()
    content = ContentFilter.named(f"{__name__}:nothing")
    assert content
    content.refuse(
        GenerationRequest(
            ModelSpec("starter"),
            messages=(
                Message("system", "be kind"),
                Message("user", "hi"),
                Message("assistant", ""),
                Message("user", "so"),
            ),
            settings=GenerationSettings(system_prompt="be brief"),
            prefill="Well",
            chat_template_kwargs={"persona": {"name": ["a", "pirate", 1]}},
        )
    )
    assert SEEN[0][:5] == ["be brief", "be kind", "hi", "so", "Well"]
    assert set(SEEN[0][5:]) == {"persona", "name", "a", "pirate"}
    content.refuse(ask("only this"))
    assert SEEN[1] == ["only this"]


@pytest.mark.parametrize("said", [None, "", "  "])
def test_none_or_nothing_lets_a_text_pass(said: str | None) -> None:
    """A6."""
    ContentFilter(lambda texts: said).refuse(ask())


def test_a_reason_is_shown_in_a_sentence_and_bounded() -> None:
    """A6: as the operator wrote it, never a page of it."""
    with pytest.raises(ContentRefused, match=r"^The text was refused: no parrots\. Change it"):
        ContentFilter(lambda texts: "no parrots").refuse(ask())
    with pytest.raises(ContentRefused) as raised:
        ContentFilter(lambda texts: "x" * 10_000).refuse(ask())
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    "broken", [lambda texts: 1 / 0, lambda texts: False, lambda texts: ["no"]], ids=["a", "b", "c"]
)
def test_a_broken_filter_lets_nothing_pass(broken, caplog: pytest.LogCaptureFixture) -> None:
    """A6: fail closed; the log says what is wrong, the person is told nothing of it."""
    with pytest.raises(ContentRefused, match="could not be checked") as raised:
        ContentFilter(broken).refuse(ask())
    assert "division" not in str(raised.value)
    assert "content filter" in caplog.text


def test_what_a_broken_filter_says_of_the_text_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """S3, A6: an exception's message may hold what somebody wrote, such as a word that a table lacks."""

    def look_up(texts: list[str]) -> str:
        return {"other": ""}[texts[0]]

    with pytest.raises(ContentRefused, match="could not be checked"):
        ContentFilter(look_up).refuse(ask(prompt="a private matter"))
    assert "KeyError" in caplog.text
    assert "in look_up" in caplog.text
    assert "private" not in caplog.text


def test_token_ids_cannot_be_checked_and_are_refused() -> None:
    """A6: else a prompt of numbers would pass unread."""
    with pytest.raises(ContentRefused, match="Send the prompt as text"):
        ContentFilter(nothing).refuse(
            GenerationRequest(ModelSpec("starter"), prompt_ids=(1, 2), template="raw", prompt=None)
        )


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nothing", "package.module:function"),
        (":nothing", "package.module:function"),
        ("no.such.module:check", "cannot be imported: ModuleNotFoundError"),
        (f"{__name__}:missing", "cannot be imported: AttributeError"),
        (f"{__name__}:NOT_A_FUNCTION", "is no function"),
        (f"{__name__}:later", "async function"),
        ("raising_module:check", "cannot be imported: ZeroDivisionError"),
    ],
)
def test_a_filter_that_cannot_be_had_stops_the_start(
    name: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A6: a ConfigError in a sentence, never a server without the filter that was asked for."""
    (tmp_path / "raising_module.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=says):
        Generation(ScriptedEngine(), AppConfig(content_filter=name))  # type: ignore[arg-type]
    sys.modules.pop("raising_module", None)


def test_without_a_name_there_is_none() -> None:
    """A6: optional."""
    assert ContentFilter.named("") is None
