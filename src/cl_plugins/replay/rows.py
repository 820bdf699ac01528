"""Samples of a custom trainer on disk: a row as its collator gets it, in JSON, PNG and safetensors.

A value that is not JSON is in the row as a mark of one key: ``{"$image": 0}`` is the first of the record's ``images``,
``{"$tensor": 1}`` and ``{"$array": 1}`` are ``<sample>/1`` in ``memory_rows.safetensors``.
"""

from __future__ import annotations

import base64
import io
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import DataError, Problem
from ..base.outside import open_picture
from .store import IDS, TENSORS, Buffer


if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from ..contract.task import TaskData


STATISTIC = f"{TENSORS}rows"
_MARK = "$"
_PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")


class _Encoder:
    def __init__(self, where: str) -> None:
        self._where = where
        self.images: list[dict[str, str]] = []
        self.tensors: list[Tensor] = []

    def encode(self, value: Any, path: str) -> Any:
        import numpy as np
        import torch
        from PIL.Image import Image

        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, np.generic):
            return self.encode(value.item(), path)
        if isinstance(value, Mapping):
            wrong = [key for key in value if not isinstance(key, str) or key.startswith(_MARK)]
            if wrong:
                raise self._problem(path, f"has the key {wrong[0]!r}", "Keys are texts that do not begin with '$'.")
            return {key: self.encode(item, f"{path}.{key}") for key, item in value.items()}
        if isinstance(value, list):
            return [self.encode(item, f"{path}[{i}]") for i, item in enumerate(value)]
        if isinstance(value, tuple):
            return {"$tuple": [self.encode(item, f"{path}[{i}]") for i, item in enumerate(value)]}
        if isinstance(value, bytes):
            return {"$bytes": base64.b64encode(value).decode()}
        if isinstance(value, (torch.Tensor, np.ndarray)):
            return self._numbers(value, path)
        if isinstance(value, Image):
            return self._picture(value, path)
        raise self._problem(path, f"is a {type(value).__name__}", "Give numbers, texts, lists, tensors and pictures.")

    def _numbers(self, value: Any, path: str) -> dict[str, int]:
        import numpy as np
        import torch

        if isinstance(value, torch.Tensor):
            kind, whole = "$tensor", value.detach().cpu().clone(memory_format=torch.contiguous_format)
        else:
            try:
                kind, whole = "$array", torch.from_numpy(np.array(value, order="C"))  # a copy: rows may share memory
            except (TypeError, ValueError):  # no such type; another byte order
                fix = "Give numbers that PyTorch has a type for, or a list."
                raise self._problem(path, f"is an array of {value.dtype}", fix) from None
        self.tensors.append(whole)
        return {kind: len(self.tensors) - 1}

    def _picture(self, picture: Image, path: str) -> dict[str, int]:
        if picture.mode not in _PNG_MODES:
            raise self._problem(path, f"is a picture of mode {picture.mode}", "Convert it to RGB.")
        file = io.BytesIO()
        try:
            about = {"exif": exif.tobytes()} if (exif := picture.getexif()) else {}  # the orientation
        except (struct.error, TypeError, ValueError):  # it is broken and cannot be read
            about = {}
        picture.save(file, format="PNG", **about)
        self.images.append({"data": base64.b64encode(file.getvalue()).decode(), "suffix": ".png"})
        return {"$image": len(self.images) - 1}

    def _problem(self, path: str, what: str, fix: str) -> DataError:
        return DataError(Problem(f"{self._where}, {path}", f"{what}, which the replay buffer cannot store.", fix))


def _decode(value: Any, images: Sequence[Path], tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, images, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    kind: str = next(iter(value), "")
    content: Any = value.get(kind)
    if kind == "$image":
        with open_picture(images[content]) as picture:
            picture.load()
            return picture.copy()
    if kind == "$tensor":
        return tensors[str(content)].clone()  # collators may work in place
    if kind == "$array":
        return tensors[str(content)].numpy().copy()
    if kind == "$bytes":
        return base64.b64decode(content)
    if kind == "$tuple":
        return tuple(_decode(item, images, tensors) for item in content)
    return {key: _decode(item, images, tensors) for key, item in value.items()}


class OwnRows:
    """The samples of the task in training, as the collator gets them: ``len`` and ``[i]``.

    Args:
        dataset: What the trainer loads from; the task's samples come first.
        count: How many they are.
        trim: Takes off what the trainer does not use, if the trainer does so for each sample.
    """

    def __init__(self, dataset: Any, count: int, trim: Callable[[Any], Any] | None = None) -> None:
        self._dataset, self._count, self._trim = dataset, count, trim
        self._frozen: dict[int, Any] = {}

    def __len__(self) -> int:
        """Number of samples."""
        return self._count

    def raw(self, index: int) -> Any:
        """A sample as the data set gives it."""
        return self._frozen[index] if index in self._frozen else self._dataset[index]

    def __getitem__(self, index: int) -> Any:
        """A sample as the collator gets it."""
        return self._trim(self.raw(index)) if self._trim is not None else self.raw(index)

    def freeze(self, indices: Iterable[int]) -> None:
        """Read some samples once and for all: a data set may give another picture each time."""
        self._frozen = {index: self._dataset[index] for index in indices}


class TrainerRows:
    """What the buffer asks about the samples of a task, see `contract.session.Rows`.

    Args:
        own: The samples.
        data: The same, collated.
        ids: Id of each sample, where the data set has a column for it; else they are looked for in the samples.
        task: Name of the task.
        count: Counts the label tokens of a sample, None where they cannot be counted; by default they are not stored.
    """

    def __init__(
        self,
        own: OwnRows,
        data: TaskData,
        ids: Sequence[Any] | None,
        task: str,
        count: Callable[[Any], int | None] | None = None,
    ) -> None:
        self._own, self._data, self._ids, self._task, self._count = own, data, ids, task, count

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._own)

    def row(self, index: int) -> int:
        """Row of a sample in the task's data."""
        return index

    def answers(self, indices: Sequence[int]) -> list[str]:
        """The tokens of the answers."""
        found = []
        for batch in self._data.batches(indices):
            labels = batch["labels"]
            found.append(str(labels[labels != -100].tolist()))
        return found

    def origin(self, index: int) -> tuple[str, str]:
        """Id of a sample; the name of its data set is not known."""
        if self._ids is not None:
            given = self._ids[index]
        else:
            raw = self._own.raw(index)
            given = next((raw[name] for name in IDS if name in raw), None) if isinstance(raw, Mapping) else None
        given = given.item() if hasattr(given, "item") else given
        return (f"{self._task}/{index}" if given is None else str(given)), ""

    def record(self, index: int) -> dict[str, Any]:
        """The row in JSON, its pictures, and how many label tokens it has.

        Raises:
            DataError: If it holds something that cannot be stored.
        """
        row, encoder = self._encode(index)
        count = self._count(self._own[index]) if self._count is not None else None
        return {"row": row, "images": encoder.images, **({} if count is None else {"labels": count})}

    def check(self, index: int) -> None:
        """Raise what `record` would raise."""
        self._encode(index)

    def tensors(self, index: int) -> list[Tensor]:
        """The tensors and arrays of a row, in the order of their marks."""
        return self._encode(index)[1].tensors

    def _encode(self, index: int) -> tuple[Any, _Encoder]:
        encoder = _Encoder(f"task '{self._task}', sample {index}")
        return encoder.encode(self._own[index], "row"), encoder


class StoredRows:
    """The rows of a buffer as the collator gets them: ``len`` and ``[i]``, in the order of its samples.

    Args:
        buffer: The buffer.

    Raises:
        DataError: If a recipe made it.
    """

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer
        self._records = [record for _, record in buffer.entries()]
        if any("row" not in record for record in self._records):
            what = "holds samples in LLaMA-Factory's form; a custom trainer cannot read them."
            raise DataError(Problem(str(buffer.path), what, "Continue with a recipe, or begin in another directory."))
        self._tensors: dict[str, dict[str, Tensor]] = {}
        for key, value in buffer.tensors(STATISTIC).items():
            uid, _, number = key.rpartition("/")
            self._tensors.setdefault(uid, {})[number] = value

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._records)

    def __getitem__(self, index: int) -> Any:
        """One row."""
        record, sample = self._records[index], self._buffer.samples[index]
        images = [self._buffer.medium(name) for name in record["images"]]
        return _decode(record["row"], images, self._tensors.get(sample.uid, {}))

    def labels(self, index: int) -> int | None:
        """How many label tokens a row had in its own task; None if that was not stored."""
        count: int | None = self._records[index].get("labels")
        return count
