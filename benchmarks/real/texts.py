"""A small version of the standard text benchmark: a few samples per task, balanced over the classes.

The texts are those of LFPT5's repository (16 training and 100 test samples a class, in three draws), which holds no files that are too large
for a clone. Training samples come from all three draws, test items from the first; no training text is a test text.
"""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cl_plugins.base.errors import DataError, Problem
from cl_plugins.base.files import write_bytes, write_json
from cl_plugins.data.prepare.engine import Request, prepare
from cl_plugins.streams import load_stream


REPOSITORY = "https://github.com/qcwthu/Lifelong-Fewshot-Language-Learning"
COMMIT = "cf7d17ce7de6a707d929d0542b3d5e639569855f"
DRAWS = ("0_42", "1_142", "2_242")
STREAM = "standard_cl"

Record = dict[str, Any]


def clone(folder: Path) -> Path:
    """The repository at the commit that the results were made with; nothing is done if the folder is there.

    Raises:
        DataError: git failed.
    """
    if (folder / "Classification").is_dir():
        return folder
    commands = (
        ["git", "clone", "--quiet", "--filter=blob:none", "--no-checkout", REPOSITORY, str(folder)],
        ["git", "-C", str(folder), "checkout", "--quiet", COMMIT, "--", "Classification/textclassificationdata"],
    )
    for command in commands:
        if subprocess.run(command, check=False).returncode:
            fix = f"Clone {REPOSITORY} yourself, and give the folder with --texts."
            raise DataError(Problem(" ".join(command), "failed.", fix))
    return folder


def balanced(records: Iterable[Record], count: int, seed: int) -> list[Record]:
    """Samples of all classes in turn, each class in random order, so that any number of them is balanced.

    Args:
        records: Prepared records.
        count: Number of samples.
        seed: Seed of the order.

    Raises:
        ValueError: There are fewer records.
    """
    classes: dict[str, list[Record]] = {}
    for record in records:
        classes.setdefault(label(record), []).append(record)
    rng = random.Random(seed)
    for one in classes.values():
        rng.shuffle(one)
    chosen: list[Record] = []
    while len(chosen) < count:
        left = [one for one in classes.values() if one]
        if not left:
            raise ValueError(f"there are {len(chosen)} samples, not {count}")
        rng.shuffle(left)
        chosen += [one.pop() for one in left[: count - len(chosen)]]
    return chosen


def label(record: Record) -> str:
    """The answer of a prepared record."""
    return str(record["conversations"][-1]["value"])


def text(record: Record) -> str:
    """The question of a prepared record."""
    return str(record["conversations"][0]["value"])


def build(raw: Path, out: Path, *, train: int, test: int, words: int, seed: int = 0) -> dict[str, Any]:
    """Write the data sets of the stream in their small version.

    Args:
        raw: A clone of LFPT5's repository.
        out: Data folder to write.
        train: Training samples per task.
        test: Test items per task.
        words: Words that are kept of a text.
        seed: Seed of the choice.

    Returns:
        What was made: sizes and settings.

    Raises:
        DataError: Files of the repository are missing, or the folder holds data sets of other sizes.
    """
    facts = {"repository": REPOSITORY, "commit": COMMIT, "train": train, "test": test, "words": words, "seed": seed}
    _check(out, facts)
    tasks = load_stream(STREAM).task_names
    found: dict[tuple[str, str], list[Record]] = {}
    for draw in DRAWS:
        settings = {f"{task}.{name}": value for task in tasks for name, value in _settings(draw, words).items()}
        prepared = out / "draws" / draw
        prepare(Request(STREAM, raw, prepared, settings=settings, seed=seed))
        for task in tasks:
            for split in ("train", "test") if draw == DRAWS[0] else ("train",):
                found.setdefault((task, split), []).extend(_read(prepared / f"{STREAM}_{task}_{split}.jsonl", draw))
    info: dict[str, Any] = {}
    for task in tasks:
        tested = balanced(found[task, "test"], test, seed)
        known = {text(record) for record in found[task, "test"]}
        distinct = {text(record): record for record in found[task, "train"] if text(record) not in known}
        for split, records in (("train", balanced(distinct.values(), train, seed)), ("test", tested)):
            name = f"{STREAM}_{task}_{split}"
            _write(out / f"{name}.jsonl", records)
            info[name] = {
                "file_name": f"{name}.jsonl",
                "formatting": "sharegpt",
                "columns": {"messages": "conversations"},
            }
    write_json(out / "dataset_info.json", info)
    write_json(out / "facts.json", facts)
    return facts


def _check(out: Path, facts: Record) -> None:
    """Keep data sets of other sizes, which runs may have been trained with."""
    file = out / "facts.json"
    if not file.is_file():
        return
    there = json.loads(file.read_text(encoding="utf-8"))
    other = [f"{key} {there.get(key)}, not {value}" for key, value in facts.items() if there.get(key) != value]
    if other:
        raise DataError(
            Problem(
                str(out), f"holds data sets that were made otherwise: {'; '.join(other)}.", "Move the folder away."
            )
        )


def _settings(draw: str, words: int) -> dict[str, str]:
    return {"form": "lfpt5", "draw": draw, "prompt": "plain", "max_words": str(words)}


def _read(path: Path, draw: str) -> list[Record]:
    """Prepared records, with ids that are unique over the draws."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{**record, "id": f"{draw}-{record['id']}"} for record in records]


def _write(path: Path, records: Sequence[Record]) -> None:
    # Without the empty list of pictures: these data sets are plain text.
    plain = ({key: value for key, value in record.items() if key != "images"} for record in records)
    write_bytes(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in plain).encode())
