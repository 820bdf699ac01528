"""Which tensor of a checkpoint's files is which parameter in memory.

Transformers renames tensors while it loads (``language_model.model.layers...`` on disk,
``model.language_model.layers...`` in memory). Transformers itself provides the renaming; where it cannot say
(fused or split tensors, an older version), the parameter has no entry and its owner keeps a copy.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.nn import Module


def checkpoint_files(name_or_path: str, **hub: Any) -> list[Path]:
    """The safetensors files of a model, from a folder or the local hub cache; empty if there are none.

    Args:
        name_or_path: Folder or hub name.
        **hub: ``cache_dir`` and ``revision``, as the host passes them.
    """
    from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

    return _files(name_or_path, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, hub)


def pickled_files(name_or_path: str, **hub: Any) -> list[Path]:
    """The files of weights of a model that has no safetensors files (``pytorch_model.bin``); empty if there are none.

    Args:
        name_or_path: As for `checkpoint_files`.
        **hub: As for `checkpoint_files`.
    """
    from transformers.utils import WEIGHTS_INDEX_NAME, WEIGHTS_NAME

    return _files(name_or_path, WEIGHTS_INDEX_NAME, WEIGHTS_NAME, hub)


def _files(name_or_path: str, index_name: str, single_name: str, hub: dict[str, Any]) -> list[Path]:
    from transformers.utils import cached_file

    def find(name: str) -> Path | None:
        quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
        found = cached_file(name_or_path, name, **hub, **quiet)
        return Path(found) if found is not None else None

    single = find(single_name)
    if single is not None:  # Transformers looks for it first as well
        return [single]
    index = find(index_name)
    if index is None:
        return []
    shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    return [path for shard in shards if (path := find(shard)) is not None]


def _renamer(model: Any) -> Callable[[str], str]:
    """How this Transformers version renames a checkpoint key for ``model``."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightRenaming
    except ImportError:  # Transformers 4
        patterns = getattr(type(model), "_checkpoint_conversion_mapping", None) or {}

        def rename_v4(key: str) -> str:
            for pattern, target in patterns.items():
                key, count = re.subn(pattern, target, key)
                if count:
                    break
            return key

        return rename_v4
    renamings = [r for r in get_model_conversion_mapping(model) if isinstance(r, WeightRenaming)]

    def rename_v5(key: str) -> str:
        for renaming in renamings:
            key, _ = renaming.rename_source_key(key)
        return key

    return rename_v5


def name_map(model: Module, files: list[Path]) -> dict[str, tuple[Path, str]]:
    """Parameter name -> (file, key in the file), for every parameter that can be found with its own shape.

    Args:
        model: The model in memory, without adapters.
        files: Its safetensors files.
    """
    from safetensors import safe_open

    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    prefix = getattr(model, "base_model_prefix", "")
    rename = _renamer(model)
    found: dict[str, tuple[Path, str]] = {}
    for file in files:
        with safe_open(file, framework="pt") as handle:
            for key in handle.keys():
                renamed = rename(key)
                for candidate in (renamed, f"{prefix}.{renamed}", renamed.removeprefix(f"{prefix}.")):
                    if shapes.get(candidate) == tuple(handle.get_slice(key).get_shape()):
                        found[candidate] = (file, key)
                        break
    return found
