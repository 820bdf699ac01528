"""A run that is watched from outside: what its model computes at every boundary, what was trained, what stayed."""

from __future__ import annotations

import contextlib

import pytest


def inputs(model_dir):
    """Ids with picture tokens, and a picture, both fixed; no picture for a model of texts."""
    import torch
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(10, 60, (2, 24), generator=generator)
    if not hasattr(AutoConfig.from_pretrained(model_dir), "vision_config"):
        return ids, None
    ids[:, 2:6] = tokenizer.convert_tokens_to_ids("<image>")
    return ids, torch.randn(2, 3, 16, 16, generator=generator)


def logits(model, ids, pixels=None):
    """In fp32; a model that is held in bf16 computes as the trainer lets it."""
    import torch

    half = any(p.dtype == torch.bfloat16 for p in model.parameters())
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16) if half else contextlib.nullcontext():
        extra = {} if pixels is None else {"pixel_values": pixels}
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), **extra).logits.float().clone()


def watch(keys):
    """Carry out a recipe.

    Returns:
        By task: ``fresh`` and ``before``, the logits when its training begins and ends; ``after``, those of the model
        rebuilt from what was written; ``changed`` and ``trainable`` names; ``frozen``, whether the rest kept its bits.
    """
    import torch
    from llamafactory.train.tuner import run_exp

    from cl_plugins.run import runner
    from cl_plugins.training import guards

    ids, pixels = inputs(keys["model_name_or_path"])
    seen = {name: [] for name in ("fresh", "before", "after", "changed", "trainable", "frozen")}
    seen |= {"ids": ids, "pixels": pixels}
    frozen = {}
    marks, check_trained, do = guards.marks, guards.check_trained, runner.Runner._do

    def at_end_of_training(where, steps, before, after, wanted):
        check_trained(where, steps, before, after, wanted)
        seen["changed"].append([n for n in after if before[n] != after[n]])
        seen["trainable"].append(list(after))

    def before_and_after(model):
        value = logits(model, ids, pixels)
        now = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
        if len(seen["fresh"]) == len(seen["before"]):
            seen["fresh"].append(value)
            frozen.clear()
            frozen.update(now)
        else:
            seen["before"].append(value)
            seen["frozen"].append(all(torch.equal(now[n], frozen[n]) for n in now))
        model.train()
        return marks(model)

    def after_step(self, step, plan):
        do(self, step, plan)
        if step.kind == "consolidate":
            seen["after"].append(logits(self._state.answering(self._state.carry), ids, pixels))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guards, "check_trained", at_end_of_training)
        patch.setattr(guards, "marks", before_and_after)
        patch.setattr(runner.Runner, "_do", after_step)
        run_exp(dict(keys))
    return seen
