"""What the PitVis-2023 release looks like: names, splits, annotations, frames."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ....base.errors import DataError, Problem
from ....base.outside import is_regular
from ..extras import library
from ..readers import csv_rows


TRAIN = (*range(2, 12), *range(13, 21), 22, 23)
TEST = (1, 12, 21, 24, 25)
UNLABELLED = 19  # its annotations are missing from the release

NO_SECONDARY, OUT_OF_PATIENT, NONE_VISIBLE = -2, -1, 0
#: The three options that every question has.
FIXED = {
    NO_SECONDARY: "no secondary instrument",
    OUT_OF_PATIENT: "out of patient",
    NONE_VISIBLE: "no visible instrument",
}
#: Codes of the release; ``map_instruments.csv`` goes before it where it is there.
INSTRUMENTS = {
    1: "bipolar forceps",
    2: "cottle",
    3: "cup forceps",
    4: "dural scissors",
    5: "freer elevator",
    6: "haemostatic foam",
    7: "irrigation syringe",
    8: "kerrisons",
    9: "micro doppler",
    10: "nasal cutting forceps",
    11: "pituitary rongeurs",
    12: "retractable knife",
    13: "ring curette",
    14: "spatula dissector",
    15: "stealth pointer",
    16: "suction",
    17: "surgical drill",
    18: "tissue glue",
}
#: FFmpeg inspects the content of a file: a playlist called video_01.mp4 would make it open other files and addresses.
_ONLY_VIDEOS = {"protocol_whitelist": "file", "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts"}
_ROW = ("int_time", "int_step", "int_instrument1", "int_instrument2")


class Release:
    """Finds the files of the release: all in one folder, as downloaded, or sorted into subfolders.

    Args:
        raw: The raw folder.
    """

    def __init__(self, raw: Path) -> None:
        self.raw = raw
        self._folders = [
            folder / sub
            for folder in (raw, raw / "26531686")
            for sub in ("", "annotations", "videos", "misc", "frames")
            if (folder / sub).is_dir()
        ]

    def find(self, *names: str) -> Path | None:
        """The first file or folder of one of these names."""
        return next((folder / name for name in names for folder in self._folders if (folder / name).exists()), None)

    def annotations(self, video: int) -> Path | None:
        """The annotation file of a video."""
        return self.find(f"annotations_{video:02d}.csv", f"annotations_{video}.csv")

    def video(self, video: int) -> Path | None:
        """The video file."""
        return self.find(f"video_{video:02d}.mp4", f"video_{video}.mp4")

    def frames(self, video: int) -> Path | None:
        """The folder with the extracted frames of a video."""
        found = self.find(f"video_{video:02d}", f"video_{video}", f"{video:02d}")
        return found if found is not None and found.is_dir() else None

    def instruments(self) -> dict[int, str]:
        """Code -> name, without spaces at the ends and without underscores; codes of `FIXED` are left out.

        Raises:
            DataError: ``map_instruments.csv`` is there and cannot be read.
        """
        path = self.find("map_instruments.csv")
        if path is None:
            return dict(INSTRUMENTS)
        found: dict[int, str] = {}
        for row in csv_rows(path, ("int_instrument", "str_instrument")):
            code, name = whole(row["int_instrument"]), " ".join(row["str_instrument"].replace("_", " ").split())
            if code is not None and code > 0 and name:
                found.setdefault(code, name)
        if len(found) < 6:
            what = f"names {len(found)} instruments; questions need at least 6."
            raise DataError(Problem(str(path), what, "Download it again."))
        return found


def whole(text: str) -> int | None:
    """A whole number written as ``16`` or ``16.0``; None for anything else, such as an empty cell or NaN."""
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if value.is_integer() else None


def annotation_rows(path: Path) -> list[dict[str, int | None]]:
    """The rows of an annotation file, at most some thousands; cells that are no whole number are None."""
    return [{name: whole(value) for name, value in row.items()} for row in csv_rows(path, _ROW)]


def seconds_per_step(times: Sequence[int | None], rate: float) -> float:
    """What one unit of ``int_time`` is in seconds: 1, or 1/rate if the file counts frames.

    The release counts seconds (one row a second); a file whose rows are 24 or 25 apart counts frames.

    Args:
        times: The column ``int_time``.
        rate: Frames per second of the video.
    """
    known = [time for time in times if time is not None]
    steps = sorted(b - a for a, b in pairwise(known))
    middle = steps[len(steps) // 2] if steps else 1
    return 1.0 if middle <= 1 else 1.0 / rate


def open_video(path: Path) -> tuple[Any, Any]:
    """An open container and its video stream.

    Raises:
        DataError: Damaged, or no video.
    """
    av: Any = library("av")
    if not is_regular(path):
        raise DataError(Problem(str(path), "is not a regular file.", "Is it the right file?"))
    try:
        container = av.open(str(path), options=_ONLY_VIDEOS)
        stream = container.streams.video[0]
    except (OSError, ValueError, IndexError) as error:  # av.FFmpegError is an OSError or a ValueError
        raise DataError(Problem(str(path), f"cannot be read as a video ({error}).", "Download it again.")) from error
    stream.thread_type = "AUTO"
    stream.codec_context.thread_count = 1  # the worker processes are what runs side by side
    return container, stream


def frame_rate(path: Path) -> float:
    """Frames per second of a video (24, or 25 for video 24 of the release)."""
    container, stream = open_video(path)
    with container:
        return float(stream.average_rate or stream.base_rate or 24)


def frames_at(path: Path, wanted: Sequence[float]) -> Iterator[tuple[int, Any]]:
    """Decode the frames that are shown at some times.

    Args:
        path: The video.
        wanted: Seconds from its start, ascending. The frame nearest to each is taken.

    Yields:
        (place in ``wanted``, (h, w, 3) uint8). Times behind the last frame yield nothing.

    Raises:
        DataError: The video is damaged.
    """
    container, stream = open_video(path)
    try:
        with container:
            half = 0.5 / float(stream.average_rate or 24)
            origin = float((stream.start_time or 0) * stream.time_base)
            if wanted and wanted[0] > 2:
                container.seek(int((wanted[0] + origin) / stream.time_base), stream=stream, backward=True)
            place = 0
            for frame in container.decode(stream):
                if frame.pts is None:
                    continue
                at = float(frame.pts * stream.time_base) - origin
                pixels = None
                while place < len(wanted) and at >= wanted[place] - half:
                    pixels = frame.to_ndarray(format="rgb24") if pixels is None else pixels
                    yield place, pixels
                    place += 1
                if place == len(wanted):
                    return
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(Problem(str(path), f"is damaged ({error}).", "Download it again.")) from error


def frame_files(folder: Path) -> dict[int, Path]:
    """Extracted frames, one a second: number -> file.

    Raises:
        DataError: Two files have one number.
    """
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        match = re.fullmatch(r"\D*(\d+)", path.stem, re.ASCII)
        if match and path.suffix.lower() in {".png", ".jpg", ".jpeg"}:
            other = found.setdefault(int(match[1]), path)
            if other != path:
                what = f"{other.name} and {path.name} have the same number."
                raise DataError(Problem(str(folder), what, "Leave one file per frame."))
    return found


def first_frame(folder: Path, files: Mapping[int, Path], last: int, wanted: str) -> int:
    """The number of the frame at second 0: 0 or 1, whichever program extracted them.

    The last annotation of a video has no frame. So frames that count from 0 end before ``last``, and those that count
    from 1 end with it, if nothing is missing. Without frame 0, a lower end fits both: frames from 0 of which the first is
    missing, or from 1 of which the last is.

    Args:
        folder: For messages.
        files: From `frame_files`.
        last: Time of the last annotation in seconds.
        wanted: ``0`` or ``1`` if the user says so, else ``auto``.

    Raises:
        DataError: It cannot be told, or the frames are not those of the annotations.
    """
    if not files:
        raise DataError(Problem(str(folder), "holds no frames.", "Frames are called 00000.png, 00001.png, ..."))
    highest = max(files)
    if wanted == "1" and 0 in files:
        raise DataError(Problem(str(folder), f"has a frame 0 ({files[0].name}).", "Leave out sur.first=1."))
    if wanted != "auto":
        return int(wanted)
    if highest > last + 2:
        what = f"has frame {highest}, but its last annotation is of second {last}."
        fix = "Extract one frame a second; if they are, --set sur.first=0 or 1 says the number of the first one."
        raise DataError(Problem(str(folder), what, fix))
    if 0 in files:
        return 0
    if highest >= last:
        return 1
    what = (
        f"has no frame 0 and ends with frame {highest}, while the last annotation is of second {last}: either frames "
        "count from 0 and the first is missing, or from 1 and the last ones are."
    )
    fix = "Say which: --set sur.first=0, or --set sur.first=1. Frames that are missing are dropped."
    raise DataError(Problem(str(folder), what, fix))
