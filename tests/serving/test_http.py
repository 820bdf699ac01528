"""``llamafactory-cli api``: real HTTP requests to a process of its own."""

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
from conftest import request, streamed


@contextmanager
def served(final, folder):
    """The API in a process of its own, as a user starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "api.yaml").write_text(f"cl: {{model: {json.dumps(str(final))}}}\n")
    environment = {
        **os.environ, "API_HOST": "127.0.0.1", "API_PORT": str(port), "API_VERBOSE": "0", "MAX_CONCURRENT": "4",
    }  # fmt: skip
    command = [sys.executable, "-m", "llamafactory.cli", "api", str(folder / "api.yaml")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as client:
            _wait(client, process, folder / "log")
            yield client
    finally:
        process.terminate()
        process.wait()


def _wait(client, process, log):
    for _ in range(1200):
        try:
            client.get("/v1/models")
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
