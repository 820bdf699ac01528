"""Which base a run uses, in a form that another machine can check."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.hashes import cached_sha256
from ..base.logs import logger
from .base_settings import base_settings, chat_template
from .checkpoint_names import checkpoint_files, pickled_files


if TYPE_CHECKING:
    from llamafactory.hparams import ModelArguments


READ_WHOLE = 256 * 1024**2  # bytes; of larger files the remembered hash goes into the fingerprint
DESCRIPTIONS = (
    "config.json",
    "model.safetensors.index.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
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


def base_fingerprint(args: ModelArguments, *, own_template: bool = False) -> dict[str, Any]:
    """Fingerprint of the base.

    Args:
        args: The host's model arguments.
        own_template: Whether prompts are made with the base's own chat template.

    Returns:
        ``{"name", "sha256", "tokenizer", "commit", "settings"}``. ``sha256`` covers configuration, processor and weights,
        all of their bytes, ``tokenizer`` the ids that it gives, ``settings`` what else of the base decides an answer
        (`base_settings`). The name says nothing about identity and is not compared.
    """
    from transformers.utils import extract_commit_hash

    digest = hashlib.sha256()
    commit = None
    for name in DESCRIPTIONS:
        found = _file(args, name)
        if found is not None:
            digest.update(found.read_bytes())
            commit = commit or extract_commit_hash(str(found), None)
    hub = {"cache_dir": args.cache_dir, "revision": args.model_revision}
    files = checkpoint_files(args.model_name_or_path, **hub) or pickled_files(args.model_name_or_path, **hub)
    for file in files:
        _update(digest, file)
    if not files:
        logger.warning(
            "base %s: no file of weights was found: changes of them are not noticed", args.model_name_or_path
        )
    about = {"name": str(args.model_name_or_path), "sha256": digest.hexdigest(), "commit": commit}
    code = bool(getattr(args, "trust_remote_code", False))
    settings = base_settings(lambda name: _file(args, name), Path(args.model_name_or_path), code=code)
    if own_template:
        settings["chat_template"] = chat_template(lambda name: _file(args, name))
    return {**about, "tokenizer": tokenizer_fingerprint(args), "settings": settings}


def tokenizer_fingerprint(args: ModelArguments) -> str | None:
    """One hash over what a tokenizer turns text into: its vocabulary with ids, and the ids of a text.

    How the files are written does not count, nor do templates and padding.

    Args:
        args: The host's model arguments.

    Returns:
        SHA-256, in hex; None if the base has no file that a vocabulary is known to be in.
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
    """Take in a safetensors file, whole; the hash of a large one is remembered."""
    digest.update(file.read_bytes() if file.stat().st_size <= READ_WHOLE else cached_sha256(file).encode())
