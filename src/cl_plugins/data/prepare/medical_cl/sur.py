"""Sur: the main instrument in a frame of pituitary surgery, from PitVis-2023."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from ....base.errors import DataError, Problem
from ..contract import Context, Converter, Drop, Picture, Record, Setting, Source, Unit, natural
from ..options import build_options, rng_for, with_options
from . import pitvis


QUESTION = "Which is the main surgical instrument in this frame?"
_OPTIONS = 6
_FRAMES = 50  # in one unit


class Surgery(Converter):
    """One question per sixth annotation: six options, three of them the same everywhere.

    Training and test videos are different ones; a split by frame would leak.
    """

    stream, task, version = "medical_cl", "sur", 2
    sources = (
        Source(
            "PitVis-2023 (25 videos, 40 GB)",
            "doi 10.5522/04/26531686 (UCL Research Data Repository)",
            "unverified: read the terms of the record before passing frames on",
            (
                "video_01.mp4 ... video_25.mp4",
                "annotations_01.csv ... annotations_25.csv (19 does not exist)",
                "map_instruments.csv",
            ),
        ),
        Source(
            "the same with frames extracted once a second",
            "the challenge's extractor, or: ffmpeg -i video_01.mp4 -vf fps=1 frames/video_01/%05d.png",
            "as above",
            ("frames/video_01/00000.png ...", "annotations_01.csv ..."),
        ),
    )
    settings: ClassVar[Mapping[str, Setting]] = {
        "form": Setting("auto", ("auto", "videos", "frames"), "which raw format to read, if both are present"),
        "every": Setting("6", (), "use every Nth annotation (the paper: 6)"),
        "time": Setting(
            "auto",
            ("auto", "paper"),
            "auto: the frame that the annotation describes. paper: the frame at int_time / 24 seconds, as the "
            "authors' converter has it; int_time counts seconds, so that frame is at another position in the video",
        ),
        "first": Setting(
            "auto",
            ("auto", "0", "1"),
            "number of the first extracted frame; auto: from the numbers of the files and the annotations, an error if "
            "they fit both",
        ),
        "videos": Setting("", (), "only these videos, such as 1,2,24"),
    }
    columns: ClassVar[Mapping[str, type]] = {"options": list, "answer_text": str, "video": str, "time": str}
    notes = (
        "Wording of question and options is ours, not the authors'.",
        "The test videos are those that the challenge suggested for validation; its own test videos were never released.",
        "Instrument names are those of map_instruments.csv where it is there.",
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.release = pitvis.Release(self.raw)
        words = [word.strip() for word in self.setting("videos").split(",") if word.strip()]
        numbers = [natural(word) for word in words]
        self._chosen = {number for number in numbers if number is not None} if words else None
        self._strange = None in numbers
        wanted = self.setting("form")
        has_videos = any(self.release.video(video) for video in self._wanted())
        has_frames = any(self.release.frames(video) for video in self._wanted())
        self.form = wanted if wanted != "auto" else "frames" if has_frames and not has_videos else "videos"
        self._names: dict[int, str] | None = None

    def _wanted(self, split: str = "") -> list[int]:
        videos = {"train": pitvis.TRAIN, "test": pitvis.TEST}.get(split, (*pitvis.TRAIN, *pitvis.TEST))
        return [video for video in videos if self._chosen is None or video in self._chosen]

    def _labelled(self, split: str = "") -> list[int]:
        """The videos without 19, unless there are annotations for it."""
        return [v for v in self._wanted(split) if v != pitvis.UNLABELLED or self.release.annotations(v) is not None]

    def _pictures(self, video: int) -> Path | None:
        return self.release.video(video) if self.form == "videos" else self.release.frames(video)

    def missing(self) -> list[Path]:
        """Annotations and videos (or frame folders) of every video but 19."""
        absent = []
        for video in self._labelled():
            if self.release.annotations(video) is None:
                absent.append(self.raw / f"annotations_{video:02d}.csv")
            if self._pictures(video) is None:
                name = f"video_{video:02d}.mp4" if self.form == "videos" else f"frames/video_{video:02d}/"
                absent.append(self.raw / name)
        return absent

    def check(self) -> list[Problem]:
        """Settings that are no numbers, or do not go together; splits without a video."""
        where = f"{self.stream}.{self.task}"
        problems = []
        if not natural(self.setting("every")):
            what = f"sur.every is {self.setting('every')!r}."
            problems.append(Problem(where, what, "Give a whole number above 0."))
        if self._strange:
            problems.append(Problem(where, f"sur.videos is {self.setting('videos')!r}.", "Write it like 1,2,24."))
        unknown = sorted((self._chosen or set()) - {*pitvis.TRAIN, *pitvis.TEST})
        if unknown:
            what = f"sur.videos names {', '.join(map(str, unknown))}, which the release does not have."
            problems.append(Problem(where, what, f"Videos: 1-{max(pitvis.TEST)}."))
        if self.setting("time") == "paper" and self.form == "frames":
            what = "sur.time=paper needs the videos; extracted frames do not hold those pictures."
            problems.append(Problem(where, what, "Put the videos there, or leave sur.time=auto."))
        for split in self.splits:
            if not self._labelled(split):
                what = f"sur.videos={self.setting('videos')} leaves no {split} video."
                fix = f"Test videos: {', '.join(map(str, pitvis.TEST))}; the others are for training."
                problems.append(Problem(where, what, fix))
        if self.form == "frames" and not problems:
            for video in self._labelled():
                try:
                    self._first_frame(video)
                except DataError as error:
                    problems += error.problems
        return problems

    def _first_frame(self, video: int) -> int:
        """The number of the frame at second 0 of a video."""
        annotations, folder = self._files(video)
        rows = pitvis.annotation_rows(annotations)
        last = max((row["int_time"] for row in rows if row["int_time"] is not None), default=0)
        seconds = round(last * self._scale(rows, folder))
        return pitvis.first_frame(folder, pitvis.frame_files(folder), seconds, self.setting("first"))

    def _files(self, video: int) -> tuple[Path, Path]:
        """Annotations and pictures of a video."""
        annotations, pictures = self.release.annotations(video), self._pictures(video)
        if annotations is None or pictures is None:
            raise self.unreadable(self.raw, f"the files of video {video} have disappeared")
        return annotations, pictures

    def _scale(self, rows: list[dict[str, int | None]], pictures: Path) -> float:
        """What one unit of ``int_time`` is in seconds."""
        if self.setting("time") == "paper":
            return 1 / 24
        rate = pitvis.frame_rate(pictures) if self.form == "videos" else 24.0
        return pitvis.seconds_per_step([row["int_time"] for row in rows], rate)

    def inputs(self, split: str) -> list[Path]:
        """Annotations, pictures and names."""
        found = [
            path
            for video in self._labelled(split)
            for path in (self.release.annotations(video), self._pictures(video))
        ]
        return [path for path in [*found, self.release.find("map_instruments.csv")] if path is not None]

    def remarks(self, split: str) -> list[str]:
        """What was left out, and a choice that differs from the paper's."""
        found = []
        if pitvis.UNLABELLED in self._wanted(split) and pitvis.UNLABELLED not in self._labelled(split):
            found.append("Sur: video 19 is left out, since the release has no annotations for it.")
        if self.setting("time") == "auto":
            found.append(
                "Sur: frames are those that the annotations describe; --set sur.time=paper takes the paper's."
            )
        return found

    def units(self, split: str) -> Iterator[Unit]:
        """Stretches of a video."""
        every = int(self.setting("every"))
        for video in self._labelled(split):
            annotations, pictures = self._files(video)
            rows = pitvis.annotation_rows(annotations)
            scale = self._scale(rows, pictures)
            base = self._first_frame(video) if self.form == "frames" else 0
            picked = rows[::every]
            for first in range(0, len(picked), _FRAMES):
                wanted = [(row["int_time"], row["int_instrument1"]) for row in picked[first : first + _FRAMES]]
                yield Unit(f"{video:02d}-{first:06d}", (video, str(pictures), scale, base, wanted))

    def convert(self, split: str, unit: Unit) -> Iterator[Record | Drop]:
        """The questions of a stretch, in the order of the annotations."""
        video, source, scale, base, wanted = unit.payload
        usable: list[tuple[int, int]] = []
        drops: dict[int, Drop] = {}
        for place, (time, code) in enumerate(wanted):
            name = f"sur-{video:02d}-{time:06d}" if time is not None else f"sur-{unit.key}-{place:03d}"
            if time is None or time < 0 or code is None:
                drops[place] = Drop(name, "label is missing", "int_time or int_instrument1 is not a whole number")
            elif code not in self.names and code not in pitvis.FIXED:
                drops[place] = Drop(name, "unknown instrument code", str(code))
            else:
                usable.append((place, time))
        usable.sort(key=lambda pair: pair[1])
        frames = self._frames(Path(source), base, [(place, time * scale) for place, time in usable])
        found = dict(self._ready(frames))
        for place, (time, code) in enumerate(wanted):
            if place in drops:
                yield drops[place]
                continue
            name = f"sur-{video:02d}-{time:06d}"
            if place not in found:
                yield Drop(name, "no frame at that time", f"{time * scale:g} s")
                continue
            yield self._record(name, video, time, code, found.pop(place))

    @property
    def names(self) -> dict[int, str]:
        """Code -> name of the instruments that are drawn as wrong answers."""
        if self._names is None:
            self._names = self.release.instruments()
        return self._names

    def _frames(self, source: Path, base: int, wanted: list[tuple[int, float]]) -> Iterator[tuple[int, Any]]:
        """(place, pixels or file) in ascending time."""
        if self.form == "videos":
            for position, pixels in pitvis.frames_at(source, [at for _, at in wanted]):
                yield wanted[position][0], pixels
            return
        files = pitvis.frame_files(source)
        for place, at in wanted:
            if base + round(at) in files:
                yield place, files[base + round(at)]

    def _ready(self, frames: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Picture]]:
        for place, frame in frames:
            if isinstance(frame, Path):
                yield place, Picture.file(frame)
            else:
                yield place, Picture.pixels("frame", frame, lossy=True)

    def _record(self, name: str, video: int, time: int, code: int, picture: Picture) -> Record:
        correct = pitvis.FIXED.get(code) or self.names[code]
        rng = rng_for(self.seed, f"{self.stream}/{self.task}/{name}")
        options, letter = build_options(
            correct, list(self.names.values()), _OPTIONS, rng, fixed=list(pitvis.FIXED.values())
        )
        text = with_options(QUESTION, options)
        return Record.ask(
            name, text, letter, [picture], options=options, answer_text=correct, video=str(video), time=str(time)
        )
