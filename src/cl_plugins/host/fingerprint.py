"""Which base a run stands on, in a form that another machine can check."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.hashes import cached_sha256
from .checkpoint_names import checkpoint_files


if TYPE_CHECKING:
    from llamafactory.hparams import ModelArguments


READ_WHOLE = 256 * 1024**2  # bytes; of larger files the remembered hash goes into the fingerprint
#: What decides how pictures, videos and sounds reach the model.
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")


def base_fingerprint(args: ModelArguments) -> dict[str, Any]:
    """Fingerprint of the base: hash of config, index and safetensors files, and one of the processor's settings.

    Args:
        args: The host's model arguments.

    Returns:
        ``{"name", "sha256", "processor", "commit"}``; the name says nothing about identity and is not compared. A base
        without a processor has None there.
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
        if file.stat().st_size <= READ_WHOLE:
            digest.update(file.read_bytes())
        else:
            digest.update(cached_sha256(file).encode())
    return {
        "name": str(args.model_name_or_path),
        "sha256": digest.hexdigest(),
        "processor": _processor(str(args.model_name_or_path), {**hub, **quiet}),
        "commit": commit,
    }


def _processor(name: str, options: dict[str, Any]) -> str | None:
    """Hash over the settings of the processor (size, mean, standard deviation, crops); None if there are none."""
    from transformers.utils import cached_file

    settings = {}
    for file in PROCESSOR_FILES:
        found = cached_file(name, file, **options)
        if found is not None:
            settings[file] = json.loads(Path(found).read_text(encoding="utf-8"))
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest() if settings else None


def same_base(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two fingerprints are of the same base, with the same settings of its processor."""
    return all(a.get(key) == b.get(key) for key in ("sha256", "processor"))
