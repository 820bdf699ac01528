"""What a page of another site must not do with the board, although the same browser shows both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any
from urllib.parse import urlsplit


Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOCAL = frozenset({"localhost", "127.0.0.1", "[::1]"})
#: The page needs nothing from elsewhere; the frame of a report inherits this.
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self'; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
#: Routes of gradio that read or write files or fetch from elsewhere; the board has no use for them.
_CLOSED = ("upload", "file", "proxy=", "stream", "component_server", "deep_link")


class Guard:
    """An ASGI application in front of the board.

    A request must name a host of the board (a name that an attacker points at 127.0.0.1 is another one), must not come
    from a page of another site, and must not be for gradio's file routes.

    Args:
        app: The application behind it.
        hosts: The host names that a request may ask for, without ports; empty: any.
    """

    def __init__(self, app: App, hosts: Collection[str] = LOCAL) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403 or 404, or pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = refusal(scope, self._hosts)
        if status is not None:
            headers = [(b"content-type", b"text/plain"), *_HEADERS]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b"refused by cl-plugins board\n"})
            return

        async def guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        await self._app(scope, receive, guarded)


def refusal(scope: Scope, hosts: Collection[str]) -> int | None:
    """The status that refuses a request; None for one that may pass.

    Args:
        scope: The ASGI scope of a request.
        hosts: Lower-case host names that it may ask for; empty: any.
    """
    headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
    host = headers.get(b"host", "")
    if hosts and _name(host) not in hosts:
        return 403
    origin = headers.get(b"origin")
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        return 403
    if headers.get(b"sec-fetch-site") == "cross-site" and scope["method"] not in ("GET", "HEAD"):
        return 403
    path = str(scope["path"]).lstrip("/")
    path = path.removeprefix("gradio_api/")
    return 404 if path.startswith(_CLOSED) else None


def _name(host: str) -> str:
    """A host without its port."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdigit() else host.lower()
