"""Replayed samples are those that were trained on, token for token and label for label, whatever a chat is made of."""

from __future__ import annotations

import json

import pytest
import tiny
from running import NO_TESTS, go
from test_data_forms import CALL, CALLED, CHAT, TAGS, TOOLS, WITH_TOOLS, chats, rows


LAST_CALL = [
    {
        "tools": TOOLS,
        "messages": [
            {"role": "user", "content": f"Call {i}"},
            {"role": "function_call", "content": json.dumps(CALL)},
        ],
    }
    for i in range(3)
]
CALL_TAGS = {
    "formatting": "sharegpt",
    "columns": {"messages": "messages", "tools": "tools"},
    "tags": {**TAGS, "function_tag": "function_call"},
}
HISTORY = {
    "columns": {"prompt": "instruction", "query": "input", "response": "output", "history": "history", "system": "system"}
}  # fmt: skip
KINDS = {
    "tools": (CALLED, WITH_TOOLS),
    "a call at the end": (LAST_CALL, CALL_TAGS),
    "history": (rows(3, history=[["hi", "hello"], ["and?", "ok"]], system="Be short."), HISTORY),
    "a system turn": (chats(("system", "Be short."), ("user", "a?"), ("assistant", "yes")), CHAT),
    "an empty answer": (chats(("user", "a?"), ("assistant", ""), ("user", "b?"), ("assistant", "yes")), CHAT),
    "accents": (rows(3, instruction="Où? e\u0301ve\u0301nement \u2028 \u00a0"), {}),
}


@pytest.fixture(scope="module")
def base(llama, tmp_path_factory):
    """The tiny LLaMA with the words of ChatML, thoughts and tool calls."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("models") / "chat"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(llama), AutoTokenizer.from_pretrained(llama)
    words = ["<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>"]
    tokenizer.add_special_tokens({"additional_special_tokens": words})
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("template", ["qwen3", "default"])
@pytest.mark.parametrize("kind", KINDS)
def test_samples_come_back_as_they_were(kind, template, base, tmp_path, monkeypatch):
    from cl_plugins.host.session import Session

    seen = {"own": [], "again": []}
    training_set, stored = Session.training_set, Session.stored_samples

    def note_own(self, task, args, **more):
        found = training_set(self, task, args, **more)
        seen["own"].append(found[0]["train_dataset"])
        return found

    def note_again(self, *args, **more):
        seen["again"].append(stored(self, *args, **more))
        return seen["again"][-1]

    monkeypatch.setattr(Session, "training_set", note_own)
    monkeypatch.setattr(Session, "stored_samples", note_again)
    records, entry = KINDS[kind]
    (tmp_path / "x.json").write_text(json.dumps(records))
    (tmp_path / "y.json").write_text(json.dumps(rows(4)))
    info = {"x": {"file_name": "x.json", **entry}, "y": {"file_name": "y.json"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    keys = tiny.recipe(base, tmp_path, tmp_path / "run", "seqlora", text_only=True, max_steps=1)
    keys |= {"template": template, "cutoff_len": 2048}
    keys["cl"] |= {"replay": {"capacity_per_task": 2}, **NO_TESTS}
    keys["cl"]["stream"] = {"name": "s", "tasks": [{"name": n, "train": d} for n, d in (("a", "x"), ("b", "y"))]}
    go(keys)
    trained = [(row["input_ids"], row["labels"]) for row in seen["own"][0]]
    (again,) = seen["again"]
    assert len(again) == 2
    assert all((row["input_ids"], row["labels"]) in trained for row in again)
