"""A plain model on disk, as Transformers saves it and with the base's own settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .task_args import HostArgs


#: What the host sets for training: no cache, and the loss of a mixture of experts' routers.
_FOR_TRAINING = ("use_cache", "output_router_logits", "router_aux_loss_coef", "aux_loss_alpha", "aux_loss_coef")
_ABSENT = object()


def save_model(
    model: Any, folder: Path, args: HostArgs, tokenizer: Any, tensors: dict[str, Any] | None = None
) -> None:
    """Save a model with the base's own settings where the host sets others for training.

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
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if torch.float32 in dtypes:
        model.config.dtype = torch.float32
    _align_special_tokens(model, tokenizer)
    with _settings_of(base, model.config):
        model.save_pretrained(folder, **({"state_dict": tensors} if tensors is not None else {}))


@contextmanager
def _settings_of(base: Any, config: Any) -> Iterator[None]:
    """Give a config, and that of its language model, the base's own `_FOR_TRAINING` inside the block."""
    texts = [getattr(owner, "text_config", None) for owner in (config, base)]
    before = []
    for own, original in ((config, base), texts):
        if own is None or original is None:
            continue
        for name in _FOR_TRAINING:
            if hasattr(own, name):
                before.append((own, name, getattr(own, name)))
                value = getattr(original, name, True if name == "use_cache" else _ABSENT)
                delattr(own, name) if value is _ABSENT else setattr(own, name, value)
    try:
        yield
    finally:
        for own, name, value in before:
            setattr(own, name, value)


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
