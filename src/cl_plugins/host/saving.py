"""A plain model on disk, as Transformers saves it and with the base's own settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .task_args import HostArgs


def save_model(
    model: Any, folder: Path, args: HostArgs, tokenizer: Any, tensors: dict[str, Any] | None = None
) -> None:
    """Save a model with the base's own ``use_cache`` (the host turns it off for training).

    Args:
        model: The model.
        folder: Where.
        args: The host's arguments of the run, which name the base.
        tokenizer: Its special tokens are written into the configs.
        tensors: Whole tensors, where the model holds parts of them.
    """
    import torch
    from transformers import AutoConfig

    base = AutoConfig.from_pretrained(
        args.model.model_name_or_path,
        cache_dir=args.model.cache_dir,
        revision=args.model.model_revision,
        trust_remote_code=args.model.trust_remote_code,
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
    _align_special_tokens(model, tokenizer)
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
