"""Which base a run stands on, in a form that another machine can check."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoint_names import checkpoint_files


if TYPE_CHECKING:
    from llamafactory.hparams import ModelArguments


HASHED_UP_TO = 256 * 1024**2  # bytes; of larger files the header and samples
SAMPLES, SAMPLE = 256, 256 * 1024  # 64 MB of each large file, evenly spread over its tensors
DESCRIPTIONS = ("config.json", "model.safetensors.index.json", "preprocessor_config.json", "processor_config.json")
#: Vocabularies in other forms than ``tokenizer.json``.
VOCABULARIES = (
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "qwen.tiktoken",
    "tekken.json",
)
#: A text whose ids show merges and normalisation as well as the vocabulary.
PROBE = "The patient's X-ray (2024-05-01) shows 3.5 cm  opacity.\n答案是B。 Ответ: да. ¿Qué?  é ﬁ"


def base_fingerprint(args: ModelArguments) -> dict[str, Any]:
    """Fingerprint of the base.

    Args:
        args: The host's model arguments.

    Returns:
        ``{"name", "sha256", "tokenizer", "commit"}``. ``sha256`` covers configuration, processor and safetensors files (of
        those above 256 MB the header and 256 samples, 64 MB in all), ``tokenizer`` the ids that it gives. The name says
        nothing about identity and is not compared.
    """
    from transformers.utils import extract_commit_hash

    digest = hashlib.sha256()
    commit = None
    for name in DESCRIPTIONS:
        found = _file(args, name)
        if found is not None:
            digest.update(found.read_bytes())
            commit = commit or extract_commit_hash(str(found), None)
    for file in checkpoint_files(args.model_name_or_path, cache_dir=args.cache_dir, revision=args.model_revision):
        _update(digest, file)
    about = {"name": str(args.model_name_or_path), "sha256": digest.hexdigest(), "commit": commit}
    return {**about, "tokenizer": tokenizer_fingerprint(args)}


def tokenizer_fingerprint(args: ModelArguments) -> str | None:
    """One hash over what a tokenizer turns text into: its vocabulary with ids, and the ids of a text.

    How the files are written does not count, nor do templates and padding.

    Args:
        args: The host's model arguments.

    Returns:
        SHA-256, in hex; None if the base has no file that a vocabulary is known to lie in.
    """
    digest = hashlib.sha256()
    seen = False
    fast = _file(args, "tokenizer.json")
    if fast is not None:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(fast))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        ids = [tokenizer.get_vocab(with_added_tokens=True), tokenizer.encode(PROBE).ids]
        digest.update(json.dumps(ids, sort_keys=True).encode())
        seen = True
    for name in VOCABULARIES if fast is None else ():
        found = _file(args, name)
        if found is not None:
            digest.update(name.encode() + found.read_bytes())
            seen = True
    return digest.hexdigest() if seen else None


def _file(args: ModelArguments, name: str) -> Path | None:
    """A file of the base, on this machine or from the hub; None if it has none of that name."""
    from transformers.utils import cached_file

    found = cached_file(
        args.model_name_or_path,
        name,
        cache_dir=args.cache_dir,
        revision=args.model_revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if found is None else Path(found)


def _update(digest: hashlib._Hash, file: Path) -> None:
    """Take in a safetensors file: whole, or its header and samples."""
    size = file.stat().st_size
    with file.open("rb") as handle:
        if size <= HASHED_UP_TO:
            digest.update(handle.read())
            return
        length = handle.read(8)
        digest.update(size.to_bytes(8, "little") + length + handle.read(int.from_bytes(length, "little")))
        start = handle.tell()
        for number in range(SAMPLES):
            handle.seek(start + (size - start - SAMPLE) * number // (SAMPLES - 1))
            digest.update(handle.read(SAMPLE))
