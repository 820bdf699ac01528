"""Cell: the type of a white blood cell under an LED-array microscope, from BSCCM."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from ....base.errors import DataError, Problem
from ....base.outside import read_json
from ..contract import Context, Converter, Drop, Picture, Record, Setting, Source, Unit
from ..extras import library
from ..options import build_options, rng_for, with_options
from ..readers import csv_header, csv_rows
from .pitvis import whole


#: Names of the ten classes: the package numbers them only. Which granulocyte is which is not said anywhere.
CLASSES = (
    "lymphocyte",
    "granulocyte, group 1",
    "granulocyte, group 2",
    "granulocyte, group 3",
    "red blood cell",
    "unclassified cell",
    "debris or artefact",
    "monocyte, group 1",
    "monocyte, group 2",
    "monocyte, group 3",
)
FIXED = (5, 6)  # options that every question has
QUESTIONS = (
    "What type of cell is this? The picture was taken in the channel {channel}.",
    "Which cell type does this {channel} picture show?",
    "Name the type of the blood cell in this {channel} picture.",
    "Judging by its shape and texture in {channel}, what is this cell?",
    "How would you classify the cell in this {channel} picture?",
    "To which class does the cell in this picture belong? Channel: {channel}.",
    "This single cell was recorded in {channel}. What type is it?",
)
_OPTIONS = 6
_MOST = 50_000  # cells per split
_CELLS = 20  # in one unit
_GATE = "selection_gated"  # columns of the surface markers whose place is the class


class Cells(Converter):
    """Each channel of a cell is a separate question; all channels of a cell are in the same split."""

    stream, task, version = "medical_cl", "cell", 2
    sources = (
        Source(
            "BSCCM (228 GB; BSCCMNIST, BSCCM-tiny and BSCCM-coherent have the same format)",
            "doi 10.5061/dryad.sxksn038s (Dryad; a download may need a token), or `pip install bsccm`",
            "CC0 (unverified: Dryad's usual licence)",
            (
                "BSCCM_global_metadata.json",
                "BSCCM_index.csv",
                "BSCCM_surface_markers.csv",
                "BSCCM_images.zarr/",
            ),
        ),
    )
    settings: ClassVar[Mapping[str, Setting]] = {
        "channels": Setting("all", (), "all, or some of the 23 channels, such as Brightfield,DPC_Left"),
        "names": Setting("", (), "a CSV file with the columns label (0-9) and name: other names for the classes"),
    }
    columns: ClassVar[Mapping[str, type]] = {"options": list, "answer_text": str, "cell": str, "channel": str}
    notes = (
        "Pixels: stretched from the 1st to the 99th percentile of each picture to 8 bits, grey.",
        "The ten classes have no names in BSCCM: groups 1-3 are classes 1-3 and 7-9; `unclassified cell` and "
        "`debris or artefact` are classes 5 and 6, which BSCCM calls unknown. ASSUMPTION: ours.",
        "Split: 90 % of the cells of each class for training, drawn with the seed; at most 50,000 cells per split. The "
        "items of one cell are not independent.",
        "Wording of the seven questions is ours, not the authors'.",
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        places = [self.raw, *(self.raw / name for name in ("BSCCM", "BSCCMNIST", "BSCCM-tiny", "BSCCMNIST-tiny"))]
        places += [self.raw / name for name in ("BSCCM-coherent", "BSCCM-coherent-tiny")]
        self.root = next((place for place in places if (place / "BSCCM_index.csv").is_file()), self.raw)
        self._group: Any = None

    @property
    def _files(self) -> tuple[Path, Path, Path, Path]:
        names = ("BSCCM_global_metadata.json", "BSCCM_index.csv", "BSCCM_surface_markers.csv", "BSCCM_images.zarr")
        metadata, index, markers, images = (self.root / name for name in names)
        return metadata, index, markers, images

    def missing(self) -> list[Path]:
        """The four parts of BSCCM, and the user's names."""
        names = [Path(self.setting("names"))] if self.setting("names") else []
        return self.need(*self._files, *names)

    def check(self) -> list[Problem]:
        """Channels and names that cannot be."""
        problems = []
        try:
            known = self._known_channels
            unknown = [channel for channel in self._channels if channel not in known]
            if not self._channels:
                what = "cell.channels names no channel."
                problems.append(Problem(f"{self.stream}.{self.task}", what, f"Channels: {', '.join(known)}."))
            if unknown:
                what = f"cell.channels names {', '.join(unknown)}, which BSCCM_global_metadata.json does not."
                problems.append(Problem(f"{self.stream}.{self.task}", what, f"Channels: {', '.join(known)}."))
            _ = self.class_names
        except DataError as error:
            problems += error.problems
        return problems

    def inputs(self, split: str) -> list[Path]:
        """The four parts of BSCCM, and the user's names."""
        return [*self._files, *([Path(self.setting("names"))] if self.setting("names") else [])]

    @cached_property
    def _known_channels(self) -> list[str]:
        path = self._files[0]
        try:
            names = read_json(path)["led_array"]["channel_names"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self.unreadable(path, f"no led_array.channel_names: {error!r}") from error
        return [str(name) for name in names]

    @property
    def _channels(self) -> list[str]:
        wanted = self.setting("channels")
        words = (word.strip() for word in wanted.split(","))
        return self._known_channels if wanted == "all" else list(dict.fromkeys(word for word in words if word))

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes 0-9."""
        if not self.setting("names"):
            return CLASSES
        path = Path(self.setting("names"))
        rows = [(row["label"], row["name"]) for row in csv_rows(path, ("label", "name"))]
        found = dict(rows)
        names = [found.get(str(label), "") for label in range(len(CLASSES))]
        if not all(names) or len({name.casefold() for name in names}) < len(names) or len(found) < len(rows):
            fix = "Give one row for each label 0-9, with ten different names."
            raise DataError(Problem(str(path), "does not name the ten classes.", fix))
        return tuple(names)

    # --- which cells

    @cached_property
    def _labels(self) -> tuple[dict[int, int], list[Drop]]:
        """Cell -> class, and cells whose label cannot be used."""
        path = self._files[2]
        gates = [name for name in csv_header(path) if _GATE in name]
        if len(gates) != len(CLASSES):
            what = f"has {len(gates)} columns with {_GATE!r} in their name; the ten-class labels need {len(CLASSES)}."
            raise DataError(Problem(str(path), what, "Download it again."))
        labels: dict[int, int] = {}
        drops: dict[str, Drop] = {}
        for row in csv_rows(path, ("global_index", *gates)):
            cells = [row[name].lower() for name in gates]
            chosen = [place for place, cell in enumerate(cells) if cell in ("true", "1", "1.0")]
            unsure = [cell for cell in cells if cell not in ("true", "1", "1.0", "false", "0", "0.0")]
            cell = whole(row["global_index"])
            name = f"cell-{row['global_index'] if cell is None else cell}"
            if cell is None or cell < 0:
                drops[name] = Drop(name, "global_index is not a number")
                continue
            known = {labels[cell]} if cell in labels else set()
            if len(known | {*chosen}) > 1:  # also by two rows of one cell
                drops[name] = Drop(name, "more than one label", ", ".join(map(str, sorted(known | {*chosen}))))
            elif chosen:
                labels[cell] = chosen[0]
            elif 0 < len(unsure) < len(cells):
                drops[name] = Drop(name, "label is missing", f"{len(unsure)} of {len(cells)} gates are empty")
        return {cell: label for cell, label in labels.items() if f"cell-{cell}" not in drops}, [*drops.values()]

    def _cells(self, split: str) -> tuple[list[tuple[int, int]], list[Drop]]:
        """(cell, class) of a split in the order of the records, and drops; training carries those of both."""
        labels, drops = self._labels
        by_class: dict[int, list[int]] = {}
        for cell, label in labels.items():
            by_class.setdefault(label, []).append(cell)
        chosen: list[tuple[int, int]] = []
        for label, cells in sorted(by_class.items()):
            cells.sort()
            rng_for(self.seed, f"{self.stream}/{self.task}/split/{label}").shuffle(cells)
            # At least one cell of every class with two is tested.
            tested = max(round(len(cells) * 0.1), 1 if len(cells) > 1 else 0)
            part = cells[tested:] if split == "train" else cells[:tested]
            chosen += [(cell, label) for cell in part]
        rng_for(self.seed, f"{self.stream}/{self.task}/order/{split}").shuffle(chosen)
        return chosen[:_MOST], drops if split == "train" else []

    def units(self, split: str) -> Iterator[Unit]:
        """A few cells each, with all of their channels."""
        cells, drops = self._cells(split)
        wanted = {cell for cell, _ in cells}
        where: dict[int, str] = {}
        folders: dict[str, str] = {}  # one text per folder, not one per cell
        twice: dict[int, Drop] = {}
        for row in csv_rows(self._files[1], ("global_index", "data_path")):
            cell = whole(row["global_index"])
            if cell is None or cell not in wanted:
                continue
            folder = folders.setdefault(row["data_path"], row["data_path"])
            if where.setdefault(cell, folder) != folder:
                detail = f"{where[cell]} and {folder}"
                twice[cell] = Drop(f"cell-{cell}", "cell has two places in the index", detail)
        cells = [(cell, label) for cell, label in cells if cell not in twice]
        drops = [*drops, *twice.values()]
        if drops:
            yield Unit("labels", [("drop", drop) for drop in drops])
        for first in range(0, len(cells), _CELLS):
            some = [("cell", (cell, label, where.get(cell))) for cell, label in cells[first : first + _CELLS]]
            yield Unit(f"{first:06d}", some)

    # --- records

    def convert(self, split: str, unit: Unit) -> Iterator[Record | Drop]:
        """All channels of some cells."""
        for kind, value in unit.payload:
            if kind == "drop":
                yield value
                continue
            cell, label, folder = value
            if folder is None:
                yield Drop(f"cell-{cell}", "cell is not in the index", "it has a label, but no row in BSCCM_index.csv")
                continue
            stack = self._read(cell, folder)
            if isinstance(stack, Drop):
                yield stack
                continue
            for channel in self._channels:
                yield self._record(cell, label, channel, stack[self._known_channels.index(channel)])

    def _read(self, cell: int, folder: str) -> Any:
        """(channels, h, w) pixels of a cell, or a drop."""
        zarr: Any = library("zarr")
        if self._group is None:
            path = self._files[3]
            try:
                self._group = zarr.open_group(str(path), mode="r")
            except (OSError, ValueError, KeyError, RuntimeError) as error:
                raise self.unreadable(path, error) from error
        try:
            stack = self._group[f"{folder}/led_array/cell_{cell}"][...]
        except KeyError:
            return Drop(f"cell-{cell}", "picture is missing", f"no array {folder}/led_array/cell_{cell}")
        except (OSError, ValueError, RuntimeError, TypeError) as error:
            return Drop(f"cell-{cell}", "picture cannot be decoded", str(error))
        if stack.ndim == 4 and 1 in stack.shape:
            stack = stack.squeeze()
        if stack.ndim != 3 or stack.shape[0] != len(self._known_channels):
            return Drop(f"cell-{cell}", "picture has another shape", f"{stack.shape}, not (channels, height, width)")
        return stack

    def _record(self, cell: int, label: int, channel: str, pixels: Any) -> Record | Drop:
        name = f"cell-{cell:06d}-{channel}"
        grey = stretch(pixels)
        if grey is None:
            return Drop(name, "picture is blank", "one value everywhere, or no numbers")
        rng = rng_for(self.seed, f"{self.stream}/{self.task}/{name}")
        names = self.class_names
        question = QUESTIONS[rng.randrange(len(QUESTIONS))].format(channel=channel)
        options, letter = build_options(names[label], names, _OPTIONS, rng, fixed=[names[place] for place in FIXED])
        return Record.ask(
            name,
            with_options(question, options),
            letter,
            [Picture.pixels(name, grey)],
            options=options,
            answer_text=names[label],
            cell=str(cell),
            channel=channel,
        )


def stretch(pixels: Any) -> Any:
    """Eight-bit grey: the 1st percentile becomes 0, the 99th 255.

    Args:
        pixels: (h, w) of any number type.

    Returns:
        (h, w) uint8, or None if there is nothing to see.
    """
    numpy: Any = library("numpy")
    values = numpy.asarray(pixels, dtype=numpy.float64)
    if values.size == 0 or not numpy.isfinite(values).all():
        return None
    low, high = numpy.percentile(values, (1, 99))
    if high <= low:
        low, high = values.min(), values.max()
    if high <= low:
        return None
    return numpy.round(numpy.clip((values - low) / (high - low), 0, 1) * 255).astype(numpy.uint8)
