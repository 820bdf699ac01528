"""Prompts of different lengths, with and without pictures, for the tiny models; and their answers."""

from __future__ import annotations

import pytest
import torch

from cl_plugins.contract.test_item import TestItem
from cl_plugins.generation.backend import ModelBackend


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


def cut(ids):
    return ids[: ids.index(2)] if 2 in ids else ids


def answers(model, state, rows, pictures=None, **more):
    """Answers and routes of one ``generate``."""
    inputs = batch(rows, pictures)
    with state.recording() as seen, torch.no_grad():
        ids = model.generate(**inputs, **{**SETTINGS, **more})
    width = inputs["input_ids"].shape[1]
    return [cut(row) for row in ids[:, width:].tolist()], [r for kept in seen for r in kept.get("route", ())]


def decoded(model, rows, pictures, size):
    """Through the backend of a run, with a tokenizer that writes numbers."""
    import numpy as np

    class Numbers:
        padding_side, pad_token_id, bos_token_id, all_special_tokens = "left", PAD, 1, ()

        def batch_decode(self, ids, skip_special_tokens):
            return [" ".join(map(str, cut(row))) for row in ids]

    def collate(features):
        return batch([f["input_ids"] for f in features], [f["images"] for f in features])

    items = [
        TestItem(str(i), "", "", None, np.array(row, dtype=np.int32), {"images": one})
        for i, (row, one) in enumerate(zip(rows, pictures, strict=True))
    ]
    backend = ModelBackend(model, Numbers(), collate, size, False, (2,), (PICTURE,))
    found = {}
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("cl_plugins.generation.generate", fromlist=["x"]).PREFILL_TOKENS, "cpu", 40)
        backend.answer(
            items,
            batches,
            6,
            lambda n, a: found.update(dict(zip(batches[n], [(x.text, x.route) for x in a], strict=True))),
        )
    return [found[i] for i in range(len(rows))]
