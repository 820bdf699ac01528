"""What docs/serving.md shows, carried out with a finished run at ``saves/run``."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest
import yaml


PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def block(language, word):
    (found,) = [text for kind, text in BLOCKS if kind == language and word in text]
    return found


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    run = finished("routed by row")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saves").mkdir()
    (tmp_path / "saves" / "run").symlink_to(run.out)
    return run


def test_python(run):
    names: dict = {}
    exec(block("python", "load"), names)
    assert names["answer"].shape[0] == 1
    assert names["answer"].shape[1] > names["inputs"]["input_ids"].shape[1]


def test_a_recipe_and_a_request(run):
    from fastapi.testclient import TestClient
    from llamafactory.api.app import create_app
    from llamafactory.chat import ChatModel

    recipe = yaml.safe_load(block("yaml", "serve.yaml"))
    picture = base64.b64encode(run.items[0].picture.read_bytes()).decode()
    body = re.search(r"-d '(.*)'", block("bash", "curl"), re.DOTALL).group(1).replace("...", picture)
    with TestClient(create_app(ChatModel(recipe))) as client:
        answer = client.post("/v1/chat/completions", json=json.loads(body))
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["role"] == "assistant"
