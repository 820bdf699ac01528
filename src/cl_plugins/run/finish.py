"""The step ``finish``: ``final/`` holds exactly the model that was evaluated last, and the report is written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..adapters.concatenate import write_peft_adapter
from ..adapters.merge import MergeError, MergeMeter, merge_into
from ..adapters.partitioned import whole_on_main
from ..base import ranks
from ..base.files import artefact, write_with
from ..base.logs import logger
from ..host.quantised import quantisation_of
from ..records.carry import ModelManifest
from .state import RunState


if TYPE_CHECKING:
    import torch

    from ..contract.carry import Carry
    from ..contract.low_rank import LowRankUpdate
    from ..host.base import LoadedBase


def finish(state: RunState) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write ``final/``.

    Returns:
        Artefacts and details for the journal.
    """
    carry = state.carry
    if carry is None:
        return {}, {}
    model = state.answering(carry)
    updates = [item.low_rank() for item in state.method.updates(carry)]
    base = state.session.base
    merges = base.can_merge or not updates
    error: MergeError | None
    if merges and updates:
        error = merge_into_base(base, updates)
        state.forget_model()
        logger.info("final model: %s", error)
    else:
        error = None if merges else MergeError.none()
    whole = _whole_state(base) if base.partitioned else None

    def write() -> tuple[dict[str, Any], dict[str, Any]]:
        target = state.root / "final"

        def produce(folder: Path) -> None:
            if merges:
                save_plain(base.model, folder, state, whole)
                kind = "merged" if updates else "full"
            else:
                targets = sorted({m for item in state.method.updates(carry) for m in item.meta["modules_to_save"]})
                write_peft_adapter(folder, updates, str(state.run_args.model.model_name_or_path), targets)
                kind = "peft"
            save_tokenizer(state, folder)
            ModelManifest.write(folder / "MANIFEST.json", manifest(state, carry, kind, error))

        write_with(target, produce)
        found: dict[str, Any] = {}
        for path in sorted(p for p in target.rglob("*") if p.is_file()):
            found |= artefact(state.root, path)
        return found, {"merge_error": error.to_dict() if error else None}

    _ = model
    return ranks.on_main(write)


def merge_into_base(base: LoadedBase, updates: list[LowRankUpdate], dtype: torch.dtype | None = None) -> MergeError:
    """Set the base's weights to the checkpoint's plus the updates, and measure the rounding.

    Args:
        base: The base; adapters are taken off.
        updates: The updates in order.
        dtype: Dtype of the merged weights; fp32 by default.
    """
    base.reset()
    meter = MergeMeter()
    merge_into(base, updates, dtype, meter)
    return meter.result()


def _whole_state(base: LoadedBase) -> dict[str, Any]:
    """All tensors of a model that ZeRO-3 has split; every rank must call this."""
    return {name: whole_on_main(parameter) for name, parameter in base.model.named_parameters()}


def save_plain(model: Any, folder: Path, state: RunState, tensors: dict[str, Any] | None = None) -> None:
    """Save a model as Transformers does, with the base's own ``use_cache`` (the host turns it off for training)."""
    import torch
    from transformers import AutoConfig

    args = state.run_args.model
    base = AutoConfig.from_pretrained(
        args.model_name_or_path,
        cache_dir=args.cache_dir,
        revision=args.model_revision,
        trust_remote_code=args.trust_remote_code,
    )
    changed = []
    for own, original in (
        (model.config, base),
        (getattr(model.config, "text_config", None), getattr(base, "text_config", None)),
    ):
        if own is not None and hasattr(own, "use_cache") and original is not None:
            changed.append((own, own.use_cache))
            own.use_cache = getattr(original, "use_cache", True)
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if torch.float32 in dtypes:
        model.config.dtype = torch.float32
    _align_special_tokens(model, state.session.tokenizer)
    try:
        model.save_pretrained(folder, **({"state_dict": tensors} if tensors is not None else {}))
    finally:
        for own, value in changed:
            own.use_cache = value


def _align_special_tokens(model: Any, tokenizer: Any) -> None:
    """Write the tokenizer's special tokens into the configs.

    Trainer does so whenever it trains; a start that has only this step left to do has trained nothing.
    """
    from types import SimpleNamespace

    from transformers import Trainer, trainer_utils

    if hasattr(trainer_utils, "align_special_tokens"):
        trainer_utils.align_special_tokens(model, tokenizer)
    elif hasattr(Trainer, "_align_special_tokens"):  # transformers 4
        Trainer._align_special_tokens(SimpleNamespace(model=model, processing_class=tokenizer))


def save_tokenizer(state: RunState, folder: Path) -> None:
    """Tokenizer and processor beside the weights, so that the folder opens by itself."""
    module = state.session.tokenizer_module
    module["tokenizer"].save_pretrained(folder)
    if module["processor"] is not None:
        module["processor"].save_pretrained(folder)


def manifest(state: RunState, carry: Carry, kind: str, error: MergeError | None) -> dict[str, Any]:
    """What ``final/`` is and what it stands on."""
    return {
        "kind": kind,
        "method": state.config.method,
        "stream": state.config.stream.name,
        "tasks": list(carry.tasks),
        "base": state.base_fingerprint,
        "quantization": quantisation_of(state.session.base.model),
        "merge_error": error.to_dict() if error else None,
        "cl_plugins": __version__,
    }
