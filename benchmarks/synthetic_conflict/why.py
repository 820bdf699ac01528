"""What a run itself says about why its method forgot: numbers from the files it left behind."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def row_space_overlap(run: Path) -> tuple[float, float]:
    """How much the tasks' LoRAs read the same directions of their inputs.

    The squared cosine between the row spaces of the A matrices of two tasks, mean over modules and pairs: 1 for the
    same space, 0 for orthogonal ones.

    Args:
        run: Output directory of a method that keeps one LoRA per task.

    Returns:
        The overlap, and what random spaces of these shapes have (rank / width).
    """
    import torch
    from safetensors.torch import load_file

    tasks = [load_file(path) for path in sorted(run.glob("tasks/*/update.safetensors"))]
    bases = [
        {name: torch.linalg.qr(value.double().T).Q for name, value in task.items() if "lora_A" in name}
        for task in tasks
    ]
    pairs = [
        (late[name], early[name])
        for i, late in enumerate(bases)
        for early in bases[:i]
        for name in late.keys() & early.keys()
    ]
    overlap = statistics.mean(float((a.T @ b).square().sum()) / a.shape[1] for a, b in pairs)
    return overlap, statistics.mean(a.shape[1] / a.shape[0] for a, _ in pairs)


def largest_fisher(run: Path) -> float:
    """The largest entry of the Fisher information with which the first task entered the second one."""
    from safetensors.torch import load_file

    first = sorted(run.glob("tasks/*/fisher.safetensors"))[0]
    return max(float(value.max()) for value in load_file(first).values())


def olora(runs: Sequence[Path]) -> str:
    """Why O-LoRA forgets here."""
    found = [row_space_overlap(run) for run in runs]
    overlap, chance = max(o for o, _ in found), found[0][1]
    return (
        f"its own aim is met: the row spaces of the tasks' A matrices overlap by at most {overlap:.0e} (random ones: {chance:.2g}). But the "
        "tasks show the same pictures and differ in one word of the question, so the new LoRA learns its answers in the "
        "directions that are left and gives them to the old questions too. Separate weights are not separate answers."
    )


def ewc(runs: Sequence[Path]) -> str:
    """Why EWC forgets here."""
    largest = max(largest_fisher(run) for run in runs)
    return (
        "a task that is learned to the last item has no gradients left, and so no Fisher information (largest entry "
        f"{largest:.0e}): nothing is held. `margin.json` has what larger weights did on another draw."
    )


WHY: dict[str, Any] = {"olora": olora, "ewc": ewc}
