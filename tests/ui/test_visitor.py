"""Who is behind a click: what is done in whose name, how often, and what only the operator may do."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import pytest

from playground.config import ROOT
from playground.errors import ContentRefused, DeadlineExceeded, NotPermitted, PlaygroundError, QueueFull, ShuttingDown
from playground.services.assembly import Services
from playground.types import Caller, GenerationRequest
from playground.ui import texts
from playground.ui.app import build
from playground.ui.views.answer import Answer
from playground.ui.views.person import person
from playground.ui.visitor import caller_of, may_change_for_all, refuse_change_for_all
from tests.ui.fake_engine import FakeEngine
from tests.ui.page import Page, collected, last, seen_by_the_gate

pytestmark = pytest.mark.anyio  # all of them: outside of a running loop Gradio makes one and never closes it

ANNA = Caller("user anna", "user", "anna", "10.0.0.7")
GUEST = Caller("guest 9c", "guest", "", "10.0.0.8")
HERE = Caller("guest 7a", "guest", "", "127.0.0.1")
OPERATOR = Caller("user admin", "user", "admin", "10.0.0.9", admin=True)


async def answered(page: Page, visitor: gr.Request) -> Answer:
    """One answer to ``visitor``, to its end."""
    answer: Answer = last(await collected(page.run("Hi", visitor=visitor)), page.tab.area.answer)
    return answer


async def test_a_page_asks_in_the_name_of_whoever_the_gate_has_let_in(config):
    """A6: a login and a guest's cookie count, and several pages of theirs are one; without a gate each page is somebody."""
    engine = FakeEngine()
    page = Page(engine, config)
    for visitor in (seen_by_the_gate(ANNA), seen_by_the_gate(GUEST), "a page"):
        await collected(page.run("Hi", visitor=visitor))
    assert [request.user for request in engine.requests] == ["user anna", "guest 9c", "guest a page"]


async def test_what_only_looks_like_a_caller_is_none(config):
    """S3: nothing that a client can write into a request counts."""
    forged = SimpleNamespace(session_hash="one", request=SimpleNamespace(scope={"state": {"caller": {"admin": True}}}))
    assert caller_of(forged) == Caller("guest one", "guest")  # type: ignore[arg-type]


async def test_one_question_too_many_is_a_sentence_and_reaches_neither_disk_nor_engine(config, toasts):
    """A6, P2: toast and status line, the page is ready again, and others are not held up."""
    engine = FakeEngine()
    page = Page(engine, replace(config, rate_limit="1 per minute"))
    anna, guest = seen_by_the_gate(ANNA), seen_by_the_gate(GUEST)
    await collected(page.run("Hi", visitor=anna))
    updates = await collected(page.run("Hi", "no-such", visitor=anna))
    assert len(toasts) == 1
    assert toasts[0].startswith("Too many requests")
    assert 'data-state="error"' in last(updates, page.tab.area.status)
    assert "Too many requests" in last(updates, page.tab.area.status)
    assert last(updates, page.tab.area.generate)["visible"] is True
    await collected(page.run("Hi", visitor=guest))
    assert [request.user for request in engine.requests] == ["user anna", "guest 9c"]


async def test_running_an_answer_again_counts_like_asking(config, toasts):
    """A6: Replay is work for the engine too, in the name of whoever presses it."""
    engine = FakeEngine()
    page = Page(engine, replace(config, rate_limit="2 per minute"))
    anna, pressed = seen_by_the_gate(ANNA), SimpleNamespace(value="0")
    answer = await answered(page, anna)
    await collected(page.tab.area.replays._again(anna, pressed, answer))
    updates = await collected(page.tab.area.replays._again(anna, pressed, answer))
    assert "Too many requests" in last(updates, page.tab.area.replays.work.line)
    assert [request.user for request in engine.requests] == ["user anna", "user anna"]
    assert len(toasts) == 1


async def test_whatever_ends_an_answer_early_is_one_sentence_and_the_text_so_far_stays(config, toasts):
    """A6, P2, G6: with its remedy, where the other errors are shown; nothing hangs."""
    ends: list[PlaygroundError] = [
        ContentRefused("The operator's filter refused this text.", "Write it differently."),
        ShuttingDown("The server is stopping.", "Send it again in a moment."),
        QueueFull("Too many are waiting.", "Try again in a minute."),
        NotPermitted("That is not for you.", "Ask the operator."),
    ]

    class Ends(FakeEngine):
        async def astream(self, request: GenerationRequest):
            async for event in super().astream(request):
                yield event
                if event.text:
                    raise ends[len(self.requests) - 1]

    page = Page(Ends(), config)
    for error in ends:
        updates = await collected(page.run("Hi"))
        assert toasts[-1] == str(error)
        assert error.remedy in last(updates, page.tab.area.status)
        assert last(updates, page.tab.area.raw) == "One"
        assert last(updates, page.tab.area.generate)["visible"] is True
        assert last(updates, page.tab.area.stop)["visible"] is False
    assert len(toasts) == len(ends)


async def test_what_the_deadline_cuts_off_stays_and_says_so(config, toasts):
    """A6, P2: what was read is kept in the conversation as stopped, with the reason under it; nothing failed."""
    late = DeadlineExceeded("The answer was not finished within 9 seconds.", "Ask for fewer tokens.")

    class Late(FakeEngine):
        async def astream(self, request: GenerationRequest):
            async for event in super().astream(request):
                yield event
                if event.text:
                    raise late

    page = Page(Late(), config)
    updates = await collected(page.run("Hi"))
    assert str(late) in last(updates, page.tab.area.status)
    assert last(updates, page.tab.area.raw) == "One"
    assert last(updates, page.tab.area.generate)["visible"] is True
    assert toasts == []


async def test_only_the_operator_may_do_what_all_others_notice(config):
    """A6: on a machine of one's own everybody there, until there is an admin key; elsewhere only the operator."""
    shared, keyed = replace(config, free_paths=False), replace(config, admin_key="a-long-key")
    for caller, settings, may in (
        (HERE, config, True), (HERE, shared, False), (HERE, keyed, False), (ANNA, shared, False), (ANNA, keyed, False),
        (OPERATOR, shared, True), (OPERATOR, keyed, True), (replace(HERE, address="::1"), config, True),
        (GUEST, config, False), (OPERATOR, config, True),
    ):  # fmt: skip
        assert may_change_for_all(settings, caller) is may
    with pytest.raises(NotPermitted, match="admin key"):
        refuse_change_for_all(shared, ANNA)


async def test_the_unload_button_is_the_operators_and_so_is_what_it_calls(config, toasts):
    """A6: who may not unload sees the size alone, and calling the page's own function does no more."""
    engine = FakeEngine()
    page = Page(engine, replace(config, admin_key="a-long-key"))
    anna, operator = seen_by_the_gate(ANNA), seen_by_the_gate(OPERATOR)
    await answered(page, anna)
    base = engine.residents()[0].base
    places = ((await page.look(visitor=visitor))[4] for visitor in (anna, operator))
    hers, the_operators = [shown async for shown in places]
    assert "data-unload" not in hers
    assert "MB" in hers
    assert "data-unload" in the_operators
    said = await page.tab.picker._unload(anna, SimpleNamespace(value=base))
    assert "Only the operator" in said[page.tab.picker.progress]
    assert len(engine.residents()) == 1
    assert len(toasts) == 1
    await page.tab.picker._unload(operator, SimpleNamespace(value=base))
    assert engine.residents() == ()


async def test_only_the_operator_adds_what_is_offered_to_all(config, toasts, tmp_path):
    """A6, P8: a sentence, and nothing is unpacked."""
    page = Page(FakeEngine(), replace(config, admin_key="a-long-key", data_dir=tmp_path))
    adding = page.tab.picker._adding
    packed = shutil.make_archive(str(tmp_path / "mine"), "zip", ROOT / "assets" / "adapters" / "pirate")
    said = await collected(adding._receive(seen_by_the_gate(ANNA), [packed], "", "starter"))
    assert "Only the operator" in last(said, adding.status)
    assert not (tmp_path / "adapters").exists()
    said = await collected(adding._receive(seen_by_the_gate(OPERATOR), [packed], "", "starter"))
    assert "Added mine" in last(said, adding.status)


async def test_only_the_operator_deletes_what_was_added_for_all(config, toasts, tmp_path):
    """A6, P8: neither offered nor done, whatever is called."""
    page = Page(FakeEngine(), replace(config, admin_key="a-long-key", data_dir=tmp_path))
    removing = page.tab.picker._removing
    added = tmp_path / "adapters" / "mine"
    added.mkdir(parents=True)
    (added / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}), encoding="utf-8")
    for caller, offered in ((OPERATOR, True), (ANNA, False)):
        shown = await removing._offered(seen_by_the_gate(caller), "starter", "mine")
        assert shown[removing.offer]["visible"] is offered
    said = await removing._remove(seen_by_the_gate(ANNA), "mine", "starter")
    assert "Only the operator" in said[removing.said]
    assert added.is_dir()
    await removing._remove(seen_by_the_gate(OPERATOR), "mine", "starter")
    assert not added.exists()


async def test_the_bar_names_who_is_signed_in_and_shows_the_way_out_or_in():
    """A6: a name with a form that is posted; a link where there is a door; else nothing at all."""
    out = person(ANNA, may_sign_in=True)
    assert "anna" in out
    assert '<form method="post" action="/logout">' in out
    assert texts.OPERATOR not in out
    assert texts.OPERATOR in person(OPERATOR, may_sign_in=True)
    assert 'href="/login"' in person(GUEST, may_sign_in=True)
    for nobody in (GUEST, Caller("address 127.0.0.1", "address", admin=True)):
        assert person(nobody, may_sign_in=False) == ""


async def test_a_name_is_text_however_it_is_spelt():
    """S3: whatever a provider calls somebody."""
    shown = person(Caller("user x", "user", '<img src=x onerror="alert(1)">' + "long" * 20), may_sign_in=False)
    assert "<img" not in shown
    assert 'onerror="' not in shown


async def test_the_page_is_told_who_looks_at_it_when_it_is_opened(config):
    """A6: asked once, by Gradio itself, with the request that the gate has seen."""
    demo = build(config, Services.over(FakeEngine(), config), may_sign_in=True)
    asked = [fn for fn in demo.fns.values() if fn.name == "_person"]
    assert [target[1] for fn in asked for target in fn.targets] == ["load"]
    assert "anna" in asked[0].fn(seen_by_the_gate(ANNA))
