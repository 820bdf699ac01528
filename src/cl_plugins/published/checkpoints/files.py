"""Files of tensors: safetensors, and PyTorch's pickles read by its restricted unpickler.

A file from outside is data: nothing in it names a path, a module or code that is used. What holds more than tensors with
names is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.errors import DataError, Problem
from ...base.outside import JSON_LIMIT, OutsideError, is_regular, parse_json, read_text


if TYPE_CHECKING:
    from torch import Tensor


#: Endings of files that `read_tensors` reads.
PICKLES = (".bin", ".pt", ".pth")
ENDINGS = (".safetensors", *PICKLES)
_TRUST = "Download it again; if it holds more than tensors at its source as well, do not trust it."
_WANTED = re.compile(r"(?:GLOBAL|global:?|class)\s+`?([A-Za-z_][\w.]*\.\w+)")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name; read from the disk when they are used, where the format allows it.

    Args:
        path: A file with one of `ENDINGS`.

    Returns:
        Name -> dense tensor on the CPU.

    Raises:
        DataError: If the file is missing or damaged, or holds anything else than tensors with names.
    """
    if path.suffix not in ENDINGS:
        fix = f"Give a file whose name ends in {', '.join(ENDINGS)}."
        raise DataError(Problem(str(path), "is no file of tensors by its name.", fix))
    if not is_regular(path):
        what = "is no regular file." if path.exists() else "does not exist."
        raise DataError(Problem(str(path), what, "Check the path."))
    value = _safetensors(path) if path.suffix == ".safetensors" else _pickle(path)
    if not isinstance(value, Mapping):
        what = f"holds a {type(value).__name__}, not tensors with names."
        raise DataError(Problem(str(path), what, "Is it the right file?"))
    problems = []
    for name, tensor in value.items():
        problem = _not_dense(name, tensor)
        if problem:
            problems.append(Problem(f"{path}: {name!s:.200}", problem, _TRUST))
    if problems:
        raise DataError(problems[:20])
    return dict(value)


def _safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(Problem(str(path), f"cannot be read ({error}).", "Download it again.")) from error


def _pickle(path: Path) -> Any:
    """What a pickle of PyTorch holds, by the restricted unpickler."""
    import pickle
    import zipfile

    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
    except pickle.UnpicklingError as error:
        found = _WANTED.search(str(error))
        what = f"asks for {found[1]}" if found else (str(error).strip().splitlines() or ["no reason given"])[0][:200]
        problem = Problem(str(path), f"holds more than tensors, and is not read: it {what}.", _TRUST)
        if not found:
            problem = Problem(str(path), f"is not read by PyTorch's restricted unpickler ({what}).", _TRUST)
        raise DataError(problem) from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise DataError(Problem(str(path), f"cannot be read ({reason}).", "Download it again.")) from error


def _not_dense(name: object, value: object) -> str:
    """What is wrong with an entry; empty if it is a dense tensor with a name."""
    import torch

    if not isinstance(name, str):
        return "is not named by a text."
    if not isinstance(value, torch.Tensor):
        return f"is a {type(value).__name__}, not a tensor."
    if value.layout != torch.strided or value.is_quantized or value.is_complex():
        return "is no dense tensor of real numbers."
    if value.device.type != "cpu":
        return f"is on the device '{value.device}', and has no values."
    if value.numel() and math.prod(value.shape) > max(1, value.untyped_storage().nbytes() // value.element_size()):
        return "repeats few values many times."
    return ""


def weight_files(folder: Path, stems: Sequence[str]) -> list[Path]:
    """The files of weights in a folder: one file, or all shards (``<stem>-00001-of-00002``).

    The index of sharded weights is not read: it holds names only, and those of the tensors are in the shards.

    Args:
        folder: The folder.
        stems: Names without ending, the preferred one first; safetensors come before pickles.
    """
    for ending in (".safetensors", ".bin"):
        for stem in stems:
            single = folder / f"{stem}{ending}"
            if single.exists():
                return [single]
            shards = sorted(folder.glob(f"{stem}-*-of-*{ending}"))
            if shards:
                return shards
    return []


def read_files(files: Iterable[Path]) -> dict[str, tuple[Path, Tensor]]:
    """The tensors of several files.

    Args:
        files: The shards.

    Returns:
        Name -> file and tensor.

    Raises:
        DataError: With the problems of all files, and names that two of them have.
    """
    found: dict[str, tuple[Path, Tensor]] = {}
    problems: list[Problem] = []
    for path in files:
        try:
            tensors = read_tensors(path)
        except DataError as error:
            problems += error.problems
            continue
        for name, tensor in tensors.items():
            if name in found:
                what = f"is in {found[name][0].name} as well."
                problems.append(Problem(f"{path}: {name}", what, "Remove the shards that belong to other weights."))
            found[name] = (path, tensor)
    if problems:
        raise DataError(problems)
    return found


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds a mapping.

    Args:
        path: The file.

    Raises:
        DataError: If it is missing, damaged, or holds anything else.
    """
    try:
        value = parse_json(read_text(path, JSON_LIMIT))
    except FileNotFoundError as error:
        raise DataError(Problem(str(path), "does not exist.", "Download the whole folder.")) from error
    except (OSError, OutsideError, ValueError) as error:
        raise DataError(Problem(str(path), f"cannot be read ({error}).", "Download it again.")) from error
    if not isinstance(value, dict):
        raise DataError(Problem(str(path), "does not hold a JSON object.", "Download it again."))
    return value


def not_finite(where: str, tensor: Tensor) -> list[Problem]:
    """A problem if a tensor has values that are no numbers.

    Args:
        where: File and name, for the message.
        tensor: The tensor.
    """
    import torch

    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        return [Problem(where, "has values that are not finite.", "Download the file again.")]
    return []
