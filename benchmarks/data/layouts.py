"""Synthetic raw files in the layout of every converter, with any number of records and a few dozen small pictures.

File names come from the converters themselves, the form of the records from what their authors distribute. Nothing is
held in memory but one record, so that a hundred thousand of them can be written.
"""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cl_plugins.data.prepare.contract import Context, Converter
from cl_plugins.data.prepare.llava.base import LlavaTask
from cl_plugins.data.prepare.medical_cl import pitvis


PICTURES = 64  # different ones; a file system allows tens of thousands of links to each
CHANNELS = 23  # of a cell, each of which makes a record
_TOPICS = "Title: number {n}\nText: some words about the number {n}, and then some more\n"


def write(kind: type[Converter], raw: Path, train: int, test: int, form: str = "") -> dict[str, str]:
    """Write the raw files of one task.

    Args:
        kind: The converter.
        raw: An empty folder.
        train: Number of training records, at least; some formats hold a few more.
        test: Number of test records (and of validation records, where a format has them).
        form: Name of another format than the preferred one.

    Returns:
        Settings that the converter needs for this format.
    """
    counts = {"train": train, "test": test}
    if issubclass(kind, LlavaTask):
        _llava(kind, raw, counts)
    elif kind.stream == "trace":
        _trace(kind, raw, counts)
    elif kind.stream == "standard_cl":
        _classification(kind, raw, counts, form)
    else:
        _MEDICAL[kind.task, form](raw, counts)
    return {f"{kind.task}.form": form} if form else {}


def picture(number: int, form: str = "PNG") -> bytes:
    """A picture file of 16 x 16 pixels."""
    rng = np.random.default_rng(number % PICTURES)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(buffer, form)
    return buffer.getvalue()


def _pictures(folder: Path, form: str = "png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(PICTURES):
        (folder / f"{number}.{form}").write_bytes(picture(number, "JPEG" if form == "jpg" else "PNG"))


def write_json(path: Path, records: Iterable[Any]) -> None:
    """A JSON list, or JSON lines if the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.suffix == ".jsonl"
    with path.open("w", encoding="utf-8") as file:
        file.write("" if lines else "[\n")
        for number, record in enumerate(records):
            file.write(("" if lines or not number else ",\n") + json.dumps(record, ensure_ascii=False))
            file.write("\n" if lines else "")
        file.write("" if lines else "\n]\n")


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A CSV file; without header if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_MINIMAL if head else csv.QUOTE_ALL)
        writer.writerows([head] if head else [])
        writer.writerows(rows)


# --- LLaVA's layout


def _llava(kind: type[LlavaTask], raw: Path, counts: dict[str, int]) -> None:
    made = kind(Context(raw))
    folders = [path for path in made.missing() if path.suffix not in (".json", ".jsonl", ".sjon")]
    for folder in folders:
        _pictures(folder)
    place = folders[0].relative_to(raw).as_posix()
    write_json(raw / made.names("train")[0], _conversations(place, counts["train"]))
    write_json(raw / made.names("test")[0], _questions(kind, place, counts["test"]))
    if kind.task == "textvqa":
        entries = (
            {"image_id": str(n % PICTURES), "question": _question(n), "answers": ["red"] * 10}
            for n in range(counts["test"])
        )
        with (folders[0] / "TextVQA_0.5.1_val.json").open("w") as file:
            file.write('{"data": [' + ", ".join(map(json.dumps, entries)) + "]}")
    for path in getattr(kind, "captions", ())[:1]:
        images = [{"id": n + 1, "file_name": f"{n % PICTURES}.png"} for n in range(counts["test"])]
        captions = [
            {"image_id": n + 1, "caption": f"a picture, {word}"} for n in range(counts["test"]) for word in "ab"
        ]
        (raw / path).write_text(json.dumps({"images": images, "annotations": captions}))


def _question(number: int) -> str:
    return f"what is the number of this picture? it is not {number + 1}."


def _conversations(place: str, count: int) -> Iterator[dict[str, Any]]:
    for n in range(count):
        turns = [{"from": "human", "value": f"<image>\n{_question(n)}"}, {"from": "gpt", "value": f"number {n}"}]
        yield {"id": str(n), "image": f"{place}/{n % PICTURES}.png", "conversations": turns}


def _questions(kind: type[LlavaTask], place: str, count: int) -> Iterator[dict[str, Any]]:
    options = getattr(kind, "options", ())
    for n in range(count):
        record: dict[str, Any] = {"question_id": str(n), "image": f"{place}/{n % PICTURES}.png", "text": _question(n)}
        answer = options[n % len(options)] if options else f"number {n}"
        if kind.task == "scienceqa":
            record["text"], answer = f"{_question(n)}\nA. red\nB. blue", "AB"[n % 2]
        if kind.task == "grounding":
            record.update(answer_bbox="[0.1, 0.2, 0.5, 0.6]", size=[16, 16])
        elif not hasattr(kind, "captions"):
            record[kind.answer] = answer
        yield record


# --- texts


def _trace(kind: type[Any], raw: Path, counts: dict[str, int]) -> None:
    answer = {"scienceqa": "A\nBecause it is cold.", "c_stance": "A", "fomc": "A"}.get(kind.task, "2")
    for split, count in counts.items():
        records = ({"prompt": _TOPICS.format(n=n), "answer": answer} for n in range(count))
        write_json(raw / "LLM-CL-Benchmark_5000" / kind.folder / f"{split}.json", records)


def _classification(kind: type[Any], raw: Path, counts: dict[str, int], form: str) -> None:
    for split, count in counts.items():
        if form == "csv":
            rows = ((n % len(kind.labels) + 1, f"number {n}", "some words " * 10) for n in range(count))
            write_csv(raw / kind.csv_folder / f"{split}.csv", (), rows)
            continue
        records = ({"label": kind.labels[n % len(kind.labels)], "sentence": _TOPICS.format(n=n)} for n in range(count))
        write_json(raw / "CL_Benchmark" / kind.kind / kind.task / f"{split}.json", records)


# --- Medical-CL


def _path(raw: Path, counts: dict[str, int]) -> None:
    """MLLM-CL's form."""
    _pictures(raw / "Med" / "images")
    write_json(raw / "Med" / "train.json", _conversations("images", counts["train"]))
    tests = (
        {"question_id": str(n), "image": f"images/{n % PICTURES}.png", "text": _question(n), "answer": f"{n}"}
        for n in range(counts["test"])
    )
    write_json(raw / "Med" / "test.json", tests)


def _parquet(path: Path, count: int, row: Callable[[int], dict[str, Any]]) -> None:
    """Row groups of a hundred, as hubs write data sets with pictures."""
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pyarrow.Table.from_pylist([row(0)]).schema
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for first in range(0, count, 100):
            rows = [row(n) for n in range(first, min(first + 100, count))]
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))


def _path_parquet(raw: Path, counts: dict[str, int]) -> None:
    pictures = [picture(number) for number in range(PICTURES)]

    def row(n: int) -> dict[str, Any]:
        image = {"bytes": pictures[n % PICTURES], "path": f"{n}.png"}
        return {"image": image, "question": _question(n), "answer": f"number {n}"}

    for split, count in {**counts, "validation": counts["test"]}.items():
        _parquet(raw / "data" / f"{split}-00000-of-00001.parquet", count, row)


def _path_pickle(raw: Path, counts: dict[str, int]) -> None:
    (raw / "pvqa" / "qas").mkdir(parents=True)
    for split, count in {**counts, "val": counts["test"]}.items():
        _pictures(raw / "pvqa" / "images" / split, "jpg")
        entries = [
            {"sent": _question(n), "label": {f"number {n}": 1}, "img_id": str(n % PICTURES), "question_id": n}
            for n in range(count)
        ]
        (raw / "pvqa" / "qas" / f"{split}_vqa.pkl").write_bytes(pickle.dumps(entries, protocol=2))


def _sur(raw: Path, counts: dict[str, int]) -> None:
    """Frames; of six annotations one becomes a record, and only its frame is there."""
    _pictures(raw / "pictures")
    codes = list(pitvis.INSTRUMENTS)
    write_csv(raw / "map_instruments.csv", ("int_instrument", "str_instrument"), pitvis.INSTRUMENTS.items())
    for split, videos in (("train", pitvis.TRAIN), ("test", pitvis.TEST)):
        used = [video for video in videos if video != pitvis.UNLABELLED]
        (raw / "frames" / f"video_{pitvis.UNLABELLED:02d}").mkdir(parents=True, exist_ok=True)
        each = -(-counts[split] // len(used))
        for video in used:
            folder = raw / "frames" / f"video_{video:02d}"
            folder.mkdir(parents=True)
            for n in range(each):
                os.link(raw / "pictures" / f"{n % PICTURES}.png", folder / f"{6 * n:06d}.png")
            head = ("int_video", "int_time", "int_step", "int_instrument1", "int_instrument2")
            rows = ((video, second, 1, codes[second // 6 % len(codes)], -2) for second in range(6 * each))
            write_csv(raw / f"annotations_{video:02d}.csv", head, rows)


def _cell(raw: Path, counts: dict[str, int]) -> None:
    """BSCCM with one array per cell; nine of ten cells are for training."""
    raw.mkdir(parents=True, exist_ok=True)
    names = [f"channel_{number}" for number in range(CHANNELS)]
    (raw / "BSCCM_global_metadata.json").write_text(json.dumps({"led_array": {"channel_names": names}}))
    images = raw / "BSCCM_images.zarr"
    arrays = images / "batch_0" / "led_array"
    arrays.mkdir(parents=True)
    (images / ".zgroup").write_text('{"zarr_format": 2}')
    about = {
        "zarr_format": 2, "shape": [CHANNELS, 16, 16], "chunks": [CHANNELS, 16, 16], "dtype": "<u2", "compressor": None,
        "fill_value": 0, "filters": None, "order": "C",
    }  # fmt: skip
    (raw / ".zarray").write_text(json.dumps(about))
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        (raw / f"pixels_{number}").write_bytes(rng.integers(0, 4096, CHANNELS * 256, dtype=np.uint16).tobytes())
    count = max(20, -(-counts["train"] * 10 // (9 * CHANNELS)))
    for cell in range(count):
        folder = arrays / f"cell_{cell}"
        folder.mkdir()
        os.link(raw / ".zarray", folder / ".zarray")
        os.link(raw / f"pixels_{cell % PICTURES}", folder / "0.0.0")
    write_csv(raw / "BSCCM_index.csv", ("global_index", "data_path"), ((cell, "batch_0") for cell in range(count)))
    gates = [f"population_{place}_selection_gated" for place in range(10)]
    rows = ((cell, *(place == cell % 10 for place in range(10))) for cell in range(count))
    write_csv(raw / "BSCCM_surface_markers.csv", ("global_index", *gates), rows)


def _rad(raw: Path, counts: dict[str, int]) -> None:
    """ROCOv2 as zips and CSVs."""
    raw.mkdir(parents=True, exist_ok=True)
    pictures = [picture(number, "JPEG") for number in range(PICTURES)]
    for split, count in {**counts, "valid": counts["test"]}.items():
        names = [f"ROCOv2_2023_{split}_{n:06d}" for n in range(count)]
        with zipfile.ZipFile(raw / f"{split}_images.zip", "w") as archive:
            for n, name in enumerate(names):
                archive.writestr(f"{split}/{name}.jpg", pictures[n % PICTURES])
        write_csv(raw / f"{split}_captions.csv", ("ID", "Caption"), ((name, f"a figure, {name}") for name in names))
        write_csv(raw / f"{split}_concepts.csv", ("ID", "CUIs"), ((name, "C0040405;C1996865") for name in names))


def _rad_parquet(raw: Path, counts: dict[str, int]) -> None:
    pictures = [picture(number, "JPEG") for number in range(PICTURES)]

    def row(n: int) -> dict[str, Any]:
        image = {"bytes": pictures[n % PICTURES], "path": f"{n}.jpg"}
        return {"image": image, "image_id": f"ROCOv2_{n:06d}", "caption": f"a figure, {n}", "cui": ["C0040405"]}

    for split, count in {**counts, "validation": counts["test"]}.items():
        _parquet(raw / "data" / f"{split}-00000-of-00001.parquet", count, row)


_MEDICAL: dict[tuple[str, str], Callable[[Path, dict[str, int]], None]] = {
    ("path", ""): _path,
    ("path", "parquet"): _path_parquet,
    ("path", "pickle"): _path_pickle,
    ("sur", ""): _sur,
    ("cell", ""): _cell,
    ("rad", ""): _rad,
    ("rad", "parquet"): _rad_parquet,
}
#: (stream, task) -> formats besides the preferred one.
FORMS: dict[tuple[str, str], tuple[str, ...]] = {
    ("medical_cl", "path"): ("parquet", "pickle"),
    ("medical_cl", "rad"): ("parquet",),
    ("standard_cl", "agnews"): ("csv",),
}


def cases(converters: dict[str, dict[str, str]]) -> Iterator[tuple[str, str, str]]:
    """(stream, task, form) of every converter and format; two streams that share one have it once.

    Args:
        converters: `cl_plugins.data.prepare.registry.CONVERTERS`.
    """
    seen: set[str] = set()
    for stream, task, place in chain.from_iterable(
        ((stream, task, place) for task, place in tasks.items()) for stream, tasks in converters.items()
    ):
        if place not in seen:
            yield from ((stream, task, form) for form in ("", *FORMS.get((stream, task), ())))
        seen.add(place)
