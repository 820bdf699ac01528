"""Write the demo stream as a LLaMA-Factory data folder: pictures, JSON, ``stream.yaml`` and a manifest."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from ...base.errors import DataError, Problem
from . import cell, neuro, path, rad
from .items import DemoTask, Item
from .sources import STREAM_SOURCES, require


BUILDERS = {"path": path.build, "neuro": neuro.build, "cell": cell.build, "rad": rad.build}
"""The tasks in stream order."""

HONESTY = (
    "Real pixels, but one or two pictures or one averaged brain per task: items are not independent.",
    "Path and Rad have computed labels; Cell and Neuro use masks and tissue maps made by others.",
    "Simple cues (colour, brightness, outline) are enough. It shows the pipeline, not medical ability.",
)

MANIFEST = "manifest.json"


def tasks(seed: int = 0) -> list[DemoTask]:
    """Make the four tasks in memory.

    Args:
        seed: Which crops are drawn. Each task has its own generator, so changing one leaves the others as they are.

    Raises:
        DataError: A package with pictures is not installed; lists all that are missing.
    """
    require(STREAM_SOURCES, modules=("nibabel", "scipy", "skimage"))
    return [build_task(np.random.default_rng([seed, place])) for place, build_task in enumerate(BUILDERS.values())]


def build(out_dir: Path, seed: int = 0) -> Path:
    """Write the stream and the base into a folder.

    The folder is a LLaMA-Factory ``dataset_dir`` (``dataset_info.json``, ``<task>_{train,test}.json`` in sharegpt
    form, ``images/``), with ``stream.yaml``, ``manifest.json`` and ``base/`` next to them. The same seed and the same
    package versions give the same bytes. The manifest is written last.

    Args:
        out_dir: Folder to write; made if missing, rewritten if it is an earlier demo.
        seed: Which crops are drawn.

    Returns:
        The folder.

    Raises:
        DataError: Pictures are missing, or the folder holds something else.
    """
    out_dir = Path(out_dir)
    if out_dir.exists() and (not out_dir.is_dir() or (any(out_dir.iterdir()) and not (out_dir / MANIFEST).is_file())):
        raise DataError(
            Problem(str(out_dir), "is not empty and not a demo folder.", "Give another folder, or empty this one.")
        )
    made = tasks(seed)
    out_dir.mkdir(parents=True, exist_ok=True)
    info: dict[str, Any] = {}
    for task in made:
        for part, items in (("train", task.train), ("test", task.test)):
            name = f"{task.name}_{part}"
            _write_part(out_dir, task, part, items)
            info[name] = {
                "file_name": f"{name}.json",
                "formatting": "sharegpt",
                "columns": {"messages": "conversations", "images": "images"},
            }
    _write_json(out_dir / "dataset_info.json", info)
    (out_dir / "stream.yaml").write_text(_stream_yaml(made), encoding="utf-8")
    copy_base(out_dir / "base")
    _write_json(out_dir / MANIFEST, _manifest(out_dir, made, seed))
    return out_dir


def base_dir() -> Path:
    """Return the folder of the shipped base inside the package."""
    return Path(str(files("cl_plugins.data.demo") / "base"))


def copy_base(target: Path) -> None:
    """Copy the shipped base, so that recipes can name it by a short path.

    Raises:
        DataError: The package was installed without its weights.
    """
    source = base_dir()
    if not (source / "model.safetensors").is_file():
        raise DataError(
            Problem(
                str(source),
                "the demo base is missing.",
                "Install cl-plugins again.",
            )
        )
    shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "*.py"))


def _write_part(out_dir: Path, task: DemoTask, part: str, items: list[Item]) -> None:
    folder = out_dir / "images" / f"{task.name}_{part}"
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for number, item in enumerate(items):
        file = folder / f"{number:04d}.png"
        file.write_bytes(png(item.image))
        record: dict[str, Any] = {
            "id": f"{task.name}-{part}-{number:04d}",
            "conversations": [
                {"from": "human", "value": task.prompt()},
                {"from": "gpt", "value": item.answer},
            ],
            "images": [file.relative_to(out_dir).as_posix()],
            "origin": {"picture": item.picture, "slice": item.slice, "box": list(item.box)},
        }
        if task.options:
            record["options"] = list(task.options)
        records.append(record)
    _write_json(out_dir / f"{task.name}_{part}.json", records)


def png(image: NDArray[np.uint8]) -> bytes:
    """Encode (h, w, 3) uint8 as PNG without metadata."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=9)
    return buffer.getvalue()


def _stream_yaml(made: list[DemoTask]) -> str:
    entries = []
    for task in made:
        entry: dict[str, Any] = {
            "name": task.name,
            "train": f"{task.name}_train",
            "test": f"{task.name}_test",
            "scorer": task.scorer,
            "modality": task.modality,
            "max_new_tokens": task.max_new_tokens,
            "defaults": {"max_steps": task.steps},
        }
        if task.options:
            entry["options_column"] = "options"
        entries.append(entry)
    stream = {
        "name": "demo",
        "title": "Four small tasks on pictures from Python wheels",
        "notes": list(HONESTY),
        "tasks": entries,
    }
    return yaml.safe_dump(stream, sort_keys=False, width=119)


def _manifest(out_dir: Path, made: list[DemoTask], seed: int) -> dict[str, Any]:
    described = {}
    for task in made:
        described[task.name] = {
            "question": task.question,
            "options": list(task.options),
            "train": len(task.train),
            "test": len(task.test),
            "train_answers": _balance(task.train),
            "test_answers": _balance(task.test),
            "bins": task.bins,
            "split": task.split,
            "labels": task.labels,
            "notes": task.notes,
            "sources": [source.name for source in task.sources],
        }
    written = sorted(file for file in out_dir.glob("*") if file.is_file() and file.name != MANIFEST)
    return {
        "format": 1,
        "stream": "demo",
        "seed": seed,
        "notes": list(HONESTY),
        "tasks": described,
        "sources": [source.describe() for source in STREAM_SOURCES],
        "sha256": {
            **{file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in written},
            "images": _digest(sorted((out_dir / "images").rglob("*.png")), out_dir),
            "base": _digest(sorted(file for file in (out_dir / "base").rglob("*") if file.is_file()), out_dir),
        },
    }


def _balance(items: list[Item]) -> dict[str, int]:
    return dict(sorted(Counter(item.answer for item in items).items()))


def _digest(paths: list[Path], root: Path) -> str:
    """Return one sha256 over the names and contents of many files."""
    digest = hashlib.sha256()
    for file in paths:
        digest.update(file.relative_to(root).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
