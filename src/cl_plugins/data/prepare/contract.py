"""What a converter is, and what it passes to the framework. The package docstring holds a worked example."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ...base.errors import DataError, Problem


@dataclass(frozen=True)
class Source:
    """A thing to download.

    Attributes:
        name: What it is called.
        where: Where it is obtained (address, DOI), and how if that is not obvious.
        licence: Under which terms; say so if unverified.
        files: What has to be below the raw folder, for people.
    """

    name: str
    where: str
    licence: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Setting:
    """A choice of one converter, set by ``--set TASK.NAME=VALUE``.

    Attributes:
        default: Its value when not set.
        choices: The values that it may take; empty if any text will do.
        help: One sentence.
    """

    default: str
    choices: tuple[str, ...]
    help: str


def natural(text: str) -> int | None:
    """A whole number from 0 that is written with at most nine digits; None for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


@dataclass(frozen=True)
class Context:
    """What a converter is told. Plain data, sent to worker processes.

    Attributes:
        raw: The task's raw folder.
        seed: Seed of option building and of splits.
        settings: Values of the converter's settings.
    """

    raw: Path
    seed: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Unit:
    """A piece of work: about a second, done or not done, never half done.

    Attributes:
        key: Unique within the split; the same in every run over the same raw files.
        payload: What `convert` needs, picklable and small (names and numbers rather than pixels).
        first: Number of the first raw record in it, for `items`.
    """

    key: str
    payload: Any
    first: int = 0

    def items(self) -> Iterator[tuple[int, Any]]:
        """(number in the raw file, raw record) for units made by `chunked`."""
        return enumerate(self.payload, start=self.first)


def chunked(records: Iterable[Any], size: int = 200) -> Iterator[Unit]:
    """Units of ``size`` records, lazily.

    Args:
        records: Raw records in file order.
        size: Records per unit.
    """
    batch: list[Any] = []
    number = first = 0
    for record in records:
        batch.append(record)
        if len(batch) == size:
            yield Unit(f"{number:06d}", batch, first)
            number, first, batch = number + 1, first + size, []
    if batch:
        yield Unit(f"{number:06d}", batch, first)


@dataclass(frozen=True)
class Picture:
    """A picture that has not been read yet.

    Make it with `file`, `inside`, `member`, `encoded` or `pixels`.

    Attributes:
        name: For messages: the file, or archive and member.
        path: A file, or the archive.
        part: Name inside the archive.
        data: The encoded bytes.
        array: (h, w) or (h, w, 3) uint8 pixels.
        lossy: Whether ``array`` is stored as JPEG (frames of a video) rather than PNG.
        problem: Why it cannot be read, if that is known already.
    """

    name: str
    path: Path | None = None
    part: str = ""
    data: bytes | None = None
    array: Any = None
    lossy: bool = False
    problem: str = ""

    @classmethod
    def file(cls, path: Path) -> Picture:
        """A picture file whose path is trusted (made by the converter, not read from the data)."""
        return cls(str(path), path)

    @classmethod
    def inside(cls, root: Path, name: str) -> Picture:
        """A picture file named by the data; names that lead out of ``root`` are never opened."""
        from .archives import inside

        path = inside(root, name)
        if path is None:
            return cls(name, problem="leads out of the raw folder" if name else "has no name")
        return cls(name, path)

    @classmethod
    def member(cls, archive: Path, part: str) -> Picture:
        """A picture inside a zip file; nothing is unpacked."""
        return cls(f"{archive.name}:{part}", archive, part)

    @classmethod
    def encoded(cls, name: str, data: object) -> Picture:
        """The bytes of a picture file, such as a cell of a parquet table; anything else is a problem of the record."""
        if not isinstance(data, bytes) or not data:
            return cls(name, problem="holds no bytes")
        return cls(name, data=data)

    @classmethod
    def pixels(cls, name: str, array: Any, *, lossy: bool = False) -> Picture:
        """Pixels: (h, w) or (h, w, 3) uint8. Stored as PNG, or as JPEG (quality 95) if ``lossy``."""
        return cls(name, array=array, lossy=lossy)


@dataclass(frozen=True)
class Turn:
    """One question and its answer, as the data have them (checked by the framework)."""

    question: object
    answer: object


@dataclass(frozen=True)
class Record:
    """One record before it is checked.

    Attributes:
        id: Unique within the split.
        turns: Questions and answers.
        pictures: The pictures.
        placeholders: Whether ``<image>`` in a question stands for a picture, as in LLaVA's layout (`placed` says how).
        unused: Pictures that the raw record names behind ``pictures``; their placeholders are left out.
        extra: Values of the converter's `columns`; what is left out becomes "" or [].
    """

    id: str
    turns: tuple[Turn, ...]
    pictures: tuple[Picture, ...] = ()
    placeholders: bool = False
    unused: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def ask(
        cls,
        identity: str,
        question: object,
        answer: object,
        pictures: Iterable[Picture] = (),
        *,
        placeholders: bool = False,
        unused: int = 0,
        **extra: Any,
    ) -> Record:
        """One question and its answer.

        Args:
            identity: Unique within the split.
            question: The text.
            answer: The text.
            pictures: Shown before the question, or where its placeholders are.
            placeholders: Whether ``<image>`` in the question stands for a picture, as it may in files whose training
                records have it; otherwise it is text, and is escaped.
            unused: Pictures that the raw record names behind those.
            extra: Values of the converter's `columns`.
        """
        return cls(identity, (Turn(question, answer),), tuple(pictures), placeholders, unused, extra)

    @classmethod
    def chat(
        cls,
        identity: str,
        conversations: object,
        pictures: Iterable[Picture] = (),
        *,
        unused: int = 0,
        **extra: Any,
    ) -> Record | Drop:
        """Turns as LLaVA writes them: a list of ``{"from": "human" | "gpt", "value": text}``.

        Args:
            identity: Unique within the split.
            conversations: The list; anything else makes a drop.
            pictures: In the order of the ``<image>`` placeholders.
            unused: Pictures that the raw record names behind those.
            extra: Values of the converter's `columns`.
        """
        turns = _turns(conversations)
        if turns is None:
            return Drop(identity, "not a conversation", "turns must alternate human, gpt, and end with gpt")
        return cls(identity, turns, tuple(pictures), True, unused, extra)


def _turns(conversations: object) -> tuple[Turn, ...] | None:
    if not isinstance(conversations, Sequence) or isinstance(conversations, str) or not conversations:
        return None
    found: list[tuple[object, object]] = []
    for message in conversations:
        if not isinstance(message, Mapping):
            return None
        found.append((message.get("from"), message.get("value")))
    roles = [role for role, _ in found]
    if len(roles) % 2 or roles != ["human", "gpt"] * (len(roles) // 2):
        return None
    values = [value for _, value in found]
    return tuple(Turn(question, answer) for question, answer in zip(values[::2], values[1::2], strict=True))


@dataclass(frozen=True)
class Drop:
    """A record that is left out.

    Attributes:
        id: Which one.
        reason: A few words, the same for all records with this fault; they are counted by it.
        detail: What is special about this one.
    """

    id: str
    reason: str
    detail: str = ""


class Converter:
    """Turns the raw files of one task into records. See the package docstring.

    Args:
        context: Raw folder, seed, settings.
    """

    stream: ClassVar[str]
    task: ClassVar[str]
    version: ClassVar[int] = 1  # raise it whenever the same raw files give other records
    splits: tuple[str, ...] = ("train", "test")  # an instance may have others, depending on its raw files
    sources: ClassVar[tuple[Source, ...]] = ()
    settings: ClassVar[Mapping[str, Setting]] = {}
    columns: ClassVar[Mapping[str, type]] = {}  # name -> str, or list (of str)
    notes: ClassVar[tuple[str, ...]] = ()  # for the manifest: choices that are ours
    square: ClassVar[bool] = False  # whether answers refer to pictures that are padded to a square

    def __init__(self, context: Context) -> None:
        self.context = context
        self.raw = context.raw
        self.seed = context.seed

    def setting(self, name: str) -> str:
        """The value of a setting."""
        return self.context.settings.get(name, self.settings[name].default)

    def missing(self) -> list[Path]:
        """Raw files that are not there; the framework lists them for all tasks at once, with `sources`."""
        raise NotImplementedError

    def need(self, *paths: Path) -> list[Path]:
        """Those of the paths that do not exist."""
        return [path for path in paths if not path.exists()]

    def check(self) -> list[Problem]:
        """What is wrong with raw files that do exist; checked before any work, together with `missing`."""
        return []

    def inputs(self, split: str) -> list[Path]:
        """The raw files that the records of a split depend on; when one changes, the split is rebuilt."""
        raise NotImplementedError

    def total(self, split: str) -> int | None:
        """Number of units, for the progress bar, if it is cheap to know."""
        return None

    def units(self, split: str) -> Iterator[Unit]:
        """The work of a split, lazily, in the order of the records."""
        raise NotImplementedError

    def convert(self, split: str, unit: Unit) -> Iterator[Record | Drop]:
        """The records of one unit, in order. Runs in a worker process."""
        raise NotImplementedError

    def remarks(self, split: str) -> list[str]:
        """Notes about these raw files in particular, for the manifest (which form was found, a missing part)."""
        return []

    def dataset(self, split: str) -> str:
        """Name in ``dataset_info.json``."""
        return f"{self.stream}_{self.task}_{split}"

    @staticmethod
    def unreadable(path: Path, error: BaseException | str) -> DataError:
        """The error for a raw file that cannot be read."""
        return DataError(Problem(str(path), f"cannot be read ({error}).", "Download it again."))
