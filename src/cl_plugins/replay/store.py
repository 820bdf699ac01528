"""The buffer on disk, ``carry/replay/``: a plain LLaMA-Factory data set with a manifest.

```
dataset_info.json      replay_<task> for every task with samples; `dataset_dir` of an ordinary recipe may point here
replay_<task>.json     the records, in ShareGPT's form; those of a trainer of one's own as `rows` has them, without an info
media/<hash>.png       copies of their pictures, videos and sounds, named by content
manifest.json          where each sample comes from, when and why it was kept, under which terms
<name>.safetensors     what a method stores per sample (DER: logits), tensors named <sample>/<what>
```
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import Problem, RunStateError
from ..records.carry import BufferRecord, CandidatesRecord, is_medium
from ..records.record import few, parse_json, read_file, shown
from .media import KINDS, map_media, media_names, take_in


if TYPE_CHECKING:
    from torch import Tensor

    from ..contract.carry import Carry, CarryWriter


IDS = ("id", "question_id")  # where the id of a record is looked for
FOLDER, MANIFEST, INFO = "replay", "manifest.json", "dataset_info.json"
TENSORS = "memory_"  # statistics with this prefix belong to samples of the buffer
CANDIDATES = "replay.json"  # what the training of a task leaves for the buffer, beside its update
NOTE = "Training samples of past tasks. Their terms of use go with them; `cl-plugins replay` lists and deletes them."
_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "observation",
    "function_tag": "function",
    "system_tag": "system",
}


@dataclass(frozen=True)
class Sample:
    """One kept sample, as the manifest describes it.

    Attributes:
        uid: Its name in the buffer.
        id: The id of the raw record (``id``, ``question_id``), else ``<task>/<row>``.
        task: Name of the task.
        dataset: The data set it was taken from; empty where the host had mixed several.
        row: Row in the task's training set.
        key: Its random number, see `capacity.sample_key`.
        selection: How it was selected.
        score: Its loss, for the selections by loss.
        licence: What the stream says about the terms of its data.
        stored: When it was stored (ISO 8601, UTC).
    """

    uid: str
    id: str
    task: str
    dataset: str
    row: int
    key: float
    selection: str
    score: float | None
    licence: str | None
    stored: str = ""


@dataclass(frozen=True)
class Buffer:
    """The buffer in a carry.

    Attributes:
        path: The directory ``replay/``.
        samples: The samples, task by task, the most valuable of each task first.
        settings: Capacity, policy and selection that it was filled with.
        carry: The carry, whose hashes are compared before a file is used; None for a buffer that is being made.
    """

    path: Path
    samples: tuple[Sample, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    carry: Carry | None = None

    @classmethod
    def open(cls, carry: Carry | None) -> Buffer | None:
        """The buffer of a carry; None if it holds none.

        Raises:
            RunStateError: If the manifest is damaged.
        """
        manifest = f"{FOLDER}/{MANIFEST}"
        if carry is None or manifest not in carry.files:
            return None
        record = BufferRecord.read(carry.file(manifest))
        strange = sorted({sample.task for sample in record.samples} - set(carry.tasks))
        if strange:
            what = f"holds samples of tasks that are not in the carry: {', '.join(strange)}."
            raise RunStateError(Problem(str(carry.path / manifest), what, BufferRecord.FIX))
        samples = tuple(Sample(**vars(sample)) for sample in record.samples)
        return cls(carry.path / FOLDER, samples, record.settings, carry)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that have samples, in order."""
        return tuple(dict.fromkeys(sample.task for sample in self.samples))

    @property
    def datasets(self) -> list[str]:
        """Names in ``dataset_info.json``; loaded in this order they give the samples in theirs."""
        return [dataset_name(task) for task in self.tasks]

    def records(self, task: str) -> list[dict[str, Any]]:
        """The records of a task, in the order of its samples.

        Raises:
            RunStateError: If the file is damaged, or a record names a medium outside of the buffer.
        """
        path = self._file(f"{dataset_name(task)}.json")
        records = parse_json(read_file(path, BufferRecord.FIX), str(path), BufferRecord.FIX)
        count = sum(sample.task == task for sample in self.samples)
        if not isinstance(records, list) or len(records) != count:
            what = f"does not hold the {count} records that {MANIFEST} describes."
            raise RunStateError(Problem(str(path), what, BufferRecord.FIX))
        problems = [p for n, record in enumerate(records) for p in _record_problems(record, f"{path}, record {n}")]
        if problems:
            raise RunStateError(few(problems))
        return records

    def check_description(self) -> None:
        """Refuse a buffer whose ``dataset_info.json`` says anything else than this package writes.

        The host reads that file: it could name scripts, addresses or files outside.

        Raises:
            RunStateError: If it differs.
        """
        written = {task: self.records(task) for task in self.tasks}
        path = self._file(INFO)
        if parse_json(read_file(path, BufferRecord.FIX), str(path), BufferRecord.FIX) != _info(written):
            raise RunStateError(Problem(str(path), "is not the description of this buffer.", BufferRecord.FIX))

    def _file(self, name: str) -> Path:
        return self.carry.file(f"{FOLDER}/{name}") if self.carry is not None else self.path / name

    def entries(self) -> list[tuple[Sample, dict[str, Any]]]:
        """Every sample with its record."""
        records = {task: iter(self.records(task)) for task in self.tasks}
        return [(sample, next(records[sample.task])) for sample in self.samples]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """What a method stored beside the samples: ``<sample>/<what>`` -> tensor."""
        from ..contract.carry import read_tensors

        if self.carry is not None:
            return self.carry.load(key) if (key := f"{FOLDER}/{name}.safetensors") in self.carry.files else {}
        path = self.path / f"{name}.safetensors"
        return read_tensors(path) if path.is_file() else {}


def dataset_name(task: str) -> str:
    """Name of a task's part of the buffer in ``dataset_info.json``."""
    return f"replay_{task}"


def now() -> str:
    """The time, for the manifest."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write(
    writer: CarryWriter,
    entries: Sequence[tuple[Sample, dict[str, Any]]],
    settings: Mapping[str, Any],
    *,
    media_from: Path | None = None,
    tensors: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> None:
    """Write a buffer into a carry that is being made.

    Args:
        writer: The carry.
        entries: Samples, task by task, with their records.
        settings: For the manifest.
        media_from: The buffer's earlier folder, where media that already have their final names are found.
        tensors: Name -> ``<sample>/<what>`` -> tensor; those of samples that are gone are left out.
    """
    folder = writer.path / FOLDER
    folder.mkdir(parents=True)
    written: dict[str, list[dict[str, Any]]] = {}
    for sample, record in entries:
        placed = map_media(record, lambda value: take_in(value, folder, media_from))
        written.setdefault(sample.task, []).append(placed)
    for task, records in written.items():
        _write_json(folder / f"{dataset_name(task)}.json", records)
    _write_json(folder / INFO, _info(written))
    samples = [asdict(sample) for sample, _ in entries]
    BufferRecord.write(folder / MANIFEST, {"note": NOTE, "settings": dict(settings), "samples": samples})
    alive = {sample.uid for sample, _ in entries}
    for name, values in (tensors or {}).items():
        kept = {key: value for key, value in values.items() if key.rpartition("/")[0] in alive}
        if kept:
            writer.write(f"{FOLDER}/{name}.safetensors", kept)


def tensor_names(buffer: Buffer | None) -> list[str]:
    """Names of what methods have stored beside the samples."""
    if buffer is None:
        return []
    if buffer.carry is None:
        return sorted(path.stem for path in buffer.path.glob("*.safetensors"))
    names = (Path(name) for name in buffer.carry.files)
    return sorted(name.stem for name in names if name.parent == Path(FOLDER) and name.suffix == ".safetensors")


def without(writer: CarryWriter, buffer: Buffer, unwanted: Callable[[Sample], bool]) -> list[Sample]:
    """Write the buffer without some of its samples; nothing of them is written, media and tensors included.

    Args:
        writer: The carry.
        buffer: The buffer as it is.
        unwanted: Says which samples go.

    Returns:
        The samples that went.
    """
    entries = buffer.entries()
    kept = [(sample, record) for sample, record in entries if not unwanted(sample)]
    tensors = {name: buffer.tensors(name) for name in tensor_names(buffer)}
    write(writer, kept, buffer.settings, media_from=buffer.path, tensors=tensors)
    return [sample for sample, _ in entries if unwanted(sample)]


def write_candidates(path: Path, entries: Iterable[tuple[Sample, dict[str, Any]]]) -> None:
    """Write what a training leaves for the buffer: samples and records that name their media where they lie."""
    listed = [{"sample": asdict(sample), "record": record} for sample, record in entries]
    CandidatesRecord.write(path, {"samples": listed})


def read_candidates(path: Path) -> list[tuple[Sample, dict[str, Any]]]:
    """What `write_candidates` wrote."""
    return [(Sample(**vars(entry.sample)), entry.record) for entry in CandidatesRecord.read(path).samples]


def _info(written: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """The content of ``dataset_info.json``: an entry for every task whose records the host can read."""
    return {
        (name := dataset_name(task)): _description(f"{name}.json", records)
        for task, records in written.items()
        if all("messages" in record for record in records)
    }


def _record_problems(record: Any, where: str) -> list[Problem]:
    """What is wrong with a record of the buffer: its form, and media that lie elsewhere."""
    if not isinstance(record, dict):
        return [Problem(where, "is not a JSON object.", BufferRecord.FIX)]
    wrong = [name for name in media_names(record) if not is_medium(name)]
    what = f"names {shown(repr(wrong[0]))}, which is not a file of the buffer." if wrong else ""
    return [Problem(where, what, BufferRecord.FIX)] if wrong else []


def _description(file: str, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An entry of ``dataset_info.json``."""
    columns = {"messages": "messages", "system": "system", "tools": "tools"}
    columns |= {kind: kind for kind in KINDS if any(next(media_names(r, kind), None) for r in records)}
    return {"file_name": file, "formatting": "sharegpt", "columns": columns, "tags": _TAGS}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
