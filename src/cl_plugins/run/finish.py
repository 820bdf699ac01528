"""The step ``finish``: ``final/`` holds exactly the model that was evaluated last, and the report is written."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..adapters.concatenate import write_peft_adapter
from ..adapters.merge import MergeError, MergeMeter, merge_into
from ..adapters.partitioned import whole_on_main
from ..base import ranks
from ..base.files import artefact, write_with
from ..base.logs import logger
from ..contract.export import LowRankSum, Routed
from ..methods.registry import METHODS
from ..records.carry import ModelManifest
from ..records.files import record_of
from ..training.handover import copy_carry
from .base_card import resolved
from .card import Facts, facts_of, write_card
from .precision import autocast_name
from .state import RunState


if TYPE_CHECKING:
    import torch

    from ..contract.carry import Carry
    from ..contract.low_rank import LowRankUpdate
    from ..contract.session import HostBase


MANIFEST = "MANIFEST.json"


def finish(state: RunState) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write ``final/``.

    Returns:
        Artefacts and details for the journal.
    """
    carry = state.carry
    if carry is None:
        return {}, {}
    export = state.method.export(carry)
    if isinstance(export, Routed):
        lora = _lora(state)
        return ranks.on_main(lambda: _write_routed(state, carry, lora))
    model = state.answering(carry)
    items = export.updates if isinstance(export, LowRankSum) else ()
    updates = [item.low_rank() for item in items]
    base = state.session.base
    merges = base.can_merge or not updates
    error: MergeError | None
    if merges and updates:
        error = merge_into_base(base, updates)
        state.session.restored(carry.tasks)
        state.forget_model()
        logger.info("final model: %s", error)
    else:
        error = None if merges else MergeError.none()
    whole = _whole_state(base) if base.partitioned else None
    facts = facts_of(state)

    def write() -> tuple[dict[str, Any], dict[str, Any]]:
        target = state.root / "final"

        def produce(folder: Path) -> None:
            if merges:
                state.session.save_model(base.model, folder, whole)
                kind = "merged" if updates else "full"
            else:
                targets = sorted({m for item in items for m in item.meta["modules_to_save"]})
                write_peft_adapter(folder, updates, resolved(state.run_args.base_name), targets)
                kind = "peft"
            state.session.save_processor(folder)
            write_manifest(folder, manifest(state, carry, kind, error), facts)

        write_with(target, produce)
        return _artefacts(state.root, target), {"merge_error": error.to_dict() if error else None}

    _ = model
    return ranks.on_main(write)


def _lora(state: RunState) -> dict[str, Any] | None:
    """The run's LoRA, found on the base without anything on it; every rank must call this."""
    if "lora" not in state.method.capabilities.finetuning_types:
        return None
    state.session.base.reset()
    state.forget_model()
    return state.session.base.lora()


def _write_routed(state: RunState, carry: Carry, lora: dict[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """``final/`` of a model that chooses its parts by itself: the carry without training samples, and the tokenizer."""
    target = state.root / "final"
    facts = facts_of(state)

    def produce(folder: Path) -> None:
        folder.mkdir(parents=True)
        copy_carry(carry, folder / "carry")
        state.session.save_processor(folder)
        write_manifest(folder, {**manifest(state, carry, "routed", None), "lora": lora}, facts)

    write_with(target, produce)
    return _artefacts(state.root, target), {"merge_error": None}


def write_manifest(folder: Path, about: dict[str, Any], facts: Facts | None = None) -> None:
    """Write the model card and ``MANIFEST.json``, the last file of a folder, with the hashes of all others.

    Args:
        folder: The folder of the model.
        about: From `manifest`.
        facts: From `facts_of`; None writes no card.
    """
    if facts is not None:
        write_card(folder, about, facts)
    files = {path.relative_to(folder).as_posix(): record_of(path).plain() for path in _files(folder)}
    ModelManifest.write(folder / MANIFEST, {**about, "files": files})


def _artefacts(root: Path, target: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in _files(target):
        found |= artefact(root, path)
    return found


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def merge_into_base(base: HostBase, updates: list[LowRankUpdate], dtype: torch.dtype | None = None) -> MergeError:
    """Set the base's weights to the checkpoint's plus the updates, and measure the rounding.

    Args:
        base: The base; its adapters are removed.
        updates: The updates in order.
        dtype: Dtype of the merged weights; fp32 by default.
    """
    base.reset()
    meter = MergeMeter()
    merge_into(base, updates, dtype, meter)
    return meter.result()


def _whole_state(base: HostBase) -> dict[str, Any]:
    """All tensors of a model that ZeRO-3 has split; every rank must call this."""
    return {name: whole_on_main(parameter) for name, parameter in base.model.named_parameters()}


def manifest(state: RunState, carry: Carry, kind: str, error: MergeError | None) -> dict[str, Any]:
    """What ``final/`` is and its base."""
    return {
        "kind": kind,
        "method": state.config.method,
        "stream": state.config.stream.name,
        "tasks": list(carry.tasks),
        "base": {**state.base_fingerprint, "name": resolved(str(state.base_fingerprint.get("name", "")))},
        "quantization": state.session.quantisation(),
        "merge_error": error.to_dict() if error else None,
        "cl_plugins": __version__,
        "options": state.config.method_options,
        **_package(state.config.method),
        "dtype": str(state.session.base.model.dtype).removeprefix("torch."),
        "autocast": autocast_name(state.run_args.training),
        "keys": {key: value for key, value in state.host_keys.items() if key in state.host.prompt_keys},
    }


def _package(method: str) -> dict[str, str | None]:
    """Name and version of the package that registers a method."""
    package = METHODS.distribution(method)
    try:
        return {"package": package, "version": version(package)}
    except PackageNotFoundError:  # registered by a program and not by a package
        return {"package": package, "version": None}
