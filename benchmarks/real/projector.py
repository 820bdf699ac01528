"""Train the projector between a frozen encoder and a frozen language model, and what both scripts that do so share."""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.real.wheels import WHEELS


Row = TypeVar("Row")
Batch = dict[str, Any]


def labelled(tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> Batch:
    """Prompts with their answers, which end with the end token, padded on the right.

    Args:
        tokenizer: The tokenizer.
        pairs: Rendered prompts, placeholders expanded, and answers.

    Returns:
        ``input_ids``, ``attention_mask`` and ``labels`` (-100 outside the answers), each (n, longest).
    """
    import torch

    found = [
        (
            tokenizer.encode(asked, add_special_tokens=False),
            [*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id],
        )
        for asked, answer in pairs
    ]
    longest = max(len(asked) + len(reply) for asked, reply in found)
    ids = torch.full((len(found), longest), tokenizer.pad_token_id)
    labels = torch.full((len(found), longest), -100)
    mask = torch.zeros((len(found), longest), dtype=torch.long)
    for row, (asked, reply) in enumerate(found):
        end = len(asked) + len(reply)
        ids[row, :end] = torch.tensor(asked + reply)
        labels[row, len(asked) : end] = torch.tensor(reply)
        mask[row, :end] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def train(
    model: Any,
    projector: Any,
    encode: Callable[[Sequence[Row]], Batch],
    rows: Sequence[Row],
    held: Sequence[Row],
    *,
    steps: int,
    size: int,
    seed: int,
) -> dict[str, Any]:
    """Train the projector, and nothing else, in fp32.

    The whole model computes in fp32: bf16 weights would lose most of the small updates, and a CPU without instructions for bf16
    multiplies matrices eight times slower in it.

    Args:
        model: The joined model in fp32; its projector is changed in place.
        projector: The projector, a part of it.
        encode: From rows to the arguments of the model.
        rows: What is trained on.
        held: What the loss is measured on, before and after.
        steps: Optimizer steps.
        size: Rows a step.
        seed: Seed of the order.

    Returns:
        Steps, batch and seed, and the loss on ``held`` before and after.
    """
    import torch

    model.requires_grad_(False)
    before = _loss_on(model, encode, held)
    projector.requires_grad_(True)
    weights = list(projector.parameters())
    optimizer = torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=steps, pct_start=0.1)
    model.train()
    for step, batch in zip(range(1, steps + 1), _batches(rows, size, seed), strict=False):
        optimizer.zero_grad()
        loss = model(**encode(batch)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0 or step == steps:
            sys.stderr.write(f"step {step} of {steps}: loss {loss.item():.3f}\n")
    model.eval()
    after = _loss_on(model, encode, held)
    return {"steps": steps, "batch": size, "seed": seed, "held_out_loss": {"before": before, "after": after}}


def _batches(rows: Sequence[Row], size: int, seed: int) -> Iterator[list[Row]]:
    """Batches without end, every row once per pass."""
    rng = random.Random(seed)
    order = list(rows)
    while True:
        rng.shuffle(order)
        for start in range(0, len(order) - size + 1, size):
            yield order[start : start + size]


def _loss_on(model: Any, encode: Callable[[Sequence[Row]], Batch], rows: Sequence[Row], size: int = 32) -> float:
    """Mean loss per batch."""
    import torch

    model.eval()
    with torch.inference_mode():
        losses = [model(**encode(rows[start : start + size])).loss.item() for start in range(0, len(rows), size)]
    return float(sum(losses) / len(losses))


def options_of(
    argv: Sequence[str] | None, module: str, description: str | None, *, steps: int, batch: int
) -> argparse.Namespace:
    """The options of a script that builds a model and trains its projector.

    Args:
        argv: Arguments without the program name; the process's own if None.
        module: The script, as ``python -m`` takes it.
        description: Its docstring, whose first line is shown.
        steps: Default number of optimizer steps.
        batch: Default number of examples a step.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=(description or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--wheels", type=Path, default=WHEELS, help="folder of wheels (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=steps, help="of the projector's training (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=batch, help="examples a step (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def save(out: Path, model: Any, processor: Any, facts: dict[str, Any], held: str) -> int:
    """Write model, processor and ``facts.json``, and say what was learned.

    Args:
        out: The folder.
        model: The model.
        processor: Its processor.
        facts: What `train` returned; the number of parameters is added.
        held: What the loss was measured on, for the message.

    Returns:
        The exit code: 1 if the projector learned nothing.
    """
    facts["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    model.save_pretrained(out)
    processor.save_pretrained(out)
    (out / "facts.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    losses = facts["held_out_loss"]
    sys.stdout.write(f"{out}: {facts['parameters']:,} parameters, loss on held-out {held} {losses}\n")
    return 0 if losses["after"] < losses["before"] else 1
