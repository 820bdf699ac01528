"""Bases that name code of their own (``auto_map``) but are loaded as a class of Transformers.

Many models on hubs have been added to Transformers since, and keep their ``auto_map``. LLaMA-Factory registers the
classes of every such model as custom code, which is then copied with each save: for a class of Transformers that fails
(FileNotFoundError), as its relative imports lead out of the library's folder.
"""

from __future__ import annotations

from typing import Any


_DYNAMIC = "transformers_modules"  # the package of code that came with a model
_PARTS = ("tokenizer", "image_processor", "video_processor", "feature_extractor")


def forget_unused_code(*loaded: Any) -> None:
    """Let objects of the library's own classes be saved without code, and without the names of code that is not saved.

    Objects whose class came with the model are left alone: they are saved with their code.

    Args:
        loaded: Models, configs, tokenizers and processors; None is left out.
    """
    for one in loaded:
        if one is None:
            continue
        for part in (one, *(getattr(one, name, None) for name in _PARTS)):
            if part is not None and not type(part).__module__.startswith(_DYNAMIC):
                _forget(part)


def _forget(one: Any) -> None:
    if getattr(type(one), "_auto_class", None) is not None:
        type(one)._auto_class = None
    for fields in (getattr(one, "__dict__", {}), getattr(one, "init_kwargs", None)):
        if isinstance(fields, dict):
            fields.pop("auto_map", None)
