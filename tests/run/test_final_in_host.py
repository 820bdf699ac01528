"""``final/`` goes back into LLaMA-Factory: ``llamafactory-cli export`` and ``chat`` take it as any model."""

from __future__ import annotations

import json

import pytest
import tiny


@pytest.fixture(scope="module")
def finished(llava, data, tmp_path_factory):
    from llamafactory.train.tuner import run_exp

    out = tmp_path_factory.mktemp("final") / "run"
    run_exp(tiny.recipe(llava, data, out, "inclora", ("one", "two"), max_steps=8))
    return out


def test_export_takes_it(finished, tmp_path):
    from llamafactory.train.tuner import export_model
    from safetensors.torch import load_file

    export_model(
        {
            "model_name_or_path": str(finished / "final"),
            "template": "llava",
            "export_dir": str(tmp_path / "exported"),
            "infer_dtype": "float32",
            "export_device": "cpu",
        }
    )
    before = load_file(finished / "final" / "model.safetensors")
    after = load_file(tmp_path / "exported" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all((before[name] == after[name]).all() for name in before)


def test_chat_answers_as_the_run_did(finished, data):
    """The host's own chat, greedy, gives the texts in the predictions file."""
    from llamafactory.chat import ChatModel

    chat = ChatModel(
        {
            "model_name_or_path": str(finished / "final"),
            "template": "llava",
            "infer_dtype": "float32",
            "do_sample": False,
            "max_new_tokens": 3,
        }
    )
    records = {r["id"]: r for r in json.loads((data / "two_test.json").read_text())}
    lines = (finished / "predictions" / "after_two" / "two.jsonl").read_text().splitlines()
    for line in map(json.loads, lines):
        picture = str(data / records[line["id"]]["images"][0])
        answer = chat.chat([{"role": "user", "content": line["prompt"]}], images=[picture])[0]
        assert answer.response_text.strip() == line["prediction"].strip()
