"""Logging in and out: our own page, without a script and without a file from elsewhere."""

from __future__ import annotations

import html
import os
from urllib.parse import parse_qs, quote, urlencode

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route, Router
from starlette.types import Scope

from playground.config import AppConfig
from playground.gate import cookies, oauth
from playground.gate.identity import Identity
from playground.gate.lockout import Lockout, in_words
from playground.types import Caller

MAX_FORM_BYTES = 16 * 1024
_MAX_FIELDS = 8
_WRONG = "That name and password do not belong together. Check both; capitals count."

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="robots" content="noindex">
<title>{title} – Adapter Playground</title>
<style>
:root {{ --page: #fafaf9; --card: #fff; --text: #1c1917; --soft: #57534e; --line: #8a837d; --strong: #0f766e;
  --on-strong: #fff; --bad: #b42318; --bad-page: #fdeceb; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --page: #141312; --card: #1d1b1a; --text: #f5f5f4; --soft: #b3ada7; --line: #7d756e; --strong: #2dd4bf;
    --on-strong: #0c1f1d; --bad: #ff8f85; --bad-page: #3d1714; }}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0; min-height: 100vh; padding: 24px 16px; display: grid; place-items: center;
  background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif; }}
main {{ width: 100%; max-width: 360px; padding: 24px; background: var(--card); border-radius: 12px;
  box-shadow: 0 1px 4px rgb(0 0 0 / 25%); }}
h1 {{ margin: 0 0 16px; font-size: 22px; line-height: 1.3; }}
.product {{ margin: 0; font-size: 14px; font-weight: 600; }}
p {{ margin: 0 0 16px; color: var(--soft); overflow-wrap: anywhere; }}
p[role="alert"] {{ padding: 8px 12px; border-radius: 8px; color: var(--bad); background: var(--bad-page); }}
label {{ display: block; margin: 0 0 4px; font-weight: 600; }}
input {{ width: 100%; min-height: 44px; margin: 0 0 16px; padding: 8px 12px; font: inherit; color: inherit;
  background: var(--page); border: 1px solid var(--line); border-radius: 8px; }}
button, .button {{ display: block; width: 100%; min-height: 44px; padding: 9px 12px; font: inherit; font-weight: 600;
  text-align: center; text-decoration: none; color: var(--on-strong); background: var(--strong); border: 0;
  border-radius: 8px; cursor: pointer; }}
.or {{ margin: 16px 0; text-align: center; }}
:focus-visible {{ outline: 3px solid var(--strong); outline-offset: 2px; }}
</style>
</head>
<body>
<main>
<p class="product">Adapter Playground</p>
<h1>{title}</h1>
{content}
</main>
</body>
</html>
"""
_FORM = """<form method="post" action="/login">
<input type="hidden" name="next" value="{wanted}">
<label for="name">User name</label>
<input id="name" name="name" value="{name}" autocomplete="username" autocapitalize="none" spellcheck="false"
 maxlength="200" required{focus_name}>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required{focus_password}>
<button type="submit">Sign in</button>
</form>"""
_SIGN_OUT = '<form method="post" action="/logout"><button type="submit">Sign out</button></form>'


class Login:
    """GET and POST /login, /logout, and the routes of signing in with Hugging Face where that is set up.

    ``home`` is where somebody goes who wanted nothing in particular.
    """

    def __init__(self, config: AppConfig, identity: Identity, home: str) -> None:
        self._identity = identity
        self._home = home
        self._lockout = Lockout(config.login_limit)
        self._with_account = oauth.available(config)
        self.routes = Router(
            routes=[
                Route("/login", self.show, methods=["GET"]),
                Route("/login", self.enter, methods=["POST"]),
                Route("/logout", self.ask, methods=["GET"]),
                Route("/logout", self.leave, methods=["POST"]),
                *oauth.routes(config, self.finish, self.refused),
            ]
        )

    async def show(self, request: Request) -> Response:
        """The page; back to where one came from when there is nothing to log in to."""
        wanted = self._wanted(request.query_params.get("next", ""))
        if not self._identity.offers_login:
            return RedirectResponse(wanted, 303)
        return self._page(request, wanted)

    async def enter(self, request: Request) -> Response:
        """Take a name and a password. 401 when they are wrong, 429 when it is too early to try again."""
        fields = await _fields(request)
        name, wanted = fields.get("name", "").strip(), self._wanted(fields.get("next", ""))
        address = _caller(request).address
        # From here on nothing is awaited: a hundred attempts at once are counted one by one.
        if seconds := self._lockout.wait(address, name):
            sentence = f"Too many wrong passwords. Try again in {in_words(seconds)}."
            return self._page(request, wanted, name, sentence, 429, {"Retry-After": str(seconds)})
        session = self._identity.login(name, fields.get("password", ""))
        if session is None:
            self._lockout.failed(address, name)
            return self._page(request, wanted, name, _WRONG, 401)
        self._lockout.succeeded(address, name)
        return self._begin(request, session, wanted)

    async def ask(self, request: Request) -> Response:
        """A button: a link alone must not log anybody out."""
        caller = _caller(request)
        if caller.kind != "user":
            return RedirectResponse(self._home, 303)
        return _page("Sign out", f"<p>You are signed in as {html.escape(caller.name)}.</p>{_SIGN_OUT}")

    async def leave(self, request: Request) -> Response:
        """End the session, in this browser and wherever else its cookie may be."""
        value = cookies.value_of(cookies.SESSION, request.scope, request.headers)
        if value:
            self._identity.sessions.end(value)
        response = RedirectResponse("/login" if self._identity.offers_login else self._home, 303)
        response.headers.append("set-cookie", cookies.made(cookies.SESSION, "", 0, request.scope))
        return response

    def finish(self, request: Request, name: str) -> Response:
        """Answer to somebody who has signed in as ``name`` elsewhere: a session, and on to the app."""
        return self._begin(request, self._identity.sessions.issue(name), self._home)

    def refused(self, request: Request, sentence: str, status: int) -> Response:
        """Say on the login page why nobody was signed in elsewhere."""
        return self._page(request, self._home, "", sentence, status)

    def _begin(self, request: Request, session: str, wanted: str) -> Response:
        response = RedirectResponse(wanted, 303)
        seconds = self._identity.sessions.seconds
        response.headers.append("set-cookie", cookies.made(cookies.SESSION, session, seconds, request.scope))
        return response

    def _wanted(self, path: str) -> str:
        """Where to go afterwards: a path of this site that is not the login itself."""
        safe = oauth.safe_path(path)
        return self._home if safe.startswith(("/login", "/logout")) or safe == "/" else safe

    def _page(
        self,
        request: Request,
        wanted: str,
        name: str = "",
        error: str = "",
        status: int = 200,
        headers: dict[str, str] | None = None,
    ) -> Response:
        caller = _caller(request)
        parts = [f'<p role="alert">{html.escape(error)}</p>'] if error else []
        if caller.kind == "user":
            parts.append(f"<p>You are signed in as {html.escape(caller.name)}.</p>")
        if self._identity.has_passwords:
            focus = " autofocus"
            parts.append(
                _FORM.format(
                    wanted=html.escape(wanted),
                    name=html.escape(name[:200]),
                    focus_name="" if name else focus,
                    focus_password=focus if name else "",
                )
            )
        if self._with_account:
            parts += ['<p class="or">or</p>'] if self._identity.has_passwords else []
            where = html.escape(f"{oauth.BEGIN}?{urlencode({'next': wanted})}")
            # A Space stands in the Hub's frame, and the Hub's own login is shown in none.
            apart = ' target="_blank"' if os.environ.get("SPACE_ID") else ""
            parts.append(f'<a class="button" href="{where}"{apart}>Sign in with Hugging Face</a>')
        return _page("Sign in", "\n".join(parts), status, headers)


def redirect(scope: Scope) -> Response:
    """Send a browser that wants a page to the login first."""
    wanted = quote(scope["path"], safe="/")
    query = scope.get("query_string", b"").decode("latin-1")
    return RedirectResponse(f"/login?{urlencode({'next': f'{wanted}?{query}' if query else wanted})}", 303)


def wants_page(scope: Scope, headers: Headers) -> bool:
    """True for a browser that opens a page, and not for what its scripts fetch."""
    if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
        return False
    return "text/html" in headers.get("accept", "") and headers.get("sec-fetch-mode", "navigate") == "navigate"


async def _fields(request: Request) -> dict[str, str]:
    """The fields of a form. The gate has refused what another site's page sent. Raises `HTTPException`."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise HTTPException(415, "Send the form as application/x-www-form-urlencoded.")
    body = await request.body()
    try:
        found = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError as error:
        raise HTTPException(400, "The form cannot be read.") from error
    return {name: values[0] for name, values in found.items()}


def _caller(request: Request) -> Caller:
    caller = request.scope["state"]["caller"]
    assert isinstance(caller, Caller)
    return caller


def _page(title: str, content: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return HTMLResponse(_PAGE.format(title=title, content=content), status, headers)
