"""Pages of other sites can do nothing with a board that the same browser shows."""

from __future__ import annotations

import asyncio

import pytest

from cl_plugins.board.guard import LOCAL, Guard, refusal


def scope(path="/", method="GET", **headers):
    found = {"host": "127.0.0.1:7860", **{name.replace("_", "-"): value for name, value in headers.items()}}
    raw = [(name.encode(), value.encode()) for name, value in found.items()]
    return {"type": "http", "path": path, "method": method, "headers": raw}


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (scope(), None),
        (scope(host="localhost:7860"), None),
        (scope(host="[::1]:7860"), None),
        (scope(host="LOCALHOST"), None),
        (scope(host="evil.example:7860"), 403),
        (scope(host=""), 403),
        (scope(host="127.0.0.1.evil.example"), 403),
        (scope("/gradio_api/queue/join", "POST", origin="http://127.0.0.1:7860"), None),
        (scope("/gradio_api/queue/join", "POST", origin="http://evil.example"), 403),
        (scope("/gradio_api/queue/join", "POST", origin="null"), 403),
        (scope("/gradio_api/queue/join", "POST", origin="http://127.0.0.1:8888"), 403),
        (scope("/gradio_api/queue/join", "POST", sec_fetch_site="cross-site"), 403),
        (scope("/gradio_api/file=/etc/passwd"), 404),
        (scope("/file=/etc/passwd"), 404),
        (scope("//gradio_api/file/etc/passwd"), 404),
        (scope("/gradio_api/upload", "POST"), 404),
        (scope("/gradio_api/proxy=http://evil.example"), 404),
    ],
)
def test_what_may_pass(given, status):
    assert refusal(given, LOCAL) == status


def test_any_host_where_a_password_is_asked_for():
    assert refusal(scope(host="board.example"), ()) is None
    assert refusal(scope(host="board.example", origin="http://evil.example"), ()) == 403


def answer(given):
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"1")]})

    async def send(message):
        sent.append(message)

    asyncio.run(Guard(app)(given, None, send))
    return sent


def test_every_answer_has_the_policy():
    for given, status in ((scope(), 200), (scope(host="evil.example"), 403)):
        start = answer(given)[0]
        headers = dict(start["headers"])
        assert start["status"] == status
        assert b"frame-ancestors 'none'" in headers[b"content-security-policy"]
        assert b"http" not in headers[b"content-security-policy"]
    assert dict(answer(scope())[0]["headers"])[b"x-own"] == b"1"
