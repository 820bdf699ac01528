"""Which base a run stands on, in a form that another machine can check."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoint_names import checkpoint_files


if TYPE_CHECKING:
    from llamafactory.hparams import ModelArguments


HASHED_UP_TO = 256 * 1024**2  # bytes; of larger files only the header


def base_fingerprint(args: ModelArguments) -> dict[str, Any]:
    """Fingerprint of the base: hash of config, index and safetensors files (of large files the header).

    Args:
        args: The host's model arguments.

    Returns:
        ``{"name", "sha256", "commit"}``; the name says nothing about identity and is not compared.
    """
    from transformers.utils import cached_file, extract_commit_hash

    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    hub = {"cache_dir": args.cache_dir, "revision": args.model_revision}
    digest = hashlib.sha256()
    commit = None
    for name in ("config.json", "model.safetensors.index.json"):
        found = cached_file(args.model_name_or_path, name, **hub, **quiet)
        if found is not None:
            digest.update(Path(found).read_bytes())
            commit = commit or extract_commit_hash(found, None)
    for file in checkpoint_files(args.model_name_or_path, **hub):
        with file.open("rb") as handle:
            if file.stat().st_size <= HASHED_UP_TO:
                digest.update(handle.read())
            else:
                size = handle.read(8)
                digest.update(size + handle.read(int.from_bytes(size, "little")))
    return {"name": str(args.model_name_or_path), "sha256": digest.hexdigest(), "commit": commit}
