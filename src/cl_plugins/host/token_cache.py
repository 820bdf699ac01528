"""Token ids of test sets with pictures, videos or sounds, kept on disk between starts.

The host opens and resizes every picture of a test set only to count its tokens. The ids that it gives are kept in ``tokens/``
of the package's cache directory (see `cl_plugins.base.hashes`), one safetensors file per data set. The name of a file is a
hash over all that decides the ids, so that a file is never out of date. When the folder is larger than `LIMIT`, the files
that were not used for the longest time are deleted. ``CL_PLUGINS_TOKEN_CACHE=0`` turns the cache off; with LLaMA-Factory's
``overwrite_cache: true`` files are written again instead of read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import os
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.files import sha256
from ..base.hashes import cache_folder, cached_hashes
from ..base.logs import logger
from ..base.outside import is_regular
from .hub import ROWS, content_digest
from .media_names import names_in


if TYPE_CHECKING:
    import numpy as np

    from .task_args import HostArgs


OFF = "CL_PLUGINS_TOKEN_CACHE"  # environment variable; 0 turns the cache off
LIMIT = 2 * 1024**3  # bytes of all files together
_FORMAT = 1  # of the files; another one gives other names
_STALE = 24 * 3600  # seconds after which a temporary file belongs to no process that still writes it
_MEDIA = ("_images", "_videos", "_audios")  # columns of the host's records
#: Arguments that say where data are, which of them are read, and how fast; every other one is part of a file's name.
_NO_MATTER = frozenset(
    {
        "dataset", "eval_dataset", "dataset_dir", "media_dir", "max_samples", "val_size", "eval_on_each_dataset",
        "streaming", "buffer_size", "mix_strategy", "interleave_probs", "overwrite_cache", "tokenized_path",
        "preprocessing_batch_size", "preprocessing_num_workers", "data_shared_file_system", "eval_num_beams",
    }
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A test record as the host encodes it.

    Attributes:
        prompt: Token ids of the prompt, with every picture token, int32.
        answer: Those of the answer, int32.
        short: Those of the prompt with one token per picture, int32; only for engines.
    """

    prompt: np.ndarray
    answer: np.ndarray
    short: np.ndarray | None = None


class TokenCache:
    """Reads and writes the token ids of test sets.

    Args:
        args: The host's arguments of the run.
        template: The host's template.
        module: The host's tokenizer and processor.
    """

    def __init__(self, args: HostArgs, template: Any, module: Mapping[str, Any]) -> None:
        self._template, self._module = template, module
        self._used = os.environ.get(OFF, "1").strip() != "0"
        self._again = bool(args.data.overwrite_cache)

    @cached_property
    def _encoder(self) -> str | None:
        """Hash of all that turns a record into ids, apart from arguments; None if it cannot be had."""
        try:
            return _encoder_digest(self._template, self._module)
        except Exception as error:  # tokenizers and processors may be anybody's code
            logger.debug("token ids of test sets are not kept: %s", error)
            return None

    def file(self, rows: Any, data_args: Any, *, for_engine: bool) -> Path | None:
        """Where the ids of a data set are kept.

        Args:
            rows: The host's records before tokenising.
            data_args: The host's arguments for the data of the task.
            for_engine: Whether `Encoded.short` is wanted.

        Returns:
            The file; None if the ids are not kept: no record has pictures, videos or sounds, some are no regular files (a
            folder of frames), or the cache is turned off.
        """
        if not self._used or not _with_media(rows):
            return None
        try:
            media = _media_hashes(rows)
        except OSError:  # the host says what is wrong when it opens the file
            return None
        if media is None or self._encoder is None:
            return None
        options = {
            field.name: getattr(data_args, field.name)
            for field in dataclasses.fields(data_args)
            if field.name not in _NO_MATTER
        }
        about = [_FORMAT, self._encoder, options, for_engine, content_digest(rows), media]
        name = hashlib.sha256(json.dumps(about, sort_keys=True, default=repr).encode()).hexdigest()
        return cache_folder() / "tokens" / f"{name}.safetensors"

    def read(self, file: Path, count: int) -> list[Encoded] | None:
        """The ids of a data set; None if they are not kept, or the file is damaged.

        Args:
            file: From `file`.
            count: Number of records.
        """
        from safetensors import SafetensorError, safe_open

        if self._again:
            return None
        try:
            with safe_open(file, framework="np") as opened:
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}
                written = (opened.metadata() or {}).get("sha256")
            if written != _digest(tensors):
                raise ValueError("its content does not have the hash that it was written with")
            found = _from_tensors(tensors)
            if len(found) != count:
                raise ValueError(f"it holds {len(found)} records instead of {count}")
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            logger.debug("%s is not used: %s", file, error)
            return None
        with suppress(OSError):
            os.utime(file)  # those that were not used for the longest time go first
        return found

    def write(self, file: Path, records: Sequence[Encoded]) -> None:
        """Keep the ids of a data set, if the disk takes them.

        Args:
            file: From `file`.
            records: All of its records.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        tensors = _to_tensors(records)
        about = {"sha256": _digest(tensors)}
        temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # ids can be read back into texts
            save_file(tensors, temporary, metadata=about)
            os.replace(temporary, file)  # not flushed: what a machine that fails leaves does not have its hash
            _make_room(file.parent)
        except (OSError, SafetensorError) as error:
            logger.debug("token ids are not kept in %s: %s", file, error)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def stored_rows(rows: Any) -> Iterator[dict[str, Any]]:
    """The host's records, without opening the pictures in them.

    Args:
        rows: A data set of the `datasets` library.
    """
    for table in rows.with_format("arrow").iter(batch_size=ROWS):
        yield from table.to_pylist()


def _with_media(rows: Any) -> bool:
    """Whether there is a column of pictures, videos or sounds."""
    import pyarrow as pa

    kinds = {field.name: field.type for field in rows.features.arrow_schema}
    return any(name in kinds and not pa.types.is_null(kinds[name]) for name in _MEDIA)


def _media_hashes(rows: Any) -> dict[str, str] | None:
    """Media that the records name, with the hashes of their bytes; None if one is no regular file."""
    columns = [name for name in _MEDIA if name in rows.column_names]
    values = (list(row.values()) for row in stored_rows(rows.select_columns(columns)))
    ordered = sorted({name for value in values for name in names_in(value, addresses=True)})
    paths = [Path(name) for name in ordered]
    return dict(zip(ordered, cached_hashes(paths), strict=True)) if all(map(is_regular, paths)) else None


def _encoder_digest(template: Any, module: Mapping[str, Any]) -> str:
    """Hash of template, tokenizer and processor: their settings, and the code that applies them.

    Raises:
        ValueError: If the template has parts without a stable description.
    """
    parts = [module["tokenizer"], *([module["processor"]] if module["processor"] is not None else [])]
    described = repr(template)
    if " object at 0x" in described:
        raise ValueError(f"the template has no stable description: {described}")
    about: dict[str, Any] = {"template": described, "plugin": _plain(template.mm_plugin)}
    about["packages"] = {name: _version(name) for name in ("llamafactory", "transformers", "tokenizers")}
    about["code"] = [_code(type(part)) for part in (template, template.mm_plugin, *parts)]
    about["host"] = _host_code()
    about["limits"] = _plain(parts[-1])  # the host sets sizes of pictures and the like on the processor
    with tempfile.TemporaryDirectory(prefix="cl-tokens-") as scratch:
        for number, part in enumerate(parts):
            part.save_pretrained(os.path.join(scratch, str(number)))
        files = sorted(path for path in Path(scratch).rglob("*") if path.is_file())
        about["files"] = {str(path.relative_to(scratch)): _file_digest(path) for path in files}
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _plain(thing: Any) -> dict[str, Any]:
    """The attributes of an object that are numbers, texts and the like."""
    return {k: v for k, v in vars(thing).items() if v is None or isinstance(v, bool | int | float | str)}


def _file_digest(path: Path) -> str:
    """Hash of a saved file; how a tokenizer pads and cuts at the moment does not count: the host turns both off."""
    if path.name != "tokenizer.json":
        return sha256(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    content.update(padding=None, truncation=None)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _code(kind: type) -> str:
    """Hash of the file that defines a class."""
    return sha256(Path(inspect.getfile(kind)))


def _host_code() -> str:
    """Hash of the host's code for data, which people edit in place to add templates."""
    from llamafactory.data import get_dataset

    folder = Path(inspect.getfile(get_dataset)).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)} {sha256(path)}\n".encode())
    return digest.hexdigest()


def _to_tensors(records: Sequence[Encoded]) -> dict[str, np.ndarray]:
    """All ids as runs of equal ones: a picture is hundreds of times the same id."""
    import numpy as np

    lists = {"prompt": [one.prompt for one in records], "answer": [one.answer for one in records]}
    shorts = [one.short for one in records if one.short is not None]
    tensors = {}
    for name, arrays in {**lists, **({"short": shorts} if shorts else {})}.items():
        flat = np.concatenate([*arrays, np.empty(0, np.int32)]).astype(np.int32)
        first = np.flatnonzero(np.append(True, flat[1:] != flat[:-1])[: len(flat)])
        tensors[f"{name}.ids"] = flat[first]
        tensors[f"{name}.repeats"] = np.diff(np.append(first, len(flat))).astype(np.int32)
        tensors[f"{name}.lengths"] = np.asarray([len(array) for array in arrays], np.int32)
    return tensors


def _from_tensors(tensors: Mapping[str, np.ndarray]) -> list[Encoded]:
    """The inverse of `_to_tensors`.

    Raises:
        KeyError: If a tensor is missing.
        ValueError: If they do not belong together.
    """
    import numpy as np

    lists = []
    for name in ("prompt", "answer", *(["short"] if "short.ids" in tensors else [])):
        flat = np.repeat(tensors[f"{name}.ids"], tensors[f"{name}.repeats"])
        ends = np.cumsum(tensors[f"{name}.lengths"])
        if len(ends) and ends[-1] != len(flat):
            raise ValueError("its tensors do not belong together")
        lists.append(np.split(flat, ends[:-1]) if len(ends) else [])
    return [Encoded(*arrays) for arrays in zip(*lists, strict=True)]


def _digest(tensors: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tensors[name].shape}\n".encode() + tensors[name].tobytes())
    return digest.hexdigest()


def _make_room(folder: Path) -> None:
    """Delete what was not used for the longest time until the rest is smaller than `LIMIT`, and what a kill has left."""
    found = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # other processes clean up too
            state = path.stat()
            if path.suffix == ".safetensors":
                found.append((state.st_mtime_ns, state.st_size, path))
            elif path.suffix == ".tmp" and time.time() - state.st_mtime > _STALE:
                path.unlink()
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found)[:-1]:  # the newest stays, whatever its size
        if total <= LIMIT:
            return
        path.unlink(missing_ok=True)
        total -= size
