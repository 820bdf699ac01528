"""``llamafactory-cli api`` and ``webchat``: real HTTP requests to a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from served_models import request, streamed


@contextmanager
def started(command, final, folder, first, **variables):
    """A server in a process of its own, as a user starts it.

    Args:
        command: Of `llamafactory-cli`.
        final: The finished model.
        folder: Where recipe and log go.
        first: A path that answers when the server is ready.
        variables: Its environment; ``PORT`` stands for a free port.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    (folder / "serve.yaml").write_text(f"cl: {{model: {json.dumps(str(final))}}}\ndo_sample: false\n")
    environment = {**os.environ, **{name: port if value == "PORT" else value for name, value in variables.items()}}
    words = [sys.executable, "-m", "llamafactory.cli", command, str(folder / "serve.yaml")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as client:
            _wait(client, process, folder / "log", first)
            yield client
    finally:
        process.terminate()
        process.wait()


def served(final, folder):
    """The API."""
    return started(
        "api", final, folder, "/v1/models",
        API_HOST="127.0.0.1", API_PORT="PORT", API_VERBOSE="0", MAX_CONCURRENT="4",
    )  # fmt: skip


def _wait(client, process, log, first):
    for _ in range(1200):
        try:
            client.get(first)
            return
        except httpx.TransportError:
            assert process.poll() is None, log.read_text()[-3000:]
            time.sleep(0.25)
    raise AssertionError(log.read_text()[-3000:])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["routed by row", "routed by token, bf16"])
def test_real_requests(finished, tmp_path, name):
    """With and without a picture, whole and streamed, one after the other and at once."""
    run = finished(name)
    wanted = [item.answer.strip() for item in run.items]
    with served(run.final, tmp_path) as client:

        def whole(item):
            answer = client.post("/v1/chat/completions", json=request(item)).raise_for_status()
            return answer.json()["choices"][0]["message"]["content"].strip()

        def parts(item):
            with client.stream("POST", "/v1/chat/completions", json=request(item, stream=True)) as answer:
                return streamed(answer.iter_lines()).strip()

        assert [whole(item) for item in run.items] == wanted
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(whole, run.items)) == wanted
            assert list(pool.map(parts, run.items)) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("name", ["routed by row", "routed, prompts of tasks"])
def test_the_page_of_webchat(finished, tmp_path, monkeypatch, name):
    """Its own functions, called as the page calls them: a question is appended, the answer arrives in parts."""
    from gradio_client import Client, handle_file

    run = finished(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    variables = {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": "PORT", "GRADIO_ANALYTICS_ENABLED": "False"}
    with started("webchat", run.final, tmp_path, "/config", BROWSER="true", **variables) as server:
        for item in run.items[:4]:  # with and without a picture
            page = Client(str(server.base_url), verbose=False)
            asked, _ = page.predict([], "user", item.question.replace("<image>", ""), True, api_name="/append")
            picture = None if item.picture is None else handle_file(str(item.picture))
            job = page.submit(
                asked, "en", "", "", picture, None, None, 8, 0.7, 0.95, True, True, False, api_name="/stream"
            )  # fmt: skip
            job.result()
            parts = [part[-1]["content"] for part in job.outputs()]
            assert parts[-1].strip().startswith(item.answer.strip())
            assert len(parts) > 1
            page.close()
