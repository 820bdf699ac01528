"""A run that is watched from outside: what its model computes at every boundary, what was trained, what stayed."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock


if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Watched:
    """What was seen of a run; one entry per task unless said otherwise.

    Attributes:
        ids: Token ids, (2, 24), with picture tokens where the model sees.
        pixels: Pictures, (2, 3, 16, 16); None for a text model.
        fresh: Logits when the training of a task begins.
        before: Logits when it ends.
        after: Logits of the model rebuilt from what was written.
        changed: Names of the trainable tensors that training changed.
        trainable: Names of all trainable tensors.
        frozen: Whether all other tensors kept their bits.
    """

    ids: Tensor
    pixels: Tensor | None
    fresh: list[Tensor] = field(default_factory=list)
    before: list[Tensor] = field(default_factory=list)
    after: list[Tensor] = field(default_factory=list)
    changed: list[list[str]] = field(default_factory=list)
    trainable: list[list[str]] = field(default_factory=list)
    frozen: list[bool] = field(default_factory=list)


def inputs(folder: Path | str) -> tuple[Tensor, Tensor | None]:
    """Ids with picture tokens, and pictures, both fixed; no pictures for a model of texts.

    Args:
        folder: The model's folder.
    """
    import torch
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(10, 60, (2, 24), generator=generator)
    if not hasattr(AutoConfig.from_pretrained(folder), "vision_config"):
        return ids, None
    picture: Any = tokenizer.convert_tokens_to_ids("<image>")
    ids[:, 2:6] = picture
    return ids, torch.randn(2, 3, 16, 16, generator=generator)


def logits(model: Any, ids: Tensor, pixels: Tensor | None = None) -> Tensor:
    """Logits in fp32; a model that is held in bf16 computes as the trainer lets it. Leaves it in evaluation mode."""
    import torch

    half = any(p.dtype == torch.bfloat16 for p in model.parameters())
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16) if half else contextlib.nullcontext():
        extra = {} if pixels is None else {"pixel_values": pixels}
        result = model(input_ids=ids, attention_mask=torch.ones_like(ids), **extra).logits
        return result.float().clone()  # type: ignore[no-any-return]


def watch(keys: dict[str, Any]) -> Watched:
    """Carry out a recipe with LLaMA-Factory and inspect the result.

    Args:
        keys: The recipe.
    """
    import torch
    from llamafactory.train.tuner import run_exp  # the host's own entry, as a user calls it

    from ..run import runner
    from ..training import guards

    ids, pixels = inputs(keys["model_name_or_path"])
    seen = Watched(ids, pixels)
    frozen: dict[str, Tensor] = {}
    marks, check_trained, do = guards.marks, guards.check_trained, runner.Runner._do
    current: list[Any] = [None]  # the step; further phases of a task are not watched

    def at_end_of_training(
        where: str, steps: int, before: Any, after: Any, wanted: Any, *, idle: bool = False
    ) -> None:
        check_trained(where, steps, before, after, wanted, idle=idle)
        if current[0].phase:
            return
        seen.changed.append([n for n in after if before[n] != after[n]])
        seen.trainable.append(list(after))

    def before_and_after(model: Any) -> Any:
        if current[0].phase:
            return marks(model)
        value = logits(model, ids, pixels)
        now = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
        if len(seen.fresh) == len(seen.before):
            seen.fresh.append(value)
            frozen.clear()
            frozen.update(now)
        else:
            seen.before.append(value)
            seen.frozen.append(all(torch.equal(now[n], frozen[n]) for n in now))
        model.train()
        return marks(model)

    def after_step(self: Any, step: Any, plan: Any) -> None:
        current[0] = step
        do(self, step, plan)
        if step.kind == "consolidate":
            seen.after.append(logits(self._state.answering(self._state.carry), ids, pixels))

    with (
        mock.patch.object(guards, "check_trained", at_end_of_training),
        mock.patch.object(guards, "marks", before_and_after),
        mock.patch.object(runner.Runner, "_do", after_step),
    ):
        run_exp(dict(keys))
    return seen
