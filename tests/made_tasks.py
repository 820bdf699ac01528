"""Carries of tasks that were never trained: random low-rank updates and random statistics of a selector."""

from __future__ import annotations

import torch

from cl_plugins.contract.carry import Carry, TaskUpdate
from cl_plugins.contract.low_rank import LowRankUpdate
from cl_plugins.training.handover import write_carry, write_update
from cl_plugins.training.task import Learned


TARGETS = ("q_proj", "down_proj")
RANK, SCALING = 2, 1.5


def made_update(model, seed, strength=0.3, projector=True):
    """A low-rank update of every layer in `TARGETS`, and of a projector if there is one."""
    generator = torch.Generator().manual_seed(seed)
    update = LowRankUpdate(scaling=SCALING)
    for name, layer in model.named_modules():
        if name.rpartition(".")[2] in TARGETS and "vision" not in name:
            update.a[name] = torch.randn(RANK, layer.in_features, generator=generator) * strength
            update.b[name] = torch.randn(layer.out_features, RANK, generator=generator) * strength
    if projector:
        for name, value in model.named_parameters():
            if "multi_modal_projector" in name:
                update.replaced[name] = value.detach() + torch.randn(value.shape, generator=generator) * 0.1
    return update


def made_carry(folder, method, model, names, statistics, **more):
    """The carry of tasks with these names.

    Args:
        folder: A new directory.
        method: The method; it writes the carry.
        model: The base.
        names: Names of the tasks.
        statistics: One mapping of tensors per task, what `Selector.measure` gives.
        **more: As for `made_update`.
    """
    carry, updates = None, []
    for number, (name, own) in enumerate(zip(names, statistics, strict=True), start=1):
        update = made_update(model, number, **more)
        tensors = {f"base_model.model.{n}.lora_A.weight": t for n, t in update.a.items()}
        tensors |= {f"base_model.model.{n}.lora_B.weight": t for n, t in update.b.items()}
        tensors |= {f"base_model.model.{n}": t for n, t in update.replaced.items()}
        meta = {"rank": RANK, "scaling": SCALING, "targets": list(TARGETS)}
        task = folder / "tasks" / f"{number:02d}_{name}"
        write_update(task, Learned(tensors, meta, {"selector": own} if own else {}))
        about = {"method": method.name, "stream": "made", "tasks": list(names[:number]), "base": {}}
        write_carry(folder / "carry", method, carry, TaskUpdate(task / "update.safetensors", meta, name), about)
        carry = Carry.open(folder / "carry")
        updates.append(update)
    return carry, updates
