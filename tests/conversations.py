"""Prompts, pictures and answers of several conversations at once, for tests of row state."""

from __future__ import annotations

import torch


PICTURE, PAD = 4, 3  # token ids of the tiny models


def prompts(count, pictures=lambda i: 0, seed=1):
    """Prompts of different lengths; a picture has four tokens."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for i in range(count):
        length = 4 + int(torch.randint(0, 9, (1,), generator=generator))
        ids = [1, *torch.randint(20, 90, (length,), generator=generator).tolist()]
        found.append([ids[0], *[PICTURE] * 4 * pictures(i), *ids[1:]])
    return found


def pixels(prompts_, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(p.count(PICTURE) // 4, 3, 16, 16, generator=generator) for p in prompts_]


def batch(rows, pictures=None):
    """Left-padded inputs."""
    width = max(map(len, rows))
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    found = {"input_ids": ids, "attention_mask": mask}
    if pictures is not None and sum(map(len, pictures)):
        found["pixel_values"] = torch.cat(pictures)
    return found


SETTINGS = {"do_sample": False, "max_new_tokens": 6, "pad_token_id": PAD, "eos_token_id": 2}


def answers(model, state, rows, pictures=None, **more):
    """Answers and routes of one ``generate``."""
    inputs = batch(rows, pictures)
    with state.recording() as seen, torch.no_grad():
        ids = model.generate(**inputs, **{**SETTINGS, **more})
    width = inputs["input_ids"].shape[1]
    return [cut(row) for row in ids[:, width:].tolist()], [r for kept in seen for r in kept.get("route", ())]


def cut(ids):
    return ids[: ids.index(2)] if 2 in ids else ids
