"""Logging in and out: our own page, its cookie, and how often one may be wrong."""

from __future__ import annotations

import html
import re

import pytest

from playground.gate.cookies import SESSION
from tests.gate.house import ADMIN_KEY, BROWSER, ELSEWHERE, KEY, PASSWORD, browser, log_in

AUTH = {"anna": PASSWORD, "Zoë": "pässword: 日本"}
COOKIE = f"{SESSION}_7860"


def alert(response) -> str:
    return html.unescape(re.search(r'role="alert">([^<]*)<', response.text)[1])


def test_the_page_needs_no_script_and_nothing_from_elsewhere(tmp_path):
    """S3, S4: labels, one focus, and a policy that allows a form and a style; never kept."""
    page = browser(tmp_path, auth=AUTH).get("/login", headers=BROWSER)
    assert page.status_code == 200
    assert page.headers["cache-control"] == "no-store"
    policy = page.headers["content-security-policy"]
    for directive in ("default-src 'none'", "form-action 'self'", "base-uri 'none'", "frame-ancestors 'self'"):
        assert directive in policy
    assert "script-src" not in policy
    assert page.text.count(" autofocus") == 1
    for name in ("name", "password"):
        assert f'<label for="{name}">' in page.text
        assert f'id="{name}"' in page.text
    assert "<script" not in page.text
    assert "://" not in page.text
    assert "role=" not in page.text.split("</style>")[1]


def test_the_right_password_sets_a_cookie_and_leads_on(tmp_path):
    """A6: HttpOnly, with an end, and back to where one wanted to go."""
    client = browser(tmp_path, auth=AUTH, session_hours=2)
    sent = log_in(client, data={"next": "/?view=chat"})
    assert (sent.status_code, sent.headers["location"]) == (303, "/?view=chat")
    cookie = sent.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    for word in ("HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=7200"):
        assert word in cookie
    assert "Secure" not in cookie
    assert PASSWORD not in cookie
    assert log_in(browser(tmp_path, auth=AUTH), " Zoë ", "pässword: 日本").status_code == 303


def test_behind_https_and_on_a_space_the_cookie_says_so(tmp_path, monkeypatch):
    """A6, R4: Secure; in the Hub's frame a browser wants None and Partitioned."""
    assert "; Secure" in log_in(browser(tmp_path, auth=AUTH, url="https://localhost:7860")).headers["set-cookie"]
    monkeypatch.setenv("SPACE_ID", "somebody/space")
    monkeypatch.setenv("SPACE_HOST", "somebody-space.hf.space")
    client = browser(tmp_path, auth=AUTH, url="http://somebody-space.hf.space")
    sent = log_in(client, headers={"Origin": "https://somebody-space.hf.space"})
    assert sent.headers["set-cookie"].endswith("SameSite=None; Secure; Partitioned")
    assert log_in(client, headers={"Origin": "http://somebody-space.hf.space"}).status_code == 403
    assert client.get("/login", headers={"Host": "other.hf.space"}).status_code == 403


@pytest.mark.parametrize(
    ("name", "password"),
    [("anna", "wrong"), ("anna", ""), ("nobody", PASSWORD), ("", ""), ("ANNA", PASSWORD), ("anna", PASSWORD + " ")],
)
def test_anything_else_is_401_in_the_same_words(tmp_path, name, password):
    """A6: nothing tells a name that nobody has from a wrong password; the name is kept, the password is not."""
    client = browser(tmp_path, auth=AUTH)
    sent = log_in(client, name, password)
    assert sent.status_code == 401
    assert alert(sent) == "That name and password do not belong together. Check both; capitals count."
    assert "set-cookie" not in sent.headers
    assert f'value="{name}"' in sent.text
    assert not password or password not in sent.text


def test_what_was_typed_cannot_become_markup(tmp_path):
    """S3: name and next are escaped."""
    sent = log_in(browser(tmp_path, auth=AUTH), '"><script>x</script>', "y", data={"next": '/"><script>x</script>'})
    assert "<script" not in sent.text


@pytest.mark.parametrize(
    "wanted",
    ["//evil.com", "https://evil.com", "/\\evil.com", "/\t/evil.com", "\\\\evil.com", "evil.com", "javascript:x", "/login",
     "/logout", "/login?next=/", "", "/\r\nSet-Cookie: a=b"],
)  # fmt: skip
def test_the_way_on_stays_on_this_site(tmp_path, wanted):
    """A6: no open redirect, and no circle."""
    assert log_in(browser(tmp_path, auth=AUTH), data={"next": wanted}).headers["location"] == "/"


def test_after_five_wrong_passwords_an_address_has_to_wait(tmp_path):
    """A6: also with the right one, until then; other addresses come in."""
    client = browser(tmp_path, auth=AUTH)
    for _ in range(5):
        assert log_in(client, password="wrong").status_code == 401
    refused = log_in(client)
    assert refused.status_code == 429
    assert 0 < int(refused.headers["retry-after"]) <= 60
    assert f"Try again in {refused.headers['retry-after']} second" in alert(refused)
    assert "set-cookie" not in refused.headers
    other = browser(tmp_path, auth=AUTH, host="0.0.0.0", client=ELSEWHERE, login_limit="1/hour")
    assert log_in(other).status_code == 303
    assert log_in(other, password="wrong").status_code == 401
    assert "minutes" in alert(log_in(other))


def test_many_addresses_are_no_way_around_the_wait(tmp_path):
    """A6: a name, whether anybody has it or not, has a slower limit of its own, for all addresses together."""
    client = browser(tmp_path, auth=AUTH, host="0.0.0.0")
    for number in range(30):
        client._transport.client = (f"192.0.2.{number}", 1)
        assert log_in(client, password="wrong").status_code == 401
    client._transport.client = ("192.0.2.99", 1)
    assert log_in(client).status_code == 429
    assert log_in(client, "Zoë", "pässword: 日本").status_code == 303


def test_nobody_elsewhere_can_keep_a_person_out_who_has_been_here(tmp_path):
    """A6: where she has signed in before, only what is tried from there counts; guessing from there has its limit still."""
    client = browser(tmp_path, auth=AUTH, host="0.0.0.0", client=ELSEWHERE)
    assert log_in(client).status_code == 303
    for number in range(40):
        client._transport.client = (f"198.51.100.{number}", 1)
        assert log_in(client, password="wrong").status_code == (401 if number < 30 else 429)
    assert log_in(client).status_code == 429
    client._transport.client = ELSEWHERE
    assert log_in(client).status_code == 303
    for _ in range(5):
        assert log_in(client, password="wrong").status_code == 401
    assert log_in(client).status_code == 429


def test_the_wait_can_be_switched_off(tmp_path):
    """A6: where something in front counts already."""
    client = browser(tmp_path, auth=AUTH, login_limit="off")
    assert {log_in(client, password="wrong").status_code for _ in range(40)} == {401}


def test_another_sites_form_logs_nobody_in(tmp_path):
    """A6: Origin null included, which a page without a referrer sends: ours has one."""
    client = browser(tmp_path, auth=AUTH)
    for origin in ("https://evil.com", "null", "http://localhost:3000"):
        assert log_in(client, headers={"Origin": origin}).status_code == 403
    assert client.get("/login").headers["referrer-policy"] == "same-origin"
    assert client.post("/login", json={"name": "anna", "password": PASSWORD}).status_code == 415
    assert client.post("/login", data={str(number): "x" for number in range(50)}).status_code == 400
    assert client.post("/login", content=b"x" * 20_000, headers={"Content-Type": "text/plain"}).status_code == 413
    assert client.delete("/login").status_code == 405
    assert client.get("/login/elsewhere").status_code == 404


def test_logging_out_ends_the_session_everywhere(tmp_path):
    """A6: the cookie is taken away, and a copy of it is worth nothing; a link alone does not do it."""
    client = browser(tmp_path, auth=AUTH)
    log_in(client)
    copy = {"Cookie": f"{COOKIE}={client.cookies[COOKIE]}"}
    asked = client.get("/logout", headers=BROWSER)
    assert '<form method="post" action="/logout">' in asked.text
    assert "anna" in asked.text
    assert client.get("/config").status_code == 200
    assert client.post("/logout", headers={"Origin": "https://evil.com"}).status_code == 403
    sent = client.post("/logout", headers={"Origin": "http://localhost:7860"})
    assert (sent.status_code, sent.headers["location"]) == (303, "/login")
    assert "Max-Age=0" in sent.headers["set-cookie"]
    for headers in ({}, copy):
        assert client.get("/config", headers=headers).status_code == 401
    assert client.get("/logout").headers["location"] == "/"


def test_a_login_holds_over_a_restart_until_the_password_changes(tmp_path):
    """A6: another password, or no such user any more, ends it; so does another admin key."""
    before = browser(tmp_path, auth=AUTH)
    log_in(before)
    cookie = {"Cookie": f"{COOKIE}={before.cookies[COOKIE]}"}
    for auth, status in ((AUTH, 200), ({**AUTH, "anna": "new"}, 401), ({"Zoë": "x"}, 401)):
        assert browser(tmp_path, auth=auth).get("/config", headers=cookie).status_code == status
    admin = browser(tmp_path, admin_key=ADMIN_KEY)
    log_in(admin, "admin", ADMIN_KEY)
    cookie = {"Cookie": f"{COOKIE}={admin.cookies[COOKIE]}"}
    for key, kind in ((ADMIN_KEY, "user"), ("sk-another-admin-key", "address")):
        assert browser(tmp_path, admin_key=key).get("/config", headers=cookie).json()["kind"] == kind


def test_without_anything_to_log_in_to_the_login_leads_to_the_app(tmp_path):
    """A6: and no secret is made."""
    client = browser(tmp_path / "data")
    assert client.get("/login").headers["location"] == "/"
    assert log_in(client, "admin", "").status_code == 401
    assert client.post("/logout").headers["location"] == "/"
    assert not (tmp_path / "data").exists()


def test_whoever_guesses_keys_has_to_wait(tmp_path):
    """A6: twenty different wrong ones, wherever; one that is repeated is somebody's mistake."""
    client = browser(tmp_path, api_keys=(KEY,), admin_key=ADMIN_KEY)
    for _ in range(30):
        assert client.get("/v1/models", headers={"x-api-key": "sk-my-mistake"}).status_code == 401
    assert client.get("/v1/models", headers={"x-api-key": KEY}).status_code == 200
    for number in range(19):
        assert client.get("/health", headers={"Authorization": f"Bearer sk-{number}"}).json()["kind"] == "address"
    assert len(KEY) < 20 <= len(ADMIN_KEY)
    for key in (KEY, "sk-more", "sk-more-of-twenty-letters"):
        refused = client.get("/v1/models", headers={"Authorization": f"Bearer {key}"})
        assert refused.status_code == 429
        assert 0 < int(refused.headers["retry-after"]) <= 60
        assert refused.json()["error"]["code"] == "rate_limited"
        assert client.get("/health", headers={"x-api-key": key}).json()["kind"] == "address"


def test_a_long_key_comes_in_while_others_guess_from_the_same_address(tmp_path):
    """A6: behind one proxy everybody has one address, and nobody guesses a key of twenty letters."""
    client = browser(tmp_path, api_keys=(KEY,), admin_key=ADMIN_KEY)
    for number in range(40):
        client.get("/v1/models", headers={"x-api-key": f"sk-{number}"})
    for header in ({"x-api-key": ADMIN_KEY}, {"Authorization": f"Bearer {ADMIN_KEY}"}):
        told = client.get("/v1/models", headers=header)
        assert (told.status_code, told.json()["admin"]) == (200, True)
    assert client.get("/v1/models", headers={"x-api-key": KEY}).status_code == 429
