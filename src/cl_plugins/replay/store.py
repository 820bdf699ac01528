"""The buffer on disk, ``carry/replay/``: a plain LLaMA-Factory data set with a manifest.

```
samples.jsonl          the records, one a line, in the manifest's order; their form: `samples`
media/<hash>.png       copies of their pictures, videos and sounds, named by content
manifest.json          where each sample comes from, when and why it was kept, under which terms
memory_<x>.safetensors what a method stores per sample (DER: logits), tensors named <sample>/<what>
dataset_info.json      the data set `replay`; `dataset_dir` of an ordinary recipe may point here
```

A buffer may come from another site. Only these files are read, `dataset_info.json` is not one of them, and nothing in
them names code or a file elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import Problem, RunStateError
from ..records.carry import BufferRecord, CandidatesRecord
from ..records.record import dump
from . import samples
from .media import KINDS, map_media, media_names, take_in


if TYPE_CHECKING:
    from torch import Tensor

    from ..contract.carry import Carry, CarryWriter


IDS = ("id", "question_id")  # where the id of a record is looked for
FOLDER, MANIFEST, INFO, RECORDS = "replay", "manifest.json", "dataset_info.json", "samples.jsonl"
DATASET = "replay"  # name of the buffer in `dataset_info.json`
TENSORS = "memory_"  # statistics with this prefix belong to samples of the buffer
CANDIDATES = "replay.json"  # what the training of a task leaves for the buffer, next to its update
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
            what = f"contains samples of tasks that are not in the carry: {', '.join(strange)}."
            raise RunStateError(Problem(str(carry.path / manifest), what, BufferRecord.FIX))
        kept = tuple(Sample(**vars(sample)) for sample in record.samples)
        return cls(carry.path / FOLDER, kept, record.settings, carry)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that have samples, in order."""
        return tuple(dict.fromkeys(sample.task for sample in self.samples))

    def records(self, task: str) -> list[dict[str, Any]]:
        """The records of a task, in the order of its samples."""
        return [record for sample, record in self.entries() if sample.task == task]

    def entries(self) -> list[tuple[Sample, dict[str, Any]]]:
        """Every sample with its record, checked; media are names in the buffer.

        Raises:
            RunStateError: If samples and records do not belong together, or a record is of no known form.
        """
        found = samples.read(self._file(RECORDS))
        if len(found) != len(self.samples):
            what = f"holds {len(found)} records for the {len(self.samples)} samples of {MANIFEST}."
            raise RunStateError(Problem(str(self.path / RECORDS), what, "Restore the carry from a copy."))
        return list(zip(self.samples, found, strict=True))

    def medium(self, name: str) -> Path:
        """The file of a medium that a record names; see `samples.medium`."""
        if samples.is_medium(name):
            self._file(name)
        return samples.medium(self.path, name)

    def _file(self, name: str) -> Path:
        """A file of the buffer, whose hash was compared first."""
        return self.carry.file(f"{FOLDER}/{name}") if self.carry is not None else self.path / name

    def tensors(self, name: str) -> dict[str, Tensor]:
        """What a method stored with the samples: ``<sample>/<what>`` -> tensor."""
        from ..contract.carry import read_tensors

        if self.carry is not None:
            return self.carry.load(key) if (key := f"{FOLDER}/{name}.safetensors") in self.carry.files else {}
        path = self.path / f"{name}.safetensors"
        return read_tensors(path) if path.is_file() else {}


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
    placed = [map_media(record, lambda value: take_in(value, folder, media_from)) for _, record in entries]
    lines = (dump(record) + "\n" for record in placed)
    (folder / RECORDS).write_text("".join(lines), encoding="utf-8")
    readable = placed and all("messages" in record for record in placed)
    _write_json(folder / INFO, {DATASET: _description(placed)} if readable else {})
    samples = [asdict(sample) for sample, _ in entries]
    BufferRecord.write(folder / MANIFEST, {"note": NOTE, "settings": dict(settings), "samples": samples})
    alive = {sample.uid for sample, _ in entries}
    for name, values in (tensors or {}).items():
        kept = {key: value for key, value in values.items() if key.rpartition("/")[0] in alive}
        if kept:
            writer.write(f"{FOLDER}/{name}.safetensors", kept)


def tensor_names(buffer: Buffer | None) -> list[str]:
    """Names of what methods have stored with the samples."""
    if buffer is None:
        return []
    names = [Path(name) for name in buffer.carry.files] if buffer.carry is not None else buffer.path.glob("*")
    own = [name.stem for name in names if name.parent.name == FOLDER and name.suffix == ".safetensors"]
    return sorted(name for name in own if name.startswith(TENSORS))


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
    """Write what a training leaves for the buffer: samples and records that name their media in place."""
    listed = [{"sample": asdict(sample), "record": record} for sample, record in entries]
    CandidatesRecord.write(path, {"samples": listed})


def read_candidates(path: Path) -> list[tuple[Sample, dict[str, Any]]]:
    """What `write_candidates` wrote."""
    return [(Sample(**vars(entry.sample)), entry.record) for entry in CandidatesRecord.read(path).samples]


def _description(placed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entry of ``dataset_info.json``."""
    columns = {"messages": "messages", "system": "system", "tools": "tools"}
    columns |= {kind: kind for kind in KINDS if any(next(media_names(r, kind), None) for r in placed)}
    return {"file_name": RECORDS, "formatting": "sharegpt", "columns": columns, "tags": _TAGS}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(dump(value, 1) + "\n", encoding="utf-8")
