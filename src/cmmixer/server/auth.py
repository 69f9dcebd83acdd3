"""Who may call the service, from where, and what a browser may do with its answers."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cmmixer.server.problems import answer

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
# What is open to anybody who can reach the port: nothing of the library.
_OPEN = ("/", "/health", "/ready", "/favicon.ico", "/api/v1/welcome", "/api/v1/session")
_OPEN_BELOW = ("/page/", "/problems/")
_CHANGING = frozenset(("POST", "PUT", "PATCH", "DELETE"))


class Guard:
    """ASGI middleware around everything: name of the host, origin, token, headers of the answer."""

    def __init__(self, app: ASGIApp, *, host: str, token: str | None) -> None:
        self._app = app
        self._host = host
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refuse = self._refusal(scope)
        await (self._app if refuse is None else refuse)(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> Callable[[Scope, Receive, Send], Awaitable[None]] | None:
        headers = Headers(scope=scope)
        # A page elsewhere may have its own name point here; its requests then carry that name.
        if self._token is None and not self._is_ours(headers.get("host", "")):
            return answer(
                "forbidden",
                f"got the host {headers.get('host', '')[:100]!r}, expected the address the service listens at",
            )
        if scope["method"] in _CHANGING and not self._same_origin(headers):
            return answer("forbidden", "the request comes from a page of another origin")
        path: str = scope["path"]
        if self._token is None or path in _OPEN or path.startswith(_OPEN_BELOW) or self.is_welcome(headers):
            return None
        return answer("unauthorised", "the request brings no token, or another one", {"WWW-Authenticate": "Bearer"})

    def is_welcome(self, headers: Headers) -> bool:
        """Whether a request brings the token, or none is needed."""
        if self._token is None:
            return True
        kind, _, told = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self.is_token(told.strip())
        return self.is_token(cookie_parser(headers.get("cookie", "")).get(COOKIE, ""))

    def is_token(self, told: str) -> bool:
        """Compares in a time that says nothing about the token."""
        return self._token is not None and hmac.compare_digest(told.encode(), self._token.encode())

    def _is_ours(self, host: str) -> bool:
        name = urlsplit(f"//{host}").hostname if _is_plain(host) else None
        if name is None:
            return False
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return name in ("localhost", self._host.lower())

    def _same_origin(self, headers: Headers) -> bool:
        """Programs send neither header; browsers send at least one with every request that changes something."""
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site is not None:
            return site in ("same-origin", "none")
        return origin is None or (_is_plain(origin) and urlsplit(origin).netloc == headers.get("host"))


class BodyLimit:
    """ASGI middleware that refuses bodies that are too large, at once where they say so, else as soon as they are."""

    def __init__(self, app: ASGIApp, *, most_bytes: int, sizes: Mapping[str, int]) -> None:
        """`most_bytes` is for all paths but those of `sizes`."""
        self._app = app
        self._most_bytes = most_bytes
        self._sizes = sizes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._sizes.get(scope["path"], self._most_bytes)
        told = Headers(scope=scope).get("content-length", "0")
        got = 0

        async def counted() -> Message:
            nonlocal got
            message = await receive()
            got += len(message.get("body", b""))
            if got > most:
                raise HTTPException(413, _too_much(most))
            return message

        if not told.isdecimal() or int(told) > most:
            await answer("too-large", _too_much(most), {"connection": "close"})(scope, receive, send)
        else:
            await self._app(scope, counted, send)


def _too_much(most_bytes: int) -> str:
    shown = f"{most_bytes >> 20} MB" if most_bytes >= 1 << 20 else f"{most_bytes >> 10} kB"
    return f"got more than {shown}, which is the most that is taken here"


def _is_plain(host: str) -> bool:
    try:
        return bool(urlsplit(f"//{host}" if "//" not in host else host).netloc)
    except ValueError:
        return False
