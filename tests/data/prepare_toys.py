"""A small converter for tests of the framework, importable by worker processes, and what tests share."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from cl_plugins.data.prepare import Converter, Drop, Picture, Record, Setting, Source, chunked, json_records


class Toy(Converter):
    """JSON with base pictures in ``images``; can be told to fail at a record."""

    stream, task, version = "toy", "spots", 1
    sources = (Source("Toy", "https://example.org/toy", "CC0", ("train.json", "test.json", "images/")),)
    settings: ClassVar = {
        "size": Setting("5", (), "records per unit"),
        "style": Setting("plain", ("plain", "fancy"), "none"),
    }
    columns: ClassVar = {"answer_type": str, "options": list}
    notes = ("A note.",)

    def missing(self):
        return self.need(*(self.raw / f"{split}.json" for split in self.splits))

    def inputs(self, split):
        return [self.raw / f"{split}.json"]

    def units(self, split):
        yield from chunked(json_records(self.raw / f"{split}.json"), int(self.setting("size")))

    def convert(self, split, unit):
        with (self.raw / "calls.log").open("a") as log:
            log.write(f"{split} {unit.key}\n")
        for row, raw in unit.items():
            if (self.raw / "die").exists() and row == int((self.raw / "die").read_text()):
                os.kill(os.getpid(), signal.SIGKILL)
            if raw.get("fault"):
                raise RuntimeError("a bug in the converter")
            name = raw.get("id", f"{split}-{row:04d}")
            if raw.get("drop"):
                yield Drop(name, "not wanted", str(row))
            elif "conversations" in raw:
                yield Record.chat(name, raw["conversations"], self._pictures(raw))
            else:
                yield Record.ask(name, raw.get("question"), raw.get("answer"), self._pictures(raw), answer_type="OPEN")

    def _pictures(self, raw):
        names = raw.get("image", [])
        return [Picture.inside(self.raw / "images", n) for n in ([names] if isinstance(names, str) else names)]


def png(size=(8, 6), colour=(200, 10, 10), mode="RGB", form="PNG"):
    buffer = io.BytesIO()
    Image.new(mode, size, colour if mode == "RGB" else 100).save(buffer, form)
    return buffer.getvalue()


def make_raw(folder: Path, count: int = 23, **splits) -> Path:
    """``count`` training records with pictures of their own, 4 test records; ``train=[...]`` gives the records."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for split, number in (("train", count), ("test", 4)):
        records = []
        for i in range(number):
            Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).save(
                folder / "images" / f"{split}{i}.png"
            )
            records.append({"image": f"{split}{i}.png", "question": f"what is {i}?", "answer": f"thing {i}"})
        (folder / f"{split}.json").write_text(json.dumps(splits.get(split, records)))
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
