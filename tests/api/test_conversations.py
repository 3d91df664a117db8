"""`/api/inference/conversation…`: saved, listed, read, exported and deleted, by whose they are and by nobody else."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import httpx
import pytest
from fastapi.testclient import TestClient

from playground.api import create_app
from playground.api.schemas.conversations import ConversationList, ConversationReport
from playground.config import AppConfig
from playground.errors import HistoryUnavailable
from playground.gate import Gate
from playground.services.assembly import Services
from playground.services.chat_files import EXPORT_FORMATS
from playground.types import Caller
from tests.api.conftest import listening
from tests.api.fake_engine import FakeEngine
from tests.conftest import LiveApp

ONE, ALL = "/api/inference/conversation", "/api/inference/conversations"
SAVE, RENAME = f"{ONE}/save", f"{ALL}/rename"
HELLO = {"role": "user", "content": "What is the capital of France?"}
ANSWER = {"role": "assistant", "content": "Arr! Paris.", "model_id": "starter:pirate"}
ODD_IDS = [
    "team/anna/1",
    "/leading and trailing/",
    "two//slashes",
    "a space, and more",
    "naïve Ünïcode 日本語 🦜",
    "100%25 sure%2F",
    "what?now=1&then#there",
    "../../health",
    "a/../b/./c",
    "..",
    "save",
    "x/rename",
    "x/save",
    "plus+sign;semi:colon@at",
]


@pytest.fixture(scope="module")
def services(config: AppConfig) -> Services:
    """What is behind `client` and `address`; its history is in memory."""
    return Services.over(FakeEngine(), config)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def app(config: AppConfig, services: Services) -> Gate:
    return Gate(create_app(config, services), config=config)


@pytest.fixture(scope="module")
def address(app: Gate) -> Iterator[str]:
    with listening(app) as url:
        yield url


@pytest.fixture(autouse=True)
def nothing_is_left(services: Services) -> Iterator[None]:
    """Each test begins without conversations."""
    yield
    services.history.delete_all(Caller("address 127.0.0.1", "address", address="127.0.0.1"))


@pytest.fixture
def save(client: TestClient) -> Callable[..., Any]:
    """Save a message whose fields are laid over a short one; the report."""

    def send(**fields: Any) -> Any:
        response = client.post(SAVE, json=HELLO | fields)
        assert response.status_code == 200, response.text
        return response.json()

    return send


def place(conversation_id: str) -> str:
    """The path of a conversation."""
    return f"{ONE}/{quote(conversation_id, safe='')}"


def raw(address: str, method: str, path: str, body: object = None) -> tuple[int, Any]:
    """Status and JSON for a path that is sent as it is: most clients would tidy its dots away."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
    headers = {"Content-Type": "application/json"}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    response = connection.getresponse()
    found = response.status, json.loads(response.read())
    connection.close()
    return found


def test_a_message_without_an_id_begins_a_conversation_and_comes_back(client, save):
    """A1: the fields of Appendix 1; times in the form that all routes have."""
    begun = save(model_id="starter")
    assert (set(begun), begun["message_count"]) == ({"conversation_id", "message_count", "updated_at"}, 1)
    more = save(conversation_id=begun["conversation_id"], **ANSWER)
    assert (more["conversation_id"], more["message_count"]) == (begun["conversation_id"], 2)
    found = client.get(f"{ONE}/{begun['conversation_id']}").json()
    ConversationReport.model_validate(found)
    assert found["id"] == begun["conversation_id"]
    assert [(said["role"], said["content"], said["model_id"]) for said in found["messages"]] == [
        ("user", HELLO["content"], "starter"),
        ("assistant", "Arr! Paris.", "starter:pirate"),
    ]
    assert (found["title"], found["use_case"], found["model_id"]) == (HELLO["content"], "chatbot", "starter:pirate")
    assert found["created_at"] <= found["messages"][0]["timestamp"] <= found["updated_at"] == more["updated_at"]
    assert datetime.fromisoformat(found["created_at"]).utcoffset() is not None


def test_a_system_message_that_comes_first_is_shown_first(client, save):
    """A1: and counted, so that what was saved three times is three messages."""
    made = save(role="system", content="You are a pirate.")
    save(conversation_id=made["conversation_id"])
    assert save(conversation_id=made["conversation_id"], **ANSWER)["message_count"] == 3
    found = client.get(f"{ONE}/{made['conversation_id']}").json()
    assert [said["role"] for said in found["messages"]] == ["system", "user", "assistant"]
    assert [line["message_count"] for line in client.get(ALL).json()["conversations"]] == [3]


def test_a_message_says_nothing_of_a_model_that_nobody_named(client, save):
    """A1: model_id is left out of a message, and null for the conversation."""
    found = client.get(f"{ONE}/{save()['conversation_id']}").json()
    assert set(found["messages"][0]) == {"role", "content", "timestamp"}
    assert found["model_id"] is None


def test_the_use_case_takes_hyphens_and_stays_when_it_is_not_named(client, save):
    """A1: as /load takes it; a message without one changes nothing."""
    made = save(use_case="code-generation")["conversation_id"]
    save(conversation_id=made, **ANSWER)
    assert client.get(f"{ONE}/{made}").json()["use_case"] == "code_generation"
    save(conversation_id=made, use_case="qa")
    assert client.get(f"{ONE}/{made}").json()["use_case"] == "qa"


def test_ids_of_every_kind_work_over_the_wire(address):
    """A1: slashes, spaces, Unicode, signs of an address, dots; each is its own conversation, and of nobody else's name."""
    for name in ODD_IDS:
        status, saved = raw(address, "POST", SAVE, HELLO | {"conversation_id": name, "content": f"This is {name}"})
        assert (status, saved.get("conversation_id")) == (200, name), saved
    for name in ODD_IDS:
        written = place(name)
        status, found = raw(address, "GET", written)
        assert (status, found["id"], found["messages"][0]["content"]) == (200, name, f"This is {name}"), found
        status, renamed = raw(address, "POST", RENAME, {"conversation_id": name, "title": "Another"})
        assert (status, renamed["conversation_id"], renamed["title"]) == (200, name, "Another"), renamed
        assert raw(address, "DELETE", written) == (200, {"status": "deleted", "conversation_id": name})
        assert raw(address, "GET", written)[0] == 404


@pytest.mark.parametrize("name", [name for name in ODD_IDS if quote(name) != quote(name, safe="")])
def test_slashes_in_an_id_may_stand_as_they_are(address, name):
    """A1: as in a model's id."""
    raw(address, "POST", SAVE, HELLO | {"conversation_id": name})
    assert raw(address, "GET", f"{ONE}/{quote(name)}")[1]["id"] == name


@pytest.mark.parametrize("name", ["", " ", "a\nb", "tab\there", "nul\0", "x" * 201])
def test_an_id_that_no_address_holds_is_refused_with_a_sentence(client, name):
    """A1: before anything is stored."""
    refused = client.post(SAVE, json=HELLO | {"conversation_id": name})
    assert refused.status_code == 422
    assert "id" in refused.json()["error"]["message"]
    assert client.get(ALL).json() == {"conversations": [], "total": 0}


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", f"{ONE}/nobody"), ("DELETE", f"{ONE}/nobody"), ("POST", RENAME), ("GET", f"{ONE}/")],
)
def test_an_unknown_conversation_is_404_with_a_remedy(client, method, path):
    """A1."""
    body = {"conversation_id": "nobody", "title": "x"}
    response = client.request(method, path, json=body if method == "POST" else None)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
    assert response.json()["error"]["remedy"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (HELLO | {"conversationid": "x"}, "conversationid"),
        (HELLO | {"role": "parrot"}, "role"),
        ({"role": "user"}, "content"),
        (HELLO | {"content": 7}, "content"),
        (HELLO | {"model_id": ["starter"]}, "model_id"),
        (HELLO | {"use_case": "sailing"}, "use_case"),
    ],
)
def test_what_is_wrong_with_a_message_is_refused_by_name(client, body, param):
    """A5: nothing is stored then."""
    refused = client.post(SAVE, json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, param)
    assert client.get(ALL).json()["total"] == 0


def test_a_misspelt_filter_is_refused_and_deletes_nothing(client, save):
    """A5: ``DELETE /conversations?model=…`` must not delete the others."""
    save()
    for method, path in [
        ("GET", f"{ALL}?model=starter"),
        ("DELETE", f"{ALL}?model_id=x"),
        ("GET", f"{ALL}/export?ids=x"),
    ]:
        refused = client.request(method, path)
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "unknown_field"), path
    assert client.get(ALL).json()["total"] == 1


def test_the_list_is_filtered_by_model_use_case_and_words(client, save):
    """A1: newest first; the total is that of all that fit."""
    save(conversation_id="base", **ANSWER | {"model_id": "starter"})
    save(conversation_id="pirate", **ANSWER)
    save(conversation_id="other", content="How tall is the Eiffel Tower?", use_case="qa", model_id="Qwen/Qwen2-0.5B")

    def ids(**query: Any) -> list[str]:
        found = client.get(ALL, params=query).json()
        ConversationList.model_validate(found)
        assert found["total"] >= len(found["conversations"])
        return [line["id"] for line in found["conversations"]]

    assert ids() == ["other", "pirate", "base"]
    assert ids(model_id="starter") == ["pirate", "base"]
    assert ids(model_id="starter:pirate") == ["pirate"]
    assert ids(model_id="Qwen/Qwen2-0.5B") == ids(use_case="qa") == ids(q="eiffel") == ["other"]
    assert ids(use_case="creative-writing") == ids(q="nowhere") == ids(model_id="start") == []
    assert (ids(limit=1), ids(limit=1, offset=1), ids(offset=9)) == (["other"], ["pirate"], [])
    assert client.get(ALL, params={"limit": 1}).json()["total"] == 3
    save(conversation_id="half", **ANSWER | {"model_id": "starter:pirate@0.5"})
    assert (ids(model_id="starter:pirate"), ids(model_id="starter:pirate@0.5")) == (["half", "pirate"], ["half"])


def test_a_line_of_the_list_says_what_answered(client, save):
    """A1: the last, and all."""
    save(conversation_id="c", **ANSWER | {"model_id": "starter"})
    save(conversation_id="c", **ANSWER)
    line = client.get(ALL).json()["conversations"][0]
    assert (line["model_id"], line["models"]) == ("starter:pirate", ["starter", "starter:pirate"])
    found = client.get(f"{ONE}/c").json()
    assert all(line[name] == found[name] for name in ("id", "title", "use_case", "created_at", "updated_at"))


def test_a_title_is_given_and_taken_back(client, save):
    """P6: an empty one is the beginning of what was said first, again."""
    save(conversation_id="c")
    body = {"conversation_id": "c", "title": "Capitals"}
    assert client.post(RENAME, json=body).json()["title"] == "Capitals"
    assert client.get(f"{ONE}/c").json()["title"] == "Capitals"
    assert client.post(RENAME, json=body | {"title": ""}).json()["title"] == HELLO["content"]


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        (SAVE, "POST"),
        (ALL, "GET, DELETE"),
        (f"{ONE}/x", "GET, DELETE"),
        ("/api/inference/jobs", "GET, POST"),
        ("/api/inference/jobs/x", "GET, DELETE"),
        ("/v1/models", "GET"),
    ],
)
def test_what_may_be_sent_to_an_address_is_what_is_described_of_it(client, path, allowed):
    """A4: /conversation/save could be read as the conversation "save" as well."""
    refused = client.put(path)
    assert (refused.status_code, refused.headers["Allow"]) == (405, allowed)


def test_deleting_all_says_how_many_there_were(client, save):
    """F2."""
    for _ in range(3):
        save()
    assert client.delete(ALL).json() == {"status": "deleted", "deleted": 3}
    assert client.delete(ALL).json() == {"status": "deleted", "deleted": 0}
    assert client.get(ALL).json()["total"] == 0


@pytest.mark.parametrize("form", EXPORT_FORMATS)
def test_what_is_exported_comes_back(client, save, form):
    """P6: in every format; as a file with a name."""
    save(conversation_id="c", role="system", content="You are a pirate.")
    save(conversation_id="c")
    save(conversation_id="c", **ANSWER)
    file = client.get(f"{ALL}/export", params={"format": form, "id": ["c"]})
    assert file.status_code == 200
    name = unquote(file.headers["Content-Disposition"].partition("utf-8''")[2])
    assert file.headers["Content-Disposition"].startswith("attachment")
    assert name
    assert "Paris" in file.text
    taken = client.post(f"{ALL}/import", json={"name": name, "text": file.text})
    assert taken.status_code == 200, taken.text
    (new,) = taken.json()["conversation_ids"]
    before, after = (client.get(f"{ONE}/{name}").json()["messages"] for name in ("c", new))
    assert [(said["role"], said["content"]) for said in after] == [(said["role"], said["content"]) for said in before]
    assert new != "c"


def test_an_export_is_of_those_that_are_named_or_of_all(client, save):
    """P6: one unknown id is a 404, and not a file with less in it."""
    for name in ("first", "a/second", "third"):
        save(conversation_id=name, content=f"I am {name}.")
    both = client.get(f"{ALL}/export", params={"id": ["first", "a/second"], "format": "txt"}).text
    assert ("I am first." in both, "I am a/second." in both, "third" in both) == (True, True, False)
    assert client.get(f"{ALL}/export").text.count("I am") == 3
    assert client.get(f"{ALL}/export", params={"id": ["first", "nobody"]}).status_code == 404


@pytest.mark.parametrize("text", ["{", "[]", '{"messages": 7}', "\\x00", "just some words", '{"version": 999}', " "])
def test_a_file_that_holds_no_conversations_is_refused_and_leaves_nothing(client, text):
    """P6: with a sentence."""
    refused = client.post(f"{ALL}/import", json={"name": "chats.json", "text": text})
    assert refused.status_code == 422
    assert refused.json()["error"]["message"]
    assert client.get(ALL).json()["total"] == 0


def test_a_file_that_is_too_large_for_a_request_is_refused(client):
    """A6: 30 MB are taken, and no request is read that is larger than such a file could be."""
    assert client.post(f"{ALL}/import", json={"name": "x.txt", "text": "x" * 50_400_000}).status_code == 413


def test_a_history_that_cannot_be_written_is_503_with_when_to_come_again(client, services, monkeypatch):
    """F2, A6: in the one shape of errors."""

    def full(*_: object) -> None:
        raise HistoryUnavailable("The disk is full.", "Make room, and send it again.")

    monkeypatch.setattr(services.history, "save_message", full)
    refused = client.post(SAVE, json=HELLO)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "history_unavailable")
    assert refused.json()["error"]["message"] == "The disk is full. Make room, and send it again."
    assert refused.headers["Retry-After"]


def test_a_slow_disk_holds_up_nobody_else(address, services, monkeypatch):
    """A7: the routes wait beside the event loop."""
    waiting, go_on = threading.Event(), threading.Event()
    really = services.history.save_message

    def slowly(*said: Any) -> Any:
        waiting.set()
        assert go_on.wait(20)
        return really(*said)

    monkeypatch.setattr(services.history, "save_message", slowly)
    with ThreadPoolExecutor(1) as beside:
        saving = beside.submit(raw, address, "POST", SAVE, HELLO)
        assert waiting.wait(20)
        try:
            assert raw(address, "GET", "/health")[0] == 200
        finally:
            go_on.set()
        assert saving.result()[0] == 200


def test_programs_that_save_at_the_same_time_lose_nothing(address):
    """F2: forty messages of eight writers to one conversation, which begins with whichever comes first."""
    body = HELLO | {"conversation_id": "shared/by all"}
    with ThreadPoolExecutor(8) as writers:
        sent = [
            writers.submit(raw, address, "POST", SAVE, body | {"content": f"message {number}"}) for number in range(40)
        ]
        assert {one.result()[0] for one in sent} == {200}
    said = [message["content"] for message in raw(address, "GET", place("shared/by all"))[1]["messages"]]
    assert sorted(said) == sorted(f"message {number}" for number in range(40))


ANNA, BEN, CHIEF = "anna-0123456789abcdef", "ben-0123456789abcdef", "chief-0123456789abcdef"


@pytest.fixture
def keyed(config: AppConfig, fake: FakeEngine) -> Iterator[Callable[[str], httpx.Client]]:
    """A server that knows two keys and an administrator's, on a real socket; a client with the key that is given."""
    settings = replace(config, api_keys=(ANNA, BEN), admin_key=CHIEF)
    with listening(Gate(create_app(settings, Services.over(fake, settings)), config=settings)) as address:
        opened: list[httpx.Client] = []

        def with_key(key: str) -> httpx.Client:
            opened.append(httpx.Client(base_url=address, headers={"Authorization": f"Bearer {key}"}, timeout=20))
            return opened[-1]

        yield with_key
        for one in opened:
            one.close()


def test_two_keys_see_only_their_own(keyed):
    """F2, S2: not by list, search, id, export or delete; the same id is another conversation for each."""
    anna, ben = keyed(ANNA), keyed(BEN)
    for one, words in ((anna, "Anna's secret"), (ben, "Ben's secret")):
        assert one.post(SAVE, json=HELLO | {"conversation_id": "same/id", "content": words}).status_code == 200
    hers = anna.post(SAVE, json=HELLO).json()["conversation_id"]
    assert ben.get(f"{ONE}/same%2Fid").json()["messages"][0]["content"] == "Ben's secret"
    assert ben.get(ALL).json()["total"] == 1
    assert ben.get(ALL, params={"q": "secret"}).json()["total"] == 1
    assert ben.get(ALL, params={"q": "Anna's"}).json()["total"] == 0
    assert "Anna" not in ben.get(f"{ALL}/export").text
    unknown = ben.get(f"{ONE}/nobody").json()
    for response in (
        ben.get(f"{ONE}/{hers}"),
        ben.delete(f"{ONE}/{hers}"),
        ben.post(RENAME, json={"conversation_id": hers, "title": "Mine"}),
        ben.get(f"{ALL}/export", params={"id": hers}),
    ):
        assert (response.status_code, response.json()["error"]["code"]) == (404, unknown["error"]["code"])
    assert ben.get(f"{ONE}/{hers}").json() == unknown
    assert ben.delete(ALL).json()["deleted"] == 1
    assert anna.get(ALL).json()["total"] == 2


def test_saving_to_somebody_elses_id_begins_ones_own(keyed):
    """F2: nothing of theirs is changed or told."""
    hers = keyed(ANNA).post(SAVE, json=HELLO).json()["conversation_id"]
    his = keyed(BEN).post(SAVE, json=HELLO | {"conversation_id": hers, "content": "Ahoy"}).json()
    assert his["message_count"] == 1
    assert [said["content"] for said in keyed(ANNA).get(f"{ONE}/{hers}").json()["messages"]] == [HELLO["content"]]


def test_the_administrator_does_not_see_what_others_said(keyed):
    """F2, S2: the admin key opens models, not conversations."""
    hers = keyed(ANNA).post(SAVE, json=HELLO).json()["conversation_id"]
    assert keyed(CHIEF).get(f"{ONE}/{hers}").status_code == 404
    assert keyed(CHIEF).get(ALL).json()["total"] == 0


def test_without_a_key_where_one_is_needed_there_is_nothing(keyed):
    """A6: the gate's 401, before any conversation is looked for."""
    with httpx.Client(base_url=keyed(ANNA).base_url) as stranger:
        for method, path in (("GET", ALL), ("DELETE", ALL), ("POST", SAVE), ("GET", f"{ALL}/export")):
            assert stranger.request(method, path).status_code == 401


def test_two_people_who_signed_in_see_only_their_own(config):
    """F2, S2: each in a browser of their own, on a server that others can reach."""
    users = {"anna": "anna's long password", "ben": "ben's long password"}
    shared = replace(config, free_paths=False, auth=users)
    app = Gate(create_app(shared, Services.over(FakeEngine(), shared)), config=shared)

    def signed_in(name: str) -> TestClient:
        one = TestClient(app, base_url="http://localhost", client=("10.0.0.7", 50000))
        assert one.post("/login", data={"name": name, "password": users[name]}, follow_redirects=False).is_redirect
        return one

    anna, ben = signed_in("anna"), signed_in("ben")
    assert anna.post(SAVE, json=HELLO | {"conversation_id": "hers"}).status_code == 200
    assert ben.get(f"{ONE}/hers").status_code == ben.delete(f"{ONE}/hers").status_code == 404
    assert ben.get(ALL).json()["total"] == 0
    assert signed_in("anna").get(f"{ONE}/hers").json()["messages"][0]["content"] == HELLO["content"]
    elsewhere = anna.delete(ALL, headers={"Origin": "http://evil.example"})
    assert (elsewhere.status_code, anna.get(ALL).json()["total"]) == (403, 1)


def test_a_plain_address_has_no_conversations_on_a_shared_server(config, fake):
    """S2: behind an address there may be many people; the sentence says what to bring."""
    shared = replace(config, free_paths=False)
    app = Gate(create_app(shared, Services.over(fake, shared)), config=shared)
    with TestClient(app, base_url="http://localhost", client=("10.0.0.7", 50000)) as stranger:
        for method, path, body in (("GET", ALL, None), ("POST", SAVE, HELLO), ("GET", f"{ONE}/x", None)):
            refused = stranger.request(method, path, json=body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_permitted")
            assert refused.json()["error"]["remedy"]


def test_what_was_generated_is_saved_and_read_from_the_real_app(live_app: LiveApp):
    """A1: generate, save both turns under an id with slashes, read them, delete them; the real model and the real gate."""
    name = "trial/Zoë & co/1"
    with httpx.Client(base_url=live_app.url, timeout=90) as http:
        http.post("/api/inference/load", json={"model_id": "starter", "use_case": "chatbot"}).raise_for_status()
        asked = {"model_id": "starter", "prompt": HELLO["content"], "temperature": 0, "max_tokens": 16}
        said = http.post("/api/inference/generate", json=asked | {"adapter_path": None}).json()
        for message in (HELLO, {"role": "assistant", "content": said["response"], "model_id": said["model_id"]}):
            http.post(SAVE, json=message | {"conversation_id": name}).raise_for_status()
        found = http.get(place(name)).json()
        assert [message["content"] for message in found["messages"]] == [HELLO["content"], said["response"]]
        assert "Paris" in found["messages"][1]["content"]
        assert name in [line["id"] for line in http.get(ALL, params={"model_id": "starter"}).json()["conversations"]]
        assert http.delete(place(name)).json() == {"status": "deleted", "conversation_id": name}
        assert http.get(place(name)).status_code == 404
