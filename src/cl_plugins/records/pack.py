"""``PACK.json`` and ``sites/*.json``: a carry as one file for another site, and the rows of the matrix that a site measured."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from ..base.errors import Problem
from .carry import CarryRecord
from .files import FileRecord
from .names import TaskName, is_carry_file
from .record import Count, Part, Record, Score, Sha256
from .run import Origin
from .site import SiteRecipe, SiteStream, without_names
from .told import told_data, told_extra, told_options


PACK = "PACK.json"
CARRY = "carry/"  # in front of the names of the carry's own files
_SITE = re.compile(r"sites/[0-9]{2,3}\.json")
#: What to do about a damaged file of another site.
AGAIN = "Ask its sender for the file again."


def is_pack_file(name: str) -> bool:
    """Whether a name is one that a file of a pack may have: ``carry/...`` or ``sites/01.json``."""
    if name.startswith(CARRY):
        inner = name.removeprefix(CARRY)
        return inner == "carry.json" or is_carry_file(inner)
    return _SITE.fullmatch(name) is not None


def _pack_file(value: str) -> str:
    if not is_pack_file(value):
        raise ValueError("it should be the name of a file inside the pack")
    return value


PackFile = Annotated[str, AfterValidator(_pack_file)]


class PackTask(Part):
    """What another site's stream file says of a task."""

    name: TaskName
    scorer: str | None = None
    modality: str | None = None
    max_new_tokens: Count | None = None


class PackRecord(Record):
    """``PACK.json``: what a packed carry is, and hash and size of everything in it.

    Attributes:
        method: Name of the method.
        package: The package that registers it.
        version: The version of this package.
        cl_plugins: The version that wrote the pack.
        options: All options of the method, defaults included; None where they are not known.
        stream: Name of the stream.
        stream_tasks: Its tasks, in order, without their data sets.
        tasks: Names of the tasks that went into the carry, in order.
        base: Fingerprint of the base.
        keys: The recipe's keys of LoRA, prompts and precision.
        identity: From `CarryRecord.identity`.
        samples: Training samples of the replay buffer in the pack, by task.
        left_out: Training samples of the replay buffer that are not in the pack, by task.
        files: Every other file of the pack.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")
    OLDER: ClassVar[tuple[int, ...]] = ()
    FIX: ClassVar[str] = AGAIN

    method: str
    package: str | None = None
    version: str | None = None
    cl_plugins: str
    options: dict[str, Any] | None = None
    stream: str | None = None
    stream_tasks: list[PackTask] = []
    tasks: Annotated[list[TaskName], Field(min_length=1)]
    base: dict[str, Any]
    keys: dict[str, Any] = {}
    identity: Sha256
    samples: dict[TaskName, Count] = {}
    left_out: dict[TaskName, Count] = {}
    files: dict[PackFile, FileRecord]
    checksum: str = ""

    def faults(self, where: str) -> list[Problem]:
        """A pack without a carry, and names that differ in upper and lower case only."""
        found = []
        if f"{CARRY}carry.json" not in self.files:
            found.append(Problem(where, "lists no carry/carry.json.", self.FIX))
        if len({name.casefold() for name in self.files}) < len(self.files):
            found.append(Problem(where, "'files' has names that differ in upper and lower case only.", self.FIX))
        return found

    def carry_problems(self, carry: CarryRecord, where: str) -> list[Problem]:
        """What the pack says of its carry and the carry does not.

        Args:
            carry: The carry in it.
            where: File name for messages.
        """
        found = []
        for key in ("method", "tasks", "base"):
            if getattr(carry, key) != getattr(self, key):
                found.append(Problem(where, f"has another '{key}' than its carry.", self.FIX))
        if carry.identity() != self.identity:
            found.append(Problem(where, "has another 'identity' than its carry.", self.FIX))
        ours = {n.removeprefix(CARRY): r for n, r in self.files.items() if n.startswith(CARRY)}
        ours.pop("carry.json", None)
        table = {name: (r.sha256, r.bytes) for name, r in carry.files.items()}
        if {name: (r.sha256, r.bytes) for name, r in ours.items()} != table:
            found.append(Problem(where, "lists other files than its carry.", self.FIX))
        buffer = any(name.startswith("replay/") for name in carry.files)
        if buffer != bool(self.samples):
            what = "holds a replay buffer, which 'samples' does not name." if buffer else "'samples' names no buffer."
            found.append(Problem(where, what, self.FIX))
        return found


class SiteScore(Part):
    """The score of one test set, without the scores of its items; see `ScoreRecord`."""

    scorer: str
    score: Score
    n: Count
    interval: Annotated[list[Score], Field(min_length=2, max_length=2)]
    interval_method: str
    extra: Annotated[dict[str, Any], BeforeValidator(told_extra)] = {}
    max_items: Count | None = None
    cut: Count | None = None
    dropped: Count = 0


class SiteRecord(Record):
    """The rows of the accuracy matrix that one site has measured: scores and settings, no prompts and no answers.

    What an earlier version wrote in addition is left out when a file is read; `cl_plugins.records.told` lists what travels.

    Attributes:
        stream: The stream as the site has it.
        method: Name of the method.
        options: All options of the method.
        defaults: Their defaults.
        recipe: The resolved recipe without paths and credentials.
        base: Fingerprint of the base.
        seed: The seed of the recipe.
        independent: Whether every row is another model, trained on its own task alone.
        began_with: The carry that the site began with; None for the first.
        carry: The carry that the site has left.
        tests: Task -> one hash over its test set.
        data: ``<task>/train`` or ``<task>/test``, numbered where there are several -> hashes of the files and media.
        rows: Rows in the order in which they were trained.
        test_only: Tasks that the site only tests.
        cells: Row -> task -> score.
        notes: What the site's run wants every reader to know.
        versions: Versions of the packages.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")
    OLDER: ClassVar[tuple[int, ...]] = ()
    FIX: ClassVar[str] = AGAIN

    stream: SiteStream
    method: str
    options: Annotated[dict[str, Any], BeforeValidator(told_options)]
    defaults: Annotated[dict[str, Any], BeforeValidator(told_options)] | None = None
    recipe: SiteRecipe
    base: dict[str, Any]
    seed: int | None = None
    independent: bool = False
    began_with: Origin | None = None
    carry: Origin
    tests: dict[TaskName, Sha256]
    data: dict[str, Annotated[dict[str, Any], BeforeValidator(told_data)]] = {}
    rows: list[str]
    test_only: list[TaskName] = []
    cells: dict[str, dict[TaskName, SiteScore]]
    notes: list[str] = []
    versions: dict[str, str] = {}
    checksum: str = ""

    @model_validator(mode="before")
    @classmethod
    def _without_names(cls, data: Any) -> Any:
        return without_names(data)

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks of the stream, in order."""
        return tuple(task.name for task in self.stream.tasks)

    def faults(self, where: str) -> list[Problem]:
        """Rows and tasks that the stream does not have."""
        names, found = self.task_names, []
        if len(set(names)) < len(names):
            found.append(Problem(where, "'stream' names a task twice.", self.FIX))
        known = {f"after_{name}" for name in names}
        strange = [row for row in self.rows if row not in known] + [
            row for row in self.cells if row != "zero_shot" and row not in self.rows
        ]
        if strange or len(set(self.rows)) < len(self.rows):
            found.append(Problem(where, f"has the rows {', '.join(self.rows)}.", self.FIX))
        columns = {task for row in self.cells.values() for task in row} | set(self.tests) | set(self.test_only)
        if unknown := sorted(columns - set(names)):
            found.append(Problem(where, f"has scores of {', '.join(unknown)}, which its stream lacks.", self.FIX))
        untold = sorted({task for row in self.cells.values() for task in row} - set(self.tests))
        if untold:
            found.append(Problem(where, f"has no hash of the test set of {', '.join(untold)}.", self.FIX))
        return found
