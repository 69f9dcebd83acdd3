"""Access control: tokens, host names, origins, the size of request bodies, and security headers.

Both classes are ASGI middleware: they see every request before the application does.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cmmixer.server.problems import problem_response

COOKIE = "cmmixer-token"
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
# Open to everybody who can reach the port; none of it shows the library.
_OPEN = ("/", "/health", "/ready", "/favicon.ico", "/api/v1/session")
_OPEN_PREFIXES = ("/page/", "/problems/")
_CHANGING = frozenset(("POST", "PUT", "PATCH", "DELETE"))


class Guard:
    """Checks the host, the origin and the token of every request, and adds security headers to every response."""

    def __init__(self, app: ASGIApp, *, host: str, token: str | None) -> None:
        self._app = app
        self._host = host
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refuse = self._refusal(scope)
        await (self._app if refuse is None else refuse)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Callable[[Scope, Receive, Send], Awaitable[None]] | None:
        headers = Headers(scope=scope)
        # DNS rebinding: another site can point its own name at this address; its requests then carry that name.
        if self._token is None and not self._is_own_host(headers.get("host", "")):
            return problem_response(
                "forbidden",
                f"got the host {headers.get('host', '')[:100]!r}, expected the address the service listens on",
            )
        if scope["method"] in _CHANGING and not self._same_origin(headers):
            return problem_response("forbidden", "the request comes from a page of another origin")
        path: str = scope["path"]
        if self._token is None or path in _OPEN or path.startswith(_OPEN_PREFIXES) or self.is_authorized(headers):
            return None
        return problem_response(
            "unauthorized", "the request carries no token, or a wrong one", {"WWW-Authenticate": "Bearer"}
        )

    def is_authorized(self, headers: Headers) -> bool:
        """Returns whether a request carries the token, or none is required."""
        if self._token is None:
            return True
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.is_token(token.strip())
        return self.is_token(cookie_parser(headers.get("cookie", "")).get(COOKIE, ""))

    def is_token(self, candidate: str) -> bool:
        """Returns whether this is the token, in a time that does not depend on where they differ."""
        return self._token is not None and hmac.compare_digest(candidate.encode(), self._token.encode())

    def _is_own_host(self, host: str) -> bool:
        name = urlsplit(f"//{host}").hostname if _can_parse(host) else None
        if name is None:
            return False
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return name in ("localhost", self._host.lower())

    def _same_origin(self, headers: Headers) -> bool:
        """Returns whether a request comes from the page itself, or from a program.

        Programs send neither header. Browsers send at least one with every request that changes something.
        """
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site is not None:
            return site in ("same-origin", "none")
        return origin is None or (_can_parse(origin) and urlsplit(origin).netloc == headers.get("host"))


class BodyLimit:
    """Refuses request bodies that are too large: by their declared length, or as soon as too much has arrived."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, max_bytes_of: Mapping[str, int]) -> None:
        """Limits bodies to `max_bytes`, or to `max_bytes_of[path]` for the paths in there."""
        self._app = app
        self._max_bytes = max_bytes
        self._max_bytes_of = max_bytes_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._max_bytes_of.get(scope["path"], self._max_bytes)
        declared = Headers(scope=scope).get("content-length", "0")
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise HTTPException(413, _too_much(limit))
            return message

        if not declared.isdecimal() or int(declared) > limit:
            await problem_response("too-large", _too_much(limit), {"connection": "close"})(scope, receive, send)
        else:
            await self._app(scope, receive_counted, send)


def _too_much(max_bytes: int) -> str:
    limit = f"{max_bytes >> 20} MB" if max_bytes >= 1 << 20 else f"{max_bytes >> 10} kB"
    return f"got more than {limit}, the limit of this address"


def _can_parse(host: str) -> bool:
    try:
        return bool(urlsplit(f"//{host}" if "//" not in host else host).netloc)
    except ValueError:
        return False
