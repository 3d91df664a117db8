"""What a page may do, in the headers of every answer."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import MutableHeaders

_PAGE = {
    "default-src": "'self'",
    "script-src": "'self' 'unsafe-inline' 'unsafe-eval'",  # Gradio does not start without either
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data: blob:",
    "media-src": "'self' data: blob:",
    "font-src": "'self' data:",
    "connect-src": "'self'",
    "frame-src": "'self'",
    "worker-src": "'self' blob:",
    "object-src": "'none'",
    "base-uri": "'self'",
    "form-action": "'self'",
}
_API = {
    "default-src": "'self'",
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data:",
    "object-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'none'",
}
_LOGIN = {
    "default-src": "'none'",
    "style-src": "'unsafe-inline'",
    "base-uri": "'none'",
    "form-action": "'self'",
}
# No Strict-Transport-Security: it would bind every port of the name, also what else runs on this machine; whoever puts
# https in front says it there. "same-origin" and not "no-referrer": without a referrer, a form sends Origin: null.
_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_ABOUT_SOMEBODY = ("text/html", "application/json")  # a page says who has signed in, which no proxy is to keep


class Policy:
    """The headers of one half of the house."""

    def __init__(self, directives: Mapping[str, str], frame_ancestors: str, more: Mapping[str, str]) -> None:
        every = {**directives, "frame-ancestors": frame_ancestors}
        content = "; ".join(f"{name} {value}" for name, value in every.items())
        self._headers = {**_ALWAYS, **more, "Content-Security-Policy": content}

    def put_on(self, headers: MutableHeaders, path: str) -> None:
        """Lay the policy over an answer's headers. What the answer itself says of being kept stays."""
        for name, value in self._headers.items():
            if name == "Cache-Control":
                headers.setdefault(name, "no-cache" if path.startswith("/docs/") else value)
            else:
                headers[name] = value
        if headers.get("content-type", "").startswith(_ABOUT_SOMEBODY):
            headers.setdefault("Cache-Control", "private, no-cache")


def for_pages(frame_ancestors: str) -> Policy:
    """Gradio's pages, which ``frame_ancestors`` may show in a frame."""
    return Policy(_PAGE, frame_ancestors, {})


def for_login(frame_ancestors: str) -> Policy:
    """The page with the password field: no script at all, and never kept by a browser."""
    return Policy(_LOGIN, frame_ancestors, {"Cache-Control": "no-store"})


def for_api() -> Policy:
    """Answers to programs, and the page that describes them."""
    return Policy(_API, "'none'", {"Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin"})
