"""Signing in with Hugging Face, against a provider of our own on this machine."""

from __future__ import annotations

import html
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from playground.config import AppConfig
from playground.gate import Gate, oauth
from tests.gate.provider import SECRET, TOKEN, StandIn, environment, standing_in

HERE = "http://testserver"
PLAIN = json.dumps(
    {f"{name}_endpoint": "http://evil.example" for name in ("authorization", "token", "userinfo")}
).encode()


@pytest.fixture
def provider() -> Iterator[StandIn]:
    with standing_in() as stand_in:
        yield stand_in


@pytest.fixture(autouse=True)
def space(provider: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a Space finds in its environment."""
    for name, value in environment(provider).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SPACE_HOST", raising=False)


def finish(request: Request, name: str) -> Response:
    response = RedirectResponse("/", 303)
    response.set_cookie("session", name.replace(":", "."))
    return response


def refused(request: Request, sentence: str, status: int) -> Response:
    return PlainTextResponse(sentence, status)


def browser(config: AppConfig | None = None, patience_s: float = 5.0, url: str = HERE) -> TestClient:
    """A browser at a server with ``config``; it follows no redirect by itself."""
    routes = oauth.routes(config or AppConfig(), finish, refused, patience_s)
    return TestClient(Starlette(routes=routes), base_url=url, follow_redirects=False)


def signed_in(visitor: TestClient, provider: StandIn, next_: str = "/") -> Response:
    begun = visitor.get("/login/huggingface", params={"next": next_})
    return visitor.get(provider.consent(begun.headers["location"]))  # type: ignore[return-value]


def test_who_comes_back_from_hugging_face_is_signed_in_under_a_name_of_their_own(provider: StandIn, caplog) -> None:
    """Issue 5, 4: code, state, PKCE and redirect fit; the user is hf:NAME; the token is neither kept nor logged."""
    caplog.set_level(logging.DEBUG)
    visitor = browser()
    begun = visitor.get("/login/huggingface?next=/%3Fa%3Db")
    sent = dict(parse_qsl(urlsplit(begun.headers["location"]).query))
    assert begun.headers["location"].startswith(f"{provider.url}/authorization?")
    assert (sent["redirect_uri"], sent["code_challenge_method"]) == (f"{HERE}/login/callback", "S256")
    assert "httponly" in begun.headers["set-cookie"].lower()
    assert "samesite=lax" in begun.headers["set-cookie"].lower()
    back = visitor.get(provider.consent(begun.headers["location"]))
    assert (back.status_code, back.headers["location"]) == (303, "/?a=b")
    assert visitor.cookies["session"] == "hf.Ada-Lovelace"
    assert oauth.COOKIE not in visitor.cookies
    assert provider.asked == ["/.well-known/openid-configuration", "/token", "/userinfo"]
    everything = "".join(map(str, (begun.headers, begun.text, back.headers, back.text, caplog.text, visitor.cookies)))
    assert TOKEN not in everything
    assert SECRET not in everything


@pytest.mark.parametrize("spoilt", ["state", "cookie", "no cookie", "code"])
def test_an_answer_that_belongs_to_another_sign_in_signs_nobody_in(provider: StandIn, spoilt: str) -> None:
    """S3: a state, cookie or code that is not this browser's own is one sentence, and the provider learns no code of it."""
    visitor = browser()
    address = provider.consent(visitor.get("/login/huggingface").headers["location"])
    if spoilt == "state":
        address += "x"
    elif spoilt == "code":
        address = address.replace("code=", "code=another-")
    elif spoilt == "cookie":
        visitor.cookies.set(
            oauth.COOKIE, visitor.cookies[oauth.COOKIE][:-3] + "abc", domain="testserver.local", path="/login"
        )
    else:
        visitor.cookies.clear()
    back = visitor.get(address)
    assert back.status_code == 400
    assert "Try again" in back.text
    assert "session" not in visitor.cookies
    assert ("/token" in provider.asked) == (spoilt == "code")


def test_an_answer_of_hugging_face_is_good_for_once(provider: StandIn) -> None:
    """S3: not even with the cookie that belonged to it, and however often the provider would take the code."""
    visitor = browser()
    address = provider.consent(visitor.get("/login/huggingface").headers["location"])
    kept, codes = visitor.cookies[oauth.COOKIE], dict(provider.codes)
    assert visitor.get(address).status_code == 303
    visitor.cookies.clear()
    assert visitor.get(address).status_code == 400
    provider.codes.update(codes)
    visitor.cookies.set(oauth.COOKIE, kept)
    again = visitor.get(address)
    assert (again.status_code, "used already" in again.text) == (400, True)
    assert provider.asked.count("/token") == 1


def test_a_code_that_the_provider_has_given_away_already_signs_nobody_in(provider: StandIn) -> None:
    """S3: another server's restart forgets which states were used; the provider does not forget its codes."""
    visitor = browser()
    address = provider.consent(visitor.get("/login/huggingface").headers["location"])
    provider.codes.clear()
    back = visitor.get(address)
    assert (back.status_code, "used already" in back.text) == (400, True)


@pytest.mark.parametrize(
    ("where", "ill"),
    [
        pytest.param(where, ill, marks=pytest.mark.long if where != "/token" and ill in (404, b"[]", b"<html>") else ())
        for where in ("/.well-known/openid-configuration", "/token", "/userinfo")
        for ill in (500, 404, b"<html>", b"[]", b"{}", PLAIN)
    ],
)
def test_a_provider_that_fails_is_a_sentence(provider: StandIn, where: str, ill: int | bytes) -> None:
    """S3: whatever it says instead is not repeated."""
    provider.ill = {where: ill}
    visitor = browser()
    answer = visitor.get("/login/huggingface")
    if answer.status_code == 303:
        answer = visitor.get(provider.consent(answer.headers["location"]))
    assert (answer.status_code, "in a minute" in answer.text) == (502, True)
    assert TOKEN not in answer.text
    assert "session" not in visitor.cookies
    provider.ill = {}
    assert signed_in(visitor, provider).status_code == 303


@pytest.mark.parametrize("where", ["/.well-known/openid-configuration", "/token", "/userinfo"])
def test_a_provider_that_is_slow_is_not_waited_for(provider: StandIn, where: str) -> None:
    """S3: nothing hangs."""
    provider.slow = where
    visitor = browser(patience_s=0.1)
    answer = visitor.get("/login/huggingface")
    if answer.status_code == 303:
        answer = visitor.get(provider.consent(answer.headers["location"]))
    assert (answer.status_code, "does not answer" in answer.text) == (502, True)
    assert not provider.held.is_set()


def test_a_provider_that_is_away_is_a_sentence(provider: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3: a refused connection as well."""
    monkeypatch.setenv("OPENID_PROVIDER_URL", "http://127.0.0.1:9")
    answer = browser().get("/login/huggingface")
    assert (answer.status_code, "does not answer" in answer.text) == (502, True)


@pytest.mark.parametrize("name", ["", "../../etc", "Ada Lovelace", "<script>", "a" * 200, 7, None, "hf:ada", "áda"])
def test_what_is_no_name_signs_nobody_in(provider: StandIn, name: object) -> None:
    """S3: nothing but a Hugging Face name becomes a user here."""
    provider.account = name
    visitor = browser()
    assert signed_in(visitor, provider).status_code == 502
    assert "session" not in visitor.cookies


def test_only_the_accounts_of_the_list_are_let_in(provider: StandIn) -> None:
    """A6: capitals make no difference to Hugging Face; a star lets everybody in."""
    for accounts, status in ((("grace", "ADA-lovelace"), 303), (("*",), 303), (("grace",), 403), (("ada",), 403)):
        visitor = browser(AppConfig(oauth_users=accounts))
        answer = signed_in(visitor, provider)
        assert answer.status_code == status, accounts
        assert ("session" in visitor.cookies) == (status == 303)
    assert "Ada-Lovelace is not among those" in answer.text  # type: ignore[attr-defined]


def test_where_passwords_or_keys_close_the_door_an_account_that_nobody_named_opens_nothing(provider: StandIn) -> None:
    """A6: anybody has a Hugging Face account."""
    for closed in (AppConfig(auth={"anna": "secret"}), AppConfig(api_keys=("a-long-key",))):
        assert not oauth.available(closed)
        assert not oauth.lets_in(closed, "anybody")
        assert browser(closed).get("/login/huggingface").status_code == 404
    both = AppConfig(auth={"anna": "secret"}, oauth_users=("grace",))
    assert oauth.available(both)
    assert not oauth.lets_in(both, "anybody")


@pytest.mark.parametrize("missing", ["OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET", "OPENID_PROVIDER_URL"])
def test_elsewhere_than_on_a_space_there_is_nothing_of_it(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """S4: no provider, no routes; nor where it would be asked without encryption."""
    assert oauth.available(AppConfig())
    monkeypatch.delenv(missing)
    assert not oauth.available(AppConfig(oauth_users=("*",)))
    assert oauth.routes(AppConfig(), finish, refused) == []
    monkeypatch.setenv("OPENID_PROVIDER_URL", "http://huggingface.co")
    assert not oauth.available(AppConfig())


@pytest.mark.parametrize(
    "wanted",
    [
        "https://evil.example/", "//evil.example", "///evil.example", "/\\evil.example", "\\\\evil.example", "evil.example",
        "/\t/evil.example", "/\n/evil.example", "javascript:alert(1)", "",
        "/\\/evil", "//[", " //evil.example", "/ok\r\nX: y",
    ],
)  # fmt: skip
def test_nobody_is_sent_to_another_site_after_signing_in(provider: StandIn, wanted: str) -> None:
    """S3: only a path of this site is gone to."""
    assert signed_in(browser(), provider, wanted).headers["location"] == "/"


def test_a_path_of_this_site_is_kept_as_it_is() -> None:
    """S3: with what it asks for."""
    for path in ("/", "/docs", "/?model=starter&x=//y", "/docs#tag/generate", "/a:b", "/é"):
        assert oauth.safe_path(path) == path


def test_who_does_not_allow_it_is_told_so_and_nothing_of_the_link_is_repeated(provider: StandIn) -> None:
    """S3: an address bar can be filled by anybody."""
    for said, words in (
        ("access_denied", "did not allow"),
        ("<b>broken</b>", "could not sign you in"),
        ("", "sent nothing"),
    ):
        visitor = browser()
        state = dict(parse_qsl(visitor.get("/login/huggingface").headers["location"]))["state"]
        params = {"error": said, "error_description": "Call 0900-EVIL", "state": state}
        answer = visitor.get("/login/callback", params=params)
        assert answer.status_code in (400, 403)
        assert words in answer.text
        assert "EVIL" not in answer.text
        assert "<b>" not in answer.text
    assert "/token" not in provider.asked


def test_on_a_space_people_come_back_to_its_own_name_over_https(
    provider: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S2: behind its proxy, and from a domain of one's own, where the cookie would otherwise be left behind."""
    monkeypatch.setenv("SPACE_HOST", "me-play.hf.space, play.example.org")
    begun = browser(url="https://me-play.hf.space").get("/login/huggingface")
    sent = dict(parse_qsl(urlsplit(begun.headers["location"]).query))
    assert sent["redirect_uri"] == "https://me-play.hf.space/login/callback"
    assert "secure" in begun.headers["set-cookie"].lower()
    other = browser(url="https://play.example.org").get("/login/huggingface?next=/x")
    assert other.headers["location"] == "https://me-play.hf.space/login/huggingface?next=%2Fx"
    assert "set-cookie" not in other.headers


def test_behind_the_real_gate_an_account_of_the_list_comes_in_and_stays_only_as_long_as_it_is_on_it(
    provider: StandIn, tmp_path: Path
) -> None:
    """A6: the whole way: page, login page, provider, page; the caller is "user hf:NAME" and no operator."""

    async def who(request: Request) -> JSONResponse:
        caller = request.state.caller
        return JSONResponse([caller.id, caller.name, caller.admin])

    def gate(*accounts: str) -> Gate:
        house = Starlette(routes=[Route("/{path:path}", who)])
        config = AppConfig(oauth_users=accounts, data_dir=tmp_path, admin_key="the key of the operator")
        return Gate(house, api=house, config=config)

    asks_for_page = {"accept": "text/html", "sec-fetch-mode": "navigate", "sec-fetch-site": "cross-site"}
    visitor = TestClient(
        gate("ada-lovelace"), base_url="http://localhost", headers=asks_for_page, follow_redirects=False
    )
    login = visitor.get("/?model=x").headers["location"]
    link = re.search(r'href="(/login/huggingface[^"]*)"', visitor.get(login).text)
    assert link is not None
    begun = visitor.get(html.unescape(link[1]))
    back = visitor.get(provider.consent(begun.headers["location"]))
    assert (back.status_code, back.headers["location"]) == (303, "/?model=x")
    assert visitor.get("/").json() == ["user hf:Ada-Lovelace", "Ada-Lovelace", False]
    for accounts, status in (("ada-lovelace", 200), ("grace", 401)):  # started again, the second time with another list
        later = TestClient(gate(accounts), base_url="http://localhost", cookies=visitor.cookies)
        assert later.get("/").status_code == status, accounts


def test_behind_the_real_gate_whoever_is_not_on_the_list_reads_why_on_the_login_page(
    provider: StandIn, tmp_path: Path
) -> None:
    """A6: one page, with the other ways in."""
    config = AppConfig(oauth_users=("grace",), auth={"anna": "secret"}, data_dir=tmp_path)
    visitor = TestClient(Gate(Starlette(), config=config), base_url="http://localhost", follow_redirects=False)
    said = visitor.get(provider.consent(visitor.get("/login/huggingface").headers["location"]))
    assert said.status_code == 403
    assert "Ada-Lovelace is not among those" in said.text
    assert 'name="password"' in said.text
    assert "playground_session" not in str(visitor.cookies)
