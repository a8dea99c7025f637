"""The outermost layer: what holds for every request, whatever route it meets.

No script and no style runs but our own files, no other site may frame the pages or send requests in a visitor's name, and no body
is larger than it has reason to be. Routes have their own guards behind this one (`doors`).
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not `no-referrer`: with that, browsers send `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class Shield:
    """ASGI middleware: response headers, the limit of a body, and no unsafe request from another origin.

    `limits` gives the largest body in bytes for paths that take more than `limit`.
    """

    def __init__(self, app: ASGIApp, limit: int, limits: Mapping[str, int], secure: bool) -> None:
        self._app, self._limit, self._limits = app, limit, limits
        self._headers = dict(_HEADERS)
        if secure:
            self._headers["Strict-Transport-Security"] = "max-age=31536000"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(receive, self._limits.get(scope["path"], self._limit))
        headers = Headers(scope=scope)

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                if body.too_large:
                    # The route saw a broken connection and answered something else; this is what it was.
                    body.refused = True
                    await self._refuse(413, _too_large(body.limit), scope, receive, send)
                    return
                body.answered = True
                self._protect(MutableHeaders(scope=message))
            if not body.refused:
                await send(message)

        if "\0" in scope["path"] or b"%00" in scope.get("query_string", b""):
            # Nothing of ours is named so, and not every database can even be asked for it.
            await self._refuse(404, "There is no such page.\n", scope, receive, send)
        elif scope["method"] not in _SAFE and not same_origin(headers):
            await self._refuse(
                403, "This request came from another site and was not carried out.\n", scope, receive, send
            )
        elif body.announced(headers) > body.limit:
            await self._refuse(413, _too_large(body.limit), scope, receive, send)
        else:
            try:
                await self._app(scope, body.receive, sending)
            except ClientDisconnect:
                # Somebody hung up in the middle of a request, or was cut off by us.
                if body.too_large and not (body.answered or body.refused):
                    await self._refuse(413, _too_large(body.limit), scope, receive, send)

    async def _refuse(self, status: int, text: str, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {**self._headers, "Connection": "close"}
        if scope["path"].startswith("/api/"):
            answer: Response = JSONResponse({"detail": text.strip()}, status, headers)
        else:
            answer = PlainTextResponse(text, status, headers)
        await answer(scope, receive, send)

    def _protect(self, headers: MutableHeaders) -> None:
        for name, value in self._headers.items():
            headers.setdefault(name, value)
        headers.setdefault("Cache-Control", "no-store")


class _Body:
    """Counts what arrives, and past the limit says that the line is dead: half a form must never be acted upon."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self.limit = receive, limit
        self._seen = 0
        self.too_large = self.refused = self.answered = False

    def announced(self, headers: Headers) -> int:
        length = headers.get("content-length", "")
        return int(length) if length.isascii() and length.isdigit() and len(length) < 19 else 0

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._seen += len(message.get("body", b""))
            if self._seen > self.limit:
                self.too_large = True
                return {"type": "http.disconnect"}
        return message


def same_origin(headers: Headers) -> bool:
    """Whether a request comes from our own pages, or from a program: programs send neither of the two headers."""
    site = headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host", "")


def _too_large(limit: int) -> str:
    return f"This is larger than the {limit // 1024} KiB that are taken here.\n"
