"""Data sets of a recipe with ``encoders:``: files of records, named in ``dataset_info.json`` as LLaMA-Factory's are.

A record is a JSON object: ``id`` (optional), ``label``, and per modality a file (relative to the folder of
``dataset_info.json``), a list of files, a text, or numbers. A file holds one record per line (``.jsonl``) or a list (``.json``).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import DataError, Problem
from ..base.hashes import cached_hashes
from ..base.outside import OutsideError, parse_json, read_text
from ..base.schema import nearest
from ..crossmodal.inputs import EncoderSpec
from ..replay.media import outside


INFO = "dataset_info.json"
LIMIT = 2 * 1024**3  # bytes of a file of records
_ABSENT = "does not exist."
_SHOWN = 5  # problems per file
Record = dict[str, Any]


@dataclass(frozen=True)
class RecordSet:
    """One data set, see `cl_plugins.contract.host.DataSet`.

    Attributes:
        name: Its name in ``dataset_info.json``.
        folder: The folder of ``dataset_info.json``.
        specs: The encoders, whose names are the modalities.
        limit: Only the first records up to this number are used.
    """

    name: str
    folder: Path
    specs: Mapping[str, EncoderSpec]
    limit: int | None = None

    @property
    def place(self) -> Hashable:
        """The folder."""
        return str(self.folder)

    def _entry(self) -> dict[str, Any]:
        """The entry of ``dataset_info.json``.

        Raises:
            DataError: If the file cannot be read, or has no such entry.
        """
        path = self.folder / INFO
        try:
            info = parse_json(read_text(path, LIMIT))
        except FileNotFoundError as error:
            fix = f"Set `dataset_dir`; paths are relative to the folder you start from ({Path.cwd()})."
            raise DataError(Problem(str(path), _ABSENT, fix)) from error
        except (OSError, ValueError, OutsideError) as error:
            raise DataError(Problem(str(path), f"cannot be read ({error}).", "Correct the file.")) from error
        entry = info.get(self.name) if isinstance(info, dict) else None
        if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str):
            known = list(info) if isinstance(info, dict) else []
            fix = f"{nearest(self.name, known)} Add an entry with `file_name`.".strip()
            raise DataError(Problem(str(path), f"has no data set {self.name!r} with a `file_name`.", fix))
        return entry

    def file(self) -> Path:
        """The file of records."""
        return self.folder / str(self._entry()["file_name"])

    def _entry_problems(self) -> list[Problem]:
        """Keys that are LLaMA-Factory's, or nobody's: nothing would come of them."""
        where = f"{self.folder / INFO}, {self.name}"
        fixes = {
            "num_samples": "Use `max_samples` in the recipe.",
            "columns": "Name the fields of the records as the entries of `encoders`.",
        }
        more = "An entry has `file_name`, and nothing else is read."
        return [
            Problem(f"{where}.{key}", "is not read with `encoders`.", f"{fixes.get(str(key), 'Remove it.')} {more}")
            for key in self._entry()
            if key != "file_name"
        ]

    def absent(self) -> list[Problem]:
        """No ``dataset_info.json``, or no file of the name that it gives."""
        try:
            self.raw()
        except DataError as error:
            return [problem for problem in error.problems if problem.what == _ABSENT]
        return []

    def raw(self) -> list[Record]:
        """The records as they are written.

        Raises:
            DataError: If the file cannot be read, or holds no records.
        """
        path = self.file()
        try:
            text = read_text(path, LIMIT)
            if path.suffix == ".jsonl":
                # not `splitlines`, which also ends a line at U+2028 and others that JSON may hold
                found = [parse_json(line) for line in text.split("\n") if line.strip()]
            else:
                found = parse_json(text)
        except FileNotFoundError as error:
            raise DataError(Problem(str(path), _ABSENT, f"Correct `file_name` in {INFO}.")) from error
        except (OSError, ValueError, OutsideError) as error:
            raise DataError(Problem(str(path), f"cannot be read ({error}).", "Correct the file.")) from error
        if not isinstance(found, list) or not found or not all(isinstance(record, dict) for record in found):
            what = "holds no list of records."
            raise DataError(Problem(str(path), what, "Write one JSON object per line, or a list of them."))
        return found[: self.limit]

    def records(self) -> list[Record]:
        """The records with the paths of their files in full, and an id each.

        Raises:
            DataError: With what is wrong with them.
        """
        raw = self.raw()
        if found := self._entry_problems() + self._record_problems(raw):
            raise DataError(found)
        return [self._resolved(record, number) for number, record in enumerate(raw)]

    def _resolved(self, record: Record, number: int) -> Record:
        given = record.get("id")
        full: Record = {"id": f"{self.name}/{number}" if given is None else str(given), "label": record["label"]}
        for name, spec in self.specs.items():
            value = record.get(name)
            if value is not None:
                full[name] = value if spec.kind == "text" else _map_files(value, lambda f: str(self.folder / f))
        return full

    def _record_problems(self, raw: Sequence[Record]) -> list[Problem]:
        found = []
        path = self.file()
        for number, record in enumerate(raw, start=1):
            where = f"{path}, record {number}"
            if not isinstance(record.get("label"), str) or not record["label"]:
                found.append(Problem(where, "has no `label`.", "Give the name of its class as a text."))
            values = {name: record.get(name) for name in self.specs}
            if all(value is None for value in values.values()):
                what = f"has none of the modalities {', '.join(self.specs)}."
                found.append(Problem(where, what, "Name the fields of a record as the entries of `encoders`."))
            for name, value in values.items():
                if value is None:
                    continue
                if self.specs[name].kind == "text":
                    if not isinstance(value, str):
                        found.append(Problem(f"{where}, {name}", f"is a {type(value).__name__}.", "Give a text."))
                    continue
                for file in files_in(value):
                    if "://" in file or not (self.folder / file).is_file():
                        fix = f"Paths are relative to {self.folder}."
                        found.append(Problem(f"{where}, {name}", f"there is no file {file}.", fix))
            if len(found) >= _SHOWN:
                found.append(Problem(str(path), "has further records that were not checked.", "Correct these first."))
                break
        return found

    def problems(self) -> list[Problem]:
        """Unknown name or key, missing file, no record, record without label or modality, missing media."""
        try:
            return self._entry_problems() + self._record_problems(self.raw())
        except DataError as error:
            return error.problems

    def files(self) -> list[Path]:
        """``dataset_info.json`` and the file of records, as far as it can be told."""
        try:
            return [self.folder / INFO, self.file()]
        except DataError:  # `problems` says so
            return [self.folder / INFO]

    def samples(self) -> int | None:
        """Number of records; None where it cannot be told."""
        try:
            return len(self.raw())
        except DataError:
            return None

    def record(self, sha256: Callable[[Path], str]) -> dict[str, Any]:
        """The hash of the records, and one over names and contents of the files that they name."""
        found: dict[str, Any] = {"files": {self.file().name: sha256(self.file())}, "limit": self.limit}
        media = {f for r in self.raw() for n, s in self.specs.items() if s.kind != "text" for f in files_in(r.get(n))}
        if media:
            found["media"] = self._media(sorted(media))
        return found

    def _media(self, names: Sequence[str]) -> dict[str, Any]:
        """Number, size and hash of files; one that is not there counts by its name."""
        digest, size = hashlib.sha256(), 0
        places = {name: self.folder / name for name in names}
        there = {name: place for name, place in places.items() if place.is_file()}
        hashes = dict(zip(there, cached_hashes(there.values()), strict=True))
        for name in names:
            size += there[name].stat().st_size if name in there else 0
            digest.update(f"{name}\0{hashes.get(name, '')}\n".encode())
        return {"count": len(names), "bytes": size, "sha256": digest.hexdigest()}


def files_in(value: Any) -> Iterable[str]:
    """The files of a modality in a record: one, or lists of them.

    Args:
        value: What the record has; None for nothing.
    """
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and not _numbers(value):
        for item in value:
            yield from files_in(item)


def _map_files(value: Any, change: Callable[[str], Any]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list) and not _numbers(value):
        return [_map_files(item, change) for item in value]
    return value


def _numbers(value: list[Any]) -> bool:
    """Whether a list holds numbers in place of files: of a signal in a record there may be thousands."""
    first = value[0] if value else None
    return isinstance(first, int | float) or (isinstance(first, list) and _numbers(first))


class RecordRows:
    """The records behind a training set, see `cl_plugins.contract.session.Rows`.

    Args:
        records: The records of the task.
        sources: Name of the data set of each.
        specs: The encoders.
    """

    def __init__(self, records: Sequence[Record], sources: Sequence[str], specs: Mapping[str, EncoderSpec]) -> None:
        self._records, self._sources, self._specs = records, sources, specs

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._records)

    def row(self, index: int) -> int:
        """Row in the task's data."""
        return index

    def answers(self, indices: Sequence[int]) -> list[str]:
        """The labels."""
        return [str(self._records[i]["label"]) for i in indices]

    def origin(self, index: int) -> tuple[str, str]:
        """Id and name of the data set."""
        return str(self._records[index]["id"]), self._sources[index]

    def record(self, index: int) -> dict[str, Any]:
        """What the buffer stores: pictures, videos and sounds as files, signals and `.npy` as numbers.

        Raises:
            DataError: If a signal cannot be read.
        """
        from ..crossmodal.media import signal_of, sound

        record, images = self._records[index], list[dict[str, Any]]()

        def stored(name: str, file: str) -> Any:
            spec = self._specs[name]
            if spec.kind == "signal":
                return signal_of(file).tolist()
            if spec.kind == "audio" and Path(file).suffix.lower() == ".npy":
                return sound(file, spec.sampling_rate).tolist()
            images.append(outside(file, f"sample {record['id']!r}"))
            return {"$image": len(images) - 1}

        row = {"id": record["id"], "label": record["label"]}
        for name, spec in self._specs.items():
            if name in record:
                value = record[name]
                try:
                    row[name] = value if spec.kind == "text" else _map_files(value, lambda f, n=name: stored(n, f))  # type: ignore[misc]
                except (OSError, ValueError) as error:
                    what = f"cannot be stored: {error}"
                    raise DataError(Problem(f"sample {record['id']!r}, {name}", what, "Correct the file.")) from error
        return {"row": row, "images": images}


def from_buffer(buffer: Any) -> list[Record]:
    """The records of a replay buffer.

    Args:
        buffer: The `replay.store.Buffer`.

    Raises:
        DataError: If it holds samples of another kind.
    """
    found = []
    for _, record in buffer.entries():
        row = record.get("row")
        if not isinstance(row, dict) or not isinstance(row.get("label"), str):
            what = "holds samples of a language model."
            raise DataError(Problem(str(buffer.path), what, "Start from the carry of a recipe with `encoders`."))
        images = [str(buffer.medium(name)) for name in record["images"]]
        found.append({key: _opened(value, images) for key, value in row.items()})
    return found


def _opened(value: Any, images: Sequence[str]) -> Any:
    if isinstance(value, dict):
        return images[int(value["$image"])]
    return [_opened(item, images) for item in value] if isinstance(value, list) else value


def describe(record: Mapping[str, Any], specs: Mapping[str, EncoderSpec]) -> str:
    """A record in one line, for the predictions."""
    parts = []
    for name, spec in specs.items():
        value = record.get(name)
        if value is not None:
            plain = value if spec.kind == "text" else [Path(f).name for f in files_in(value)][:1]
            parts.append(f"{name}: {plain if isinstance(plain, str) else json.dumps(plain)}")
    return "; ".join(parts)


def content(record: Mapping[str, Any], specs: Mapping[str, EncoderSpec]) -> str:
    """One hash of a record's files and values, equal for two records that show the same; its id and label are no part.

    Args:
        record: From `RecordSet.records`.
        specs: The encoders.
    """
    values = {
        name: record[name] if spec.kind == "text" else _map_files(record[name], os.path.abspath)
        for name, spec in specs.items()
        if record.get(name) is not None
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
