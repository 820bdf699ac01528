"""Finished runs of every kind of ``final/``, on questions with and without pictures."""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace

import pytest
import tiny
from apart import TASKS, build
from running import go, load


SELECTOR = {"kind": "prototype", "features": "text"}
TOKENS = 6
RUNS = {
    "merged": {"method": "inclora"},
    "peft": {"method": "inclora", "half": True},
    "full": {"method": "seqfull", "rate": 1e-4},
    "routed by token": {"method": {"name": "moelora", "experts": 2}},
    "routed by token, bf16": {"method": {"name": "moelora", "experts": 2}, "half": True},
    "routed by row": {"method": {"name": "single_task", "selector": SELECTOR}},
    "routed by row, sums of LoRAs": {"method": {"name": "mslora_cr", "selector": {**SELECTOR, "kind": "ridge"}}},
    "routed by row, picture and instruction": {"method": {"name": "smolora", "experts": 4}, "rate": 3e-3},
    "routed by token and task": {"method": {"name": "clmoe", "experts": 4, "usage_samples": 6}},
    "routed by weights": {"method": {"name": "hide"}},
    "routed by weights, all layers": {"method": {"name": "disco"}},
    "routed by keys": {"method": {"name": "branchlora", "branches": 4, "selector": {"kind": "keys"}}},
    "routed by a router": {"method": {"name": "mr_lora"}, "block": {"replay": {"capacity_per_task": 4}}},
    "routed, prompts": {"method": {"name": "l2p", "pool_size": 4, "prompt_length": 2, "top_k": 2}},
    "routed, prompts of tasks": {"method": {"name": "modalprompt", "prompt_length": 2, "prompts": 2}},
}
ROUTED = [name for name in RUNS if name.startswith("routed")]


@pytest.fixture(scope="session")
def mixed(tmp_path_factory):
    """Three tasks whose questions tell them apart; every second one of them has no picture."""
    return build(tmp_path_factory.mktemp("data") / "mixed", mixed=True)


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
            rate = spec.get("rate", 1e-2)  # short, so that the answers stay different
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


def enlarged(picture, pixels=32 * 32):
    """LLaMA-Factory enlarges pictures of fewer pixels before the processor sees them (`image_min_pixels`)."""
    factor = (pixels / (picture.width * picture.height)) ** 0.5
    return picture if factor <= 1 else picture.resize((int(picture.width * factor), int(picture.height * factor)))


def answers(model, base, items, batch, *, padding=0, **settings):
    """Greedy answers, several prompts at a time, as anyone asks a Transformers model.

    Args:
        model: The model.
        base: Folder with tokenizer and processor.
        items: The items.
        batch: How many share a ``generate``.
        padding: Further places that every batch is padded with on the left.
        settings: Of ``generate``.
    """
    from PIL import Image
    from torch.nn.functional import pad
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(base)
    processor.tokenizer.padding_side = "left"
    found = []
    for start in range(0, len(items), batch):
        part = items[start : start + batch]
        prompts = [f"{tiny.SYSTEM} USER: {item.question} ASSISTANT:" for item in part]
        pictures = [enlarged(Image.open(item.picture)) for item in part if item.picture is not None]
        inputs = processor(text=prompts, images=pictures or None, return_tensors="pt", padding=True)
        for key, value in (("input_ids", 3), ("attention_mask", 0)):
            inputs[key] = pad(inputs[key], (padding, 0), value=value)
        more = {"do_sample": False, "pad_token_id": 3, "eos_token_id": 2, **settings}
        ids = model.generate(**inputs, max_new_tokens=TOKENS, **more)
        texts = processor.tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        found += [text.strip() for text in texts]
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
