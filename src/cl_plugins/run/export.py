"""A run's model in the form that ``final/`` does not have: merged, one PEFT adapter on the base, or one per task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapters.concatenate import write_peft_adapter
from ..adapters.merge import MergeError, merged_weight, modules, replaced
from ..base.errors import ExportError, Problem
from ..base.files import write_with
from ..contract.export import Export, LowRankSum, Routed
from .finish import manifest, merge_into_base, write_manifest
from .state import RunState


if TYPE_CHECKING:
    import torch

    from ..contract.carry import Carry, TaskUpdate
    from ..contract.low_rank import LowRankUpdate
    from ..contract.session import HostBase


DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
QUANTISATION_KEYS = (
    "quantization_bit",
    "quantization_method",
    "quantization_type",
    "double_quantization",
    "quantization_device_map",
)


def check_empty(out: Path) -> None:
    """An export replaces nothing.

    Raises:
        ExportError: If ``out`` holds files.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ExportError(Problem(str(out), "exists and is not empty.", "Choose a new directory for `--out`."))


def export_adapter(state: RunState, carry: Carry, out: Path) -> dict[str, int]:
    """Write the sum of a carry's updates as one plain PEFT adapter, rank-concatenated and exact.

    Args:
        state: From `reopen`.
        carry: Which model.
        out: A new directory.

    Returns:
        Module name -> rank.

    Raises:
        ExportError: If the method has no low-rank updates.
    """
    export = _exported(state, carry, out)
    if not isinstance(export, LowRankSum):
        what = f"'{state.config.method}' trains whole weights; there is no low-rank update."
        raise ExportError(Problem(str(out), what, "Use `--to merged`."))
    updates = [item.low_rank() for item in export.updates]
    if not any(update.a for update in updates):  # of a classifier on encoders
        what = "was trained without low-rank updates; there is no adapter."
        raise ExportError(Problem(str(out), what, "Use `--to merged`."))
    names = _modules_to_save(export.updates)
    found: dict[str, int] = {}

    def produce(folder: Path) -> None:
        found.update(write_peft_adapter(folder, updates, state.run_args.base_name, names))
        state.session.save_processor(folder)
        write_manifest(folder, manifest(state, carry, "peft", None))

    _write(out, produce)
    return found


def export_tasks(state: RunState, carry: Carry, out: Path) -> list[dict[str, Any]]:
    """Write one plain PEFT adapter per task, and ``MANIFEST.json``, which says what each of them is.

    Where the method chooses the model by the task at test, the adapter of a task is the model that answers it: the
    first LoRAs of the chain, rank-concatenated and exact. Else it is the task's own update, which is a part of the
    model and not a model: the task was trained on top of the ones before.

    Args:
        state: From `reopen`.
        carry: Which chain.
        out: A new directory.

    Returns:
        What the manifest says of each adapter: ``folder``, ``task``, ``updates`` (names of the tasks whose LoRAs are in
        it), ``rank`` (the largest) and ``answers`` (whether it is the model that answers the task).

    Raises:
        ExportError: If the method does not keep one low-rank update per task, or routes in another way.
    """
    parts = [state.method.export_task(carry, task) for task in carry.tasks]
    exports = [part for part in parts if isinstance(part, LowRankSum)]
    if not exports or len(exports) < len(parts):
        fix = "Use `--to adapter --task NAME` for the model as it was after a task."
        what = f"'{state.config.method}' does not keep one low-rank update per task."
        raise ExportError(Problem(str(out), what, fix))
    answers = all(part.answers for part in exports)
    known: dict[Path, LowRankUpdate] = {}
    adapters: list[dict[str, Any]] = []

    def produce(folder: Path) -> None:
        for number, (task, part) in enumerate(zip(carry.tasks, exports, strict=True), start=1):
            for item in part.updates:
                if item.tensors not in known:
                    known[item.tensors] = item.low_rank()
            own, base = f"{number:02d}_{task}", state.run_args.base_name
            chosen = [known[item.tensors] for item in part.updates]
            ranks = write_peft_adapter(folder / own, chosen, base, _modules_to_save(part.updates))
            names = [item.task for item in part.updates]
            adapters.append(
                {"folder": own, "task": task, "updates": names, "rank": max(ranks.values()), "answers": part.answers}
            )
        meaning = (
            "Each adapter, alone on the base, is the model that answers its task."
            if answers
            else "Each adapter is its task's own update, a part of the model: the sum of all of them on the base is the "
            "model, and each was trained on top of the ones before."
        )
        about = {**manifest(state, carry, "tasks", None), "meaning": meaning, "adapters": adapters}
        write_manifest(folder, about)

    _write(out, produce)
    return adapters


def export_merged(state: RunState, carry: Carry, out: Path, dtype_name: str) -> MergeError:
    """Write a plain model: every weight is the checkpoint's plus the updates, computed in fp32 and rounded once.

    Args:
        state: From `reopen`, with a base that is not quantised.
        carry: Which model.
        out: A new directory.
        dtype_name: ``bf16``, ``fp16`` or ``fp32``.

    Returns:
        How far rounding took the weights from base + updates.

    Raises:
        ExportError: If the base is quantised, or a weight does not fit the dtype.
    """
    import torch

    dtype = getattr(torch, DTYPES[dtype_name])
    base = state.session.base
    if base.quantised:
        fix = "Use `--to adapter`, which leaves the base as it is."
        raise ExportError(
            Problem(str(out), "the base's own weights are quantised; nothing can be added to them.", fix)
        )
    export = _exported(state, carry, out)
    updates = [item.low_rank() for item in export.updates] if isinstance(export, LowRankSum) else []
    if updates:
        _check_range(base, updates, dtype, out)
        error = merge_into_base(base, updates, dtype)
    else:
        state.answering(carry)
        error = _round_weights(base, dtype)
    touched = {f"{name}.weight" for name in modules(updates)} | set(replaced(updates))
    for name, parameter in list(base.model.named_parameters()):
        if parameter.is_floating_point() and parameter.dtype != dtype and name not in touched:
            base.replace(name, (base.original(name) if updates else parameter.detach()).to(dtype))
    base.model.config.dtype = dtype
    state.forget_model()

    def produce(folder: Path) -> None:
        state.session.save_model(base.model, folder)
        state.session.save_processor(folder)
        write_manifest(folder, manifest(state, carry, "merged" if updates else "full", error))

    _write(out, produce)
    return error


def _exported(state: RunState, carry: Carry, out: Path) -> Export:
    """What the method says that its model is; a routed one has no such form."""
    export = state.method.export(carry)
    if isinstance(export, Routed):
        what = f"'{state.config.method}' chooses its parts for every sample; a plain model cannot do this."
        fix = "Use `final/`, or `--to tasks` where each task has separate parts."
        raise ExportError(Problem(str(out), what, fix))
    return export


def _modules_to_save(updates: Sequence[TaskUpdate]) -> list[str]:
    return sorted({name for update in updates for name in update.meta["modules_to_save"]})


def _check_range(base: HostBase, updates: list[Any], dtype: torch.dtype, out: Path) -> None:
    """fp16 ends at 65504; a weight beyond it would become infinite without a word."""
    import torch

    if dtype != torch.float16:
        return
    largest = torch.finfo(dtype).max
    for name in modules(updates):
        if float(merged_weight(base.original(f"{name}.weight"), updates, name).abs().max()) > largest:
            raise ExportError(
                Problem(str(out), f"'{name}' has a value too large for fp16.", "Use `--dtype bf16` or fp32.")
            )


def _round_weights(base: HostBase, dtype: torch.dtype) -> MergeError:
    """What one rounding does to weights that were trained as a whole, against what training changed in them."""
    error = change = weight = 0.0
    for name, parameter in base.model.named_parameters():
        if not parameter.is_floating_point():
            continue
        exact = parameter.detach().cpu().double()
        before = base.original(name).double()
        error += float((exact.to(dtype).double() - exact).square().sum())
        change += float((exact - before).square().sum())
        weight += float(before.square().sum())
    name = str(dtype).removeprefix("torch.")
    if change == 0.0:
        return MergeError(0.0, 0.0, 0.0, name)
    relative = math.sqrt(error / change)
    return MergeError(relative, relative, math.sqrt(change / weight) if weight else math.inf, name)


def _write(out: Path, produce: Any) -> None:
    if out.is_dir():
        out.rmdir()  # empty, see `check_empty`
    write_with(out, produce)
