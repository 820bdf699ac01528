"""Miniatures of the four data sets of Medical-CL in the raw formats in which their makers distribute them.

Pictures are drawn, not real; what a picture shows decides its answer, so that something can be learned. The oddities of
the real files are here: gaps in ids, spaces at the ends of names and captions, a missing annotation file, 24 and 25 frames
per second, empty CUI lists, "valid" in file names. Uses nothing of cl_plugins.
"""

from __future__ import annotations

import csv
import io
import json
import pickle
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


Pixels = NDArray[np.uint8]

#: Videos of PitVis-2023, and the one whose annotations are missing.
VIDEOS = tuple(range(1, 26))
UNLABELLED = 19
INSTRUMENTS = {
    -1: "out_of_patient",
    1: "bipolar_forceps",
    2: "cottle",
    3: "cup_forceps",
    4: "dural_scissors",
    5: "freer_elevator ",
    6: "haemostatic_foam",
    7: "irrigation_syringe",
    8: "kerrisons",
    16: "suction",
    17: "surgical_drill",
    18: "tissue_glue",
}
CHANNELS = (
    "Brightfield", "DF_50", "DF_50_Bottom", "DF_50_Right", "DF_55", "DF_60", "DF_60_Bottom", "DF_60_Right", "DF_65",
    "DF_70", "DF_70_Bottom", "DF_70_Right", "DF_75", "DF_80", "DF_80_Bottom", "DF_80_Right", "DF_85", "DF_90",
    "DPC_Bottom", "DPC_Left", "DPC_Right", "DPC_Top", "LED119",
)  # fmt: skip
_COLOURS = {"pink": (230, 150, 190), "purple": (110, 60, 140), "brown": (140, 90, 50), "blue": (70, 90, 200)}


def make_raw(root: Path, seed: int = 0) -> None:
    """Write all four data sets: ``root/{path,sur,cell,rad}``. Path is MLLM-CL's form, the paper's.

    Args:
        root: Folder to write into.
        seed: Seed of everything drawn.
    """
    make_path_mllm_cl(root / "path", seed)
    make_sur(root / "sur", seed)
    make_cell(root / "cell", seed)
    make_rad(root / "rad", seed)


# --- Path


def _tissue(colour: str, rng: np.random.Generator, size: tuple[int, int] = (40, 32)) -> Pixels:
    """A (h, w, 3) picture of one colour with spots and noise."""
    picture = np.array(_COLOURS[colour]) + rng.normal(0, 12, (*size, 3))
    for _ in range(int(rng.integers(2, 6))):
        row, column = (int(rng.integers(2, side - 2)) for side in size)
        picture[row - 2 : row + 2, column - 2 : column + 2] *= 0.5
    return np.clip(picture, 0, 255).astype(np.uint8)


def _path_items(count: int, rng: np.random.Generator) -> list[tuple[str, str, str, Pixels]]:
    """(question type, question, answer, picture): half yes/no, half open."""
    names = list(_COLOURS)
    items = []
    for number in range(count):
        shown, asked = (names[int(rng.integers(len(names)))] for _ in range(2))
        picture = _tissue(shown, rng)
        if number % 2:
            items.append(("what", "what colour is this tissue?", shown, picture))
        else:
            items.append(("is", f"is this tissue {asked}?", "yes" if shown == asked else "no", picture))
    return items


def _jpeg(picture: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def make_path_mllm_cl(root: Path, seed: int = 0, train: int = 48, test: int = 16) -> None:
    """PathVQA as MLLM-CL distributes it: ``Med/{train,test}.json`` and ``Med/images``."""
    rng = np.random.default_rng([seed, 1])
    folder = root / "Med" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("test", test)):
        records: list[dict[str, object]] = []
        for number, (_, question, answer, picture) in enumerate(_path_items(count, rng)):
            name = f"{split}_{number:04d}.jpg"
            (folder / name).write_bytes(_jpeg(picture))
            if split == "train":
                turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
                records.append({"question_id": str(number), "image": f"images/{name}", "conversations": turns})
            else:
                records.append(
                    {"question_id": str(number), "image": f"images/{name}", "text": question, "answer": answer}
                )
        (root / "Med" / f"{split}.json").write_text(json.dumps(records, indent=1), encoding="utf-8")


def make_path_parquet(root: Path, seed: int = 0, train: int = 48, test: int = 16, row_group: int = 10) -> None:
    """PathVQA as parquet: ``data/{train,validation,test}-00000-of-00001-<hash>.parquet``; no ids, no answer types."""
    import pyarrow
    import pyarrow.parquet

    rng = np.random.default_rng([seed, 2])
    (root / "data").mkdir(parents=True, exist_ok=True)
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema([("image", image), ("question", pyarrow.string()), ("answer", pyarrow.string())])
    for split, count in (("train", train), ("validation", test), ("test", test)):
        items = _path_items(count, rng)
        columns = {
            "image": [{"bytes": _jpeg(picture), "path": None} for *_, picture in items],
            "question": [question for _, question, _, _ in items],
            "answer": [answer for _, _, answer, _ in items],
        }
        table = pyarrow.table(columns, schema=schema)
        path = root / "data" / f"{split}-00000-of-00001-0123456789abcdef.parquet"
        pyarrow.parquet.write_table(table, path, row_group_size=row_group)


def make_path_pickle(root: Path, seed: int = 0, train: int = 48, test: int = 16) -> None:
    """PathVQA as pickles: ``pvqa/qas/{train,val,test}_vqa.pkl`` and ``pvqa/images/{train,val,test}``."""
    rng = np.random.default_rng([seed, 3])
    (root / "pvqa" / "qas").mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("val", test), ("test", test)):
        folder = root / "pvqa" / "images" / split
        folder.mkdir(parents=True, exist_ok=True)
        entries = []
        for number, (kind, question, answer, picture) in enumerate(_path_items(count, rng)):
            name = f"{split}_{number:04d}"
            (folder / f"{name}.jpg").write_bytes(_jpeg(picture))
            entries.append(
                {
                    "answer_type": "yes/no" if answer in ("yes", "no") else "other",
                    "img_id": name,
                    "label": {answer: 1},
                    "question_id": 100_000_000 + number,
                    "question_type": kind,
                    "sent": question,
                }
            )
        # Protocol 2, as Python 2 wrote it.
        (root / "pvqa" / "qas" / f"{split}_vqa.pkl").write_bytes(pickle.dumps(entries, protocol=2))


# --- Sur


def _frame(code: int, second: int, size: tuple[int, int]) -> Pixels:
    """A (h, w, 3) frame: the instrument's code decides the colour, the second moves a bar."""
    height, width = size
    frame = np.full((height, width, 3), (90, 20, 20) if code >= 0 else (10, 10, 10), np.uint8)
    if code > 0:
        frame[:, :, 0], frame[:, :, 1], frame[:, :, 2] = 60 + 10 * code, 230 - 11 * code, (40 * code) % 256
    column = (second * 3) % (width - 4)
    frame[:4, column : column + 4] = 255
    return frame


def _labels(seconds: int, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """(step, instrument 1, instrument 2) per second; one more than the video has seconds, as in the release."""
    codes = [code for code in INSTRUMENTS if code > 0]
    rows = []
    code = -1
    for second in range(seconds + 1):
        if second % 3 == 0:
            code = -1 if second in (0, seconds) else 0 if rng.random() < 0.15 else codes[int(rng.integers(len(codes)))]
        rows.append((-1 if code == -1 else 1 + second % 9, code, 16 if code > 0 and rng.random() < 0.15 else -2))
    return rows


def make_sur(
    root: Path, seed: int = 0, videos: Iterable[int] = VIDEOS, seconds: int = 24, size: tuple[int, int] = (48, 64)
) -> None:
    """PitVis-2023 as videos: ``26531686/video_XX.mp4``, annotations and maps. Video 24 has 25 frames per second."""
    import av

    folder = root / "26531686"
    for video, rows in _annotated(folder, seed, videos, seconds):
        rate = 25 if video == 24 else 24
        with av.open(str(folder / f"video_{video:02d}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "crf": "10"})
            stream.width, stream.height, stream.pix_fmt = size[1], size[0], "yuv420p"
            stream.codec_context.gop_size = 48
            for second in range(seconds):
                picture = av.VideoFrame.from_ndarray(_frame(rows[second][1], second, size), format="rgb24")
                for _ in range(rate):
                    picture.pts = None
                    container.mux(stream.encode(picture))
            container.mux(stream.encode())


def make_sur_frames(
    root: Path,
    seed: int = 0,
    videos: Iterable[int] = VIDEOS,
    seconds: int = 24,
    size: tuple[int, int] = (48, 64),
    first: int = 0,
) -> None:
    """PitVis-2023 with frames extracted once a second: ``frames/video_XX/%05d.png``, numbered from ``first``."""
    for video, rows in _annotated(root, seed, videos, seconds):
        folder = root / "frames" / f"video_{video:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        for second in range(seconds):
            Image.fromarray(_frame(rows[second][1], second, size)).save(folder / f"{second + first:05d}.png")


def _annotated(
    folder: Path, seed: int, videos: Iterable[int], seconds: int
) -> Iterable[tuple[int, list[tuple[int, int, int]]]]:
    """Write the CSV files; give (video, its labels)."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, 4])
    _write_csv(
        folder / "map_instruments.csv",
        ("int_instrument", "str_instrument"),
        [(0, "no_visible_instrument"), (0, "occluded_image_inside_patient"), *INSTRUMENTS.items()],
    )
    steps = [
        (-1, "operation_not_started"),
        (-1, "operation_ended"),
        (-1, "out_of_patient"),
        (1, "nasal corridor creation "),
    ]
    _write_csv(folder / "map_steps.csv", ("int_step", "str_step"), steps)
    for video in videos:
        rows = _labels(seconds, rng)
        if video != UNLABELLED:
            lines = [(video, second, *row) for second, row in enumerate(rows)]
            head = ("int_video", "int_time", "int_step", "int_instrument1", "int_instrument2")
            _write_csv(folder / f"annotations_{video:02d}.csv", head, lines)
        yield video, rows


def _write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)


# --- Cell


def _cell(label: int, rng: np.random.Generator, side: int) -> NDArray[np.uint16]:
    """(23, side, side) of 12-bit values: the class decides radius and brightness, the channel the background."""
    grid = np.mgrid[0:side, 0:side] - (side - 1) / 2
    inside = np.hypot(*grid) < side * (0.15 + 0.03 * label)
    stack = []
    for channel in range(len(CHANNELS)):
        base = 400 + 40 * channel + rng.normal(0, 25, (side, side))
        stack.append(base + inside * (600 + 250 * (label % 5)))
    return np.clip(np.array(stack), 0, 4095).astype(np.uint16)


def make_cell(root: Path, seed: int = 0, per_class: int = 3, side: int = 32) -> None:
    """BSCCM: metadata, index, surface markers, and a zarr group. Ids have gaps; most cells have no label."""
    import zarr

    rng = np.random.default_rng([seed, 5])
    root.mkdir(parents=True, exist_ok=True)
    (root / "BSCCM_global_metadata.json").write_text(
        json.dumps({"name": "BSCCM-miniature", "led_array": {"channel_names": list(CHANNELS)}}), encoding="utf-8"
    )
    group = zarr.open_group(str(root / "BSCCM_images.zarr"), mode="w", zarr_format=2)
    index: list[tuple[object, ...]] = []
    markers: list[tuple[object, ...]] = []
    cell = 0
    for number in range(per_class * 10 + 5):
        cell += int(rng.integers(1, 9))
        label = number % 10 if number < per_class * 10 else None
        batch = 0 if label is not None else 1
        folder = f"batch_{batch}/all/slide_replicate_0"
        index.append((cell, batch, "all", 0, False, 100.5, 200.5, folder))
        gates = [place == label for place in range(10)] if batch == 0 else [""] * 10
        markers.append((cell, 0.5, *gates))
        pixels = _cell(label or 0, rng, side)
        array = group.create_array(
            f"{folder}/led_array/cell_{cell}", shape=pixels.shape, chunks=pixels.shape, dtype="uint16"
        )
        array[...] = pixels
    head = ("global_index", "batch", "antibodies", "slide_replicate", "has_matched_histology_cell")
    _write_csv(root / "BSCCM_index.csv", (*head, "position_in_fov_x_pix", "position_in_fov_y_pix", "data_path"), index)
    gate_names = tuple(f"population_{place}_selection_gated" for place in range(10))
    _write_csv(root / "BSCCM_surface_markers.csv", ("global_index", "CD45_full_model_unmixed", *gate_names), markers)


# --- Rad


def _figure(kind: int, rng: np.random.Generator) -> Pixels:
    """A (48, 40) grey picture: stripes, a disc, or a gradient."""
    rows, columns = np.mgrid[0:48, 0:40].astype(float)
    shapes = ((rows // 6 % 2) * 160, (np.hypot(rows - 24, columns - 20) < 14) * 190, columns * 5)
    return np.clip(shapes[kind] + 30 + rng.normal(0, 6, (48, 40)), 0, 255).astype(np.uint8)


_CAPTIONS = (
    ' Axial CT, "stripes", showing a fracture, left side.',
    "Chest X-ray with a round opacity in the naïve lung (5 µm).",
    "Ultrasound with increasing echogenicity, from left to right ",
)


def _rad_items(split: str, count: int, rng: np.random.Generator) -> list[tuple[str, str, str, Pixels]]:
    """(id, caption, CUIs, picture); ids have gaps, every fourth list of CUIs is empty."""
    items, number = [], 0
    for place in range(count):
        number += 2 if place % 5 == 4 else 1
        kind = int(rng.integers(3))
        cuis = "" if place % 4 == 3 else "C0040405;C1996865"[: 8 if place % 2 else None]
        items.append((f"ROCOv2_2023_{split}_{number:06d}", _CAPTIONS[kind], cuis, _figure(kind, rng)))
    return items


def make_rad(root: Path, seed: int = 0, train: int = 48, test: int = 16) -> None:
    """ROCOv2 as zips and CSVs: ``{train,valid,test}_images.zip``, ``_captions.csv``, ``_concepts.csv``."""
    rng = np.random.default_rng([seed, 6])
    root.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("valid", test), ("test", test)):
        items = _rad_items(split, count, rng)
        with zipfile.ZipFile(root / f"{split}_images.zip", "w") as archive:
            archive.writestr(zipfile.ZipInfo(f"{split}/"), b"")
            for name, _, _, picture in items:
                archive.writestr(zipfile.ZipInfo(f"{split}/{name}.jpg"), _jpeg(picture))
        _write_csv(root / f"{split}_captions.csv", ("ID", "Caption"), [(name, text) for name, text, _, _ in items])
        # The CSV of concepts lacks one id that the captions have, and the other way round.
        concepts = [(name, cuis) for name, _, cuis, _ in items[:1] + items[2:]]
        _write_csv(root / f"{split}_concepts.csv", ("ID", "CUIs"), [*concepts, (f"ROCOv2_2023_{split}_999999", "C1")])
    _write_csv(root / "cui_mapping.csv", ("CUI", "Canonical name"), [("C0040405", "X-Ray Computed Tomography")])
    _write_csv(root / "license_information.csv", ("ID", "License"), [("ROCOv2_2023_test_000001", "CC BY")])


def make_rad_parquet(root: Path, seed: int = 0, train: int = 12, test: int = 8) -> None:
    """ROCOv2 as parquet: ``data/{train,validation,test}-*.parquet`` with image, image_id, caption, cui."""
    import pyarrow
    import pyarrow.parquet

    rng = np.random.default_rng([seed, 7])
    (root / "data").mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("validation", test), ("test", test)):
        items = _rad_items("valid" if split == "validation" else split, count, rng)
        columns = {
            "image": [{"bytes": _jpeg(picture), "path": f"{name}.jpg"} for name, _, _, picture in items],
            "image_id": [name for name, *_ in items],
            "caption": [caption for _, caption, _, _ in items],
            "cui": [cuis.split(";") if cuis else [] for _, _, cuis, _ in items],
        }
        path = root / "data" / f"{split}-00000-of-00001.parquet"
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
