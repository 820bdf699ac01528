"""The kinds of ``final/`` that are served, and the ways to ask them."""

from __future__ import annotations

import base64
import json

import pytest
import tiny
from running import load


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
#: Kinds that a sibling stands for in `make test`; they are in `make test-slow`.
SLOW = (
    "routed by token, bf16",
    "routed by row, picture and instruction",
    "routed by token and task",
    "routed by weights, all layers",
    "routed, prompts of tasks",
)


def kinds(names):
    """Names of runs as parameters of a test."""
    return [pytest.param(name, id=name, marks=pytest.mark.slow if name in SLOW else ()) for name in names]


def enlarged(picture, pixels=32 * 32):
    """LLaMA-Factory enlarges pictures of fewer pixels before the processor sees them (`image_min_pixels`)."""
    factor = (pixels / (picture.width * picture.height)) ** 0.5
    return picture if factor <= 1 else picture.resize((int(picture.width * factor), int(picture.height * factor)))


def answers(model, base, items, batch, *, padding=0, **settings):
    """Greedy answers, several prompts at a time, as anyone asks a Transformers model: see `generated`."""
    return [text for texts, _ in generated(model, base, items, batch, padding=padding, **settings) for text in texts]


def close_calls(model, base, items, margin=2**-4):
    """For each item, asked alone, whether the two best tokens of some step are as close as rounding to 16 bits may bring them.

    Args:
        model: The model.
        base: Folder with tokenizer and processor.
        items: The items.
        margin: Largest difference of the logits, as a share of the largest absolute logit. A bfloat16 number has 8 bits; the
            differences of several layers add up.
    """
    found = []
    for _, steps in generated(model, base, items, 1):
        best = [logits[0].float().topk(2).values for logits in steps]
        found.append(any(a - b <= margin * step.abs().max() for (a, b), step in zip(best, steps, strict=True)))
    return found


def generated(model, base, items, batch, *, padding=0, **settings):
    """Greedy answers and the logits of their steps, batch by batch.

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
    for start in range(0, len(items), batch):
        part = items[start : start + batch]
        prompts = [f"{tiny.SYSTEM} USER: {item.question} ASSISTANT:" for item in part]
        pictures = [enlarged(Image.open(item.picture)) for item in part if item.picture is not None]
        inputs = processor(text=prompts, images=pictures or None, return_tensors="pt", padding=True)
        for key, value in (("input_ids", 3), ("attention_mask", 0)):
            inputs[key] = pad(inputs[key], (padding, 0), value=value)
        more = {"do_sample": False, "pad_token_id": 3, "eos_token_id": 2, **settings}
        more |= {"output_logits": True, "return_dict_in_generate": True}
        out = model.generate(**inputs, max_new_tokens=TOKENS, **more)
        ids = out.sequences[:, inputs["input_ids"].shape[1] :]
        texts = processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
        yield [text.strip() for text in texts], out.logits


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
