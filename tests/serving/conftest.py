"""Finished runs of every kind of ``final/``, on questions with and without pictures."""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace

import pytest
import tiny
from running import go, load


TASKS = ("one", "two", "three")
MARKS = {"one": "red", "two": "the square", "three": "yes or no"}
SELECTOR = {"kind": "prototype", "features": "text"}
TOKENS = 6
RUNS = {
    "merged": {"method": "inclora"},
    "peft": {"method": "inclora", "half": True},
    "full": {"method": "seqfull"},
    "routed by token": {"method": {"name": "moelora", "experts": 2}},
    "routed by token, bf16": {"method": {"name": "moelora", "experts": 2}, "half": True},
    "routed by row": {"method": {"name": "single_task", "selector": SELECTOR}},
    "routed by weights": {"method": {"name": "hide"}},
    "routed by keys": {"method": {"name": "branchlora", "branches": 4, "selector": {"kind": "keys"}}},
    "routed by a router": {"method": {"name": "mr_lora"}, "block": {"replay": {"capacity_per_task": 4}}},
    "routed, prompts": {"method": {"name": "l2p", "pool_size": 4, "prompt_length": 2, "top_k": 2}},
}
ROUTED = [name for name in RUNS if name.startswith("routed")]


@pytest.fixture(scope="session")
def mixed(tmp_path_factory):
    """Three tasks whose questions tell them apart; every second one of them has no picture."""
    folder = tiny.build_data(tmp_path_factory.mktemp("data") / "mixed", TASKS)
    for task in TASKS:
        for split in ("train", "test"):
            file = folder / f"{task}_{split}.json"
            records = json.loads(file.read_text())
            for number, record in enumerate(records):
                first = record["messages"][0]
                first["value"] = first["value"].replace("what colour", f"{MARKS[task]}: what colour")
                if number % 2:
                    first["value"] = first["value"].replace("<image>", "")
                    record["images"] = []
            file.write_text(json.dumps(records))
    return folder


@pytest.fixture(scope="session")
def half_llava(tmp_path_factory):
    """Folder of a tiny LLaVA-shaped model in bf16."""
    return tiny.build_llava(tmp_path_factory.mktemp("models") / "half", dtype="bfloat16")


@pytest.fixture(scope="session")
def finished(llava, half_llava, mixed, tmp_path_factory):
    """A finished run by its name in `RUNS`."""
    found = {}

    def get(name):
        if name not in found:
            spec = RUNS[name]
            half = spec.get("half", False)
            out = tmp_path_factory.mktemp("served") / "run"
            base = half_llava if half else llava
            rate = 1e-4 if spec["method"] == "seqfull" else 1e-2  # short, so that the answers stay different
            block = {"eval": {"max_new_tokens": TOKENS, "zero_shot": False}, **spec.get("block", {})}
            go(
                tiny.recipe(
                    base, mixed, out, spec["method"], TASKS, max_steps=2, learning_rate=rate, bf16=half, cl=block
                )
            )
            found[name] = SimpleNamespace(out=out, final=out / "final", base=base, half=half, items=items(out, mixed))
        return found[name]

    return get


def items(out, data):
    """Every test item of the last row: question, picture (or None), and the answer that the run gave."""
    found = []
    for task in TASKS:
        records = {r["id"]: r for r in json.loads((data / f"{task}_test.json").read_text())}
        for line in (out / "predictions" / "after_three" / f"{task}.jsonl").read_text().splitlines():
            told = json.loads(line)
            record = records[told["id"]]
            picture = data / record["images"][0] if record["images"] else None
            question = record["messages"][0]["value"]
            found.append(SimpleNamespace(task=task, question=question, picture=picture, answer=told["prediction"]))
    assert len({item.answer for item in found}) > 1, "the answers tell nothing"
    return found


def request(item, **more):
    """The body of a chat request of the API."""
    content = [{"type": "text", "text": item.question.replace("<image>", "")}]
    if item.picture is not None:
        data = base64.b64encode(item.picture.read_bytes()).decode()
        content.insert(0, {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}})
    message = {"role": "user", "content": content}
    return {"model": "any", "messages": [message], "do_sample": False, "max_tokens": TOKENS, **more}


def streamed(lines):
    """The text of a streamed answer."""
    text = ""
    for line in lines:
        if line.startswith("data: {"):
            delta = json.loads(line.removeprefix("data: "))["choices"][0]["delta"]
            text += delta.get("content") or ""
    return text


def manifest(final):
    return load(final, "MANIFEST.json")
