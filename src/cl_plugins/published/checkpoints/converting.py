"""A checkpoint's tensors under the names that a method of this package trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.errors import Problem
from .adapters import Checkpoint


if TYPE_CHECKING:
    from torch import Tensor


#: Endings of the tensors of a bank of experts, see `cl_plugins.adapters.bank`, and of its router.
_BANK_A, _BANK_B, _ROUTER = ".cl_a", ".cl_b", ".cl_router"


def convert(
    found: Checkpoint, wanted: Mapping[str, Sequence[int]], meta: Mapping[str, Any], number: int, *, alone: bool
) -> tuple[dict[str, Tensor], list[Problem]]:
    """The tensors that a task of a recipe would have learned.

    Args:
        found: The checkpoint.
        wanted: Plain name (`names.plain_name`) -> shape of everything that the recipe trains.
        meta: What the method says of it: ``rank``, ``scaling`` and, for a bank, ``experts``.
        number: Number of the task in the stream, from 0; its expert, where the checkpoint has those of several tasks.
        alone: Whether tasks train independently of each other, so that each may be the first of its own training.

    Returns:
        Plain name -> tensor, and everything that does not fit the recipe.
    """
    problems = _scaling_problems(found, meta)
    bank = any(name.endswith(_BANK_A) for name in wanted)
    if bank:
        tensors, more = _bank(found, meta)
    else:
        tensors, more = _lora(found, number, alone)
        rank = meta.get("rank")
        if not more and found.rank is not None and rank is not None and found.rank != rank:
            what = f"is {rank} in the recipe, and {found.path} has the rank {found.rank}."
            more = [Problem("lora_rank", what, f"Set `lora_rank: {found.rank}`.")]
    problems += more
    if more:
        return {}, problems
    given = {**tensors, **found.whole}
    return given, [*problems, *_comparison(given, wanted, found.path)]


def _scaling_problems(found: Checkpoint, meta: Mapping[str, Any]) -> list[Problem]:
    """A factor on the low-rank terms that is not the recipe's."""
    scaling = meta.get("scaling")
    if found.scaling is None or scaling is None or abs(found.scaling - float(scaling)) < 1e-12:
        return []
    what = f"gives the low-rank terms the factor {scaling:g}, and {found.path} has {found.scaling:g}."
    fix = f"Set `lora_alpha` to {found.scaling:g} times `lora_rank` (with `use_rslora`, times its root)."
    return [Problem("lora_alpha", what, fix)]


def _bank(found: Checkpoint, meta: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[Problem]]:
    """All experts of each layer below and next to each other, and their router."""
    import torch

    if found.kind != "experts":
        what = "has one LoRA for each layer, and the method of the recipe trains a mixture of experts."
        return {}, [Problem(str(found.path), what, "Use the method that it was trained with.")]
    numbers = sorted(found.factors)
    count = meta.get("experts")
    if numbers != list(range(len(numbers))) or (count is not None and len(numbers) != count):
        what = f"has {len(numbers)} experts, and the recipe {count}."
        return {}, [Problem(str(found.path), what, f"Set `cl.method.experts: {len(numbers)}`.")]
    total = sum(next(iter(layers.values()))["A"].shape[0] for layers in found.factors.values())
    if meta.get("rank") not in (None, total):
        what = f"is {meta['rank']} in the recipe, and the experts in {found.path} have the rank {total} together."
        return {}, [Problem("lora_rank", what, f"Set `lora_rank: {total}`.")]
    tensors: dict[str, Tensor] = {}
    problems = []
    for layer in found.factors[0]:
        pairs = [found.factors[i].get(layer) for i in numbers]
        if any(pair is None for pair in pairs):
            problems.append(Problem(f"{found.path}: {layer}", "lacks some experts.", "Download the file again."))
            continue
        tensors[f"{layer}{_BANK_A}"] = torch.cat([pair["A"] for pair in pairs if pair], dim=0)
        tensors[f"{layer}{_BANK_B}"] = torch.cat([pair["B"] for pair in pairs if pair], dim=1)
    routers = {f"{layer}{_ROUTER}": value for layer, value in found.routers.items()} if len(numbers) > 1 else {}
    return {**tensors, **routers}, problems


def _lora(found: Checkpoint, number: int, alone: bool) -> tuple[dict[str, Tensor], list[Problem]]:
    """The LoRA of one task."""
    if found.kind == "experts":
        if number not in found.factors:
            what = f"has {len(found.factors)} experts, and none for task number {number + 1}."
            return {}, [Problem(str(found.path), what, "Compare the stream's order with that of the training.")]
        layers = found.factors[number]
    else:
        (there, layers), *_ = found.factors.items()
        if found.kind == "pool" and there != number and not alone:
            what = f"holds the LoRA of task number {there + 1}, and is given for number {number + 1} of the stream."
            return {}, [Problem(str(found.path), what, "Give each task the file of its own training.")]
    tensors = {}
    for layer, pair in layers.items():
        tensors[f"{layer}.lora_A.weight"], tensors[f"{layer}.lora_B.weight"] = pair["A"], pair["B"]
    return tensors, []


def _comparison(given: Mapping[str, Tensor], wanted: Mapping[str, Sequence[int]], path: Path) -> list[Problem]:
    """Names and shapes against those of the recipe."""
    problems = []
    for name in sorted(wanted.keys() - given.keys()):
        problems.append(Problem(f"{path}: {name}", "is missing, and the recipe trains it.", _fix_missing(name)))
    for name in sorted(given.keys() - wanted.keys()):
        problems.append(Problem(f"{path}: {name}", "is there, and the recipe does not train it.", _fix_unknown(name)))
    for name in sorted(given.keys() & wanted.keys()):
        there, here = list(given[name].shape), list(wanted[name])
        if there != here:
            what = f"has the shape {there}, and the recipe's is {here}."
            problems.append(Problem(f"{path}: {name}", what, "Use the base and the rank that it was trained with."))
    return problems


def _fix_missing(name: str) -> str:
    if name.startswith("multi_modal_projector."):
        return "Give the folder with non_lora_trainables.bin, or leave `additional_target` out."
    return "Let `lora_target` name the layers that it was trained with."


def _fix_unknown(name: str) -> str:
    if name.startswith("multi_modal_projector."):
        return "Set `additional_target: multi_modal_projector`."
    return "Use the base, the method and the `lora_target` that it was trained with."


def anchor_statistics(found: Checkpoint, number: int, kinds: Sequence[str]) -> dict[str, Tensor] | None:
    """A task's anchors as the selector ``anchors`` keeps them.

    Args:
        found: The checkpoint.
        number: Number of the task, from 0.
        kinds: The selector's features.

    Returns:
        ``sums``, (1, features x width), and ``counts``, (1, features), fp64; None where the checkpoint does not have an anchor
        for each of the features.
    """
    import torch
    from torch.nn.functional import pad

    names = {"clip_image": "image", "clip_text_pooled": "text"}
    vectors = [found.anchors.get(names.get(kind, ""), {}).get(number) for kind in kinds]
    there = [vector for vector in vectors if vector is not None]
    if len(there) < len(kinds):
        return None
    width = max(map(len, there))
    return {
        "sums": torch.cat([pad(vector.double(), (0, width - len(vector))) for vector in there])[None],
        "counts": torch.ones(1, len(kinds), dtype=torch.float64),
    }
