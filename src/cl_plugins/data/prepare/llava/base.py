"""What the LLaVA-style benchmarks share: a task is two annotation files and the folders of their pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from ..contract import Converter, Drop, Record, Unit, chunked
from ..placeholders import IMAGE, in_front
from ..readers import json_records
from ..repeats import repeated
from .fields import answer_of, picture_names
from .files import find_picture, first_existing


class LlavaTask(Converter):
    """One task in LLaVA's layout.

    Training records hold ``conversations`` with placeholders; test records hold a question and an answer, the question
    mostly without placeholder. Ids are not unique in the authors' files, so every record gets one made of split and row, and
    keeps the original under ``question_id``. The other columns are what the published scorers need (`Item.fields`).

    Attributes:
        annotations: Split to the names that its file goes by, relative to the raw folder, the preferred one first.
        folders: Split to the names of the folder of its pictures, likewise.
        question: Name of the question in test records.
        answer: Name of the answer in test records.
        text_only: Whether a record may have no picture.
        first_picture_only: Whether only the first of several pictures is used.
        first_answer: Whether the first of several right answers is the reference, see `answer_of`.
    """

    version = 2
    annotations: ClassVar[Mapping[str, Sequence[str]]]
    folders: ClassVar[Mapping[str, Sequence[str]]]
    question: ClassVar[str] = "text"
    answer: ClassVar[str] = "answer"
    text_only: ClassVar[bool] = False
    first_picture_only: ClassVar[bool] = False
    first_answer: ClassVar[bool] = False
    columns: ClassVar[Mapping[str, type]] = {"question_id": str, "image": str, "answers": list}

    def names(self, split: str) -> Sequence[str]:
        """Names that the annotation file of a split goes by, the preferred one first."""
        return self.annotations[split]

    def annotation(self, split: str) -> Path | None:
        """The annotation file of a split, if it is there."""
        return first_existing(self.raw, self.names(split), self.task)

    def picture_folder(self, split: str) -> Path | None:
        """The folder of the pictures of a split, if it is there."""
        return first_existing(self.raw, self.folders[split], self.task)

    @cached_property
    def _roots(self) -> dict[str, list[Path]]:
        """Where the names of pictures may start: the folder, the one above it, the raw folder."""
        found = {}
        for split in self.splits:
            folder = self.picture_folder(split) or self.raw
            above = [folder.parent] if folder != self.raw else []  # nothing outside of the raw folder
            found[split] = list(dict.fromkeys([*above, folder, self.raw]))
        return found

    def missing(self) -> list[Path]:
        """Annotation files and picture folders that are not there, each by its preferred name."""
        wanted: dict[Path, None] = {}
        for split in self.splits:
            if self.annotation(split) is None:
                wanted[self.raw / self.names(split)[0]] = None
            if self.picture_folder(split) is None:
                wanted[self.raw / self.folders[split][0]] = None
        return list(wanted)

    def inputs(self, split: str) -> list[Path]:
        """The annotation file."""
        path = self.annotation(split)
        return [path] if path is not None else []

    def units(self, split: str) -> Iterator[Unit]:
        """The records of the annotation file, 200 at a time."""
        yield from chunked(self.raw_records(split), size=200)

    def raw_records(self, split: str) -> Iterator[Any]:
        """The records of the annotation file, one after the other."""
        path = self.annotation(split)
        if path is not None:
            yield from json_records(path)

    def convert(self, split: str, unit: Unit) -> Iterator[Record | Drop]:
        """The records of one unit."""
        for row, raw in unit.items():
            yield self.record(split, f"{self.task}-{split}-{row:06d}", raw)

    def record(self, split: str, name: str, raw: Any) -> Record | Drop:
        """One record, or why it is left out.

        Args:
            split: The split.
            name: Its id.
            raw: The content of the file.
        """
        if not isinstance(raw, Mapping):
            return Drop(name, "not a record", f"found {type(raw).__name__} where an object was expected")
        names = picture_names(raw)
        if names is None:
            return Drop(name, "picture field is not a name", f"found {raw.get('image', raw.get('images'))!r:.80}")
        if not names and not self.text_only:
            return Drop(name, "names no picture", f"no `image` or `images`; {_keys(raw)}")
        used = names[:1] if self.first_picture_only else names
        pictures = [find_picture(self._roots[split], each) for each in used]
        unused = len(names) - len(used)
        extra: dict[str, Any] = {"question_id": _identity(raw), "image": names[0] if names else ""}
        if self.question not in raw and "conversations" in raw:
            more = self.extra(split, raw)
            return Record.chat(name, raw["conversations"], pictures, unused=unused, **extra, **more)
        if self.question not in raw:
            return Drop(name, "question is missing", f"no `{self.question}` or `conversations`; {_keys(raw)}")
        question = raw.get(self.question)
        answer, several = answer_of(self.answer_field(raw), question, first=self.first_answer)
        if isinstance(question, str) and IMAGE in question:
            question = in_front(question)  # before anything is put behind it
        question = self.ask(split, question, answer)
        extra |= {"answers": several, **self.extra(split, raw)}
        return Record.ask(name, question, answer, pictures, placeholders=True, unused=unused, **extra)

    def answer_field(self, raw: Mapping[str, Any]) -> object:
        """The value in place of the answer."""
        return raw.get(self.answer)

    def ask(self, split: str, question: object, answer: object) -> object:
        """The question as it is asked; some settings add to it."""
        return question

    def extra(self, split: str, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Values of further columns."""
        return {}

    def remarks(self, split: str) -> list[str]:
        """Whether another file than the preferred one was used, how many ids are not unique, and unused pictures."""
        path = self.annotation(split)
        if path is None:
            return []
        several = 0

        def identities() -> Iterator[str]:
            nonlocal several
            for raw in json_records(path):
                if isinstance(raw, Mapping):
                    several += len(picture_names(raw) or ()) > 1
                    yield _identity(raw)

        double = len(repeated(identity for identity in identities() if identity))
        found = [] if path.name == Path(self.names(split)[0]).name else [f"the {split} file is {path.name}"]
        if double:
            found.append(f"repeated question_ids in {path.name}: {double}; the ids here are unique")
        if several and self.first_picture_only:
            found.append(f"{several} records in {path.name} name several pictures; the first one is used")
        return found


def _keys(raw: Mapping[str, Any]) -> str:
    """Which keys a record has, as text: it may be of another release, or of another data set."""
    names = ", ".join(map(str, list(raw)[:20]))
    return f"the record has {names or 'no keys'}"


def _identity(raw: Mapping[str, Any]) -> str:
    value = raw.get("question_id", raw.get("id"))
    return "" if value is None else str(value)


def suffixed(question: object, suffix: str) -> object:
    """The question with an instruction behind it, unless it ends so already."""
    if not isinstance(question, str) or question.rstrip().endswith(suffix.strip()):
        return question
    return question + suffix
