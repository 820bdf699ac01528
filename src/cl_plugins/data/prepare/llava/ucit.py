"""UCIT: instructions from the authors of HiDe-LLaVA; pictures in part from them, in part from where they come from.

Captions are tested against a COCO-style file whose picture numbers are the rows of the test file. The names of the
pictures in both files are compared: a file that is shifted by one row would give every picture another one's captions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from ....base.errors import DataError, Problem
from ....base.outside import read_json
from ..contract import Setting, Source
from .base import LlavaTask
from .fields import picture_names
from .files import first_existing


WHERE = "https://huggingface.co/datasets/HaiyangGuo/UCIT"


def _files(names: tuple[str, ...], *files: str) -> tuple[str, ...]:
    """A file in the layouts of HiDe-LLaVA (``instructions/TASK``) and MCITlib (``TASK``)."""
    return tuple(f"{base}{name}/{file}" for file in files for base in ("instructions/", "") for name in names)


def _layout(
    names: tuple[str, ...], train: str, pictures: tuple[str, ...]
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    files = {"train": _files(names, train), "test": _files(names, "test_3000.json")}
    folders = tuple(f"{base}{name}" for base in ("datasets/", "") for name in pictures)
    return files, {"train": folders, "test": folders}


def _sources(task: str, train: str, where: str, pictures: str, *more: str) -> tuple[Source, ...]:
    """Instructions and pictures, which are two downloads for some tasks."""
    files = (f"instructions/{task}/{train}", f"instructions/{task}/test_3000.json", *more)
    return (
        Source(
            f"UCIT {task}",
            WHERE if where == WHERE else f"instructions: {WHERE}; pictures: {where}",
            "unknown; read the terms there",
            (*files, f"datasets/{pictures}/"),
        ),
    )


class _Ucit(LlavaTask):
    """One of the six tasks."""

    stream = "ucit"


@dataclass(frozen=True)
class _Captioned:
    """What the COCO-style file says of one picture.

    Attributes:
        captions: Its captions.
        name: Its file name without folders; None if the file does not say.
    """

    captions: list[str]
    name: str | None


class _Captions(_Ucit):
    """A caption task: the captions of the COCO-style file are the answers of the test records."""

    version = 4
    first_answer = True
    captions: ClassVar[tuple[str, ...]]
    settings: ClassVar[Mapping[str, Setting]] = {
        "captions": Setting(
            "checked",
            ("checked", "by_row"),
            "checked: the picture names of test file and captions must agree, row by row; by_row: join by row alone, for "
            "captions without picture names",
        )
    }
    notes = ("The reference is the first of several captions; all of them are in the column `answers`.",)

    def inputs(self, split: str) -> list[Path]:
        """Also the file of captions."""
        extra = self._captions_file() if split == "test" else None
        return super().inputs(split) + ([extra] if extra is not None else [])

    def _captions_file(self) -> Path | None:
        return first_existing(self.raw, self.captions, self.task)

    def missing(self) -> list[Path]:
        """Also the file of captions, which holds the references."""
        absent = super().missing()
        return absent if self._captions_file() is not None else [*absent, self.raw / self.captions[0]]

    def raw_records(self, split: str) -> Iterator[Any]:
        """The records, each with its captions as the answer.

        Raises:
            DataError: The captions are of other pictures or rows, or do not say of which pictures.
        """
        if split == "train":
            yield from super().raw_records(split)
            return
        captions = self._by_row()
        self._check_rows(captions)
        if self.setting("captions") == "checked":
            self._compare(captions)
        for row, raw in enumerate(super().raw_records(split), start=1):
            found = captions.get(row)
            # The list goes first: it is what the published score is computed against. A record without captions has
            # no reference, whatever its own answer is: the others do not use theirs either.
            yield {**raw, self.answer: found.captions if found else None} if isinstance(raw, Mapping) else raw

    def _check_rows(self, captions: Mapping[int, _Captioned]) -> None:
        """Refuse captions that are numbered otherwise than the rows from 1, as by a file that counts from 0."""
        rows = sum(1 for _ in super().raw_records("test"))
        strange = sorted(number for number in captions if not 1 <= number <= rows)
        if strange:
            shown = ", ".join(map(str, strange[:3])) + (", ..." if len(strange) > 3 else "")
            what = (
                f"has captions for rows that the test file does not have (`image_id` {shown}): it has {rows} rows, and "
                "`image_id` is their number, from 1."
            )
            fix = "Take test file and captions from one release; if `image_id` counts from 0, add 1 to each."
            raise DataError(Problem(str(self._captions_file()), what, fix))

    def _compare(self, captions: Mapping[int, _Captioned]) -> None:
        """Refuse captions that belong to other pictures than the rows that they are numbered by."""
        path, fix = self._captions_file(), "Take test file and captions from one release; both are in the download."
        unnamed = sum(entry.name is None for entry in captions.values())
        if unnamed:
            what = f"does not name the pictures of {unnamed} of its {len(captions)} numbers (`images[].file_name`)."
            more = f"To join by row anyway: --set {self.task}.captions=by_row."
            raise DataError(Problem(str(path), what, f"{fix} {more}"))
        wrong: list[str] = []
        for row, raw in enumerate(super().raw_records("test"), start=1):
            names = picture_names(raw) if isinstance(raw, Mapping) else None
            entry = captions.get(row)
            if names and entry is not None and (own := _file_name(names[0])) != entry.name:
                wrong.append(f"row {row} is {own}, captions {row} are of {entry.name}")
        if wrong:
            what = f"belongs to other pictures than the test file: {len(wrong)} rows differ ({'; '.join(wrong[:3])})."
            raise DataError(Problem(str(path), what, fix))

    def _by_row(self) -> dict[int, _Captioned]:
        """Row of the test file, from 1, to captions.

        Raises:
            DataError: The file is not in COCO's layout.
        """
        path = self._captions_file()
        if path is None:
            return {}
        try:
            content = read_json(path)
            found: dict[int, list[str]] = {}
            for annotation in content["annotations"]:
                found.setdefault(_number(annotation["image_id"]), []).append(str(annotation["caption"]))
            names = {_number(image["id"]): image.get("file_name") for image in content.get("images") or ()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise self.unreadable(path, f"not in COCO's layout: {type(error).__name__}: {error}") from error
        return {
            number: _Captioned(
                texts, _file_name(name) if isinstance(name := names.get(number), str) and name else None
            )
            for number, texts in found.items()
        }

    def remarks(self, split: str) -> list[str]:
        """Also how many records have an answer that is none of the captions."""
        found = super().remarks(split)
        if split != "test":
            return found
        captions = self._by_row()
        other = 0
        for row, raw in enumerate(super().raw_records(split), start=1):
            own = raw.get(self.answer) if isinstance(raw, Mapping) else None
            entry = captions.get(row)
            if isinstance(own, str) and own.strip() and entry is not None:
                other += _plain(own) not in {_plain(text) for text in entry.captions}
        if other:
            found.append(f"{other} records have an answer that is none of their captions; it is not used")
        if self.setting("captions") == "by_row":
            found.append("captions were joined by row, without comparing the names of the pictures")
        return found


def _number(value: object) -> int:
    """The number of a row, which may be a text; no fraction is rounded to another row.

    Raises:
        ValueError: It is no whole number.
    """
    number = int(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    if number is None or (isinstance(value, float) and number != value):
        raise ValueError(f"{value!r} is no number of a row")
    return number


def _file_name(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).name


def _plain(text: str) -> str:
    return re.sub(r"\W+", " ", text.casefold()).strip()


class Renditions(_Ucit):
    """ImageNet-R."""

    task = "imagenet_r"
    annotations, folders = _layout(("ImageNet-R",), "train.json", ("ImageNet-R",))
    sources = _sources("ImageNet-R", "train.json", WHERE, "ImageNet-R")


class Figures(_Ucit):
    """ArxivQA, multiple choice."""

    task = "arxivqa"
    annotations, folders = _layout(("ArxivQA",), "train_4w.json", ("ArxivQA",))
    sources = _sources(
        "ArxivQA", "train_4w.json", "https://huggingface.co/datasets/MMInstruction/ArxivQA", "ArxivQA/images"
    )


class PhoneCaptions(_Captions):
    """VizWiz captions."""

    task = "vizwiz_caption"
    _names = ("VizWiz", "VizWiz-caption")
    annotations, folders = _layout(_names, "train.json", ("VizWiz",))
    captions = _files(_names, "val_coco_type_3000.json")
    sources = _sources(
        "VizWiz",
        "train.json",
        "https://vizwiz.org/tasks-and-datasets/image-captioning/",
        "VizWiz",
        "instructions/VizWiz/val_coco_type_3000.json",
    )


class Icons(_Ucit):
    """IconQA."""

    task = "iconqa"
    annotations, folders = _layout(("IconQA",), "train.json", ("IconQA",))
    sources = _sources("IconQA", "train.json", "https://iconqa.github.io/", "IconQA/iconqa_data")


class Counting(_Ucit):
    """CLEVR-Math."""

    task = "clevr_math"
    annotations, folders = _layout(("CLEVR", "CLEVR-Math"), "train_4w.json", ("CLEVR", "CLEVR-Math"))
    sources = _sources(
        "CLEVR", "train_4w.json", "https://huggingface.co/datasets/dali-does/clevr-math", "CLEVR/images"
    )


class PhotoCaptions(_Captions):
    """Flickr30k captions."""

    task = "flickr30k"
    _names = ("Flickr30k", "Flickr30k-cap")
    annotations, folders = _layout(_names, "train_brief_4w.json", ("Flickr30k", "Flickr30k-cap"))
    captions = _files(_names, "val_coco_type_3000.json")
    sources = _sources(
        "Flickr30k",
        "train_brief_4w.json",
        WHERE,
        "Flickr30k",
        "instructions/Flickr30k/val_coco_type_3000.json",
    )
