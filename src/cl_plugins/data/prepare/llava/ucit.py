"""UCIT: instructions from the authors of HiDe-LLaVA; pictures in part from them, in part from where they come from.

Captions are tested against a COCO-style file whose picture numbers are the rows of the test file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from ..contract import Source
from .base import LlavaTask
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


class _Captions(_Ucit):
    """A caption task: if test records hold no answer, the captions of the COCO-style file are the answers."""

    captions: ClassVar[tuple[str, ...]]
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
        """The records, each with its captions as the answer."""
        if split == "train":
            yield from super().raw_records(split)
            return
        captions = self._by_row()
        for row, raw in enumerate(super().raw_records(split), start=1):
            found = captions.get(row)
            # The list goes first: it is what the published score is computed against.
            yield {**raw, self.answer: found} if found and isinstance(raw, Mapping) else raw

    def _by_row(self) -> dict[int, list[str]]:
        """Row of the test file, from 1, to captions.

        Raises:
            DataError: The file is not in COCO's layout.
        """
        path = self._captions_file()
        if path is None:
            return {}
        try:
            annotations = json.loads(path.read_text(encoding="utf-8-sig"))["annotations"]
            found: dict[int, list[str]] = {}
            for annotation in annotations:
                found.setdefault(int(annotation["image_id"]), []).append(str(annotation["caption"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self.unreadable(path, f"not in COCO's layout: {type(error).__name__}: {error}") from error
        return found


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
