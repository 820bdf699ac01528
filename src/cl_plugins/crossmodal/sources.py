"""What the authors of data sets distribute, read as labelled samples: AVE, UESTC-MMEA-CL and SAMSEMO.

Each protocol is a file in ``protocols/``: steps, sources, licence, and what is assumed or was not verified about the files,
which the stream's notes repeat.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import DataError, Problem
from ..base.outside import OutsideError, parse_yaml, read_text
from ..base.schema import build, option
from .media import VIDEOS, signal_of


if TYPE_CHECKING:
    import numpy as np


LIMIT = 2 * 1024**3  # bytes of a list
Record = dict[str, Any]
_ACCELERATION, _ROTATION = 16384.0, 16.4  # raw units of UESTC-MMEA-CL per g, and per degree per second
_MEDIAN = 5  # samples
_SHOWN = 10  # problems that are told
_SEVERAL = re.compile(r"[,;/|]")
_COLUMNS = ("utterance_id", "language", "aggregated_emotions", "transcript")


@dataclass(frozen=True)
class Protocol:
    """A stream that is made of what the authors of a data set distribute."""

    title: str = option(help="Title of the stream.")
    paper: str = option(help="Who used and who made the data.")
    homepage: str = option(help="Where the data are.")
    source: str = option(help="Which files are read.")
    licence: str = option(help="Their terms, as far as they are known.")
    classes: int = option(help="Number of classes.", minimum=1)
    classes_per_step: int | None = option(None, help="Class-incremental: classes of a step.", minimum=1)
    domains: list[str] | None = option(None, help="Domain-incremental: the domains in order.")
    mixed_groups: bool = option(False, help="The split that comes with the data may have a group in both parts.")
    notes: list[str] = option(factory=list, help="What a reader of every result has to know.")


#: Name of a protocol -> its reader: the folder of the source, a folder for files that are made, and notes on what is left
#: out, which it adds to -> samples.
Reader = Callable[[Path, Path, list[str]], list[Record]]


def protocols() -> tuple[str, ...]:
    """Names of the protocols."""
    return tuple(sorted(path.stem for path in _folder().glob("*.yaml")))


def _folder() -> Path:
    return Path(__file__).with_name("protocols")


def protocol(name: str) -> Protocol:
    """The file of a protocol.

    Args:
        name: One of `protocols`.

    Raises:
        DataError: If it has a wrong field.
    """
    path, problems = _folder() / f"{name}.yaml", list[Problem]()
    found = build(Protocol, parse_yaml(path.read_text(encoding="utf-8")), str(path), problems)
    if problems or found is None:
        raise DataError(problems)
    return found


def read(name: str, folder: Path, made: Path, notes: list[str]) -> list[Record]:
    """The samples of a protocol.

    Args:
        name: One of `protocols`.
        folder: The folder that the authors' files are in.
        made: A folder for files that are made from them.
        notes: Gets a sentence on what was left out, with its number.

    Raises:
        DataError: With what is missing or has another form.
    """
    readers: dict[str, Reader] = {"ave": read_ave, "uestc_mmea_cl": read_uestc_mmea_cl, "samsemo": read_samsemo}
    return readers[name](folder, made, notes)


def _first_ones(records: Sequence[Record], what: str, notes: list[str]) -> list[Record]:
    """The first record of every id; a note counts the others."""
    found: dict[str, Record] = {}
    for record in records:
        found.setdefault(record["id"], record)
    if len(found) < len(records):
        later = [(found[record["id"]], record) for record in records if found[record["id"]] is not record]
        labels, splits = (sum(one[key] != other[key] for one, other in later) for key in ("label", "split"))
        notes.append(
            f"{len(later)} lines are left out because their {what} occurred before: {labels} with another class, "
            f"{splits} in another list."
        )
    return list(found.values())


def _lines(path: Path, problems: list[Problem], fix: str) -> list[tuple[str, str]]:
    """The lines of a list that say something, each with its place."""
    try:
        text = read_text(path, LIMIT)
    except (OSError, OutsideError, ValueError) as error:
        problems.append(Problem(str(path), f"cannot be read ({error}).", fix))
        return []
    lines = enumerate(text.split("\n"), start=1)
    return [(f"{path}, line {number}", line.strip()) for number, line in lines if line.strip()]


def read_ave(folder: Path, made: Path | None = None, notes: list[str] | None = None) -> list[Record]:
    """AVE: ``trainSet.txt``, ``testSet.txt`` and the videos in ``AVE/``.

    A line is ``category&video id&quality&start&end``. A video occurs once per event; the first category counts.

    Args:
        folder: The folder of the lists.
        made: Not used.
        notes: Gets a sentence on what was left out.

    Raises:
        DataError: If a list or a video is missing, or a line has another form.
    """
    found: list[Record] = []
    problems: list[Problem] = []
    for split, name in (("train", "trainSet.txt"), ("test", "testSet.txt")):
        for where, line in _lines(folder / name, problems, "Give the folder of AVE's lists."):
            cells = line.split("&")
            if len(cells) != 5:
                what = "has not the form category&video&quality&start&end."
                problems.append(Problem(where, what, "Use AVE's own file."))
                continue
            label, video = cells[0], cells[1]
            file = f"AVE/{video}.mp4"
            if not (folder / file).is_file():
                problems.append(Problem(str(folder / file), "is missing.", "Download the videos of AVE."))
                continue
            record = {"id": video, "label": label, "picture": file, "sound": file, "group": video, "split": split}
            found.append(record)
    if problems:
        raise DataError(problems[:_SHOWN])
    return _first_ones(found, "video", [] if notes is None else notes)


def read_uestc_mmea_cl(folder: Path, made: Path, notes: list[str] | None = None) -> list[Record]:
    """UESTC-MMEA-CL: ``train.txt``, ``test.txt``, ``video/`` and ``sensor/``.

    A line begins with a path that ends in ``<number>_<class>/<clip>``.

    Args:
        folder: The folder of the lists.
        made: Gets the two signals of each clip: acceleration in g and rotation in degrees per second, filtered.
        notes: Gets a sentence on what was left out.

    Raises:
        DataError: If a list, a video or a table is missing, or has another form.
    """
    import numpy as np

    found: list[Record] = []
    problems: list[Problem] = []
    for split in ("train", "test"):
        for where, line in _lines(folder / f"{split}.txt", problems, "Give the folder of UESTC-MMEA-CL's lists."):
            parts = Path(line.split()[0]).parts[-2:]
            if len(parts) != 2:
                what = "has not the form .../<number>_<class>/<clip> start end label."
                problems.append(Problem(where, what, "Use UESTC-MMEA-CL's own file."))
                continue
            kind, clip = parts
            name = f"{kind}/{clip}"
            video = next((v for v in _endings(folder / "video" / kind, clip) if v.is_file()), None)
            table = folder / "sensor" / kind / f"{clip}.csv"
            if video is None or not table.is_file():
                missing = table if video is not None else folder / "video" / kind / f"{clip}.mp4"
                problems.append(Problem(str(missing), "is missing.", "Download videos and sensor data."))
                continue
            try:
                signals = sensor_signals(signal_of(table))
            except ValueError as error:
                problems.append(Problem(str(table), f"cannot be used: {error}.", "Use UESTC-MMEA-CL's own file."))
                continue
            record = {"id": name, "label": kind.partition("_")[2] or kind, "group": name, "split": split}
            record["picture"] = str(video.relative_to(folder))
            for signal, values in signals.items():
                path = made.absolute() / kind / f"{clip}_{signal}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, values)
                record[signal] = str(path)
            found.append(record)
    if problems:
        raise DataError(problems[:_SHOWN])
    return _first_ones(found, "clip", [] if notes is None else notes)


def _endings(folder: Path, name: str) -> list[Path]:
    return [folder / f"{name}{suffix}" for suffix in (".mp4", *sorted(VIDEOS - {".mp4"}))]


def sensor_signals(raw: np.ndarray) -> dict[str, np.ndarray]:
    """Acceleration (g) and rotation (degrees per second) of raw samples of UESTC-MMEA-CL's sensor.

    A median filter over 5 samples, and the mean of the rotation is taken off, which is the sensor's drift.

    Args:
        raw: (samples, 6 or more): raw acceleration and raw rotation, x, y, z each.

    Returns:
        ``acceleration`` and ``gyroscope``, (samples, 3) float32.

    Raises:
        ValueError: If there are fewer than 6 columns.
    """
    import numpy as np

    if raw.shape[1] < 6:
        raise ValueError(f"it has {raw.shape[1]} columns, and six are needed")
    padded = np.pad(raw[:, :6], ((_MEDIAN // 2, _MEDIAN // 2), (0, 0)), mode="edge")
    values = np.median(np.lib.stride_tricks.sliding_window_view(padded, _MEDIAN, axis=0), axis=-1)
    rotation = values[:, 3:] / _ROTATION
    signals = {"acceleration": values[:, :3] / _ACCELERATION, "gyroscope": rotation - rotation.mean(0)}
    return {name: value.astype(np.float32) for name, value in signals.items()}


def read_samsemo(folder: Path, made: Path | None = None, notes: list[str] | None = None) -> list[Record]:
    """SAMSEMO: ``samsemo.tsv``, the lists in ``splits/`` and the unpacked archives in ``data/``.

    Scenes without an aggregated emotion are left out.

    Args:
        folder: The folder of ``samsemo.tsv``.
        made: Not used.
        notes: Gets a sentence on what was left out.

    Raises:
        DataError: If a file is missing, has another form, or a list names a scene that the table does not have.
    """
    problems: list[Problem] = []
    rows = _rows(folder / "samsemo.tsv", problems)
    found = []
    unlabelled = 0
    for language in dict.fromkeys(row["language"].upper() for row in rows.values()):
        for split in ("train", "test"):
            path = folder / "splits" / f"{split}_split_{language}.txt"
            for where, name in _lines(path, problems, "Download the folder `splits`."):
                if name not in rows:
                    problems.append(Problem(where, f"{name} is not in samsemo.tsv.", "Use files of one version."))
                    continue
                row = rows[name]
                label = _SEVERAL.split(row["aggregated_emotions"].strip("[]() "))[0].strip(" '\"").lower()
                if not label:
                    unlabelled += 1
                    continue
                media = _scene(folder, language, name)
                if not media:
                    what = f"has no sound, video or picture of {name}."
                    problems.append(Problem(str(folder / "data" / language), what, f"Unpack data/{language}.zip."))
                    continue
                group = name.rpartition("_")[0] or name
                record = {"id": name, "label": label, "words": row["transcript"], "domain": language.lower()}
                found.append({**record, **media, "group": group, "split": split})
    if problems:
        raise DataError(problems[:_SHOWN])
    if unlabelled and notes is not None:
        notes.append(f"{unlabelled} scenes are left out because they have no aggregated emotion.")
    return found


def _rows(path: Path, problems: list[Problem]) -> dict[str, dict[str, str]]:
    """The table, by the ids of its scenes."""
    try:
        table = csv.DictReader(io.StringIO(read_text(path, LIMIT)), delimiter="\t")
        missing = [name for name in _COLUMNS if name not in (table.fieldnames or ())]
        if missing:
            what = f"has no column {', '.join(missing)}."
            problems.append(Problem(str(path), what, "Use SAMSEMO's own table."))
            return {}
        return {row["utterance_id"]: {name: row[name] or "" for name in _COLUMNS} for row in table}
    except (OSError, OutsideError, ValueError, csv.Error) as error:
        problems.append(Problem(str(path), f"cannot be read ({error}).", "Give the folder of samsemo.tsv."))
        return {}


def _scene(folder: Path, language: str, name: str) -> Record:
    """The files of a scene, as far as there are any: a video or pictures, and a sound."""
    places = (folder / "data" / language / name, folder / "data" / language / language / name, folder / "data" / name)
    place = next((place for place in places if place.is_dir()), None)
    if place is None:
        return {}
    files = sorted(place.iterdir())
    videos = [path for path in files if path.suffix.lower() in VIDEOS]
    pictures = sorted((path for path in files if path.suffix.lower() in (".jpg", ".jpeg", ".png")), key=_number)
    seen: Record = {"sound": place / "audio.wav"} if (place / "audio.wav").is_file() else {}
    if videos or pictures:
        seen["picture"] = videos[0] if videos else pictures
    return {key: _relative(value, folder) for key, value in seen.items()}


def _number(path: Path) -> tuple[int, str]:
    """Pictures are numbered without leading zeros."""
    digits = re.findall(r"\d+", path.stem)
    return (int(digits[-1]) if digits else -1, path.name)


def _relative(value: Path | Sequence[Path], folder: Path) -> Any:
    return str(value.relative_to(folder)) if isinstance(value, Path) else [_relative(one, folder) for one in value]
