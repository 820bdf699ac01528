"""Rad: captions of radiological figures, from ROCOv2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from ....base.errors import DataError, Problem
from ..archives import open_zip, picture_names
from ..contract import Context, Converter, Drop, Picture, Record, Setting, Source, Unit, chunked
from ..readers import csv_rows, open_parquet, parquet_rows


QUESTION = "Write a detailed medical caption for this picture."
#: Our split -> its name in the zips and CSVs. The parquet form says "validation".
_NAMES = {"train": "train", "validation": "valid", "test": "test"}
_COLUMNS = ("image", "image_id", "caption")
_ROWS = 200


class Radiology(Converter):
    """One question for every figure; its caption is the answer."""

    stream, task, version = "medical_cl", "rad", 2
    splits = ("train", "validation", "test")
    sources = (
        Source(
            "ROCOv2 (zips and CSVs)",
            "https://zenodo.org/records/10821435 (number unverified)",
            "CC BY-NC-SA 4.0 according to its card; single figures CC BY or CC BY-NC (license_information.csv); treat it "
            "as non-commercial",
            (
                "{train,valid,test}_images.zip",
                "{train,valid,test}_captions.csv",
                "{train,valid,test}_concepts.csv (optional)",
            ),
        ),
        Source(
            "ROCOv2 as parquet",
            "https://huggingface.co/datasets/eltorio/ROCOv2-radiology",
            "CC BY-NC-SA 4.0 according to its card; four more training records than the paper counts",
            ("data/{train,validation,test}-*.parquet",),
        ),
    )
    settings: ClassVar[Mapping[str, Setting]] = {
        "form": Setting("auto", ("auto", "zip", "parquet"), "which raw format to read, if both are present")
    }
    columns: ClassVar[Mapping[str, type]] = {"cuis": str}
    notes = ("Wording of the question is ours, not the authors'.",)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        wanted = self.setting("form")
        parquet = bool(self._parquet("train")) and not self._captions("train").is_file()
        self.form = wanted if wanted != "auto" else "parquet" if parquet else "zip"

    def _parquet(self, split: str) -> list[Path]:
        folder = self.raw / "data" if (self.raw / "data").is_dir() else self.raw
        return sorted(folder.glob(f"{split}-*.parquet"))

    def _file(self, split: str, end: str) -> Path:
        """``valid_captions.csv``; ``validation_captions.csv`` if the file has that name."""
        usual, other = self.raw / f"{_NAMES[split]}_{end}", self.raw / f"{split}_{end}"
        return other if other.exists() and not usual.exists() else usual

    def _captions(self, split: str) -> Path:
        return self._file(split, "captions.csv")

    def _images(self, split: str) -> Path:
        """The zip file, or the folder that it was unpacked to."""
        archive, folder = self._file(split, "images.zip"), self._file(split, "images")
        return folder if folder.is_dir() and not archive.is_file() else archive

    def missing(self) -> list[Path]:
        """Captions and pictures of all three splits."""
        if self.form == "parquet":
            return [self.raw / "data" / f"{split}-*.parquet" for split in self.splits if not self._parquet(split)]
        return self.need(*(path(split) for split in self.splits for path in (self._captions, self._images)))

    def check(self) -> list[Problem]:
        """Archives and tables must open: a download that stopped is found before the work begins."""
        problems: list[Problem] = []
        for split in self.splits:
            try:
                if self.form == "parquet":
                    for path in self._parquet(split):
                        open_parquet(path, _COLUMNS)
                elif self._images(split).is_file():
                    open_zip(self._images(split))
            except DataError as error:
                problems += error.problems
        return problems

    def inputs(self, split: str) -> list[Path]:
        """Captions, pictures, concepts."""
        if self.form == "parquet":
            return self._parquet(split)
        concepts = self._file(split, "concepts.csv")
        return [self._captions(split), self._images(split), *([concepts] if concepts.is_file() else [])]

    def units(self, split: str) -> Iterator[Unit]:
        """Rows of the captions with their concepts, or ranges of rows of a parquet file."""
        if self.form == "zip":
            yield from chunked(self._joined(split), _ROWS)
            return
        for number, path in enumerate(self._parquet(split)):
            rows = open_parquet(path, _COLUMNS).metadata.num_rows
            for first in range(0, rows, _ROWS):
                yield Unit(f"{number:03d}-{first:07d}", (number, first, min(first + _ROWS, rows)))

    def _joined(self, split: str) -> Iterator[tuple[str, str, str]]:
        """(id, caption, CUIs), joined by id in any order of the two files.

        The concepts are held: ROCOv2 has some eighty thousand lines of a hundred letters.
        """
        concepts = self._file(split, "concepts.csv")
        known: dict[str, dict[str, None]] = {}  # a figure with several lines has the concepts of all
        for row in csv_rows(concepts, ("ID", "CUIs")) if concepts.is_file() else ():
            known.setdefault(row["ID"], {}).update(dict.fromkeys(row["CUIs"].split(";")))
        for row in csv_rows(self._captions(split), ("ID", "Caption")):
            yield row["ID"], row["Caption"], ";".join(known.get(row["ID"], ()))

    def convert(self, split: str, unit: Unit) -> Iterator[Record | Drop]:
        """The captions of a unit."""
        if self.form == "parquet":
            number, first, last = unit.payload
            path = self._parquet(split)[number]
            columns = (*_COLUMNS, *(["cui"] if "cui" in open_parquet(path).schema_arrow.names else []))
            for row, cells in parquet_rows(path, columns, first, last):
                identity = cells["image_id"]
                name = f"rad-{split}-{number:03d}-{row:06d}" if identity in (None, "") else str(identity)
                image = cells["image"]
                data = image.get("bytes") if isinstance(image, Mapping) else image
                cuis = cells.get("cui") or ""
                cuis = cuis if isinstance(cuis, str) else ";".join(map(str, cuis))
                yield self._record(name, cells["caption"], cuis, Picture.encoded(name, data))
            return
        for row, (identity, caption, cuis) in unit.items():
            if not identity:
                yield Drop(f"rad-{split}-{row:06d}", "id is empty")
                continue
            yield self._record(identity, caption, cuis, self._picture(split, identity))

    def _record(self, name: str, caption: Any, cuis: str, picture: Picture) -> Record:
        return Record.ask(name, QUESTION, caption, [picture], cuis=cuis)

    def _picture(self, split: str, identity: str) -> Picture:
        source = self._images(split)
        if source.is_dir():
            return Picture.inside(_inner(source), f"{identity}.jpg")
        return Picture.member(source, f"{_folder(source)}{identity}.jpg")


@lru_cache(maxsize=8)
def _inner(folder: Path) -> Path:
    """Where the pictures are: the only folder inside, if unpacking has kept that of the archive."""
    found = list(islice(folder.iterdir(), 2))
    return found[0] if len(found) == 1 and found[0].is_dir() else folder


@lru_cache(maxsize=8)
def _folder(archive: Path) -> str:
    """The folder that the pictures of a zip file are in, with a slash; empty for none."""
    for _, name in picture_names(archive):
        parent = PurePosixPath(name).parent.as_posix()
        return "" if parent == "." else f"{parent}/"
    return ""
