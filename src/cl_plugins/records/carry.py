"""``carry.json``, ``update.json``, the manifest of the replay buffer, and ``MANIFEST.json`` of exported models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..base.errors import Problem
from .files import FileRecord
from .names import CarryFile, RunFile, TaskName
from .record import Count, Part, Record, RunFileRecord, shown


_COPY = "Copy the whole carry directory again from its source."


class Deletion(Part):
    """Samples that were deleted from the replay buffer."""

    key: Annotated[str, Field(pattern=r"^replay-(?:delete|purge):[0-9a-f]{1,32}$")]
    samples: dict[TaskName, Count]


class LoraMeta(BaseModel):
    """What a method says of a low-rank update, in the fields that it gives; it may say more."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    rank: Annotated[int, Field(ge=1)] = 1
    alpha: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    scaling: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    rslora: bool = False
    targets: str | list[str] = ""
    modules_to_save: list[str] = []


class ChainEntry(BaseModel):
    """One update of a chain in ``meta``."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    file: CarryFile
    task: TaskName
    meta: LoraMeta


class MethodMeta(BaseModel):
    """What a method wrote into ``meta``: the entries that the methods of this package write have a form of their own."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    updates: list[ChainEntry] = []
    adapter: LoraMeta | None = None
    positions: list[CarryFile] = []


class CarryRecord(Record):
    """``carry.json``.

    Attributes:
        method: Name of the method that made it.
        stream: Name of the stream.
        tasks: Names of the tasks that went into it, in order.
        base: Fingerprint of the base, and under ``tokenizer`` that of the tokenizer.
        meta: What the method wrote in addition to the tensors.
        files: File name -> hash and size.
        deletions: What was deleted from the replay buffer.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")
    FIX: ClassVar[str] = _COPY

    method: str
    stream: str | None = None
    tasks: Annotated[list[TaskName], Field(min_length=1)]
    base: dict[str, Any]
    meta: MethodMeta
    files: dict[CarryFile, FileRecord]
    deletions: list[Deletion] = []
    checksum: str = ""

    def faults(self, where: str) -> list[Problem]:
        """Tasks that repeat, and names in ``meta`` of files that the carry does not have."""
        found = []
        if len(set(self.tasks)) < len(self.tasks):
            what = f"'tasks' lists a task twice: {', '.join(self.tasks)}."
            found.append(Problem(where, what, self.FIX))
        folded = [name.casefold() for name in self.files]
        if len(set(folded)) < len(folded):
            found.append(Problem(where, "'files' has names that differ in upper and lower case only.", self.FIX))
        meta = self.plain_meta()
        for place, name in _named_files(meta):
            if not isinstance(name, str) or name not in self.files:
                what = f"'meta.{place}' is {shown(repr(name))}, which is not in 'files'."
                found.append(Problem(where, what, self.FIX))
        for place, name in _named_tasks(meta):
            if name not in self.tasks:
                what = f"'meta.{place}' is {shown(repr(name))}, which is not in 'tasks'."
                found.append(Problem(where, what, self.FIX))
        return found

    def plain_meta(self) -> dict[str, Any]:
        """What the method wrote, as it wrote it."""
        return self.meta.model_dump(exclude_unset=True)

    def identity(self) -> str:
        """One hash over what the next task starts from; samples of the replay buffer may be deleted without changing it."""
        weights = {name: record.sha256 for name, record in self.files.items() if not name.startswith("replay/")}
        about = {"method": self.method, "tasks": self.tasks, "meta": self.plain_meta(), "files": weights}
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _named_files(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every entry ``file`` in a method's own description, and every text that has the form of a file of a carry."""
    if isinstance(value, str):
        if value.endswith((".safetensors", ".json")):
            yield place, value
    elif isinstance(value, dict):
        for key, entry in value.items():
            if key == "file" or isinstance(entry, str | dict | list):
                here = f"{place}.{key}" if place else str(key)
                yield from [(here, entry)] if key == "file" else _named_files(entry, here)
    elif isinstance(value, list):
        for i, entry in enumerate(value):
            yield from _named_files(entry, f"{place}[{i}]")


def _named_tasks(meta: dict[str, Any]) -> list[tuple[str, Any]]:
    """Every entry ``task`` in a list of a method's own description."""
    return [
        (f"{key}[{i}].task", entry["task"])
        for key, entries in meta.items()
        if isinstance(entries, list)
        for i, entry in enumerate(entries)
        if isinstance(entry, dict) and "task" in entry
    ]


class UpdateRecord(RunFileRecord):
    """``update.json``: what a finished training leaves.

    Attributes:
        meta: What the method said of its update.
        files: The tensors of the carry: file name -> hash and size.
    """

    OLDER: ClassVar[tuple[int, ...]] = ()

    meta: LoraMeta
    files: dict[CarryFile, FileRecord]
    checksum: str = ""

    def plain_meta(self) -> dict[str, Any]:
        """What the method said, as it said it."""
        return self.meta.model_dump(exclude_unset=True)


class AdapterPart(Part):
    """One adapter of an export by task."""

    folder: str
    task: TaskName
    updates: list[TaskName]
    rank: Count
    answers: bool


class LoraPart(Part):
    """The LoRA of a run, as `peft.LoraConfig` names it.

    Attributes:
        r: Rank.
        lora_alpha: Numerator of the scaling.
        lora_dropout: Dropout in training.
        use_rslora: Whether the scaling is ``alpha / sqrt(r)``.
        target_modules: Full names of the linear layers.
        modules_to_save: Names of the modules that are trained whole.
    """

    r: Annotated[int, Field(ge=1)]
    lora_alpha: Annotated[float, Field(allow_inf_nan=False)]
    lora_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    use_rslora: bool = False
    target_modules: list[str]
    modules_to_save: list[str] = []


class ModelManifest(Record):
    """``MANIFEST.json`` of ``final/`` and of exports: what the model is and its base.

    Attributes:
        kind: ``merged`` and ``full`` (a plain model), ``peft`` (an adapter), ``routed`` (a carry that the method opens), or
            ``tasks`` (an adapter per task).
        method: Name of the method.
        stream: Name of the stream.
        tasks: Names of the learned tasks, in order.
        base: Fingerprint of the base.
        options: Options of the method, as the recipe gave them.
        package: The package that registers the method.
        version: Its version.
        lora: The LoRA; None where the method trains whole weights.
        dtype: Dtype of the base in the run.
        autocast: Dtype in which the run computed, where it mixed precisions.
        keys: The recipe's keys that shape prompts, pictures and the base in memory.
        files: Hash and size of every other file of the folder.
        base_folder: Folder of a base of its own, which has the modules that all adapters share (exports for vLLM).
        base_has: These modules.
    """

    FIX: ClassVar[str] = "Copy the whole folder again from its source, or run the recipe again."

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    kind: str
    method: str
    stream: str
    tasks: list[TaskName]
    base: dict[str, Any]
    quantization: dict[str, Any] | None = None
    merge_error: dict[str, Any] | None = None
    cl_plugins: str
    adapters: list[AdapterPart] | None = None
    options: dict[str, Any] | None = None
    package: str | None = None
    version: str | None = None
    lora: LoraPart | None = None
    dtype: str | None = None
    autocast: str | None = None
    keys: dict[str, Any] | None = None
    files: dict[RunFile, FileRecord] | None = None
    base_folder: RunFile | None = None
    base_has: list[str] | None = None


class SamplePart(Part):
    """One sample of the replay buffer; see `replay.store.Sample`."""

    uid: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,199}$")]
    id: str
    task: TaskName
    dataset: str
    row: Count
    key: Annotated[float, Field(allow_inf_nan=False)]
    selection: str
    score: Annotated[float, Field(allow_inf_nan=False)] | None
    licence: str | None
    stored: str = ""

    @field_validator("stored")
    @classmethod
    def _stored(cls, value: str) -> str:
        if value and datetime.fromisoformat(value).tzinfo is None:
            raise ValueError("it should be a time with a time zone")
        return value


class BufferRecord(Record):
    """``replay/manifest.json``."""

    FIX: ClassVar[str] = _COPY

    note: str = ""
    settings: dict[str, Any]
    samples: list[SamplePart]

    def faults(self, where: str) -> list[Problem]:
        """Samples without a time, two of one name, or those of a task apart from each other."""
        found = []
        if any(not sample.stored for sample in self.samples):
            found.append(Problem(where, "has a sample without the time when it was stored.", self.FIX))
        if len({sample.uid for sample in self.samples}) < len(self.samples):
            found.append(Problem(where, "has two samples of the same name.", self.FIX))
        tasks = [sample.task for sample in self.samples]
        if sum(a != b for a, b in pairwise(tasks)) + bool(tasks) != len(set(tasks)):
            found.append(Problem(where, "does not list the samples task by task.", self.FIX))
        return found


class CandidatePart(Part):
    """A sample with its record, on its way into the buffer."""

    sample: SamplePart
    record: dict[str, Any]


class CandidatesRecord(RunFileRecord):
    """``tasks/<task>/replay.json``: what a training leaves for the buffer."""

    samples: list[CandidatePart]
