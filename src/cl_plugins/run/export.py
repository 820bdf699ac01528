"""A run's model in the form that ``final/`` does not have: merged, one PEFT adapter on the base, or one per task."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapters.concatenate import write_peft_adapter
from ..adapters.merge import MergeError, merged_weight, modules, replaced
from ..base.errors import ExportError, Problem
from ..base.files import write_with
from ..contract.export import Export, LowRankSum, Routed
from .base_card import resolved
from .card import facts_of
from .finish import manifest, merge_into_base, write_manifest
from .state import RunState
from .vllm_serving import check_adapter


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


def export_adapter(state: RunState, carry: Carry, out: Path, *, for_vllm: bool = False) -> dict[str, int]:
    """Write the sum of a carry's updates as one plain PEFT adapter, rank-concatenated and exact.

    Args:
        state: From `reopen`.
        carry: Which model.
        out: A new directory.
        for_vllm: Put modules that were trained as a whole into a base of its own, see `shared_base`, and refuse what
            vLLM cannot apply, see `vllm_serving.check_adapter`.

    Returns:
        Module name -> rank.

    Raises:
        ExportError: If the method has no low-rank updates, or `shared_base` cannot be.
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
    shared = shared_base(state, {carry.tasks[-1]: updates}, names, out) if for_vllm else {}
    found: dict[str, int] = {}

    def produce(folder: Path) -> None:
        base = _write_base(state, folder, out, shared)
        found.update(write_peft_adapter(folder, updates, base, names, whole_modules=not for_vllm))
        if for_vllm:
            check_adapter(state.session.base.model, found, out)
        state.session.save_processor(folder)
        about = {**manifest(state, carry, "peft", None), **_about_base(shared, names)}
        write_manifest(folder, about, facts_of(state))

    _write(out, produce)
    return found


def export_tasks(state: RunState, carry: Carry, out: Path, *, for_vllm: bool = False) -> list[dict[str, Any]]:
    """Write one plain PEFT adapter per task, and ``MANIFEST.json``, which says what each of them is.

    Where the method chooses the model by the task at test, the adapter of a task is the model that answers it: the
    first LoRAs of the chain, rank-concatenated and exact. Else it is the task's own update, which is a part of the
    model and not a model: the task was trained on top of the ones before.

    Args:
        state: From `reopen`.
        carry: Which chain.
        out: A new directory.
        for_vllm: Put modules that were trained as a whole into a base of its own, see `shared_base`, and refuse what
            vLLM cannot apply, see `vllm_serving.check_adapter`.

    Returns:
        What the manifest says of each adapter: ``folder``, ``task``, ``updates`` (names of the tasks whose LoRAs are in
        it), ``rank`` (the largest) and ``answers`` (whether it is the model that answers the task).

    Raises:
        ExportError: If the method does not keep one low-rank update per task, routes in another way, or `shared_base`
            cannot be.
    """
    parts = [state.method.export_task(carry, task) for task in carry.tasks]
    exports = [part for part in parts if isinstance(part, LowRankSum)]
    if not exports or len(exports) < len(parts):
        one = "adapter" if state.method.capabilities.low_rank else "merged"
        fix = f"Use `--to {one} --task NAME` for the model as it was after a task."
        what = f"'{state.config.method}' does not keep one low-rank update per task."
        raise ExportError(Problem(str(out), what, fix))
    answers = all(part.answers for part in exports)
    known: dict[Path, LowRankUpdate] = {}
    for item in (item for part in exports for item in part.updates):
        if item.tensors not in known:
            known[item.tensors] = item.low_rank()
    whole = sorted({name for part in exports for name in _modules_to_save(part.updates)})
    chosen = {t: [known[item.tensors] for item in p.updates] for t, p in zip(carry.tasks, exports, strict=True)}
    shared = shared_base(state, chosen, whole, out) if for_vllm else {}
    adapters: list[dict[str, Any]] = []

    def produce(folder: Path) -> None:
        base = _write_base(state, folder, out, shared)
        for number, (task, part) in enumerate(zip(carry.tasks, exports, strict=True), start=1):
            own, names = f"{number:02d}_{task}", _modules_to_save(part.updates)
            ranks = write_peft_adapter(folder / own, chosen[task], base, names, whole_modules=not for_vllm)
            if for_vllm:
                check_adapter(state.session.base.model, ranks, out)
            names = [item.task for item in part.updates]
            adapters.append(
                {"folder": own, "task": task, "updates": names, "rank": max(ranks.values()), "answers": part.answers}
            )
        state.session.save_processor(folder)
        meaning = (
            "Each adapter, alone on the base, is the model that answers its task."
            if answers
            else "Each adapter is its task's own update, a part of the model: the sum of all of them on the base is the "
            "model, and each was trained on top of the ones before."
        )
        about = {
            **manifest(state, carry, "tasks", None),
            "meaning": meaning,
            "adapters": adapters,
            **_about_base(shared, whole),
        }
        write_manifest(folder, about, facts_of(state))

    _write(out, produce)
    return adapters


BASE = "base"  # folder of the base with the shared modules, see `shared_base`


def shared_base(
    state: RunState, adapters: Mapping[str, Sequence[LowRankUpdate]], modules_to_save: Sequence[str], out: Path
) -> dict[str, torch.Tensor]:
    """The modules that were trained as a whole, where all adapters share them.

    vLLM takes no adapter with such modules (``modules_to_save``). Where they are the same for all adapters, they belong to
    one base for all.

    Args:
        state: From `reopen`.
        adapters: Task -> the updates of its adapter.
        modules_to_save: The recipe's names of modules that are trained as a whole.
        out: For messages.

    Returns:
        Parameter name -> value; empty where no module was trained as a whole.

    Raises:
        ExportError: If adapters have different ones, or the base is quantised.
    """
    import torch

    values = {task: replaced(updates) for task, updates in adapters.items()}
    (first, shared), *others = values.items()
    for task, own in others:
        different = sorted(
            name
            for name in {*shared, *own}
            if name not in own or name not in shared or not torch.equal(own[name], shared[name])
        )
        if different:
            told = ", ".join(_owners(different, modules_to_save))
            what = f"tasks {first} and {task} have trained {told} as a whole, with different results, and vLLM serves LoRAs only."
            fix = "Serve the adapters with PEFT, or train without `additional_target` (or with one projector for all tasks)."
            raise ExportError(Problem(str(out), what, fix))
    if shared and state.session.base.quantised:
        what = "the base is quantised, so that the modules that were trained as a whole cannot be merged into it."
        raise ExportError(Problem(str(out), what, "Serve the adapters with PEFT."))
    return shared


def _write_base(state: RunState, folder: Path, out: Path, shared: Mapping[str, torch.Tensor]) -> str:
    """Write the base with the shared modules; gives the place of the base that adapters name."""
    if not shared:
        return resolved(state.run_args.base_name)
    base = state.session.base
    base.reset()
    for name, value in shared.items():
        base.replace(name, value.to(base.original(name).dtype))
    state.forget_model()
    state.session.save_model(base.model, folder / BASE)
    state.session.save_processor(folder / BASE)
    base.reset()
    return os.path.abspath(out / BASE)


def _about_base(shared: Mapping[str, torch.Tensor], modules_to_save: Sequence[str]) -> dict[str, Any]:
    """What the manifest says of a base of its own."""
    return {"base_folder": BASE, "base_has": _owners(shared, modules_to_save)} if shared else {}


def _owners(names: Iterable[str], modules_to_save: Sequence[str]) -> list[str]:
    """The modules, by the recipe's names, that parameters belong to."""
    parts = [name.split(".") for name in names]
    return [module for module in modules_to_save if any(module in part for part in parts)]


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
        state.session.restored(carry.tasks)
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
        write_manifest(folder, manifest(state, carry, "merged" if updates else "full", error), facts_of(state))

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
